//! Mailboxes, domains and address literals.
//!
//! Promises: borrows from its input; a quoted local part is allocated only if it contains a backslash; scans each octet
//! once, left to right, and reports the leftmost invalid octet; never panics.
//!
//! Refuses: comments, white space, display names, a trailing dot in a domain, untagged IPv6 literals.
//!
//! Tolerates, with [`Addresses::Lenient`]: the deviations in [`Tolerated`].
//!
//! Standards: RFC 5321 §4.1.2 and §4.1.3 (as amended by RFC 6531 §3.3), §4.5.3.1.2; RFC 3629 for UTF-8; RFC 4291 §2.2
//! for IPv6 addresses.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use crate::fault::{Fault, FaultId};
use crate::limits::{DOMAIN_OCTETS, LABEL_OCTETS};

/// A Mailbox of RFC 5321 §4.1.2.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Mailbox<'a> {
    /// The local part without quotes and quoting backslashes.
    pub local_part: Cow<'a, str>,
    /// As received; an address literal with its brackets; empty for `<postmaster>` and the null path.
    pub domain: &'a str,
}

impl Mailbox<'_> {
    /// The null reverse-path `<>` (RFC 5321 §4.5.5).
    pub const NULL: Mailbox<'static> = Mailbox {
        local_part: Cow::Borrowed(""),
        domain: "",
    };

    /// Whether this is the null path.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.local_part.is_empty() && self.domain.is_empty()
    }
}

/// Which mailboxes are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addresses {
    /// Only mailboxes of RFC 5321 §4.1.2.
    #[default]
    Strict,
    /// Also the deviations in [`Tolerated`], which exist and which other servers accept.
    Lenient,
}

/// The deviations that only [`Addresses::Lenient`] accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tolerated {
    /// An underscore in the domain.
    pub underscore: bool,
    /// A leading or trailing dot in an unquoted local part, or two consecutive ones.
    pub stray_dots: bool,
}

impl Tolerated {
    /// The deviations of a mailbox that was read leniently and ends before the octet at `end`.
    pub(crate) fn of(text: &Text<'_>, end: usize, mailbox: &Mailbox<'_>) -> Self {
        let local = mailbox.local_part.as_bytes();
        // No unquoted local part ends in a quote, so the octet before `@domain` shows whether it was quoted.
        let quoted = end
            .checked_sub(mailbox.domain.len() + 2)
            .is_some_and(|last| text.get(last) == Some(b'"'));
        Self {
            underscore: memchr::memchr(b'_', mailbox.domain.as_bytes()).is_some() && !mailbox.domain.starts_with('['),
            stray_dots: !quoted
                && (local.first() == Some(&b'.')
                    || local.last() == Some(&b'.')
                    || local.windows(2).any(|pair| pair == b"..")),
        }
    }
}

/// atext (RFC 5322 §3.2.3) and UTF8-non-ascii (RFC 6531 §3.3).
pub(crate) const ATEXT: u8 = 1;
/// Let-dig, hyphen and UTF8-non-ascii: the octets of a label.
pub(crate) const LABEL: u8 = 2;
/// qtextSMTP and UTF8-non-ascii.
const QTEXT: u8 = 4;
/// dcontent (RFC 5321 §4.1.3).
const DCONTENT: u8 = 8;
/// ALPHA and DIGIT.
pub(crate) const ALNUM: u8 = 16;
/// Octets of an esmtp-value (RFC 5321 §4.1.2, RFC 6531 §3.3).
pub(crate) const VALUE: u8 = 32;
/// ftext (RFC 5322 §3.6.8): octets of a header field's name.
pub(crate) const FTEXT: u8 = 64;

