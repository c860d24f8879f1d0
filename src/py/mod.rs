//! The Python extension module `ironpost.wire._native`: the only folder that names pyo3.
//!
//! Promises: the functions and classes of `_native.pyi`, the same as `ironpost.wire.pure`; values are the named tuples
//! of `ironpost.wire.interface`; the module supports free-threaded Python.
//!
//! Refuses: misuse, with TypeError, ValueError or RuntimeError. Input from a peer raises `WireFault` in the `parse_*`
//! functions, and never raises in the incremental classes.

// SECURITY R21: unsafe is allowed by name, each block with its proof.
#![allow(unsafe_code)]

mod canonical;
mod data;
mod framer;
mod grammar;
mod reply;
mod values;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::fault::FaultId;

/// The native implementation of `ironpost.wire`.
#[pymodule(gil_used = false)]
#[pyo3(name = "_native")]
fn native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    values::prepare(module.py())?;
    module.add("IMPLEMENTATION", "native")?;
    module.add_function(wrap_pyfunction!(faults, module)?)?;
    grammar::register(module)?;
    reply::register(module)?;
    data::register(module)?;
    canonical::register(module)?;
    framer::register(module)?;
    Ok(())
}

/// The catalogue of faults: each id with its sentence, as in `ironpost.wire.FAULTS`.
#[pyfunction]
fn faults(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let catalogue = PyDict::new(py);
    for fault in FaultId::ALL {
        catalogue.set_item(fault.id(), fault.sentence())?;
    }
    Ok(catalogue)
}
