//! Canonical forms that DKIM signs: the body as a stream, and one header field.
//!
//! Promises: the canonical body does not depend on how the body was cut into pieces; a piece that is canonical already
//! is not copied; time is linear in the body, and memory does not depend on it: of a body, at most a space, a CR and the
//! number of the last empty lines are held back.
//!
//! Refuses: to treat anything but CRLF as a line ending (RFC 5321 §2.3.8), and a field without a colon.
//!
//! Standards: RFC 6376 §3.4.

use std::borrow::Cow;
use std::ops::ControlFlow;

use memchr::memchr;

use crate::fault::{Fault, FaultId};
use crate::header::unfold;
use crate::scan::{Kernel, Masks, Visitor, visit};

/// Octets of the canonical body.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Canonical<'a> {
    /// Empty lines before `octets`: CRLFs that were held back until it was known that they do not end the body.
    pub empty_lines: u64,
    /// The octets that follow.
    pub octets: Cow<'a, [u8]>,
}

impl Canonical<'_> {
    /// Append these octets to `out`.
    pub fn append(&self, out: &mut Vec<u8>) {
        for _ in 0..self.empty_lines {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(&self.octets);
    }
}

/// Brings one body into its canonical form, simple or relaxed (RFC 6376 §3.4.3, §3.4.4).
#[derive(Clone, Debug)]
pub struct BodyCanonicaliser {
    kernel: Kernel,
    relaxed: bool,
    /// The end of the last piece, whose meaning depends on the next octet: a space for white space, and a CR.
    held: &'static [u8],
    /// Empty lines that were held back.
    empty_lines: u64,
    /// The last line needs a CRLF. The simple form of an empty body is a line too.
    open: bool,
}

impl BodyCanonicaliser {
    /// A canonicaliser at the start of a body.
    #[must_use]
    pub fn new(relaxed: bool) -> Self {
        Self::with_kernel(relaxed, Kernel::best())
    }

    /// The same with a given kernel, for tests and benchmarks.
    #[must_use]
    pub fn with_kernel(relaxed: bool, kernel: Kernel) -> Self {
        Self {
            kernel,
            relaxed,
            held: b"",
            empty_lines: 0,
            open: !relaxed,
        }
    }

    /// The canonical octets that are certain after the next piece of the body.
    pub fn feed<'a>(&mut self, piece: &'a [u8]) -> Canonical<'a> {
        let mut octets = match self.held {
            b"" => Cow::Borrowed(piece),
            held => Cow::Owned([held, piece].concat()),
        };
        let cr = octets.ends_with(b"\r");
        let mut end = octets.len() - usize::from(cr);
        if self.relaxed {
            end -= trailing_blanks(&octets[..end]);
        }
        self.held = match (end + usize::from(cr) < octets.len(), cr) {
            (false, false) => b"",
            (false, true) => b"\r",
            (true, false) => b" ",
            (true, true) => b" \r",
        };
        truncate(&mut octets, end);
        if self.relaxed {
            octets = reduce(octets, self.kernel);
        }
        self.without_last_empty_lines(octets)
    }

    /// The rest of the canonical form, when the body has ended.
    #[must_use]
    pub fn finish(mut self) -> Canonical<'static> {
        let last: &[u8] = if self.held.ends_with(b"\r") { self.held } else { b"" };
        let mut rest = self.without_last_empty_lines(Cow::Borrowed(last));
        if self.open {
            rest.octets.to_mut().extend_from_slice(b"\r\n");
        }
        rest
    }

    /// Holds back the empty lines at the end of `octets`, which do not end between CR and LF.
    fn without_last_empty_lines<'a>(&mut self, mut octets: Cow<'a, [u8]>) -> Canonical<'a> {
        let pairs = octets.rchunks_exact(2).take_while(|pair| pair == b"\r\n").count();
        let text = octets.len() > 2 * pairs;
        // The first of these CRLFs ends the last line, if there is one to end.
        let empty = pairs - usize::from(pairs > 0 && (text || self.open));
        let end = octets.len() - 2 * empty;
        truncate(&mut octets, end);
        let empty_lines = if text { std::mem::take(&mut self.empty_lines) } else { 0 };
        self.empty_lines += empty as u64;
        self.open = pairs == 0 && (text || self.open);
        Canonical { empty_lines, octets }
    }
}

