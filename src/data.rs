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

use std::mem::MaybeUninit;
use std::ops::ControlFlow;

use crate::fault::{Fault, FaultId};
use crate::scan::{BLOCK, Carry, Ends, Kernel, Masks, Visitor, visit};

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

// ---------------------------------------------------------------------------------------------------------------------
// Plans: what to do with a piece of input, before a single octet is copied

const DROP: u64 = 0;
const INSERT_CR: u64 = 1;
const INSERT_LF: u64 = 2;
const INSERT_DOT: u64 = 3;

/// How a piece of input becomes output: its octets with a few dropped or inserted. It is made without copying, so that
/// the caller can place the output where it wants it, in one allocation of the right size.
#[derive(Debug, Default)]
pub struct Plan {
    /// A CR that the piece before this one held back comes first.
    prefix_cr: bool,
    /// Input octets that the output is made of.
    end: usize,
    /// Position << 2 | what happens in front of it (or, for DROP, to it); ascending.
    edits: Vec<u64>,
    /// Octets of output before it is cut at the content limit.
    full: usize,
    /// Octets of output.
    len: usize,
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

    fn edit(&mut self, at: usize, what: u64) {
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

// ---------------------------------------------------------------------------------------------------------------------
// Decoding

/// Where a decoder stands between two pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Inside a line.
    Inside,
    /// Inside a line, and the last octet was a CR, which normalising holds back.
    Cr,
    /// At the start of a line.
    Start,
    /// A dot that is first on a line is held back.
    Dot,
    /// The same, with a CR behind it.
    DotCr,
    /// Behind CRLF.CRLF.
    End,
}

/// How far one piece of input was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Octets of the piece that belong to the body or to its end. Less than the piece only when `finished`.
    pub consumed: usize,
    /// CRLF.CRLF was reached.
    pub finished: bool,
}

/// Takes a DATA body as it came over the wire and gives the content.
#[derive(Clone, Debug)]
pub struct DataDecoder {
    kernel: Kernel,
    newline: Newline,
    standing: Standing,
    /// Octets of content that are returned at most; the rest is counted and checked.
    limit: u64,
    /// Octets of the current line so far, with a CR that may begin its CRLF.
    line: u64,
    facts: Facts,
}

impl DataDecoder {
    /// A decoder at the start of a body, which is the start of a line.
    #[must_use]
    pub fn new(newline: Newline, limit: u64) -> Self {
        Self::with_kernel(newline, limit, Kernel::best())
    }

    /// The same with a kernel of the caller's choice: for tests and benches.
    #[must_use]
    pub fn with_kernel(newline: Newline, limit: u64, kernel: Kernel) -> Self {
        let facts = Facts {
            size: 0,
            eight_bit: false,
            nul: false,
            bare_cr: false,
            bare_lf: false,
            longest_line: 0,
            header_size: None,
        };
        Self {
            kernel,
            newline,
            standing: Standing::Start,
            limit,
            line: 0,
            facts,
        }
    }

