//! Counting the octets of a BDAT chunk.
//!
//! Promises: exactly the announced number of octets belongs to the chunk, whatever they are, and whether or not the
//! session accepts it (RFC 3030 §2; SECURITY R4, R5). They are neither searched nor stored.
//!
//! Refuses: nothing; a command with an invalid size does not reach this code.
//!
//! Standards: RFC 3030 §2.

use crate::command::Chunk;

/// A chunk whose octets have not all arrived.
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

    /// Whether every octet has arrived.
    pub(crate) fn complete(&self) -> bool {
        self.left == 0
    }

    /// Whether BDAT declared it the last chunk of the message.
    pub(crate) fn last(&self) -> bool {
        self.last
    }
}
