//! Lines of commands and AUTH responses, from pieces of any size.
//!
//! Promises: a line that is complete in one piece is returned in place, without a copy; a line that arrives in pieces is
//! buffered, up to its limit, and each octet is examined once; between lines no memory is used. A faulty line yields one
//! fault, at the first octet that shows it, and is then discarded up to and including its CRLF.
//!
//! Refuses: bare CR, bare LF and NUL (RFC 5321 §2.3.8, §4.1.2), and lines over the limit (RFC 5321 §4.5.3.1.4).
//!
//! Standards: RFC 5321 §2.3.8, §4.5.3.1.4; RFC 4954 §4.

use crate::fault::{Fault, FaultId};
use crate::scan::find_line_octet;

/// The result of reading a piece.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// A line that is complete in the piece, without its CRLF.
    Whole(&'a [u8]),
    /// A line that began in an earlier piece, without its CRLF.
    Gathered(Vec<u8>),
    /// A line is faulty; the rest of it is discarded.
    Wrong(Fault),
    /// The piece is used up.
    Nothing,
}

/// Reads lines, one call for each.
#[derive(Clone, Debug, Default)]
pub(crate) struct LineReader {
    /// The beginning of an unfinished line; no heap between lines.
    gathered: Vec<u8>,
    /// A faulty line is being discarded.
    dropping: bool,
    /// While discarding: the last octet was a CR.
    cr: bool,
}

impl LineReader {
    /// Whether the next octet belongs to the rest of a faulty line.
    pub(crate) fn dropping(&self) -> bool {
        self.dropping
    }

    /// Read up to the end of a line, a fault, or the end of `data`; return the number of octets consumed and the result.
    /// `limit` counts octets with CRLF.
    #[inline]
    pub(crate) fn read<'a>(&mut self, data: &'a [u8], limit: usize) -> (usize, Found<'a>) {
        let mut from = 0;
        if self.dropping {
            from = self.drop_line(data);
        }
        let fresh = &data[from..];
        if fresh.is_empty() {
            return (from, Found::Nothing);
        }
        if self.gathered.is_empty() {
            // The common case: the line is complete in this piece.
            let window = &fresh[..fresh.len().min(limit)];
            let end = find_line_octet(window);
            if window[end..].starts_with(b"\r\n") {
                return (from + end + 2, Found::Whole(&fresh[..end]));
            }
        }
        let (used, found) = self.read_slowly(fresh, limit);
        (from + used, found)
    }

    fn read_slowly<'a>(&mut self, data: &'a [u8], limit: usize) -> (usize, Found<'a>) {
        let have = self.gathered.len();
        // Every limit allows one octet, so that each call makes progress.
        let window = &data[..data.len().min(limit.max(1).saturating_sub(have))];
        if self.gathered.last() == Some(&b'\r') && !window.is_empty() {
            if window[0] != b'\n' {
                return self.wrong(0, FaultId::BareCr, have - 1);
            }
            let mut line = std::mem::take(&mut self.gathered);
            line.pop();
            return (1, Found::Gathered(line));
        }
        let at = find_line_octet(window);
        match window[at..] {
            [0, ..] => self.wrong(at + 1, FaultId::Nul, have + at),
            [b'\n', ..] => self.wrong(at + 1, FaultId::BareLf, have + at),
            [b'\r', b'\n', ..] => {
                let mut line = std::mem::take(&mut self.gathered);
                line.extend_from_slice(&window[..at]);
                (at + 2, Found::Gathered(line))
            }
            [b'\r', _, ..] => self.wrong(at + 1, FaultId::BareCr, have + at),
            // The whole window belongs to the line, perhaps with a CR that may begin its CRLF.
            ref rest => {
                if have + window.len() >= limit {
                    let cr = !rest.is_empty();
                    let found = self.wrong(window.len(), FaultId::LineTooLong, limit);
                    self.cr = cr;
                    return found;
                }
                self.gathered.extend_from_slice(window);
                (window.len(), Found::Nothing)
            }
        }
    }

    fn wrong<'a>(&mut self, used: usize, id: FaultId, offset: usize) -> (usize, Found<'a>) {
        *self = Self {
            gathered: Vec::new(),
            dropping: true,
            cr: false,
        };
        (used, Found::Wrong(Fault { id, offset }))
    }

    /// Discard up to and including the next CRLF; return the number of octets consumed.
    pub(crate) fn drop_line(&mut self, data: &[u8]) -> usize {
        let mut at = 0;
        while at < data.len() {
            if self.cr && data[at] == b'\n' {
                *self = Self::default();
                return at + 1;
            }
            self.cr = false;
            at += find_line_octet(&data[at..]);
            if at < data.len() {
                self.cr = data[at] == b'\r';
                at += 1;
            }
        }
        at
    }
}
