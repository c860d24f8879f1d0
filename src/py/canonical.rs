//! Bindings of the canonical forms that DKIM signs.
//!
//! Promises: a piece that is canonical already is returned as the same object; empty lines that were held back are
//! returned in pieces of at most 64 KiB, which share their octets. The GIL is released over large blocks.
//!
//! Refuses: to feed a body that has ended (ValueError).

use std::borrow::Cow;
use std::ptr;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::data::detached;
use super::values::{Octets, types};
use crate::canonical::{self, Canonical};

/// The most empty lines in one piece.
const LINES: usize = 1 << 15;

/// Adds this file's functions and classes to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(canonical_field, module)?)?;
    module.add_class::<BodyCanonicaliser>()
}

/// The form of one header field that DKIM signs (RFC 6376 §3.4.1, §3.4.2).
///
/// Args:
///     field: the field as received, with its folds and its last CRLF; without that CRLF the form has none either.
///     relaxed: the relaxed form; otherwise the simple one, which is the field unchanged.
///
/// Raises:
///     WireFault: `header-field-malformed`, if a field has no colon and is to be relaxed.
#[pyfunction]
fn canonical_field<'py>(field: &Bound<'py, PyAny>, relaxed: bool) -> PyResult<Bound<'py, PyBytes>> {
    let py = field.py();
    let field = Octets::new(field)?;
    match canonical::canonical_field(field.as_slice(), relaxed) {
        Ok(Cow::Borrowed(_)) => Ok(field.as_bytes().clone()),
        Ok(Cow::Owned(octets)) => Ok(PyBytes::new(py, &octets)),
        Err(fault) => Err(types(py)?.wire_fault(py, fault)),
    }
}

/// Bring one body into the form that DKIM signs, however it is split (RFC 6376 §3.4.3, §3.4.4).
///
/// Args:
///     relaxed: the relaxed form; otherwise the simple one.
#[pyclass(module = "ironpost.wire._native")]
struct BodyCanonicaliser {
    /// None after the end.
    canonicaliser: Option<canonical::BodyCanonicaliser>,
}

fn ended() -> PyErr {
    PyValueError::new_err("the body has ended; a BodyCanonicaliser reads one body")
}

#[pymethods]
impl BodyCanonicaliser {
    #[new]
    fn new(relaxed: bool) -> Self {
        Self {
            canonicaliser: Some(canonical::BodyCanonicaliser::new(relaxed)),
        }
    }

    /// The octets of the canonical form that are certain now, in pieces, none of them empty.
    ///
    /// Raises:
    ///     ValueError: after the end.
    fn feed<'py>(&mut self, piece: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let py = piece.py();
        let canonicaliser = self.canonicaliser.as_mut().ok_or_else(ended)?;
        let data = Octets::new(piece)?;
        let octets = data.as_slice();
        let canonical = detached(py, octets.len(), || canonicaliser.feed(octets));
        pieces(py, &canonical, Some(data.as_bytes()))
    }

    /// The rest of the canonical form, in pieces.
    ///
    /// Raises:
    ///     ValueError: after the end.
    fn finish<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let canonicaliser = self.canonicaliser.take().ok_or_else(ended)?;
        pieces(py, &canonicaliser.finish(), None)
    }
}

/// Canonical octets as Python has them. `whole` is the object that holds the input and nothing else, if there is one.
fn pieces<'py>(
    py: Python<'py>,
    canonical: &Canonical<'_>,
    whole: Option<&Bound<'py, PyBytes>>,
) -> PyResult<Bound<'py, PyList>> {
    let pieces = PyList::empty(py);
    let lines = usize::try_from(canonical.empty_lines)?;
    if lines >= LINES {
        let block = PyBytes::new(py, &b"\r\n".repeat(LINES));
        for _ in 0..lines / LINES {
            pieces.append(&block)?;
        }
    }
    if lines % LINES > 0 {
        pieces.append(PyBytes::new(py, &b"\r\n".repeat(lines % LINES)))?;
    }
    match whole {
        _ if canonical.octets.is_empty() => {}
        Some(whole) if ptr::eq(&*canonical.octets, whole.as_bytes()) => pieces.append(whole)?,
        _ => pieces.append(PyBytes::new(py, &canonical.octets))?,
    }
    Ok(pieces)
}
