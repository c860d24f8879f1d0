//! Plans: what to do with a piece of input, before a single octet is copied.

use std::mem::MaybeUninit;

pub(super) const DROP: u64 = 0;
pub(super) const INSERT_CR: u64 = 1;
pub(super) const INSERT_LF: u64 = 2;
pub(super) const INSERT_DOT: u64 = 3;

/// How a piece of input becomes output: its octets with a few dropped or inserted. It is made without copying, so that
/// the caller can place the output where it wants it, in one allocation of the right size.
#[derive(Debug, Default)]
pub struct Plan {
    /// A CR that the piece before this one held back comes first.
    pub(super) prefix_cr: bool,
    /// Input octets that the output is made of.
    pub(super) end: usize,
    /// Position << 2 | what happens in front of it (or, for DROP, to it); ascending.
    pub(super) edits: Vec<u64>,
    /// Octets of output.
    pub(super) len: usize,
}

impl Plan {
    /// Octets of output.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no output.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The output, where it is a run of the input as it stands.
    #[must_use]
    pub fn unchanged<'a>(&self, data: &'a [u8]) -> Option<&'a [u8]> {
        (self.edits.is_empty() && !self.prefix_cr).then(|| &data[..self.len])
    }

    /// Show the output to `take`, run by run. `data` is the input that the plan was made for.
    pub fn pieces(&self, data: &[u8], mut take: impl FnMut(&[u8])) {
        let mut left = self.len;
        let mut piece = |octets: &[u8]| {
            let octets = &octets[..octets.len().min(left)];
            left -= octets.len();
            if !octets.is_empty() {
                take(octets);
            }
        };
        if self.prefix_cr {
            piece(b"\r");
        }
        let mut from = 0;
        for edit in &self.edits {
            let at = (edit >> 2) as usize;
            piece(&data[from..at]);
            from = at;
            match edit & 3 {
                DROP => from = at + 1,
                INSERT_CR => piece(b"\r"),
                INSERT_LF => piece(b"\n"),
                _ => piece(b"."),
            }
        }
        piece(&data[from..self.end]);
    }

    /// Write the output. `out` is as long as the plan, and wholly initialised when this returns.
    pub fn write(&self, data: &[u8], out: &mut [MaybeUninit<u8>]) {
        assert_eq!(out.len(), self.len, "the room for a body has the length of its plan");
        let mut at = 0;
        self.pieces(data, |octets| {
            out[at..at + octets.len()].write_copy_of_slice_stable(octets);
            at += octets.len();
        });
        assert_eq!(at, self.len, "a plan writes all it promises");
    }

    /// Append the output to `out`.
    pub fn append(&self, data: &[u8], out: &mut Vec<u8>) {
        out.reserve(self.len);
        self.pieces(data, |octets| out.extend_from_slice(octets));
    }

    /// Empty again, with the room that its edits had.
    pub(super) fn restart(&mut self) {
        let mut edits = std::mem::take(&mut self.edits);
        edits.clear();
        *self = Self {
            edits,
            ..Self::default()
        };
    }

    pub(super) fn edit(&mut self, at: usize, what: u64) {
        self.edits.push((at as u64) << 2 | what);
    }
}

/// `[MaybeUninit<u8>]::write_copy_of_slice` is younger than our oldest toolchain.
trait WriteCopy {
    fn write_copy_of_slice_stable(&mut self, octets: &[u8]);
}

impl WriteCopy for [MaybeUninit<u8>] {
    #[inline]
    fn write_copy_of_slice_stable(&mut self, octets: &[u8]) {
        for (room, octet) in self.iter_mut().zip(octets) {
            room.write(*octet);
        }
    }
}