/// The classes of every octet.
pub(crate) static CLASS: [u8; 256] = {
    let mut table = [0_u8; 256];
    let mut index = 0;
    while index < 256 {
        let octet = index as u8;
        let mut class = 0;
        if octet.is_ascii_alphanumeric() {
            class |= ATEXT | LABEL | ALNUM;
        }
        if octet == b'-' {
            class |= LABEL;
        }
        if matches!(
            octet,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'/'
                | b'='
                | b'?'
                | b'^'
                | b'_'
                | b'`'
                | b'{'
                | b'|'
                | b'}'
                | b'~'
        ) {
            class |= ATEXT;
        }
        if octet >= 0x80 {
            class |= ATEXT | LABEL | QTEXT | VALUE;
        }
        if matches!(octet, 32..=33 | 35..=91 | 93..=126) {
            class |= QTEXT;
        }
        if matches!(octet, 33..=90 | 94..=126) {
            class |= DCONTENT;
        }
        if matches!(octet, 33..=60 | 62..=126) {
            class |= VALUE;
        }
        if matches!(octet, 33..=57 | 59..=126) {
            class |= FTEXT;
        }
        table[index] = class;
        index += 1;
    }
    table
};

#[inline]
pub(crate) fn is(octet: u8, class: u8) -> bool {
    CLASS[octet as usize] & class != 0
}

/// Octets to examine, and the length of their valid UTF-8 prefix.
#[derive(Clone, Copy)]
pub(crate) struct Text<'a> {
    pub(crate) octets: &'a [u8],
    valid: &'a str,
}

impl<'a> Text<'a> {
    pub(crate) fn new(octets: &'a [u8]) -> Self {
        let valid = match std::str::from_utf8(octets) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&octets[..error.valid_up_to()]).unwrap_or_default(),
        };
        Self { octets, valid }
    }

    /// A fault at `offset`, or at an earlier octet that is not UTF-8: the leftmost invalid octet counts.
    #[cold]
    pub(crate) fn fault(&self, id: FaultId, offset: usize) -> Fault {
        if self.valid.len() < offset {
            FaultId::Utf8Malformed.at(self.valid.len())
        } else {
            id.at(offset)
        }
    }

    #[inline]
    pub(crate) fn get(&self, offset: usize) -> Option<u8> {
        self.octets.get(offset).copied()
    }

    /// The text between two offsets, or where it stops being UTF-8.
    #[inline]
    pub(crate) fn slice(&self, start: usize, end: usize) -> Result<&'a str, Fault> {
        self.valid
            .get(start..end)
            .ok_or(FaultId::Utf8Malformed.at(self.valid.len()))
    }
}

/// A mailbox that starts at `start`: the value and the offset after it. The caller checks what follows, but an
/// octet other than `end` counts as part of the mailbox. `LENIENT`: as with [`Addresses::Lenient`].
#[inline(always)]
pub(crate) fn mailbox<'a, const LENIENT: bool>(
    text: &Text<'a>,
    start: usize,
    end: Option<u8>,
) -> Result<(Mailbox<'a>, usize), Fault> {
    let (local_part, at) = local_part::<LENIENT>(text, start)?;
    match text.get(at) {
        Some(b'@') if at > start => {}
        Some(b'@') => return Err(FaultId::LocalPartEmpty.at(start)),
        octet if octet == end => {
            let id = if at == start {
                FaultId::LocalPartEmpty
            } else {
                FaultId::AtMissing
            };
            return Err(id.at(at));
        }
        _ => return Err(FaultId::LocalPartMalformed.at(at)),
    }
    let after = host(text, at + 1, LENIENT, end)?;
    Ok((
        Mailbox {
            local_part,
            domain: text.slice(at + 1, after)?,
        },
        after,
    ))
}

/// A local part (RFC 5321 §4.1.2), possibly empty, and the offset of the octet that ended it. `LENIENT`: dots are
/// allowed anywhere.
#[inline(always)]
pub(crate) fn local_part<'a, const LENIENT: bool>(
    text: &Text<'a>,
    start: usize,
) -> Result<(Cow<'a, str>, usize), Fault> {
    if text.get(start) == Some(b'"') {
        return quoted_string(text, start);
    }
    let mut at = start;
    let mut atom = start;
    while let Some(octet) = text.get(at) {
        if octet == b'.' {
            if at == atom && !LENIENT {
                return Err(text.fault(FaultId::LocalPartMalformed, at));
            }
            atom = at + 1;
        } else if !is(octet, ATEXT) {
            break;
        }
        at += 1;
    }
    if at == atom && at > start && !LENIENT {
        return Err(text.fault(FaultId::LocalPartMalformed, at - 1)); // a trailing dot
    }
    Ok((Cow::Borrowed(text.slice(start, at)?), at))
}

