//! Replies: parsing them whole or as they arrive, and writing them.
//!
//! Promises: a reply is returned whole or not at all; a fault is final, because later replies could not be matched to
//! commands; the memory of a reader is bounded by its limits; text may be missing.
//!
//! Refuses: a line that does not start with a code, lines of one reply with different codes, more lines or octets than
//! the limits, CR, LF or NUL inside a line. The text is data: any other octet is returned.
//!
//! Standards: RFC 5321 §4.2 (Reply-line), §4.2.1; RFC 2034 §4 and RFC 3463 §2 (enhanced status codes).

use memchr::memchr3;

use crate::fault::{Fault, FaultId};
use crate::limits::Limits;

/// One complete reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// From 200 to 559.
    pub code: u16,
    /// `class.subject.detail`, if the first line starts with one whose class agrees with the code.
    pub enhanced: Option<&'a str>,
    /// The text of each line, without code, separator, enhanced code (where it equals `enhanced`) and CRLF.
    pub lines: Vec<&'a [u8]>,
}

/// The part of a reply line before its text.
#[derive(Clone, Copy)]
struct Prefix {
    code: u16,
    /// Whether it is the last line.
    last: bool,
}

/// Code and separator of a line without its CRLF (RFC 5321 §4.2).
#[inline]
fn prefix(line: &[u8]) -> Result<Prefix, Fault> {
    let mut code = 0;
    for (offset, range) in [b'2'..=b'5', b'0'..=b'5', b'0'..=b'9'].into_iter().enumerate() {
        match line.get(offset) {
            Some(digit) if range.contains(digit) => code = code * 10 + u16::from(digit - b'0'),
            _ => return Err(FaultId::ReplyMalformed.at(offset)),
        }
    }
    match line.get(3) {
        None | Some(b' ') => Ok(Prefix { code, last: true }),
        Some(b'-') => Ok(Prefix { code, last: false }),
        Some(_) => Err(FaultId::ReplyMalformed.at(3)),
    }
}

/// The end of the line at `start`.
enum Stop {
    /// At a CRLF.
    Crlf(usize),
    /// Not found; the search continues from here.
    Open(usize),
}

/// Finds the CRLF that ends the line at `start`; octets before `from` were searched earlier.
#[inline]
fn line_stop(octets: &[u8], start: usize, from: usize) -> Result<Stop, Fault> {
    let Some(at) = memchr3(b'\r', b'\n', 0, &octets[from..]).map(|found| from + found) else {
        return Ok(Stop::Open(octets.len()));
    };
    match (octets[at], octets.get(at + 1)) {
        (b'\r', Some(b'\n')) => Ok(Stop::Crlf(at)),
        (b'\r', None) => Ok(Stop::Open(at)),
        (b'\r', _) => Err(FaultId::BareCr.at(at - start)),
        (b'\n', _) => Err(FaultId::BareLf.at(at - start)),
        _ => Err(FaultId::Nul.at(at - start)),
    }
}

/// The reply in valid lines, without the last CRLF.
fn build(octets: &[u8], code: u16, count: usize) -> Reply<'_> {
    let mut lines = Vec::with_capacity(count);
    let mut enhanced = None;
    let mut rest = octets;
    loop {
        let end = memchr::memchr(b'\r', rest).unwrap_or(rest.len());
        let mut text = rest.get(4..end).unwrap_or_default();
        if lines.is_empty() {
            enhanced = enhanced_code(text, code);
        }
        if let Some(rest) = enhanced.and_then(|enhanced: &str| text.strip_prefix(enhanced.as_bytes())) {
            text = match rest {
                [] => rest,
                [b' ', rest @ ..] => rest,
                _ => text,
            };
        }
        lines.push(text);
        match rest.get(end + 2..) {
            Some(next) => rest = next,
            None => return Reply { code, enhanced, lines },
        }
    }
}

/// An enhanced status code at the start of a text, if its class agrees with the reply code (RFC 2034 §4, RFC 3463 §2).
fn enhanced_code(text: &[u8], code: u16) -> Option<&str> {
    let word = &text[..text.iter().position(|&octet| octet == b' ').unwrap_or(text.len())];
    let word = std::str::from_utf8(word).ok()?;
    let (class, rest) = word.split_once('.')?;
    let (subject, detail) = rest.split_once('.')?;
    let agrees = matches!((class, code / 100), ("2", 2) | ("4", 4) | ("5", 5));
    let number = |digits: &str| matches!(digits.len(), 1..=3) && digits.bytes().all(|digit| digit.is_ascii_digit());
    (agrees && number(subject) && number(detail)).then_some(word)
}

/// Parses one complete reply, with or without the CRLF of its last line.
///
/// # Errors
/// The fault of the first faulty line, at an offset in that line; `reply-incomplete` and `reply-trailing` at an offset in
/// the whole.
pub fn parse_reply(octets: &[u8]) -> Result<Reply<'_>, Fault> {
    let limits = Limits::DEFAULT;
    let mut start = 0;
    let mut code = None;
    let mut count = 0;
    while start < octets.len() {
        let (end, after) = match line_stop(octets, start, start)? {
            Stop::Crlf(at) => (at, at + 2),
            Stop::Open(at) if at < octets.len() => return Err(FaultId::BareCr.at(at - start)),
            Stop::Open(at) => (at, at),
        };
        let prefix = prefix(&octets[start..end])?;
        if *code.get_or_insert(prefix.code) != prefix.code {
            return Err(FaultId::ReplyCodesDiffer.at(0));
        }
        count += 1;
        if prefix.last {
            return match octets.len() {
                _ if after > limits.reply_octets => Err(FaultId::ReplyTooLong.at(0)),
                length if length > after => Err(FaultId::ReplyTrailing.at(after)),
                _ => Ok(build(&octets[..end], prefix.code, count)),
            };
        }
        if count >= limits.reply_lines {
            return Err(FaultId::ReplyTooManyLines.at(0));
        }
        if after >= limits.reply_octets {
            return Err(FaultId::ReplyTooLong.at(0));
        }
        start = after;
    }
    Err(FaultId::ReplyIncomplete.at(octets.len()))
}

