//! DATA transparency, streaming, both ways.
//!
//! Promises: only CRLF.CRLF ends a body (RFC 5321 §4.1.1.4, §4.5.2; SECURITY R1), wherever the input is cut into pieces;
//! unchanged runs are copied in one piece; no line is ever buffered, so a line of any length costs no memory
//! (SECURITY R8); nothing is held back but a dot that is first on a line, with the CR behind it, and, where bare CRs
//! are mended or refused on the way, a CR at the end of a piece.
//!
//! Refuses: to take anything else for a line end (RFC 5321 §2.3.8). What a bare CR or LF means is the caller's policy,
//! `Newline`, and it never moves the end of the body.
//!
//! Standards: RFC 5321 §2.3.8, §4.1.1.4, §4.5.2.

mod decoder;
mod encoder;
mod plan;

pub use decoder::{DataDecoder, Progress};
pub use encoder::{DataEncoder, dot_stuff, dot_unstuff};
pub use plan::Plan;

/// What a bare CR or a bare LF means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Newline {
    /// Decoding: handed on unchanged and recorded, so that the session can refuse. Encoding: a fault.
    #[default]
    Reject,
    /// Each becomes CRLF.
    Normalise,
    /// Handed on unchanged and recorded.
    Accept,
}

/// What was seen of a message. The counts are of content: un-stuffed, and after `Newline::Normalise`.
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
    /// Octets of the longest line, without CRLF; an unfinished line counts as far as it goes.
    pub longest_line: u64,
    /// Octets of the header section with its last CRLF, without the empty line; `None` while no empty line was seen.
    pub header_size: Option<u64>,
}
