//! Bindings of commands, mailboxes, xtext and header sections.

use std::borrow::Cow;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

use super::values::{Octets, integer, string, types};
use crate::address::{self, Mailbox};
use crate::command;
use crate::header;
use crate::xtext;

/// Adds this file's functions to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(parse_command, module)?)?;
    module.add_function(wrap_pyfunction!(parse_mailbox, module)?)?;
    module.add_function(wrap_pyfunction!(format_mailbox, module)?)?;
    module.add_function(wrap_pyfunction!(xtext_encode, module)?)?;
    module.add_function(wrap_pyfunction!(xtext_decode, module)?)?;
    module.add_function(wrap_pyfunction!(utf8_addr_xtext_encode, module)?)?;
    module.add_function(wrap_pyfunction!(utf8_addr_xtext_decode, module)?)?;
    module.add_function(wrap_pyfunction!(scan_header, module)?)?;
    module.add_function(wrap_pyfunction!(unfold, module)?)?;
    Ok(())
}

/// One command line, `bytes` with or without its CRLF, as a `Command` (RFC 5321 section 4.1.1).
///
/// Raises WireFault: what is wrong with the line, at the octet where it is wrong.
#[pyfunction]
fn parse_command<'py>(line: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = line.py();
    let line = Octets::new(line)?;
    let command = command::parse_command(line.as_slice());
    let types = types(py)?;
    match command.fault {
        Some(fault) => Err(types.wire_fault(py, fault)),
        None => types.command(py, &command),
    }
}

/// The whole of a text, `str` or octets, as a `Mailbox` without brackets and display name (RFC 5321 section 4.1.2).
///
/// Raises WireFault: what is wrong, at an offset in the octets of the UTF-8 form.
#[pyfunction]
fn parse_mailbox(text: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let py = text.py();
    let octets = Octets::or_text(text)?;
    let types = types(py)?;
    match address::parse_mailbox(octets.as_slice()) {
        Ok(mailbox) => types.mailbox(py, &mailbox),
        Err(fault) => Err(types.wire_fault(py, fault)),
    }
}

/// A `Mailbox` as a path holds it, quoted only where it must be (RFC 5321 section 4.1.2); the null path is empty.
///
/// Raises WireFault: if the grammar cannot write it; the offset is that in the local part or in the domain.
#[pyfunction]
fn format_mailbox(mailbox: &Bound<'_, PyAny>) -> PyResult<String> {
    let py = mailbox.py();
    let types = types(py)?;
    if !types.mailbox.is_class_of(mailbox)? {
        let name = mailbox.get_type().name()?;
        return Err(PyTypeError::new_err(format!(
            "expected ironpost.wire.Mailbox, not {name}"
        )));
    }
    let (local_part, domain) = (
        mailbox.get_item(0)?.cast_into::<PyString>()?,
        mailbox.get_item(1)?.cast_into::<PyString>()?,
    );
    let mailbox = Mailbox {
        local_part: Cow::Borrowed(local_part.to_str()?),
        domain: domain.to_str()?,
    };
    address::format_mailbox(&mailbox).map_err(|fault| types.wire_fault(py, fault))
}

/// Octets, or the UTF-8 form of a text, as xtext (RFC 3461 section 4).
#[pyfunction]
fn xtext_encode(data: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let octets = Octets::or_text(data)?;
    Ok(string(data.py(), &xtext::xtext_encode(octets.as_slice())))
}

/// The octets that an xtext stands for (RFC 3461 section 4).
///
/// Raises WireFault: `xtext-malformed`.
#[pyfunction]
fn xtext_decode<'py>(text: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let py = text.py();
    let octets = Octets::or_text(text)?;
    match xtext::xtext_decode(octets.as_slice()) {
        Ok(octets) => Ok(PyBytes::new(py, &octets)),
        Err(fault) => Err(types(py)?.wire_fault(py, fault)),
    }
}

/// An address in its 7-bit form (RFC 6533 section 3).
///
/// Raises WireFault: `xtext-malformed` at a control character that the form cannot hold.
#[pyfunction]
fn utf8_addr_xtext_encode(text: &Bound<'_, PyString>) -> PyResult<Py<PyAny>> {
    let py = text.py();
    match xtext::utf8_addr_xtext_encode(text.to_cow()?.as_ref()) {
        Ok(encoded) => Ok(string(py, &encoded)),
        Err(fault) => Err(types(py)?.wire_fault(py, fault)),
    }
}

/// The address that a utf-8-addr-xtext or utf-8-addr-unitext stands for (RFC 6533 section 3).
///
/// Raises WireFault: `xtext-malformed`.
#[pyfunction]
fn utf8_addr_xtext_decode(text: &Bound<'_, PyString>) -> PyResult<Py<PyAny>> {
    let py = text.py();
    match xtext::utf8_addr_xtext_decode(text.to_cow()?.as_ref()) {
        Ok(decoded) => Ok(string(py, &decoded)),
        Err(fault) => Err(types(py)?.wire_fault(py, fault)),
    }
}

/// The header section at the start of a message as a `HeaderSection` (RFC 5322 section 2.2); never raises on content.
#[pyfunction]
#[pyo3(signature = (data, limits = None))]
fn scan_header<'py>(data: &Bound<'py, PyAny>, limits: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
    let py = data.py();
    let types = types(py)?;
    let limits = types.limits(limits)?;
    let octets = Octets::new(data)?;
    let section = header::scan_header(octets.as_slice(), &limits);
    let fields = PyList::empty(py);
    for field in &section.fields {
        let [start, value, end] = [field.start, field.value, field.end].map(|offset| integer(py, offset as u64));
        fields.append(
            types
                .header_field
                .build(py, [string(py, field.name), start, value, end])?,
        )?;
    }
    let fault = match section.fault {
        Some(fault) => types.fault(py, fault)?.unbind(),
        None => py.None(),
    };
    let [end, received] = [section.end, section.received].map(|number| integer(py, number as u64));
    types
        .header_section
        .build(py, [fields.into_any().unbind(), end, received, fault])
}

/// The value without each CRLF that white space follows (RFC 5322 section 2.2.3).
#[pyfunction]
fn unfold<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let octets = Octets::new(value)?;
    Ok(match header::unfold(octets.as_slice()) {
        Cow::Borrowed(_) => octets.as_bytes().clone(),
        Cow::Owned(unfolded) => PyBytes::new(value.py(), &unfolded),
    })
}