/// Reads replies as they arrive.
#[derive(Debug, Default)]
pub struct ReplyReader {
    limits: Limits,
    /// The octets of an unfinished reply.
    buffer: Vec<u8>,
    progress: Progress,
    /// Whether a fault was emitted: everything after it is dropped.
    broken: bool,
}

/// The position up to which the unfinished reply was read; offsets from its start.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    line: usize,
    searched: usize,
    count: usize,
    code: u16,
}

impl ReplyReader {
    /// A reader with `reply_lines` and `reply_octets` of these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Octets of an unfinished reply.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Reads octets as they arrive; calls `sink` with each complete reply, and at most once with a fault, after which it
    /// is not called again.
    pub fn feed(&mut self, data: &[u8], sink: &mut dyn FnMut(Result<Reply<'_>, Fault>)) {
        if self.broken {
            return;
        }
        if self.buffer.is_empty() {
            let used = self.read(data, sink);
            self.buffer.extend_from_slice(&data[used..]);
        } else {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.extend_from_slice(data);
            let used = self.read(&buffer, sink);
            buffer.drain(..used);
            self.buffer = buffer;
        }
        if self.buffer.is_empty() {
            self.buffer = Vec::new(); // an idle connection uses no memory
        }
    }

    /// Reads the replies in `octets`, which start with an unfinished reply; returns the number of octets consumed.
    fn read(&mut self, octets: &[u8], sink: &mut dyn FnMut(Result<Reply<'_>, Fault>)) -> usize {
        let mut start = 0;
        loop {
            match self.step(&octets[start..]) {
                Ok(Some((end, code, count))) => {
                    sink(Ok(build(&octets[start..start + end], code, count)));
                    start += end + 2;
                    self.progress = Progress::default();
                }
                Ok(None) => return start,
                Err(fault) => {
                    self.broken = true;
                    sink(Err(fault));
                    return octets.len();
                }
            }
        }
    }

    /// Continues one reply; returns the offset of its last CRLF, its code and its lines, or `None` if it is unfinished.
    fn step(&mut self, octets: &[u8]) -> Result<Option<(usize, u16, usize)>, Fault> {
        let window = &octets[..octets.len().min(self.limits.reply_octets)];
        loop {
            let Progress {
                line,
                searched,
                count,
                code,
            } = self.progress;
            match line_stop(window, line, searched)? {
                Stop::Crlf(at) => {
                    let prefix = prefix(&window[line..at])?;
                    if count > 0 && prefix.code != code {
                        return Err(FaultId::ReplyCodesDiffer.at(0));
                    }
                    let count = count + 1;
                    if prefix.last {
                        return Ok(Some((at, prefix.code, count)));
                    }
                    if count >= self.limits.reply_lines {
                        return Err(FaultId::ReplyTooManyLines.at(0));
                    }
                    self.progress = Progress {
                        line: at + 2,
                        searched: at + 2,
                        count,
                        code: prefix.code,
                    };
                }
                Stop::Open(_) if window.len() >= self.limits.reply_octets => return Err(FaultId::ReplyTooLong.at(0)),
                Stop::Open(at) => {
                    self.progress.searched = at;
                    return Ok(None);
                }
            }
        }
    }
}

/// Why [`format_reply`] refused a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwritable {
    /// The code is not one of RFC 5321 §4.2.
    Code,
    /// The enhanced code is not `class.subject.detail`, or its class does not agree with the code (RFC 2034 §4).
    Enhanced,
    /// A line contains CR, LF or NUL.
    Line(usize),
}

/// Writes a reply (RFC 5321 §4.2), with the enhanced code on every line (RFC 2034 §4). Without lines the reply has no
/// text.
///
/// # Errors
/// The part that cannot be written.
pub fn format_reply(code: u16, enhanced: Option<&str>, lines: &[&[u8]]) -> Result<Vec<u8>, Unwritable> {
    if !(matches!(code / 100, 2..=5) && matches!(code / 10 % 10, 0..=5)) {
        return Err(Unwritable::Code);
    }
    if enhanced.is_some_and(|enhanced| enhanced_code(enhanced.as_bytes(), code) != Some(enhanced)) {
        return Err(Unwritable::Enhanced);
    }
    let lines = if lines.is_empty() { &[b"".as_slice()] } else { lines };
    let length = lines
        .iter()
        .map(|line| line.len() + 6 + enhanced.map_or(0, |enhanced| enhanced.len() + 1))
        .sum();
    let mut octets = Vec::with_capacity(length);
    for (index, line) in lines.iter().enumerate() {
        if memchr3(b'\r', b'\n', 0, line).is_some() {
            return Err(Unwritable::Line(index));
        }
        let digits = [code / 100, code / 10 % 10, code % 10].map(|digit| b'0' + digit as u8);
        octets.extend_from_slice(&digits);
        octets.push(if index + 1 == lines.len() { b' ' } else { b'-' });
        if let Some(enhanced) = enhanced {
            octets.extend_from_slice(enhanced.as_bytes());
            if !line.is_empty() {
                octets.push(b' ');
            }
        }
        octets.extend_from_slice(line);
        octets.extend_from_slice(b"\r\n");
    }
    Ok(octets)
}
