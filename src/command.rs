//! Parsing one command line: its verb, its argument and the argument's meaning.
//!
//! Promises: [`parse_command`] never fails and never panics; a faulty line has its verb and argument too; all values
//! borrow from the line.
//!
//! Refuses, as a fault in the value: CR, LF or NUL inside the line, a verb that is not a word, an argument that
//! does not match the verb's grammar. Unknown verbs keep their argument unchanged.
//!
//! Tolerates, in every build and for every peer: spaces and tabs at the end of a structured argument (RFC 5321 §4.1.1
//! asks for it), several spaces before a parameter, an underscore in the domain of HELO, EHLO and LHLO. With
//! [`Addresses::Lenient`] also the deviations in [`Tolerated`], in the paths of MAIL and RCPT.
//!
//! Standards: RFC 5321 §4.1.1, §4.1.2, §2.4 (verbs in any case); RFC 3030 §2 (BDAT); RFC 2033 §4.1 (LHLO); RFC 3207
//! (STARTTLS); RFC 4954 (AUTH); RFC 1985 (ETRN); RFC 2645 (ATRN); RFC 4468 (BURL).

use std::borrow::Cow;

use crate::address::{Addresses, Mailbox, Text, Tolerated, host};
use crate::fault::{Fault, FaultId};
use crate::limits::{CHUNK_SIZE, CHUNK_SIZE_DIGITS};
use crate::params::{Parameters, parameters};
use crate::path::{Direction, lenient_path, path};

macro_rules! verbs {
    ($($name:ident = $text:literal, $meaning:literal;)*) => {
        /// The verb of a command line.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Verb<'a> {
            $(#[doc = $meaning] $name,)*
            /// An unknown verb, as received.
            Other(&'a str),
            /// The line does not start with a verb.
            Missing,
        }

        impl Verb<'_> {
            /// Every known verb with its text, in upper case.
            pub const KNOWN: &'static [(Verb<'static>, &'static str)] = &[$((Verb::$name, $text),)*];
        }

        impl<'a> Verb<'a> {
            /// The verb in upper case; empty if there is none.
            #[must_use]
            pub fn name(&self) -> Cow<'a, str> {
                match *self {
                    $(Self::$name => Cow::Borrowed($text),)*
                    Self::Other(word) if word.bytes().any(|octet| octet.is_ascii_lowercase()) => {
                        Cow::Owned(word.to_ascii_uppercase())
                    }
                    Self::Other(word) => Cow::Borrowed(word),
                    Self::Missing => Cow::Borrowed(""),
                }
            }

            /// The position of the verb in [`Verb::KNOWN`].
            #[must_use]
            pub fn position(&self) -> Option<usize> {
                #[allow(clippy::upper_case_acronyms)]
                enum Position {
                    $($name,)*
                }
                match self {
                    $(Self::$name => Some(Position::$name as usize),)*
                    Self::Other(_) | Self::Missing => None,
                }
            }

            #[inline]
            #[allow(non_upper_case_globals)]
            fn new(word: &'a str) -> Self {
                $(const $name: u64 = pack($text.as_bytes());)*
                match pack(word.as_bytes()) {
                    $($name => Self::$name,)*
                    _ => Self::Other(word),
                }
            }
        }
    };
}

verbs! {
    Helo = "HELO", "RFC 5321 §4.1.1.1";
    Ehlo = "EHLO", "RFC 5321 §4.1.1.1";
    Lhlo = "LHLO", "RFC 2033 §4.1";
    Mail = "MAIL", "RFC 5321 §4.1.1.2";
    Rcpt = "RCPT", "RFC 5321 §4.1.1.3";
    Data = "DATA", "RFC 5321 §4.1.1.4";
    Bdat = "BDAT", "RFC 3030 §2";
    Rset = "RSET", "RFC 5321 §4.1.1.5";
    Vrfy = "VRFY", "RFC 5321 §4.1.1.6";
    Expn = "EXPN", "RFC 5321 §4.1.1.7";
    Help = "HELP", "RFC 5321 §4.1.1.8";
    Noop = "NOOP", "RFC 5321 §4.1.1.9";
    Quit = "QUIT", "RFC 5321 §4.1.1.10";
    StartTls = "STARTTLS", "RFC 3207 §4";
    Auth = "AUTH", "RFC 4954 §4";
    Etrn = "ETRN", "RFC 1985 §5";
    Atrn = "ATRN", "RFC 2645 §5.2";
    Turn = "TURN", "RFC 5321 appendix F.1";
    Send = "SEND", "RFC 5321 appendix F.6";
    Soml = "SOML", "RFC 5321 appendix F.6";
    Saml = "SAML", "RFC 5321 appendix F.6";
    Burl = "BURL", "RFC 4468 §3";
    Xclient = "XCLIENT", "Postfix's XCLIENT";
    Xforward = "XFORWARD", "Postfix's XFORWARD";
}

