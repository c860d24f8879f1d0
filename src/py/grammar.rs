//! Bindings of commands, mailboxes, xtext and header sections.

use std::borrow::Cow;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

use super::values::{Octets, addresses, integer, string, types};
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

/// Parse one command line, with or without its CRLF (RFC 5321 §4.1.1).
///
/// Args:
///     line: the octets of the line.
///     lenient: MAIL and RCPT may deviate from the grammar as `TOLERATED` lists.
///
/// Raises:
///     WireFault: the first fault, with its offset in the line.
#[pyfunction]
#[pyo3(signature = (line, *, lenient = false))]
fn parse_command<'py>(line: &Bound<'py, PyAny>, lenient: bool) -> PyResult<Bound<'py, PyAny>> {
    let py = line.py();
    let line = Octets::new(line)?;
    let command = command::parse_command(line.as_slice(), addresses(lenient));
    let types = types(py)?;
    match command.fault {
        Some(fault) => Err(types.wire_fault(py, fault)),
        None => types.command(py, &command),
    }
}

/// Parse the whole of `text` as a Mailbox, without brackets and display name (RFC 5321 §4.1.2).
///
/// Args:
///     text: the address; octets are UTF-8.
///     lenient: the address may deviate from the grammar as `TOLERATED` lists.
///
/// Raises:
///     WireFault: the first fault, with its offset in the octets of the UTF-8 form.
#[pyfunction]
#[pyo3(signature = (text, *, lenient = false))]
fn parse_mailbox(text: &Bound<'_, PyAny>, lenient: bool) -> PyResult<Py<PyAny>> {
    let py = text.py();
    let octets = Octets::or_text(text)?;
    let types = types(py)?;
    match address::parse_mailbox(octets.as_slice(), addresses(lenient)) {
        Ok(mailbox) => types.mailbox(py, &mailbox),
        Err(fault) => Err(types.wire_fault(py, fault)),
    }
}

/// Write a mailbox as it stands in a path, quoted only where needed; the null path is empty (RFC 5321 §4.1.2).
///
/// Args:
///     mailbox: the address; stray dots are always quoted.
///     lenient: an underscore counts as a letter of the domain.
///
/// Raises:
///     WireFault: if the grammar has no form for it, with the offset in the local part or in the domain.
#[pyfunction]
#[pyo3(signature = (mailbox, *, lenient = false))]
fn format_mailbox(mailbox: &Bound<'_, PyAny>, lenient: bool) -> PyResult<String> {
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
    address::format_mailbox(&mailbox, addresses(lenient)).map_err(|fault| types.wire_fault(py, fault))
}

/// Encode octets, or the UTF-8 form of a text, as xtext (RFC 3461 §4).
#[pyfunction]
fn xtext_encode(data: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let octets = Octets::or_text(data)?;
    Ok(string(data.py(), &xtext::xtext_encode(octets.as_slice())))
}

/// Decode xtext to octets (RFC 3461 §4).
///
/// Raises:
///     WireFault: `xtext-malformed`.
#[pyfunction]
fn xtext_decode<'py>(text: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let py = text.py();
    let octets = Octets::or_text(text)?;
    match xtext::xtext_decode(octets.as_slice()) {
        Ok(octets) => Ok(PyBytes::new(py, &octets)),
        Err(fault) => Err(types(py)?.wire_fault(py, fault)),
    }
}

/// Encode an address in its 7-bit form, utf-8-addr-xtext (RFC 6533 §3).
///
/// Raises:
///     WireFault: `xtext-malformed` at a control character that the form cannot hold.
///     UnicodeEncodeError: if the text holds a surrogate.
#[pyfunction]
fn utf8_addr_xtext_encode(text: &Bound<'_, PyString>) -> PyResult<Py<PyAny>> {
    let py = text.py();
    match xtext::utf8_addr_xtext_encode(text.to_cow()?.as_ref()) {
        Ok(encoded) => Ok(string(py, &encoded)),
        Err(fault) => Err(types(py)?.wire_fault(py, fault)),
    }
}

/// Decode an address from utf-8-addr-xtext or utf-8-addr-unitext (RFC 6533 §3).
///
/// Raises:
///     WireFault: `xtext-malformed`.
///     UnicodeEncodeError: if the text holds a surrogate.
#[pyfunction]
fn utf8_addr_xtext_decode(text: &Bound<'_, PyString>) -> PyResult<Py<PyAny>> {
    let py = text.py();
    match xtext::utf8_addr_xtext_decode(text.to_cow()?.as_ref()) {
        Ok(decoded) => Ok(string(py, &decoded)),
        Err(fault) => Err(types(py)?.wire_fault(py, fault)),
    }
}

/// Find the fields of the header section at the start of `data` (RFC 5322 §2.2). Content never raises.
///
/// Args:
///     data: a message, or the start of one; the section ends at the first empty line or at the end of `data`.
///     limits: `header_octets` and `header_fields` bound what is read.
///
/// Returns:
///     The fields, the end of the section, how many fields are named Received, and the fault that ended it early.
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

/// Remove each CRLF that white space follows from a field body (RFC 5322 §2.2.3).
#[pyfunction]
fn unfold<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let octets = Octets::new(value)?;
    Ok(match header::unfold(octets.as_slice()) {
        Cow::Borrowed(_) => octets.as_bytes().clone(),
        Cow::Owned(unfolded) => PyBytes::new(value.py(), &unfolded),
    })
}
