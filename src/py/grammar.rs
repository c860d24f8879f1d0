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

#[pyfunction]
fn xtext_encode(data: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let octets = Octets::or_text(data)?;
    Ok(string(data.py(), &xtext::xtext_encode(octets.as_slice())))
}

#[pyfunction]
fn xtext_decode<'py>(text: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let py = text.py();
    let octets = Octets::or_text(text)?;
    match xtext::xtext_decode(octets.as_slice()) {
        Ok(octets) => Ok(PyBytes::new(py, &octets)),
        Err(fault) => Err(types(py)?.wire_fault(py, fault)),
    }
}

#[pyfunction]
fn utf8_addr_xtext_encode(text: &Bound<'_, PyString>) -> PyResult<Py<PyAny>> {
    let py = text.py();
    match xtext::utf8_addr_xtext_encode(text.to_cow()?.as_ref()) {
        Ok(encoded) => Ok(string(py, &encoded)),
        Err(fault) => Err(types(py)?.wire_fault(py, fault)),
    }
}

#[pyfunction]
fn utf8_addr_xtext_decode(text: &Bound<'_, PyString>) -> PyResult<Py<PyAny>> {
    let py = text.py();
    match xtext::utf8_addr_xtext_decode(text.to_cow()?.as_ref()) {
        Ok(decoded) => Ok(string(py, &decoded)),
        Err(fault) => Err(types(py)?.wire_fault(py, fault)),
    }
}

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

#[pyfunction]
fn unfold<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let octets = Octets::new(value)?;
    Ok(match header::unfold(octets.as_slice()) {
        Cow::Borrowed(_) => octets.as_bytes().clone(),
        Cow::Owned(unfolded) => PyBytes::new(value.py(), &unfolded),
    })
}