/// Up to eight octets in upper case as one number, so that verbs compare in one step; 0 for longer words.
const fn pack(word: &[u8]) -> u64 {
    if word.len() > 8 {
        return 0;
    }
    let mut value = 0;
    let mut at = 0;
    while at < word.len() {
        value = value << 8 | word[at].to_ascii_uppercase() as u64;
        at += 1;
    }
    value
}

/// The argument of BDAT (RFC 3030 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Octets that follow the command line; at most 2^63 - 1.
    pub size: u64,
    /// Whether this chunk ends the message.
    pub last: bool,
}

/// One command line. The fields below `argument` are empty if there is a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// The verb.
    pub verb: Verb<'a>,
    /// Everything after the verb and the one space that follows it.
    pub argument: &'a [u8],
    /// MAIL, RCPT: the path.
    pub path: Option<Mailbox<'a>>,
    /// MAIL, RCPT: the ESMTP parameters.
    pub parameters: Parameters<'a>,
    /// EHLO, HELO, LHLO: the domain or address literal.
    pub domain: Option<&'a str>,
    /// BDAT: size and LAST.
    pub chunk: Option<Chunk>,
    /// The first fault of the line.
    pub fault: Option<Fault>,
    /// MAIL, RCPT: the tolerances of [`Addresses::Lenient`] that the path needed.
    pub tolerated: Tolerated,
}

/// Parses one command line, with or without its CRLF.
#[must_use]
pub fn parse_command(line: &[u8], addresses: Addresses) -> Command<'_> {
    let line = line.strip_suffix(b"\r\n").unwrap_or(line);
    let (verb, start, verb_fault) = match split_verb(line) {
        Ok((verb, start)) => (verb, start, None),
        Err(fault) => (Verb::Missing, line.len(), Some(fault)),
    };
    let line = if is_structured(verb) {
        trim_end(line, start)
    } else {
        line
    };
    let mut command = Command {
        verb,
        argument: line.get(start..).unwrap_or_default(),
        path: None,
        parameters: Parameters::default(),
        domain: None,
        chunk: None,
        fault: impurity(line).or(verb_fault),
        tolerated: Tolerated::default(),
    };
    // The fields are set only after the whole line has been checked.
    if command.fault.is_none()
        && let Err(fault) = interpret(line, start, addresses, &mut command)
    {
        command.fault = Some(fault);
    }
    command
}

/// The first CR, LF or NUL in the line.
#[inline]
fn impurity(line: &[u8]) -> Option<Fault> {
    let at = memchr::memchr3(b'\r', b'\n', 0, line)?;
    let id = match line[at] {
        b'\r' => FaultId::BareCr,
        b'\n' => FaultId::BareLf,
        _ => FaultId::Nul,
    };
    Some(id.at(at))
}

/// The verb, and the offset at which its argument would start.
#[inline]
fn split_verb(line: &[u8]) -> Result<(Verb<'_>, usize), Fault> {
    let mut at = 0;
    while let Some(&octet) = line.get(at) {
        if octet == b' ' && at > 0 {
            break;
        }
        // RFC 5321 §4.1.1: white space at the end is tolerated, and a tab may be all of it.
        if octet == b'\t' && at > 0 && line[at..].iter().all(|&octet| matches!(octet, b' ' | b'\t')) {
            break;
        }
        if !octet.is_ascii_alphanumeric() {
            return Err(FaultId::VerbMalformed.at(at));
        }
        at += 1;
    }
    if at == 0 {
        return Err(FaultId::VerbMalformed.at(0));
    }
    let word = std::str::from_utf8(&line[..at]).unwrap_or_default();
    Ok((Verb::new(word), at + 1))
}

