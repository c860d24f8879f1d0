//! ESMTP parameters of MAIL and RCPT.
//!
//! Promises: checks the grammar and that no keyword is repeated, keeps unknown keywords (the session decides about
//! them), and returns slices of the line; never quadratic in the length of the line.
//!
//! Refuses: a value that is empty or contains `=`, a space or a control octet; a repeated keyword.
//!
//! Standards: RFC 5321 §4.1.2 (esmtp-param), §4.1.1.11; RFC 6531 §3.3 (esmtp-value with UTF8-non-ascii).

use std::collections::HashSet;

use crate::address::{ALNUM, Text, VALUE, is};
use crate::fault::{Fault, FaultId};

/// The parameters of one command, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Parameters<'a> {
    /// Valid parameters, separated by one or more spaces.
    text: &'a str,
}

impl<'a> Parameters<'a> {
    /// Whether there are no parameters.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The keyword as received, and the value if there is one.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> + use<'a> {
        let text = self.text;
        let mut at = 0;
        std::iter::from_fn(move || {
            let octets = text.as_bytes();
            while octets.get(at) == Some(&b' ') {
                at += 1;
            }
            let start = at;
            let mut equals = None;
            while let Some(&octet) = octets.get(at) {
                match octet {
                    b' ' => break,
                    b'=' => equals = Some(at),
                    _ => {}
                }
                at += 1;
            }
            match equals {
                _ if start == at => None,
                Some(equals) => Some((&text[start..equals], Some(&text[equals + 1..at]))),
                None => Some((&text[start..at], None)),
            }
        })
    }

    /// The value of a keyword, in any case; `Some(None)` if it has no value.
    #[must_use]
    pub fn get(&self, keyword: &str) -> Option<Option<&'a str>> {
        self.iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(keyword))
            .map(|(_, value)| value)
    }
}

/// The number of keywords that are compared one by one; beyond it a set is used.
const FEW: usize = 16;

/// Detects a repeated keyword.
#[derive(Default)]
struct Seen {
    /// A fingerprint of each of the first keywords: equal keywords have equal ones.
    few: [u64; FEW],
    count: usize,
    many: Option<HashSet<Vec<u8>>>,
}

impl Seen {
    /// Records a keyword; false if `before`, the text to its left, contains it, in any case.
    #[inline]
    fn insert(&mut self, keyword: &[u8], fingerprint: u64, before: &str) -> bool {
        if self.count >= FEW {
            return self.insert_many(keyword, before);
        }
        if self.few[..self.count].contains(&fingerprint)
            && known(before).any(|other| other.eq_ignore_ascii_case(keyword))
        {
            return false;
        }
        self.few[self.count] = fingerprint;
        self.count += 1;
        true
    }

    #[cold]
    fn insert_many(&mut self, keyword: &[u8], before: &str) -> bool {
        let all = || known(before).map(<[u8]>::to_ascii_uppercase).collect();
        self.many.get_or_insert_with(all).insert(keyword.to_ascii_uppercase())
    }
}

/// The keywords of valid parameters.
fn known(text: &str) -> impl Iterator<Item = &[u8]> {
    Parameters { text }.iter().map(|(keyword, _)| keyword.as_bytes())
}

/// The parameters from `start`, after the path, to the end of the text.
#[inline(always)]
pub(crate) fn parameters<'a>(text: &Text<'a>, start: usize) -> Result<Parameters<'a>, Fault> {
    let mut seen = Seen::default();
    let mut at = start;
    match text.get(at) {
        None => return Ok(Parameters::default()),
        Some(b' ') => {}
        Some(_) => return Err(FaultId::PathTrailing.at(at)),
    }
    loop {
        while text.get(at) == Some(b' ') {
            at += 1;
        }
        let keyword = at;
        let mut fingerprint = 0;
        while let Some(octet) = text.get(at) {
            if !is(octet, ALNUM) && (octet != b'-' || at == keyword) {
                break;
            }
            fingerprint = u64::rotate_left(fingerprint, 7) ^ u64::from(octet & 0xDF); // the same in either case
            at += 1;
        }
        let end = at;
        let has_value = match text.get(at) {
            None if at == keyword => break,
            None => false,
            Some(b' ' | b'=') if at == keyword => return Err(FaultId::ParameterMalformed.at(at)),
            Some(b' ') => false,
            Some(b'=') => true,
            Some(_) => return Err(FaultId::ParameterMalformed.at(at)),
        };
        if !seen.insert(&text.octets[keyword..end], fingerprint, text.slice(start, keyword)?) {
            return Err(FaultId::ParameterDuplicate.at(keyword));
        }
        if has_value {
            at += 1;
            let value = at;
            while text.get(at).is_some_and(|octet| is(octet, VALUE)) {
                at += 1;
            }
            if at == value || !matches!(text.get(at), None | Some(b' ')) {
                return Err(text.fault(FaultId::ParameterValueMalformed, at));
            }
            text.slice(value, at)?;
        }
    }
    Ok(Parameters {
        text: text.slice(start, text.octets.len())?,
    })
}
