//! Reverse- and forward-paths: the part of MAIL and RCPT in angle brackets.
//!
//! Promises: a correct path is read in one pass; a source route is checked and dropped (RFC 5321 appendix C). Where
//! there are several faults, the first of these is reported: closing bracket, length, null path, the leftmost octet.
//!
//! Refuses: white space inside the brackets, a path without brackets, the null path in RCPT.
//!
//! Tolerates, on request: the deviations in `address::Tolerated`, in the mailbox, not in a source route. Stray dots are
//! written as a Quoted-string, so the length counts the two quotes: every accepted path can be sent.
//!
//! Standards: RFC 5321 §4.1.2, §4.5.3.1.3, §4.5.1 (`<postmaster>`); RFC 6531 §3.3.

use std::borrow::Cow;

use crate::address::{Mailbox, Text, Tolerated, domain, local_part, mailbox};
use crate::fault::{Fault, FaultId};
use crate::limits::PATH_OCTETS;

/// Octets that the quotes add to a local part.
const QUOTES: usize = 2;

/// The kind of path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// `Reverse-path = Path / "<>"`
    Reverse,
    /// `Forward-path = Path`, and `<postmaster>` in RCPT
    Forward,
}

/// The path whose `<` is at `open`, and the offset after its `>`.
#[inline]
pub(crate) fn path<'a>(text: &Text<'a>, open: usize, direction: Direction) -> Result<(Mailbox<'a>, usize), Fault> {
    if let Ok((mailbox, close)) = content::<false>(text, open, direction)
        && close - open < PATH_OCTETS
    {
        return Ok((mailbox, close + 1));
    }
    Err(diagnose::<false>(text, open, direction))
}

/// The same with [`Addresses::Lenient`], and the deviations of the path. A separate function, so that [`path`] does not
/// become slower.
#[inline(never)]
pub(crate) fn lenient_path<'a>(
    text: &Text<'a>,
    open: usize,
    direction: Direction,
    tolerated: &mut Tolerated,
) -> Result<(Mailbox<'a>, usize), Fault> {
    if let Ok((mailbox, close)) = content::<true>(text, open, direction) {
        *tolerated = Tolerated::of(text, close, &mailbox);
        let quotes = if tolerated.stray_dots { QUOTES } else { 0 };
        if close - open + quotes < PATH_OCTETS {
            return Ok((mailbox, close + 1));
        }
    }
    Err(diagnose::<true>(text, open, direction))
}

/// The octets between the brackets, and the offset of the `>`.
#[inline(always)]
fn content<'a, const LENIENT: bool>(
    text: &Text<'a>,
    open: usize,
    direction: Direction,
) -> Result<(Mailbox<'a>, usize), Fault> {
    let start = match text.get(open + 1) {
        Some(b'@') => route(text, open + 1)?,
        Some(b'>') => {
            return match direction {
                Direction::Reverse => Ok((Mailbox::NULL, open + 1)),
                Direction::Forward => Err(FaultId::PathNull.at(open)),
            };
        }
        _ => open + 1,
    };
    match mailbox::<LENIENT>(text, start, Some(b'>')) {
        Err(fault) if direction == Direction::Forward => postmaster(text, open + 1).ok_or(fault),
        result => result,
    }
}

/// `<postmaster>` without a domain, in any case (RFC 5321 §4.1.1.3, §4.5.1).
#[cold]
fn postmaster<'a>(text: &Text<'a>, start: usize) -> Option<(Mailbox<'a>, usize)> {
    if text.get(start) == Some(b'"') {
        return None;
    }
    let (local_part, close) = local_part::<false>(text, start).ok()?;
    (local_part.eq_ignore_ascii_case("postmaster") && text.get(close) == Some(b'>')).then_some((
        Mailbox {
            local_part: Cow::Owned(local_part.into_owned()),
            domain: "",
        },
        close,
    ))
}

/// A source route `A-d-l ":"` at `start`; the offset after its colon (RFC 5321 §4.1.2, appendix C).
fn route(text: &Text<'_>, start: usize) -> Result<usize, Fault> {
    let mut at = start;
    loop {
        if text.get(at) != Some(b'@') {
            return Err(FaultId::RouteMalformed.at(at));
        }
        let after = domain(text, at + 1, false)?;
        match text.get(after) {
            Some(b',' | b':') if after == at + 1 => return Err(FaultId::DomainEmpty.at(after)),
            Some(b',') => at = after + 1,
            Some(b':') => return Ok(after + 1),
            Some(b'>') | None => return Err(FaultId::RouteMalformed.at(after)),
            Some(_) => return Err(FaultId::DomainMalformed.at(after)),
        }
    }
}

/// The fault of a path that [`content`] refused, or that is too long.
#[cold]
#[inline(never)]
fn diagnose<const LENIENT: bool>(text: &Text<'_>, open: usize, direction: Direction) -> Fault {
    let close = match closing(text.octets, open) {
        Ok(close) => close,
        Err(fault) => return fault,
    };
    if close - open >= PATH_OCTETS {
        return FaultId::PathTooLong.at(open + PATH_OCTETS);
    }
    // A valid path within the limit that is too long with its quotes.
    content::<LENIENT>(text, open, direction)
        .err()
        .unwrap_or(FaultId::PathTooLong.at(open + PATH_OCTETS - QUOTES))
}

/// The first `>` after `open` outside a quoted local part.
fn closing(octets: &[u8], open: usize) -> Result<usize, Fault> {
    let end = octets.len();
    let find = |octet, from: usize| {
        octets[from..]
            .iter()
            .position(|&other| other == octet)
            .map(|at| from + at)
    };
    let mut start = open + 1;
    if octets.get(start) == Some(&b'@') {
        let close = find(b'>', start).unwrap_or(end);
        start = find(b':', start)
            .filter(|&colon| colon < close)
            .map_or(start, |colon| colon + 1);
    }
    if octets.get(start) == Some(&b'"') {
        start += 1;
        loop {
            match octets.get(start) {
                None => return Err(FaultId::QuotedStringUnclosed.at(end)),
                Some(b'"') => break,
                Some(b'\\') => start += 2,
                Some(_) => start += 1,
            }
        }
    }
    find(b'>', start).ok_or(FaultId::PathUnclosed.at(end))
}
