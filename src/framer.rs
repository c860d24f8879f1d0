//! The incremental decoder of a server's input: lines, DATA and BDAT, and the points at which it must hold.
//!
//! Promises: the events do not depend on how the input is cut, except for the boundaries between pieces of a body.
//! After a command whose reply decides what the next octet means (`holds`) it holds: input is stored, not read, until
//! `resume` sets the mode (SECURITY R7, R9). BDAT is counted inline. Faults are events; after one,
//! reading continues after the next CRLF. Memory is bounded by [`Limits`]; an idle framer has no heap.
//!
//! Refuses: to read after a BDAT whose size is invalid, until `resume`.
//!
//! Standards: RFC 5321 §2.3.8, §4.1.1, §4.5.2; RFC 2920 §3.1 (the last command of a group); RFC 3030 §2; RFC 3207 §4;
//! RFC 4954 §4.

use std::fmt;

use crate::address::Addresses;
use crate::chunk::Counter;
use crate::command::{Command, Verb, parse_command};
use crate::data::{DataDecoder, Facts, Newline, Plan};
use crate::fault::Fault;
use crate::limits::Limits;
use crate::line::{Found, LineReader};

/// How the next octet is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Command lines; BDAT's octets are counted without leaving this mode.
    Command,
    /// A body with transparency, until CRLF.CRLF; `Command` follows automatically.
    Data,
    /// One line (an AUTH response), followed by a hold.
    Line,
    /// All input is discarded.
    Closed,
}

/// A piece of body that has not been copied.
#[derive(Clone, Copy, Debug)]
pub struct Body<'a> {
    data: &'a [u8],
    plan: &'a Plan,
}

impl<'a> Body<'a> {
    /// The input that the plan refers to.
    #[must_use]
    pub fn input(&self) -> &'a [u8] {
        self.data
    }

    /// The edits that turn the input into the output.
    #[must_use]
    pub fn plan(&self) -> &'a Plan {
        self.plan
    }

    /// Its octets.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.plan.append(self.data, &mut out);
        out
    }
}

/// The end of DATA, or of one BDAT chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyEnd {
    /// The message is complete (always true for DATA).
    pub last: bool,
    /// Facts about the message up to here.
    pub facts: Facts,
}

/// Receives the events, in order. Borrowed values are valid only during the call.
pub trait Events {
    /// A command line, faulty or not.
    fn command(&mut self, command: &Command<'_>);
    /// A piece of body; never empty.
    fn body(&mut self, body: Body<'_>);
    /// The end of DATA or of a chunk.
    fn body_end(&mut self, end: BodyEnd);
    /// A line in [`Mode::Line`], without CRLF.
    fn line(&mut self, octets: &[u8]);
    /// A faulty line; the rest of it is dropped.
    fn fault(&mut self, fault: Fault);
}

/// Misuse by the caller; input never causes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// More input than `Limits::held` was fed during a hold: the caller must stop reading while the framer is held.
    HeldFull {
        /// Octets stored.
        stored: usize,
        /// The limit.
        limit: usize,
    },
    /// `resume` was called while the framer was not held.
    NotHeld,
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeldFull { stored, limit } => write!(
                f,
                "the framer is held and stores {stored} octets of at most {limit}: stop reading until resume() is called"
            ),
            Self::NotHeld => f.write_str("resume() is for a held framer; this one is not held"),
        }
    }
}

impl std::error::Error for Misuse {}

/// The framer of a server's connection.
#[derive(Debug)]
pub struct ServerFramer {
    limits: Limits,
    addresses: Addresses,
    chunking: bool,
    mode: Mode,
    held: bool,
    lines: LineReader,
    chunk: Option<Counter>,
    body: DataDecoder,
    /// Input received during the hold; `stored[at..]` has not been read.
    stored: Vec<u8>,
    at: usize,
}

impl ServerFramer {
    /// A framer at the start of a connection: `Mode::Command`, not held.
    #[must_use]
    pub fn new(limits: Limits, newline: Newline, addresses: Addresses) -> Self {
        Self {
            limits,
            addresses,
            chunking: true,
            mode: Mode::Command,
            held: false,
            lines: LineReader::default(),
            chunk: None,
            body: DataDecoder::new(newline, limits.content),
            stored: Vec::new(),
            at: 0,
        }
    }

    /// The framer of a server that does not offer CHUNKING: no octets follow BDAT, which is a verb like any other.
    #[must_use]
    pub fn without_chunking(self) -> Self {
        Self {
            chunking: false,
            ..self
        }
    }

    /// Whether the framer waits for `resume`.
    #[must_use]
    pub fn held(&self) -> bool {
        self.held
    }