/// Whether blanks at the end of the argument are ignored.
#[inline]
fn is_structured(verb: Verb<'_>) -> bool {
    !matches!(
        verb,
        Verb::Vrfy | Verb::Expn | Verb::Help | Verb::Noop | Verb::Auth | Verb::Other(_) | Verb::Missing
    )
}

/// The line without the blanks at the end of an argument that starts at `start` (RFC 5321 §4.1.1).
#[inline]
fn trim_end(line: &[u8], start: usize) -> &[u8] {
    let mut end = line.len();
    while end >= start && matches!(line[end - 1], b' ' | b'\t') {
        end -= 1;
    }
    &line[..end]
}

#[inline]
fn interpret<'a>(line: &'a [u8], start: usize, addresses: Addresses, command: &mut Command<'a>) -> Result<(), Fault> {
    let missing = line.len() <= start;
    match command.verb {
        Verb::Mail | Verb::Rcpt | Verb::Helo | Verb::Ehlo | Verb::Lhlo | Verb::Bdat if missing => {
            return Err(FaultId::ArgumentMissing.at(line.len()));
        }
        Verb::Auth | Verb::Etrn | Verb::Vrfy | Verb::Expn | Verb::Burl | Verb::Xclient | Verb::Xforward => {
            let line = trim_end(line, start);
            if line.len() <= start {
                return Err(FaultId::ArgumentMissing.at(line.len()));
            }
        }
        Verb::Mail => return envelope(line, start, b"FROM:", Direction::Reverse, addresses, command),
        Verb::Rcpt => return envelope(line, start, b"TO:", Direction::Forward, addresses, command),
        Verb::Helo | Verb::Ehlo | Verb::Lhlo => {
            let text = Text::new(line);
            let end = host(&text, start, true, None)?;
            command.domain = Some(text.slice(start, end)?);
        }
        Verb::Bdat => command.chunk = Some(chunk(line, start)?),
        Verb::Data | Verb::Rset | Verb::Quit | Verb::StartTls | Verb::Turn if !missing => {
            return Err(FaultId::ArgumentUnexpected.at(start));
        }
        _ => {}
    }
    Ok(())
}

/// The argument of MAIL or RCPT (RFC 5321 §4.1.1.2, §4.1.1.3).
#[inline]
fn envelope<'a>(
    line: &'a [u8],
    start: usize,
    keyword: &[u8],
    direction: Direction,
    addresses: Addresses,
    command: &mut Command<'a>,
) -> Result<(), Fault> {
    let open = start + keyword.len();
    if !line
        .get(start..open)
        .is_some_and(|word| word.eq_ignore_ascii_case(keyword))
    {
        return Err(FaultId::PathKeywordMissing.at(start));
    }
    match line.get(open) {
        Some(b'<') => {}
        Some(b' ' | b'\t') => return Err(FaultId::PathSpace.at(open)),
        _ => return Err(FaultId::PathMissing.at(open)),
    }
    let text = Text::new(line);
    let mut tolerated = Tolerated::default();
    let (mailbox, after) = match addresses {
        Addresses::Strict => path(&text, open, direction)?,
        Addresses::Lenient => lenient_path(&text, open, direction, &mut tolerated)?,
    };
    command.parameters = parameters(&text, after)?;
    command.path = Some(mailbox);
    command.tolerated = tolerated;
    Ok(())
}

/// `chunk-size [SP "LAST"]` (RFC 3030 §2).
fn chunk(line: &[u8], start: usize) -> Result<Chunk, Fault> {
    let argument = &line[start..];
    let end = argument
        .iter()
        .position(|&octet| octet == b' ')
        .unwrap_or(argument.len());
    let digits = &argument[..end];
    if digits.is_empty() || digits.len() > CHUNK_SIZE_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return Err(FaultId::ChunkSizeMalformed.at(start));
    }
    let size = digits
        .iter()
        .try_fold(0_u64, |size, digit| {
            size.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
        })
        .filter(|&size| size <= CHUNK_SIZE)
        .ok_or(FaultId::ChunkSizeTooLarge.at(start))?;
    let last = end < argument.len();
    if last && !argument[end + 1..].eq_ignore_ascii_case(b"LAST") {
        return Err(FaultId::ChunkLastMalformed.at(start + end + 1));
    }
    Ok(Chunk { size, last })
}
