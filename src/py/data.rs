//! Bindings of DATA transparency.
//!
//! Promises: a body is copied at most once, into a `bytes` object of its exact size that was not zeroed first; where the
//! whole input is body and unchanged, the same object is returned. The GIL is released over large blocks.
//!
//! Refuses: to read or write beyond the end of a body (ValueError).

use std::mem::MaybeUninit;
use std::ptr;

use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use super::values::{Octets, types};
use crate::data::{self, Newline, Plan};
use crate::limits::Limits;

/// Octets from which a scan or a copy takes longer (some 50 µs) than giving the GIL away and getting it back costs.
const DETACH: usize = 1 << 20;

/// Adds this file's functions and classes to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(dot_stuff, module)?)?;
    module.add_function(wrap_pyfunction!(dot_unstuff, module)?)?;
    module.add_class::<DataEncoder>()?;
    module.add_class::<DataDecoder>()
}

/// Does `work` over `size` octets, without the GIL if they are many.
#[inline]
pub(super) fn detached<T: Send>(py: Python<'_>, size: usize, work: impl FnOnce() -> T + Send) -> T {
    if size >= DETACH { py.detach(work) } else { work() }
}

/// A policy by its name; `accept` only where it is allowed.
pub(super) fn newline(name: &Bound<'_, PyAny>, accept: bool) -> PyResult<Newline> {
    let text = name.cast::<PyString>().ok().map(|name| name.to_cow()).transpose()?;
    match text.as_deref() {
        Some("reject") => Ok(Newline::Reject),
        Some("normalise") => Ok(Newline::Normalise),
        Some("accept") if accept => Ok(Newline::Accept),
        _ => {
            let known = if accept {
                "'reject', 'normalise' or 'accept'"
            } else {
                "'normalise' or 'reject'"
            };
            Err(PyValueError::new_err(format!(
                "newline must be {known}, not {}",
                name.repr()?
            )))
        }
    }
}

/// The output of a plan over `data`. `whole` is the object that holds `data` and nothing else, if there is one.
pub(super) fn body<'py>(
    py: Python<'py>,
    plan: &Plan,
    data: &[u8],
    whole: Option<&Bound<'py, PyBytes>>,
) -> PyResult<Bound<'py, PyBytes>> {
    if let Some(octets) = plan.unchanged(data) {
        match whole {
            Some(whole) if ptr::eq(octets, whole.as_bytes()) => return Ok(whole.clone()),
            _ if octets.len() < DETACH => return Ok(PyBytes::new(py, octets)),
            _ => {}
        }
    }
    let len = ffi::Py_ssize_t::try_from(plan.len())?;
    // SAFETY: with a null pointer PyBytes_FromStringAndSize returns a new `bytes` of `len` octets that are not
    // initialised (but for the NUL after them), or null with an exception set.
    let object = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyBytes_FromStringAndSize(ptr::null(), len))? };
    // SAFETY: `object` is a `bytes`: PyBytes_AsString gives its buffer, which has `plan.len()` octets. Only we know the
    // object and `bytes` objects are invisible to the collector, so nobody reads or writes the buffer meanwhile, with or
    // without the GIL (no octets are shared: an empty `bytes` has a buffer of none). MaybeUninit asks for no content.
    // For lengths of 0 and 1 Python 3.11 may return a shared object only if content was given, except the empty one.
    let room = unsafe {
        let start = ffi::PyBytes_AsString(object.as_ptr());
        std::slice::from_raw_parts_mut(start.cast::<MaybeUninit<u8>>(), plan.len())
    };
    detached(py, plan.len(), || plan.write(data, room)); // initialises every octet, or panics
    // SAFETY: `object` is a `bytes`.
    Ok(unsafe { object.cast_into_unchecked::<PyBytes>() })
}

/// Double each leading dot of a body; no terminator is added (RFC 5321 §4.5.2).
#[pyfunction]
fn dot_stuff<'py>(data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    whole(data, data::dot_stuff)
}

/// Remove one leading dot from each line of a body without terminator (RFC 5321 §4.5.2).
#[pyfunction]
fn dot_unstuff<'py>(data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    whole(data, data::dot_unstuff)
}

fn whole<'py>(data: &Bound<'py, PyAny>, change: fn(&[u8]) -> Plan) -> PyResult<Bound<'py, PyBytes>> {
    let py = data.py();
    let data = Octets::new(data)?;
    let octets = data.as_slice();
    let plan = detached(py, octets.len(), || change(octets));
    body(py, &plan, octets, Some(data.as_bytes()))
}

/// Encode content for DATA: stuff leading dots and add the terminator (RFC 5321 §4.5.2).
///
/// Args:
///     newline: `normalise` turns a bare CR or LF into CRLF; `reject` raises `WireFault` (`bare-cr`, `bare-lf`) with
///         the offset in the body.
#[pyclass(module = "ironpost.wire._native")]
struct DataEncoder {
    /// None after the end or a fault.
    encoder: Option<data::DataEncoder>,
}

