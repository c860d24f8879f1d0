//! ESMTP parameters of MAIL and RCPT.
//!
//! Promises: checks the grammar and that no keyword comes twice, keeps what it does not know (the session decides), and
//! hands out slices of the line; never quadratic in the length of the line.
//!
//! Refuses: a value that is empty or holds `=`, a space or a control octet; a keyword given twice.
//!
//! Standards: RFC 5321 §4.1.2 (esmtp-param), §4.1.1.11; RFC 6531 §3.3 (esmtp-value with UTF8-non-ascii).

use std::collections::HashSet;

use crate::address::{ALNUM, Text, VALUE, is};
use crate::fault::{Fault, FaultId};

/// The parameters of one command, in the order in which they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Parameters<'a> {
    /// Checked: parameters separated by one or more spaces.
    text: &'a str,
}

impl<'a> Parameters<'a> {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Keyword as it was sent, and the value if there is one.
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

    /// The value of a keyword in any case: `Some(None)` if it came without a value.
    #[must_use]
    pub fn get(&self, keyword: &str) -> Option<Option<&'a str>> {
        self.iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(keyword))
            .map(|(_, value)| value)
    }
}

/// How many keywords are compared one by one before a set takes over.
const FEW: usize = 16;

/// Finds a keyword that comes twice.
struct Seen<'a> {
    few: [&'a [u8]; FEW],
    count: usize,
    many: HashSet<Vec<u8>>,
}

impl<'a> Seen<'a> {
    /// Remembers a keyword; false if it is known already, in any case.
    #[inline]
    fn insert(&mut self, keyword: &'a [u8]) -> bool {
        if self.count >= FEW {
            return self.insert_many(keyword);
        }
        if self.few[..self.count]
            .iter()
            .any(|other| other.eq_ignore_ascii_case(keyword))
        {
            return false;
        }
        self.few[self.count] = keyword;
        self.count += 1;
        true
    }

    #[cold]
    fn insert_many(&mut self, keyword: &[u8]) -> bool {
        if self.many.is_empty() {
            self.many
                .extend(self.few.iter().map(|keyword| keyword.to_ascii_uppercase()));
        }
        self.many.insert(keyword.to_ascii_uppercase())
    }
}

/// The parameters from `start`, behind the path, to the end of the text.
#[inline]
pub(crate) fn parameters<'a>(text: &Text<'a>, start: usize) -> Result<Parameters<'a>, Fault> {
    let mut seen = Seen {
        few: [b""; FEW],
        count: 0,
        many: HashSet::new(),
    };
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
        match text.get(at) {
            None => break,
            Some(octet) if is(octet, ALNUM) => at += 1,
            Some(_) => return Err(FaultId::ParameterMalformed.at(at)),
        }
        while text.get(at).is_some_and(|octet| is(octet, ALNUM) || octet == b'-') {
            at += 1;
        }
        let end = at;
        let has_value = match text.get(at) {
            None | Some(b' ') => false,
            Some(b'=') => true,
            Some(_) => return Err(FaultId::ParameterMalformed.at(at)),
        };
        if !seen.insert(&text.octets[keyword..end]) {
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