    /// Whether the true end was reached.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.standing == Standing::End
    }

    /// What was seen up to here.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let unfinished = self.line - u64::from(self.standing == Standing::Cr);
        Facts {
            longest_line: self.facts.longest_line.max(unfinished),
            ..self.facts
        }
    }

    /// Forget everything: a new message begins.
    pub fn reset(&mut self) {
        *self = Self::with_kernel(self.newline, self.limit, self.kernel);
    }

    /// Read the next piece; `plan` is overwritten with the way to its content. Behind the end nothing is consumed.
    pub fn feed(&mut self, data: &[u8], plan: &mut Plan) -> Progress {
        *plan = Plan {
            edits: std::mem::take(&mut plan.edits),
            ..Plan::default()
        };
        plan.edits.clear();
        // A dot held back is settled by the octets that follow it.
        match (self.standing, data) {
            (Standing::End, _) => {
                return Progress {
                    consumed: 0,
                    finished: true,
                };
            }
            (_, []) => {
                return Progress {
                    consumed: 0,
                    finished: false,
                };
            }
            (Standing::DotCr, [b'\n', ..]) => return self.finish(1),
            (Standing::Dot, [b'\r', b'\n', ..]) => return self.finish(2),
            (Standing::Dot, b"\r") => {
                self.standing = Standing::DotCr;
                return Progress {
                    consumed: 1,
                    finished: false,
                };
            }
            // No terminator: the dot was stuffing. The CR behind it is content.
            (Standing::DotCr, _) => {
                plan.prefix_cr = true;
                self.standing = Standing::Cr;
                self.line = 1;
            }
            (Standing::Dot, _) => self.standing = Standing::Inside,
            _ => {}
        }
        match self.newline {
            Newline::Normalise => self.pass::<true, true>(data, plan),
            _ => self.pass::<true, false>(data, plan),
        }
    }

    /// Read a piece that has no transparency and no end of its own (BDAT, RFC 3030 §2): counted and checked, and never
    /// changed but by the content limit.
    pub(crate) fn feed_binary(&mut self, data: &[u8], plan: &mut Plan) {
        *plan = Plan {
            edits: std::mem::take(&mut plan.edits),
            ..Plan::default()
        };
        plan.edits.clear();
        self.pass::<false, false>(data, plan);
    }

    /// A message that BDAT carried is complete: a CR at its very end has no LF.
    pub(crate) fn end_binary(&mut self) {
        if self.standing == Standing::Cr {
            self.facts.bare_cr = true;
            self.standing = Standing::Inside;
        }
    }

    fn finish(&mut self, consumed: usize) -> Progress {
        self.standing = Standing::End;
        self.line = 0;
        Progress {
            consumed,
            finished: true,
        }
    }

    fn pass<const DOTS: bool, const NORMALISE: bool>(&mut self, data: &[u8], plan: &mut Plan) -> Progress {
        if NORMALISE && self.standing == Standing::Cr {
            plan.prefix_cr = true;
        }
        let lines = Lines {
            line: -(self.line as i64),
            longest: self.facts.longest_line as i64,
            // Position + moved = octets of content before that position.
            moved: self.facts.size as i64 + i64::from(plan.prefix_cr),
            header: self.facts.header_size,
        };
        let state = Gathered {
            carry: Carry {
                cr: u64::from(self.standing == Standing::Cr),
                start: u64::from(self.standing == Standing::Start),
            },
            lines,
            short: lines.short(),
            awaiting: lines.awaiting(),
            seen: Seen::default(),
        };
        let mut pass = Decoding::<DOTS, NORMALISE> {
            data,
            state,
            plan,
            stop: None,
        };
        visit(self.kernel, data, &mut pass);
        let Decoding {
            state: Gathered { carry, lines, seen, .. },
            plan,
            stop,
            ..
        } = pass;

        let (end, consumed, standing) = match stop {
            Some((at, Standing::End)) => (at, at + 3, Standing::End),
            Some((at, standing)) => (at, data.len(), standing),
            None if carry.start == 1 => (data.len(), data.len(), Standing::Start),
            None if carry.cr == 1 => (data.len() - usize::from(NORMALISE), data.len(), Standing::Cr),
            None => (data.len(), data.len(), Standing::Inside),
        };
        let size = (end as i64 + lines.moved) as u64;
        plan.end = end;
        plan.full = (size - self.facts.size) as usize;
        plan.len = plan
            .full
            .min(usize::try_from(self.limit.saturating_sub(self.facts.size)).unwrap_or(usize::MAX));
        self.standing = standing;
        self.line = (if stop.is_some() { end } else { data.len() } as i64 - lines.line) as u64;
        self.facts = Facts {
            size,
            eight_bit: self.facts.eight_bit | (seen.high != 0),
            nul: self.facts.nul | (seen.nul != 0),
            bare_cr: self.facts.bare_cr | (seen.bare_cr != 0),
            bare_lf: self.facts.bare_lf | (seen.bare_lf != 0),
            longest_line: lines.longest as u64,
            header_size: lines.header,
        };
        Progress {
            consumed,
            finished: standing == Standing::End,
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Seen {
    high: u64,
    nul: u64,
    bare_cr: u64,
    bare_lf: u64,
}

impl Seen {
    #[inline(always)]
    fn add(&mut self, masks: &Masks, ends: &Ends, keep: u64) {
        self.high |= masks.high & keep;
        self.nul |= masks.nul & keep;
        self.bare_cr |= ends.bare_cr & keep;
        self.bare_lf |= ends.bare_lf & keep;
    }
}

/// Where the lines are. Positions are octets from the piece's start, and may lie before it.
#[derive(Clone, Copy)]
struct Lines {
    /// Where the current line begins, behind a dropped dot.
    line: i64,
    longest: i64,
    moved: i64,
    header: Option<u64>,
}

impl Lines {
    /// Not 0 while a line that lies inside one block may be the longest.
    fn short(&self) -> u64 {
        u64::from(self.longest < BLOCK as i64)
    }

    /// All ones while the empty line behind the header section is still to come.
    fn awaiting(&self) -> u64 {
        if self.header.is_none() { u64::MAX } else { 0 }
    }

    /// Take a block's line ends together. A line that begins and ends in it is no longer than the longest so far, so
    /// only the first end counts.
    #[inline(always)]
    fn skim(&mut self, base: usize, valid: u64, crlf: u64) {
        // Without an end this is `unfinished`, in one way, without a branch that cannot be foretold.
        let octets = 64 - valid.leading_zeros();
        let end = base as i64 + i64::from(crlf.trailing_zeros().min(octets)) - 1;
        self.longest = self.longest.max(end - self.line);
        if crlf != 0 {
            self.line = base as i64 + 64 - i64::from(crlf.leading_zeros());
        }
    }

    /// The line that goes on behind a block is at least as long as what it has so far, but for a CR in the last place.
    #[inline(always)]
    fn unfinished(&mut self, base: usize, valid: u64) {
        let octets = 64 - i64::from(valid.leading_zeros());
        self.longest = self.longest.max(base as i64 + octets - 1 - self.line);
    }

    #[inline(always)]
    fn end(&mut self, end: i64, next: i64) {
        if end == self.line && self.header.is_none() {
            self.header = Some((self.line + self.moved) as u64);
        }
        self.longest = self.longest.max(end - self.line);
        self.line = next;
    }
}

/// Where the content stops before the piece does, and why.
type Stop = Option<(usize, Standing)>;

/// What a pass gathers.
#[derive(Clone, Copy)]
struct Gathered {
    carry: Carry,
    lines: Lines,
    seen: Seen,
    short: u64,
    awaiting: u64,
}

/// One pass of a decoder over one piece.
struct Decoding<'a, const DOTS: bool, const NORMALISE: bool> {
    data: &'a [u8],
    state: Gathered,
    plan: &'a mut Plan,
    stop: Stop,
}

impl<const DOTS: bool, const NORMALISE: bool> Visitor for Decoding<'_, DOTS, NORMALISE> {
    type State = Gathered;

    fn state(&self) -> Gathered {
        self.state
    }

    fn set_state(&mut self, state: Gathered) {
        self.state = state;
    }

    #[inline(always)]
    fn block(&mut self, state: &mut Gathered, base: usize, valid: u64, masks: Masks) -> ControlFlow<()> {
        let ends = state.carry.ends(&masks, valid);
        let starts = state.carry.starts(ends.crlf, valid);
        let dots = if DOTS { masks.dot & starts } else { 0 };
        let bare = ends.bare_cr | ends.bare_lf;
        // An empty line may end here: behind a line end in this block, or at its very start.
        let blank = ends.crlf & (ends.crlf << 2 | 3) & state.awaiting;
        let steps = dots | blank | state.short;
        // Most blocks have nothing but line ends. One test says so.
        if steps | bare | masks.nul | masks.high == 0 {
            state.lines.skim(base, valid, ends.crlf);
            return ControlFlow::Continue(());
        }
        if steps == 0 && !(NORMALISE && bare != 0) {
            state.seen.add(&masks, &ends, u64::MAX);
            state.lines.skim(base, valid, ends.crlf);
            return ControlFlow::Continue(());
        }
        let (lines, keep, stop) = step_by_step::<NORMALISE>(state.lines, self.data, base, valid, ends, dots, self.plan);
        state.lines = lines;
        state.short = lines.short();
        state.awaiting = lines.awaiting();
        state.seen.add(&masks, &ends, keep);
        self.stop = stop;
        if stop.is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// Take the block's line ends and leading dots one by one. Gives the mask of the octets that are content. The state goes
/// in and out by value, which leaves it in registers on the way that needs no steps.
#[inline(never)]
fn step_by_step<const NORMALISE: bool>(
    mut lines: Lines,
    data: &[u8],
    base: usize,
    valid: u64,
    ends: Ends,
    dots: u64,
    plan: &mut Plan,
) -> (Lines, u64, Stop) {
    let mut events = ends.crlf | dots | if NORMALISE { ends.bare_cr | ends.bare_lf } else { 0 };
    while events != 0 {
        let bit = events & events.wrapping_neg();
        let at = base + events.trailing_zeros() as usize;
        events ^= bit;
        if ends.crlf & bit != 0 {
            lines.end(at as i64 - 1, at as i64 + 1);
        } else if dots & bit != 0 {
            let stop = match data[at + 1..] {
                [] => Standing::Dot,
                [b'\r'] => Standing::DotCr,
                [b'\r', b'\n', ..] => Standing::End,
                _ => {
                    plan.edit(at, DROP);
                    lines.moved -= 1;
                    lines.line = at as i64 + 1;
                    continue;
                }
            };
            return (lines, bit - 1, Some((at, stop)));
        } else if ends.bare_lf & bit != 0 {
            lines.end(at as i64, at as i64 + 1);
            plan.edit(at, INSERT_CR);
            lines.moved += 1;
        } else {
            lines.end(at as i64 - 1, at as i64);
            plan.edit(at, INSERT_LF);
            lines.moved += 1;
        }
    }
    lines.unfinished(base, valid);
    (lines, u64::MAX, None)
}

// ---------------------------------------------------------------------------------------------------------------------
// Encoding

/// Takes content and gives a DATA body as it goes over the wire, with its end.
#[derive(Clone, Debug)]
pub struct DataEncoder {
    kernel: Kernel,
    newline: Newline,
    carry: Carry,
    /// A CR at the end of the last piece is held back until it is known to be followed by LF.
    held_cr: bool,
    /// Octets of content taken so far.
    taken: usize,
}

impl DataEncoder {
    /// An encoder at the start of a body. `Newline::Accept` would let bare CR and LF leave (SECURITY R3): it counts as
    /// `Normalise`.
    #[must_use]
    pub fn new(newline: Newline) -> Self {
        Self::with_kernel(newline, Kernel::best())
    }

    /// The same with a kernel of the caller's choice: for tests and benches.
    #[must_use]
    pub fn with_kernel(newline: Newline, kernel: Kernel) -> Self {
        let newline = if newline == Newline::Reject {
            Newline::Reject
        } else {
            Newline::Normalise
        };
        Self {
            kernel,
            newline,
            carry: Carry { cr: 0, start: 1 },
            held_cr: false,
            taken: 0,
        }
    }

    /// Take the next piece; `plan` is overwritten with the way to its wire form.
    ///
    /// # Errors
    /// With `Newline::Reject`: `bare-cr` or `bare-lf`, with its offset in the whole body. The message cannot be sent.
    pub fn feed(&mut self, data: &[u8], plan: &mut Plan) -> Result<(), Fault> {
        *plan = Plan {
            edits: std::mem::take(&mut plan.edits),
            ..Plan::default()
        };
        plan.edits.clear();
        let mut pass = Encoding::<true> {
            newline: self.newline,
            carry: self.carry,
            plan,
            fault: None,
        };
        visit(self.kernel, data, &mut pass);
        if let Some((id, at)) = pass.fault {
            let offset = self.taken + at - usize::from(id == FaultId::BareCr);
            return Err(Fault { id, offset });
        }
        self.carry = pass.carry;
        self.taken += data.len();
        if data.is_empty() {
            return Ok(());
        }
        plan.prefix_cr = std::mem::replace(&mut self.held_cr, self.carry.cr == 1);
        plan.end = data.len() - usize::from(self.held_cr);
        plan.full = usize::from(plan.prefix_cr) + plan.end + plan.edits.len();
        plan.len = plan.full;
        Ok(())
    }

    /// What ends the body: CRLF where the last line lacks one, then the dot that ends it (RFC 5321 §4.1.1.4).
    ///
    /// # Errors
    /// With `Newline::Reject`: `bare-cr` if the body ends in CR.
    pub fn finish(&mut self) -> Result<&'static [u8], Fault> {
        if self.held_cr && self.newline == Newline::Reject {
            return Err(Fault {
                id: FaultId::BareCr,
                offset: self.taken - 1,
            });
        }
        let wire: &[u8] = match self.carry {
            Carry { start: 1, .. } => b".\r\n",
            _ => b"\r\n.\r\n",
        };
        *self = Self::with_kernel(self.newline, self.kernel);
        Ok(wire)
    }
}

/// A pass that doubles (`STUFF`) or drops the dots that are first on a line, and mends or reports bare CR and LF.
struct Encoding<'a, const STUFF: bool> {
    newline: Newline,
    carry: Carry,
    plan: &'a mut Plan,
    /// The first fault and the position where it showed.
    fault: Option<(FaultId, usize)>,
}