fn ended() -> PyErr {
    PyValueError::new_err("the body has ended; a DataEncoder writes one body")
}

#[pymethods]
impl DataEncoder {
    #[new]
    #[pyo3(signature = (newline = None), text_signature = "(newline='normalise')")]
    fn new(newline: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let newline = newline.map_or(Ok(Newline::Normalise), |name| self::newline(name, false))?;
        Ok(Self {
            encoder: Some(data::DataEncoder::new(newline)),
        })
    }

    /// The next octets for the wire.
    ///
    /// Raises:
    ///     WireFault: under `reject`, if the body holds a bare CR or LF; the encoder cannot be used any more.
    ///     ValueError: after the end or a fault.
    fn feed<'py>(&mut self, chunk: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let py = chunk.py();
        let encoder = self.encoder.as_mut().ok_or_else(ended)?;
        let data = Octets::new(chunk)?;
        let octets = data.as_slice();
        let mut plan = Plan::default();
        let filled = &mut plan;
        if let Err(fault) = detached(py, octets.len(), || encoder.feed(octets, filled)) {
            self.encoder = None;
            return Err(types(py)?.wire_fault(py, fault));
        }
        body(py, &plan, octets, Some(data.as_bytes()))
    }

    /// The last octets: CRLF if the body does not end with it, then `.CRLF`.
    ///
    /// Raises:
    ///     WireFault: under `reject`, if the body ends with a CR.
    ///     ValueError: after the end or a fault.
    fn finish<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        match self.encoder.take().ok_or_else(ended)?.finish() {
            Ok(end) => Ok(PyBytes::new(py, end)),
            Err(fault) => Err(types(py)?.wire_fault(py, fault)),
        }
    }
}

/// Decode the octets after DATA: remove stuffed dots, find the true end, gather facts (RFC 5321 §4.5.2).
///
/// The facts describe the body as it is returned (without stuffed dots, and normalised under that policy), except
/// `bare_cr` and `bare_lf`, which describe what was received.
///
/// Args:
///     limits: `Limits.content` bounds what `feed` returns; the rest is counted and checked.
///     newline: the policy for a bare CR or bare LF.
#[pyclass(module = "ironpost.wire._native")]
struct DataDecoder(data::DataDecoder);

#[pymethods]
impl DataDecoder {
    #[new]
    #[pyo3(signature = (limits = None, newline = None), text_signature = "(limits=None, newline='reject')")]
    fn new(py: Python<'_>, limits: Option<&Bound<'_, PyAny>>, newline: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let Limits { content, .. } = types(py)?.limits(limits)?;
        let newline = newline.map_or(Ok(Newline::Reject), |name| self::newline(name, true))?;
        Ok(Self(data::DataDecoder::new(newline, content)))
    }

    /// The body octets known by now, how many octets of `data` were consumed, whether the true end was reached.
    ///
    /// Raises:
    ///     ValueError: after the end.
    fn feed<'py>(&mut self, data: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyBytes>, usize, bool)> {
        let py = data.py();
        if self.0.finished() {
            return Err(PyValueError::new_err(
                "the end of DATA was reached; a DataDecoder reads one body",
            ));
        }
        let data = Octets::new(data)?;
        let octets = data.as_slice();
        let mut plan = Plan::default();
        let (decoder, filled) = (&mut self.0, &mut plan);
        let progress = detached(py, octets.len(), || decoder.feed(octets, filled));
        let body = body(py, &plan, octets, Some(data.as_bytes()))?;
        Ok((body, progress.consumed, progress.finished))
    }

    /// Octets of content so far, returned or not.
    #[getter]
    fn size(&self) -> u64 {
        self.0.facts().size
    }

    /// Whether an octet above 127 was seen.
    #[getter]
    fn eight_bit(&self) -> bool {
        self.0.facts().eight_bit
    }

    /// Whether a NUL octet was seen.
    #[getter]
    fn nul(&self) -> bool {
        self.0.facts().nul
    }

    /// Whether a CR without LF was seen.
    #[getter]
    fn bare_cr(&self) -> bool {
        self.0.facts().bare_cr
    }

    /// Whether an LF without CR was seen.
    #[getter]
    fn bare_lf(&self) -> bool {
        self.0.facts().bare_lf
    }

    /// Octets of the longest line so far, without CRLF.
    #[getter]
    fn longest_line(&self) -> u64 {
        self.0.facts().longest_line
    }

    /// Octets before the first empty line; -1 while none was seen.
    #[getter]
    fn header_size(&self) -> i64 {
        header_size(self.0.facts().header_size)
    }
}

/// A header size as Python knows it.
pub(super) fn header_size(size: Option<u64>) -> i64 {
    size.map_or(-1, |size| size.try_into().unwrap_or(i64::MAX))
}
