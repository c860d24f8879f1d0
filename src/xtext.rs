//! xtext and utf-8-addr-xtext: encodings of arbitrary octets or characters in an ESMTP parameter.
//!
//! Promises: decoding reverses encoding; text without escapes is borrowed; a fault has the offset of the leftmost invalid
//! octet.
//!
//! Refuses: an octet that must be escaped and is not; lower-case digits in xtext (RFC 3461 §4 requires upper case);
//! code points without an escape in RFC 6533 §3 (NUL, LF, CR and the other controls outside its HEXPOINT).
//!
//! Standards: RFC 3461 §4 (xtext), RFC 6533 §3 (utf-8-addr-xtext; native UTF-8 is read too, as utf-8-addr-unitext).

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::fault::{Fault, FaultId};

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// `xchar`: `!` to `~` without `+` and `=` (RFC 3461 §4).
fn is_xchar(octet: u8) -> bool {
    matches!(octet, 33..=126) && !matches!(octet, b'+' | b'=')
}

/// Encodes octets as xtext (RFC 3461 §4).
#[must_use]
pub fn xtext_encode(octets: &[u8]) -> Cow<'_, str> {
    if octets.iter().all(|&octet| is_xchar(octet)) {
        return std::str::from_utf8(octets).map(Cow::Borrowed).unwrap_or_default();
    }
    let mut text = String::with_capacity(octets.len() + 16);
    for &octet in octets {
        if is_xchar(octet) {
            text.push(char::from(octet));
        } else {
            text.push('+');
            text.push(char::from(HEX[usize::from(octet >> 4)]));
            text.push(char::from(HEX[usize::from(octet & 15)]));
        }
    }
    Cow::Owned(text)
}

/// Decodes xtext to octets (RFC 3461 §4).
///
/// # Errors
/// `xtext-malformed` at the octet that must be encoded, or at the `+` of a broken escape.
pub fn xtext_decode(text: &[u8]) -> Result<Cow<'_, [u8]>, Fault> {
    if text.iter().all(|&octet| is_xchar(octet)) {
        return Ok(Cow::Borrowed(text));
    }
    let mut octets = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        if is_xchar(text[at]) {
            octets.push(text[at]);
            at += 1;
            continue;
        }
        let digit = |offset: usize| {
            let octet = *text.get(at + offset)?;
            HEX.iter().position(|&digit| digit == octet)
        };
        match (text[at], digit(1), digit(2)) {
            (b'+', Some(high), Some(low)) => octets.push((high << 4 | low) as u8),
            _ => return Err(FaultId::XtextMalformed.at(at)),
        }
        at += 3;
    }
    Ok(Cow::Owned(octets))
}

/// `QCHAR`: printable ASCII without `\`, `+` and `=` (RFC 6533 §3).
fn is_qchar(octet: u8) -> bool {
    is_xchar(octet) && octet != b'\\'
}

/// Whether `HEXPOINT` can express the character (RFC 6533 §3): of the control characters only 01-09, 10-19 and 7F.
fn has_hexpoint(character: char) -> bool {
    matches!(character, '\x01'..='\x09' | '\x10'..='\x19' | ' ' | '+' | '=' | '\\' | '\x7f'..)
}

/// Encodes a mailbox as utf-8-addr-xtext: 7-bit text that is safe in ORCPT (RFC 6533 §3).
///
/// # Errors
/// `xtext-malformed` at a character that has no escape.
pub fn utf8_addr_xtext_encode(text: &str) -> Result<Cow<'_, str>, Fault> {
    if text.bytes().all(is_qchar) {
        return Ok(Cow::Borrowed(text));
    }
    let mut encoded = String::with_capacity(text.len() * 2);
    for (offset, character) in text.char_indices() {
        if character.is_ascii() && is_qchar(character as u8) {
            encoded.push(character);
        } else if has_hexpoint(character) {
            let _ = write!(encoded, "\\x{{{:02X}}}", u32::from(character)); // writing to a String cannot fail
        } else {
            return Err(FaultId::XtextMalformed.at(offset));
        }
    }
    Ok(Cow::Owned(encoded))
}

/// Decodes a mailbox from utf-8-addr-xtext or utf-8-addr-unitext (RFC 6533 §3).
///
/// # Errors
/// `xtext-malformed` at the octet that must be encoded, or at the `\` of a broken escape.
pub fn utf8_addr_xtext_decode(text: &str) -> Result<Cow<'_, str>, Fault> {
    if text.bytes().all(|octet| is_qchar(octet) || octet >= 0x80) {
        return Ok(Cow::Borrowed(text));
    }
    let mut decoded = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(character) = text[at..].chars().next() {
        if !character.is_ascii() || is_qchar(character as u8) {
            decoded.push(character);
            at += character.len_utf8();
        } else {
            let (character, length) = hexpoint(&text[at..]).ok_or(FaultId::XtextMalformed.at(at))?;
            decoded.push(character);
            at += length;
        }
    }
    Ok(Cow::Owned(decoded))
}

/// The character of the escape `\x{HEXPOINT}` at the start of the text, and the length of the escape.
fn hexpoint(text: &str) -> Option<(char, usize)> {
    let rest = text.strip_prefix("\\x{")?;
    let digits = &rest[..rest.find('}')?];
    let padded = digits.len() > 2 && digits.starts_with('0');
    if !(2..=6).contains(&digits.len()) || padded || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let character = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32)?;
    has_hexpoint(character).then_some((character, digits.len() + 4))
}