/// The canonical form of one header field, as received and with its last CRLF, if it has one (RFC 6376 §3.4.1, §3.4.2).
///
/// # Errors
/// `header-field-malformed` if a field has no colon and is to be relaxed.
pub fn canonical_field(field: &[u8], relaxed: bool) -> Result<Cow<'_, [u8]>, Fault> {
    if !relaxed {
        return Ok(Cow::Borrowed(field));
    }
    let colon = memchr(b':', field).ok_or(FaultId::HeaderFieldMalformed.at(0))?;
    let name = unfold(&field[..colon]);
    let name = &name[..name.len() - trailing_blanks(&name)];
    let value = reduce(unfold(&field[colon + 1..]), Kernel::best());
    let mut canonical = Vec::with_capacity(field.len());
    canonical.extend(name.iter().map(u8::to_ascii_lowercase));
    canonical.push(b':');
    canonical.extend_from_slice(value.strip_prefix(b" ").unwrap_or(&value));
    if canonical.ends_with(b" ") {
        canonical.pop();
    }
    Ok(Cow::Owned(canonical))
}

/// Each run of white space as one space, and none before CRLF. `octets` do not end between CR and LF.
fn reduce(octets: Cow<'_, [u8]>, kernel: Kernel) -> Cow<'_, [u8]> {
    let mut pass = Reducing {
        octets: &octets,
        done: 0,
        reduced: Vec::new(),
        after_blank: 0,
    };
    visit(kernel, &octets, &mut pass);
    if pass.done == 0 {
        return octets;
    }
    pass.reduced.extend_from_slice(&octets[pass.done..]);
    Cow::Owned(pass.reduced)
}

/// A pass that stops only at white space that changes: after other white space, before a CR, and at tabs.
struct Reducing<'a> {
    octets: &'a [u8],
    /// Where the octets start that are not in `reduced` yet.
    done: usize,
    reduced: Vec<u8>,
    /// 1 if the last octet was white space.
    after_blank: u64,
}

impl Visitor for Reducing<'_> {
    type State = u64;

    fn state(&self) -> u64 {
        self.after_blank
    }

    fn set_state(&mut self, after_blank: u64) {
        self.after_blank = after_blank;
    }

    #[inline(always)]
    fn block(&mut self, after_blank: &mut u64, base: usize, valid: u64, masks: Masks) -> ControlFlow<()> {
        let blanks = masks.space | masks.tab;
        let after = (blanks << 1 | *after_blank) & valid;
        *after_blank = u64::from(blanks & !(valid >> 1) != 0);
        let mut stops = masks.tab | (blanks | masks.cr) & after;
        while stops != 0 {
            self.run_at(base + stops.trailing_zeros() as usize);
            stops &= stops - 1;
        }
        ControlFlow::Continue(())
    }
}

impl Reducing<'_> {
    /// Reduce the run of white space that holds the octet at `at`, or ends there, unless that is done.
    fn run_at(&mut self, at: usize) {
        let Some(before) = self.octets.get(self.done..at) else {
            return;
        };
        let start = at - trailing_blanks(before);
        let after = &self.octets[at..];
        let end = at + after.iter().take_while(|octet| is_blank(**octet)).count();
        if start == end {
            return;
        }
        if self.done == 0 {
            self.reduced.reserve_exact(self.octets.len());
        }
        self.reduced.extend_from_slice(&self.octets[self.done..start]);
        if !self.octets[end..].starts_with(b"\r\n") {
            self.reduced.push(b' ');
        }
        self.done = end;
    }
}

/// White space of RFC 6376 §2.8.
fn is_blank(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t')
}

fn trailing_blanks(octets: &[u8]) -> usize {
    octets.iter().rev().take_while(|octet| is_blank(**octet)).count()
}

fn truncate(octets: &mut Cow<'_, [u8]>, len: usize) {
    match octets {
        Cow::Borrowed(octets) => *octets = &octets[..len],
        Cow::Owned(octets) => octets.truncate(len),
    }
}
