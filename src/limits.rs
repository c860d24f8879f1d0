//! Bounds on the memory of one connection, the same as `Limits` in the Python interface.
//!
//! Promises: every decoder that keeps octets takes its bound from here. Refuses: nothing; the decoders emit the faults.
//! Standards: RFC 5321 §4.5.3.1 (sizes), RFC 4954 §4 (AUTH lines).

/// Octets in a path with its brackets (RFC 5321 §4.5.3.1.3).
pub const PATH_OCTETS: usize = 256;
/// Octets in a domain (RFC 5321 §4.5.3.1.2).
pub const DOMAIN_OCTETS: usize = 255;
/// Octets in one label of a domain (RFC 1035 §2.3.4).
pub const LABEL_OCTETS: usize = 63;
/// Digits in the size of BDAT (RFC 3030 §2).
pub const CHUNK_SIZE_DIGITS: usize = 20;
/// The largest size of BDAT that is accepted: 2^63 - 1.
pub const CHUNK_SIZE: u64 = i64::MAX as u64;

/// The bounds of the incremental decoders, in octets unless stated otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A command line with its CRLF. RFC 5321 §4.5.3.1.4 asks for 512 plus what each extension adds.
    pub command_line: usize,
    /// A line in LINE mode with its CRLF (RFC 4954 §4).
    pub auth_line: usize,
    /// Octets that a held framer stores.
    pub held: usize,
    /// Body octets that a decoder returns for one message.
    pub content: u64,
    /// Lines in one reply.
    pub reply_lines: usize,
    /// Octets in one reply, including line endings.
    pub reply_octets: usize,
    /// Octets of a header section that [`scan_header`](crate::header::scan_header) reads.
    pub header_octets: usize,
    /// Fields (a count) that [`scan_header`](crate::header::scan_header) reads.
    pub header_fields: usize,
}

impl Limits {
    /// The default limits.
    pub const DEFAULT: Self = Self {
        command_line: 2048,
        auth_line: 12_288,
        held: 1 << 20,
        content: i64::MAX as u64,
        reply_lines: 100,
        reply_octets: 65_536,
        header_octets: 1 << 20,
        header_fields: 1000,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
