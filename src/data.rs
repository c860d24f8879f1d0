//! DATA transparency as a stream: decoding and encoding.
//!
//! Promises: only CRLF.CRLF ends a body (RFC 5321 §4.1.1.4, §4.5.2; SECURITY R1), however the input is cut into pieces;
//! unchanged runs are copied in one piece; no line is ever buffered, so a line of any length costs no memory
//! (SECURITY R8); nothing is held back but a dot that is first on a line, with the CR after it, and, where bare CRs
//! are normalised or refused, a CR at the end of a piece.
//!
//! Refuses: to treat anything else as a line ending (RFC 5321 §2.3.8). The caller's policy for bare CR and LF,
//! [`Newline`], never changes where the body ends.
//!
//! Standards: RFC 5321 §2.3.8, §4.1.1.4, §4.5.2.

mod decoder;
mod encoder;
mod plan;

pub use decoder::{DataDecoder, Progress};
pub use encoder::{DataEncoder, dot_stuff, dot_unstuff};
pub use plan::Plan;

/// The policy for a bare CR or LF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Newline {
    /// Decoding: returned unchanged and recorded, so that the session can refuse. Encoding: a fault.
    #[default]
    Reject,
    /// Each becomes CRLF.
    Normalise,
    /// Returned unchanged and recorded.
    Accept,
}

/// Facts about a message. Counts are of content: without dot-stuffing, and after `Newline::Normalise`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Octets of content, whether returned or not.
    pub size: u64,
    /// An octet above 127 was seen.
    pub eight_bit: bool,
    /// A NUL was seen.
    pub nul: bool,
    /// A CR without LF was seen.
    pub bare_cr: bool,
    /// An LF without CR was seen.
    pub bare_lf: bool,
    /// Octets of the longest line, without CRLF; of an unfinished line, those received so far.
    pub longest_line: u64,
    /// Octets of the header section with its last CRLF, without the empty line; `None` before the first empty line.
    pub header_size: Option<u64>,
}