impl<const STUFF: bool> Visitor for Encoding<'_, STUFF> {
    type State = Carry;

    fn state(&self) -> Carry {
        self.carry
    }

    fn set_state(&mut self, carry: Carry) {
        self.carry = carry;
    }

    #[inline(always)]
    fn block(&mut self, carry: &mut Carry, base: usize, valid: u64, masks: Masks) -> ControlFlow<()> {
        let ends = carry.ends(&masks, valid);
        // What was mended to CRLF ends a line too, and the octet behind it is the first of the next one.
        let (starts, bare_cr, bare_lf) = match self.newline {
            Newline::Normalise => (carry.starts(masks.lf, valid) | ends.bare_cr, ends.bare_cr, ends.bare_lf),
            Newline::Reject => (carry.starts(ends.crlf, valid), ends.bare_cr, ends.bare_lf),
            Newline::Accept => (carry.starts(ends.crlf, valid), 0, 0),
        };
        let dots = masks.dot & starts;
        if dots | bare_cr | bare_lf == 0 {
            return ControlFlow::Continue(());
        }
        self.step_by_step(base, bare_cr, bare_lf, dots)
    }
}

impl<const STUFF: bool> Encoding<'_, STUFF> {
    fn step_by_step(&mut self, base: usize, bare_cr: u64, bare_lf: u64, dots: u64) -> ControlFlow<()> {
        let mut events = bare_cr | bare_lf | dots;
        while events != 0 {
            let bit = events & events.wrapping_neg();
            let at = base + events.trailing_zeros() as usize;
            events ^= bit;
            if (bare_cr | bare_lf) & bit != 0 {
                let cr = bare_cr & bit != 0;
                if self.newline == Newline::Reject {
                    self.fault = Some((if cr { FaultId::BareCr } else { FaultId::BareLf }, at));
                    return ControlFlow::Break(());
                }
                self.plan.edit(at, if cr { INSERT_LF } else { INSERT_CR });
            }
            if dots & bit != 0 {
                self.plan.edit(at, if STUFF { INSERT_DOT } else { DROP });
            }
        }
        ControlFlow::Continue(())
    }
}

/// The way to `data` with every dot that is first on a line doubled (RFC 5321 §4.5.2). The start of `data` is the start
/// of a line; nothing is added at the end; bare CR and LF stay as they are.
#[must_use]
pub fn dot_stuff(data: &[u8]) -> Plan {
    whole::<true>(data, Kernel::best())
}

/// The way to `data` with every dot that is first on a line dropped (RFC 5321 §4.5.2). `data` has no terminator: a line
/// of one dot becomes an empty line.
#[must_use]
pub fn dot_unstuff(data: &[u8]) -> Plan {
    whole::<false>(data, Kernel::best())
}

pub(crate) fn whole<const STUFF: bool>(data: &[u8], kernel: Kernel) -> Plan {
    let mut plan = Plan {
        end: data.len(),
        ..Plan::default()
    };
    let carry = Carry { cr: 0, start: 1 };
    let mut pass = Encoding::<STUFF> {
        newline: Newline::Accept,
        carry,
        plan: &mut plan,
        fault: None,
    };
    visit(kernel, data, &mut pass);
    plan.full = if STUFF {
        data.len() + plan.edits.len()
    } else {
        data.len() - plan.edits.len()
    };
    plan.len = plan.full;
    plan
}
