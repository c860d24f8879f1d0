//! Scanning a header section for the offsets of its fields.
//!
//! Promises: one pass; fields are offsets into the octets, nothing is copied; the result is bounded by the limits.
//!
//! Refuses, by ending the section with a fault: a line that is neither field nor continuation, and a section or a number
//! of fields over its limit. Only CRLF ends a line; a bare CR or LF is part of a field.
//!
//! Tolerates white space between a field's name and its colon (obs-optional, RFC 5322 §4.5), as a verifier must.
//!
//! Standards: RFC 5322 §2.2 (fields), §2.2.3 (folding), §3.6.8 (ftext).

use std::borrow::Cow;

use memchr::memchr;

use crate::address::{FTEXT, is};
use crate::fault::{Fault, FaultId};
use crate::limits::Limits;

/// The position of a header field in the scanned octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderField<'a> {
    /// The field name as received.
    pub name: &'a str,
    /// Where the field starts.
    pub start: usize,
    /// The first octet after the colon.
    pub value: usize,
    /// The offset after the field's last CRLF.
    pub end: usize,
}

/// A scanned header section.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HeaderSection<'a> {
    /// The fields in their order.
    pub fields: Vec<HeaderField<'a>>,
    /// The offset after the last field, where the empty line or the body starts.
    pub end: usize,
    /// The number of Received fields (RFC 5321 §6.3 uses it to detect loops).
    pub received: usize,
    /// The fault that ended the section early.
    pub fault: Option<Fault>,
}

/// Finds the fields of the header section at the start of a message.
#[must_use]
pub fn scan_header<'a>(data: &'a [u8], limits: &Limits) -> HeaderSection<'a> {
    let mut section = HeaderSection::default();
    let mut at = 0;
    while at < data.len() && !data[at..].starts_with(b"\r\n") {
        match field(data, at, limits.header_octets) {
            Ok(_) if section.fields.len() >= limits.header_fields => {
                section.fault = Some(FaultId::HeaderTooManyFields.at(at));
                break;
            }
            Ok(field) => {
                section.received += usize::from(field.name.eq_ignore_ascii_case("Received"));
                at = field.end;
                section.fields.push(field);
            }
            Err(fault) => {
                section.fault = Some(fault);
                break;
            }
        }
    }
    section.end = at;
    section
}

/// The field at `start`, with its continuation lines.
#[inline]
fn field(data: &[u8], start: usize, limit: usize) -> Result<HeaderField<'_>, Fault> {
    let mut name_end = start;
    while data.get(name_end).is_some_and(|&octet| is(octet, FTEXT)) {
        name_end += 1;
    }
    let mut colon = name_end;
    while matches!(data.get(colon), Some(b' ' | b'\t')) {
        colon += 1;
    }
    if name_end == start || data.get(colon) != Some(&b':') {
        return Err(FaultId::HeaderFieldMalformed.at(start));
    }
    let name = std::str::from_utf8(&data[start..name_end]).unwrap_or_default();
    let mut end = line_end(data, colon + 1);
    while end <= limit && matches!(data.get(end), Some(b' ' | b'\t')) {
        end = line_end(data, end);
    }
    if end > limit {
        return Err(FaultId::HeaderTooLarge.at(limit));
    }
    Ok(HeaderField {
        name,
        start,
        value: colon + 1,
        end,
    })
}

/// The offset after the next CRLF, or the end of the data.
#[inline]
fn line_end(data: &[u8], start: usize) -> usize {
    let mut at = start;
    while let Some(found) = memchr(b'\n', &data[at..]) {
        at += found + 1;
        if at - start >= 2 && data[at - 2] == b'\r' {
            return at;
        }
    }
    data.len()
}

/// A field's value on one line: every CRLF before a space or tab is dropped (RFC 5322 §2.2.3).
#[must_use]
pub fn unfold(value: &[u8]) -> Cow<'_, [u8]> {
    let mut unfolded = Vec::new();
    let mut kept = 0;
    let mut at = 0;
    while let Some(found) = memchr(b'\r', &value[at..]) {
        at += found + 1;
        if value.get(at) == Some(&b'\n') && matches!(value.get(at + 1), Some(b' ' | b'\t')) {
            unfolded.extend_from_slice(&value[kept..at - 1]);
            kept = at + 1;
        }
    }
    if kept == 0 {
        return Cow::Borrowed(value);
    }
    unfolded.extend_from_slice(&value[kept..]);
    Cow::Owned(unfolded)
}
