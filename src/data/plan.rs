//! Plans: the edits of a piece of input, made before any octet is copied.

use std::mem::MaybeUninit;

pub(super) const DROP: u64 = 0;
pub(super) const INSERT_CR: u64 = 1;
pub(super) const INSERT_LF: u64 = 2;
pub(super) const INSERT_DOT: u64 = 3;

/// The edits that turn a piece of input into output: octets dropped or inserted. A plan is made without copying, so that
/// the caller can write the output into one allocation of the right size.
#[derive(Debug, Default)]
pub struct Plan {
    /// The output starts with a CR that was held back from the previous piece.
    pub(super) prefix_cr: bool,
    /// The range of input octets.
    pub(super) end: usize,
    /// Position << 2 | the edit before it (for DROP, of it); ascending.
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

    /// The output, if it is an unchanged run of the input.
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

    /// Clear, keeping the capacity of the edits.
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
