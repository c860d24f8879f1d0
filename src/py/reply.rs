//! Bindings of replies and EHLO lists.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyList, PyMemoryView, PyString, PyTuple};

use super::values::{Octets, Types, integer, string, types};
use crate::ehlo;
use crate::reply::{self, Reply, Unwritable};

/// Adds this file's functions and class to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(parse_reply, module)?)?;
    module.add_function(wrap_pyfunction!(format_reply, module)?)?;
    module.add_function(wrap_pyfunction!(parse_ehlo, module)?)?;
    module.add_class::<ReplyReader>()
}

fn build<'py>(types: &Types, py: Python<'py>, reply: &Reply<'_>) -> PyResult<Bound<'py, PyAny>> {
    let lines = PyTuple::new(py, reply.lines.iter().map(|line| types.bytes(py, line)))?;
    let enhanced = reply
        .enhanced
        .map_or_else(|| py.None(), |enhanced| string(py, enhanced));
    types.reply.build(
        py,
        [integer(py, reply.code.into()), enhanced, lines.into_any().unbind()],
    )
}

/// Parse one complete reply, with or without the CRLF of its last line (RFC 5321 §4.2). The default limits apply.
///
/// Raises:
///     WireFault: the first fault, with its offset in the faulty line; of `reply-incomplete` and `reply-trailing` it is
///         the offset in the whole reply.
#[pyfunction]
fn parse_reply<'py>(octets: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = octets.py();
    let octets = Octets::new(octets)?;
    let types = types(py)?;
    match reply::parse_reply(octets.as_slice()) {
        Ok(reply) => build(types, py, &reply),
        Err(fault) => Err(types.wire_fault(py, fault)),
    }
}

/// Parse the reply to EHLO: the server's domain and its extensions (RFC 5321 §4.1.1.1).
///
/// Raises:
///     WireFault: `ehlo-refused`, if the reply is not 250.
#[pyfunction]
fn parse_ehlo<'py>(reply: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = reply.py();
    let types = types(py)?;
    if !types.reply.is_class_of(reply)? {
        let name = reply.get_type().name()?;
        return Err(PyTypeError::new_err(format!(
            "expected ironpost.wire.Reply, not {name}"
        )));
    }
    let code = reply.get_item(0)?.extract().unwrap_or(0);
    let lines = reply
        .get_item(2)?
        .try_iter()?
        .map(|line| Octets::new(&line?))
        .collect::<PyResult<Vec<_>>>()?;
    let reply = Reply {
        code,
        enhanced: None,
        lines: lines.iter().map(Octets::as_slice).collect(),
    };
    let parsed = ehlo::parse_ehlo(&reply).map_err(|fault| types.wire_fault(py, fault))?;
    let extensions = PyDict::new(py);
    for (keyword, parameters) in &parsed.extensions {
        extensions.set_item(keyword, parameters)?;
    }
    types
        .ehlo
        .build(py, [string(py, &parsed.domain), extensions.into_any().unbind()])
}

/// Write a reply (RFC 5321 §4.2), with the enhanced code on every line (RFC 2034 §4).
///
/// Args:
///     code: 200 to 559, as Reply-code allows.
///     enhanced: an enhanced status code whose class agrees with the code, or None.
///     lines: the text of each line, `str` as UTF-8. An empty sequence gives one line without text.
///
/// Raises:
///     ValueError: if a code is invalid, the enhanced code disagrees with the code, or a line holds CR, LF or NUL.
///     TypeError: if `lines` is one text instead of a sequence of them.
#[pyfunction]
fn format_reply<'py>(
    py: Python<'py>,
    code: i64,
    enhanced: Option<&Bound<'py, PyString>>,
    lines: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    if lines.is_instance_of::<PyString>()
        || lines.is_instance_of::<PyBytes>()
        || lines.is_instance_of::<PyByteArray>()
        || lines.is_instance_of::<PyMemoryView>()
    {
        return Err(PyTypeError::new_err("lines must be a sequence of lines, not one line"));
    }
    let lines = lines
        .try_iter()?
        .map(|line| Octets::or_text(&line?))
        .collect::<PyResult<Vec<_>>>()?;
    let slices: Vec<_> = lines.iter().map(Octets::as_slice).collect();
    let enhanced_text = enhanced.map(|enhanced| enhanced.to_cow()).transpose()?;
    match reply::format_reply(u16::try_from(code).unwrap_or(0), enhanced_text.as_deref(), &slices) {
        Ok(octets) => Ok(PyBytes::new(py, &octets)),
        Err(unwritable) => Err(PyValueError::new_err(match unwritable {
            Unwritable::Code => format!("{code} is not a valid reply code (RFC 5321 §4.2)"),
            Unwritable::Enhanced => {
                format!(
                    "'{}' is not a valid enhanced status code for a {code} reply (RFC 2034 §4)",
                    enhanced_text.as_deref().unwrap_or_default()
                )
            }
            Unwritable::Line(index) => format!("line {index} of the reply holds CR, LF or NUL"),
        })),
    }
}

/// Read replies as they arrive (RFC 5321 §4.2).
///
/// Args:
///     limits: `reply_lines` and `reply_octets` bound one reply.
#[pyclass(module = "ironpost.wire._native")]
struct ReplyReader(reply::ReplyReader);

#[pymethods]
impl ReplyReader {
    #[new]
    #[pyo3(signature = (limits = None))]
    fn new(py: Python<'_>, limits: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        Ok(Self(reply::ReplyReader::new(types(py)?.limits(limits)?)))
    }

    /// The replies that are complete by now. A `Fault` is the last event: later octets are dropped.
    fn feed<'py>(&mut self, data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let py = data.py();
        let octets = Octets::new(data)?;
        let types = types(py)?;
        let events = PyList::empty(py);
        let mut outcome = Ok(());
        self.0.feed(octets.as_slice(), &mut |event| {
            let built = match event {
                Ok(reply) => build(types, py, &reply),
                Err(fault) => types.fault(py, fault),
            };
            if let Err(error) = built.and_then(|event| events.append(event)) {
                outcome = Err(error);
            }
        });
        outcome.map(|()| events)
    }

    /// Octets of the unfinished reply.
    #[getter]
    fn buffered(&self) -> usize {
        self.0.buffered()
    }
}