/// A Quoted-string (RFC 5321 §4.1.2) at `start`: its unquoted value, and the offset after its closing quote.
fn quoted_string<'a>(text: &Text<'a>, start: usize) -> Result<(Cow<'a, str>, usize), Fault> {
    let mut at = start + 1;
    let mut escaped = false;
    loop {
        match text.get(at) {
            None => return Err(text.fault(FaultId::QuotedStringUnclosed, at)),
            Some(b'"') => break,
            Some(b'\\') => {
                escaped = true;
                match text.get(at + 1) {
                    None => return Err(text.fault(FaultId::QuotedStringUnclosed, at + 1)),
                    Some(32..=126) => at += 2,
                    Some(_) => return Err(text.fault(FaultId::QuotedStringMalformed, at + 1)),
                }
            }
            Some(octet) if is(octet, QTEXT) => at += 1,
            Some(_) => return Err(text.fault(FaultId::QuotedStringMalformed, at)),
        }
    }
    let content = text.slice(start + 1, at)?;
    let value = if escaped {
        Cow::Owned(unescape(content))
    } else {
        Cow::Borrowed(content)
    };
    Ok((value, at + 1))
}

/// The content of a quoted string without the backslashes that quote.
fn unescape(content: &str) -> String {
    let mut value = String::with_capacity(content.len());
    let mut characters = content.chars();
    while let Some(character) = characters.next() {
        value.extend(if character == '\\' {
            characters.next()
        } else {
            Some(character)
        });
    }
    value
}

/// A Domain or address literal at `start`; the offset after it. `end` is the octet that may follow (`None`: the end of
/// the text). `underscore` lets an underscore count as a letter.
#[inline(always)]
pub(crate) fn host(text: &Text<'_>, start: usize, underscore: bool, end: Option<u8>) -> Result<usize, Fault> {
    let after = if text.get(start) == Some(b'[') {
        literal(text, start, end)?
    } else {
        domain(text, start, underscore)?
    };
    match text.get(after) {
        octet if octet == end && after == start => Err(FaultId::DomainEmpty.at(start)),
        octet if octet == end => Ok(after),
        _ => Err(FaultId::DomainMalformed.at(after)),
    }
}

/// A Domain (RFC 5321 §4.1.2, with the U-labels of RFC 6531 §3.3), possibly empty; the offset of the octet that ended it.
#[inline(always)]
pub(crate) fn domain(text: &Text<'_>, start: usize, underscore: bool) -> Result<usize, Fault> {
    let mut at = start;
    let mut label = start;
    while let Some(octet) = text.get(at) {
        if is(octet, LABEL) || (underscore && octet == b'_') {
            if octet == b'-' && at == label {
                return Err(text.fault(FaultId::DomainMalformed, at));
            }
            if at - label >= LABEL_OCTETS {
                return Err(text.fault(FaultId::LabelTooLong, at));
            }
        } else if octet == b'.' {
            if at == label {
                return Err(text.fault(FaultId::DomainMalformed, at));
            }
            if text.octets[at - 1] == b'-' {
                return Err(text.fault(FaultId::DomainMalformed, at - 1));
            }
            label = at + 1;
        } else {
            break;
        }
        if at - start >= DOMAIN_OCTETS {
            return Err(text.fault(FaultId::DomainTooLong, at));
        }
        at += 1;
    }
    if at > start && matches!(text.octets[at - 1], b'-' | b'.') {
        return Err(text.fault(FaultId::DomainMalformed, at - 1));
    }
    text.slice(start, at)?;
    Ok(at)
}

