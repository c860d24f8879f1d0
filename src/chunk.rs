//! Counting the octets of a BDAT chunk.
//!
//! Promises: exactly as many octets as were announced belong to the chunk, whatever they are, and whether or not the
//! session accepts it (RFC 3030 §2; SECURITY R4, R5). Nothing is looked for in them and nothing is stored.
//!
//! Refuses: nothing; a size that cannot be read never gets here.
//!
//! Standards: RFC 3030 §2.

use crate::command::Chunk;

/// A chunk whose octets are still to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counter {
    left: u64,
    last: bool,
}

impl Counter {
    pub(crate) fn new(chunk: Chunk) -> Self {
        Self {
            left: chunk.size,
            last: chunk.last,
        }
    }

    /// The part of `data` that belongs to the chunk.
    pub(crate) fn take<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        let here = data.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= here as u64;
        &data[..here]
    }

    /// Every octet has come.
    pub(crate) fn complete(&self) -> bool {
        self.left == 0
    }

    /// It was announced as the message's last.
    pub(crate) fn last(&self) -> bool {
        self.last
    }
}