    /// How the next octet is read, or was read before the hold.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Octets that were fed during the hold and have not been read.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.stored.len() - self.at
    }

    /// Read the next piece.
    ///
    /// # Errors
    /// [`Misuse::HeldFull`] if it was held before the call and would store more than `Limits::held`; then it stores
    /// nothing. (The rest of the piece in which the hold begins is always stored, because the caller chose its length.)
    pub fn feed<E: Events>(&mut self, data: &[u8], events: &mut E) -> Result<(), Misuse> {
        if self.held {
            let stored = self.buffered();
            if stored.saturating_add(data.len()) > self.limits.held {
                return Err(Misuse::HeldFull {
                    stored,
                    limit: self.limits.held,
                });
            }
            if self.at > stored {
                self.stored.drain(..self.at);
                self.at = 0;
            }
            self.stored.extend_from_slice(data);
            return Ok(());
        }
        let used = self.run(data, events);
        self.stored.extend_from_slice(&data[used..]);
        Ok(())
    }

    /// Continue in `mode`, starting with the stored input.
    ///
    /// # Errors
    /// [`Misuse::NotHeld`].
    pub fn resume<E: Events>(&mut self, mode: Mode, events: &mut E) -> Result<(), Misuse> {
        if !self.held {
            return Err(Misuse::NotHeld);
        }
        self.held = false;
        self.mode = mode;
        if mode == Mode::Data {
            self.body.reset();
        }
        let stored = std::mem::take(&mut self.stored);
        self.at += self.run(&stored[self.at..], events);
        if self.at < stored.len() {
            self.stored = stored;
        } else {
            self.at = 0;
        }
        Ok(())
    }

    /// Read until `data` is used up or a hold begins; return the number of octets consumed.
    fn run<E: Events>(&mut self, data: &[u8], events: &mut E) -> usize {
        let mut at = 0;
        while at < data.len() && !self.held {
            let rest = &data[at..];
            at += match self.mode {
                Mode::Command if self.chunk.is_some() => self.run_chunk(rest, events),
                Mode::Command => self.run_command(rest, events),
                // The rest of a faulty line is not content.
                Mode::Data if self.lines.dropping() => self.lines.drop_line(rest),
                Mode::Data => self.run_data(rest, events),
                Mode::Line => self.run_line(rest, events),
                Mode::Closed => rest.len(),
            };
        }
        at
    }

    fn run_command<E: Events>(&mut self, data: &[u8], events: &mut E) -> usize {
        let (used, found) = self.lines.read(data, self.limits.command_line);
        match found {
            Found::Whole(line) => self.command(line, events),
            Found::Gathered(line) => self.command(&line, events),
            Found::Wrong(fault) => events.fault(fault),
            Found::Nothing => {}
        }
        used
    }

    fn command<E: Events>(&mut self, line: &[u8], events: &mut E) {
        let command = parse_command(line, self.addresses);
        events.command(&command);
        match command.verb {
            Verb::Bdat if self.chunking => match command.chunk {
                Some(chunk) if command.fault.is_none() => {
                    let counter = Counter::new(chunk);
                    self.chunk = Some(counter);
                    if counter.complete() {
                        self.end_chunk(counter, events);
                    }
                }
                // The end of its octets is unknown.
                _ => self.held = true,
            },
            // A message that BDAT began can only end here.
            Verb::Mail | Verb::Rset | Verb::Ehlo | Verb::Helo | Verb::Lhlo => self.body.reset(),
            Verb::Data | Verb::StartTls => {
                self.body.reset();
                self.held = true;
            }
            Verb::Auth | Verb::Atrn | Verb::Quit => self.held = true,
            _ => {}
        }
    }

    fn run_chunk<E: Events>(&mut self, data: &[u8], events: &mut E) -> usize {
        let Some(mut counter) = self.chunk else { return 0 };
        let octets = counter.take(data);
        let mut plan = Plan::default();
        self.body.feed_binary(octets, &mut plan);
        if !plan.is_empty() {
            events.body(Body {
                data: octets,
                plan: &plan,
            });
        }
        self.chunk = Some(counter);
        if counter.complete() {
            self.end_chunk(counter, events);
        }
        octets.len()
    }

    fn end_chunk<E: Events>(&mut self, counter: Counter, events: &mut E) {
        self.chunk = None;
        if counter.last() {
            self.body.end_binary();
        }
        events.body_end(BodyEnd {
            last: counter.last(),
            facts: self.body.facts(),
        });
        if counter.last() {
            self.body.reset();
        }
    }

    fn run_data<E: Events>(&mut self, data: &[u8], events: &mut E) -> usize {
        let mut plan = Plan::default();
        let progress = self.body.feed(data, &mut plan);
        if !plan.is_empty() {
            events.body(Body { data, plan: &plan });
        }
        if progress.finished {
            events.body_end(BodyEnd {
                last: true,
                facts: self.body.facts(),
            });
            self.body.reset();
            self.mode = Mode::Command;
        }
        progress.consumed
    }

    fn run_line<E: Events>(&mut self, data: &[u8], events: &mut E) -> usize {
        let (used, found) = self.lines.read(data, self.limits.auth_line);
        // A faulty line holds at once; the rest of it is discarded after `resume`.
        self.held = !matches!(found, Found::Nothing);
        match found {
            Found::Whole(line) => events.line(line),
            Found::Gathered(line) => events.line(&line),
            Found::Wrong(fault) => events.fault(fault),
            Found::Nothing => {}
        }
        used
    }
}