/// An address literal (RFC 5321 §4.1.3) at `start`; the offset after its bracket. It ends before `end` at the latest.
fn literal(text: &Text<'_>, start: usize, end: Option<u8>) -> Result<usize, Fault> {
    let mut at = start + 1;
    loop {
        match text.get(at) {
            Some(b']') => break,
            octet if octet.is_none() || octet == end => return Err(FaultId::LiteralUnclosed.at(at)),
            _ => at += 1,
        }
    }
    if at - start >= DOMAIN_OCTETS || !is_literal_content(&text.octets[start + 1..at]) {
        return Err(FaultId::LiteralMalformed.at(start));
    }
    Ok(at + 1)
}

fn is_literal_content(content: &[u8]) -> bool {
    let Some(colon) = content.iter().position(|&octet| octet == b':') else {
        return is_ipv4(content);
    };
    let (tag, rest) = (&content[..colon], &content[colon + 1..]);
    if tag.eq_ignore_ascii_case(b"IPv6") {
        return std::str::from_utf8(rest).is_ok_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    // An IPv6 address without its tag is not a General-address-literal: "2001" is not registered (RFC 5321 §4.1.3).
    if std::str::from_utf8(content).is_ok_and(|address| address.parse::<Ipv6Addr>().is_ok()) {
        return false;
    }
    // General-address-literal = Standardized-tag ":" 1*dcontent; Standardized-tag = Ldh-str
    tag.last().is_some_and(u8::is_ascii_alphanumeric)
        && tag.iter().all(|&octet| octet.is_ascii_alphanumeric() || octet == b'-')
        && !rest.is_empty()
        && rest.iter().all(|&octet| is(octet, DCONTENT))
}

/// `Snum 3("." Snum)`, Snum of one to three digits from 0 to 255.
fn is_ipv4(content: &[u8]) -> bool {
    let mut numbers = 0;
    for number in content.split(|&octet| octet == b'.') {
        numbers += 1;
        let value = match *number {
            [] | [_, _, _, _, ..] => return false,
            ref digits if !digits.iter().all(u8::is_ascii_digit) => return false,
            ref digits => digits
                .iter()
                .fold(0_u16, |value, digit| value * 10 + u16::from(digit - b'0')),
        };
        if value > 255 {
            return false;
        }
    }
    numbers == 4
}

/// Parses the whole text as a Mailbox (RFC 5321 §4.1.2), without brackets and display name.
///
/// # Errors
/// The fault at the leftmost invalid octet.
pub fn parse_mailbox(octets: &[u8], addresses: Addresses) -> Result<Mailbox<'_>, Fault> {
    let text = Text::new(octets);
    match addresses {
        Addresses::Strict => mailbox::<false>(&text, 0, None),
        Addresses::Lenient => mailbox::<true>(&text, 0, None),
    }
    .map(|(mailbox, _)| mailbox)
}

/// Writes the mailbox as in a path, the local part quoted only if necessary (RFC 5321 §4.1.2). Stray dots are always
/// quoted: both forms mean the same, and every server accepts this one.
///
/// # Errors
/// The grammar has no form for the mailbox: a control octet in the local part, or an invalid domain.
pub fn format_mailbox(mailbox: &Mailbox<'_>, addresses: Addresses) -> Result<String, Fault> {
    let local = mailbox.local_part.as_ref();
    let mut text = String::with_capacity(local.len() + mailbox.domain.len() + 3);
    let (whole, plain) = (Text::new(local.as_bytes()), !local.is_empty());
    if plain && local_part::<false>(&whole, 0).is_ok_and(|(_, at)| at == local.len()) && !local.starts_with('"') {
        text.push_str(local);
    } else if mailbox.is_null() {
        return Ok(text);
    } else {
        text.push('"');
        for (offset, octet) in local.char_indices() {
            if octet.is_ascii_control() {
                return Err(FaultId::QuotedStringMalformed.at(offset));
            }
            if matches!(octet, '"' | '\\') {
                text.push('\\');
            }
            text.push(octet);
        }
        text.push('"');
    }
    if mailbox.domain.is_empty() && local.eq_ignore_ascii_case("postmaster") {
        return Ok(text);
    }
    host(
        &Text::new(mailbox.domain.as_bytes()),
        0,
        addresses == Addresses::Lenient,
        None,
    )?;
    text.push('@');
    text.push_str(mailbox.domain);
    Ok(text)
}
