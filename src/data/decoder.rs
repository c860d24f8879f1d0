//! Decoding a DATA body from its wire form to its content (RFC 5321 §4.5.2).

use std::ops::ControlFlow;

use super::plan::{DROP, INSERT_CR, INSERT_LF, Plan};
use super::{Facts, Newline};
use crate::scan::{BLOCK, Carry, Ends, Kernel, Masks, Visitor, visit};

/// The state of a decoder between two pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Inside a line.
    Inside,
    /// Inside a line, and the last octet was a CR, which normalising holds back.
    Cr,
    /// At the start of a line.
    Start,
    /// A dot at the start of a line is held back.
    Dot,
    /// The same, followed by a CR.
    DotCr,
    /// After CRLF.CRLF.
    End,
}

/// The result of reading one piece of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Octets of the piece that belong to the body or to its end. Less than the piece only when `finished`.
    pub consumed: usize,
    /// CRLF.CRLF was reached.
    pub finished: bool,
}

/// Decodes a DATA body from its wire form.
#[derive(Clone, Debug)]
pub struct DataDecoder {
    kernel: Kernel,
    newline: Newline,
    standing: Standing,
    /// Maximum number of octets of content to return; the rest is counted and checked.
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

    /// The same with a given kernel, for tests and benchmarks.
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

    /// Whether the true end has been reached.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.standing == Standing::End
    }

    /// Facts about the body up to here.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let unfinished = self.line - u64::from(self.standing == Standing::Cr);
        Facts {
            longest_line: self.facts.longest_line.max(unfinished),
            ..self.facts
        }
    }

    /// Reset the decoder for a new message.
    pub fn reset(&mut self) {
        *self = Self::with_kernel(self.newline, self.limit, self.kernel);
    }

    /// Read the next piece; `plan` is overwritten and yields its content. After the end nothing is consumed.
    pub fn feed(&mut self, data: &[u8], plan: &mut Plan) -> Progress {
        plan.restart();
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
            // No terminator: the dot was stuffing. The CR after it is content.
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

    /// Read a piece without transparency and terminator (BDAT, RFC 3030 §2): counted and checked, and changed only by the
    /// content limit.
    pub(crate) fn feed_binary(&mut self, data: &[u8], plan: &mut Plan) {
        plan.restart();
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
        plan.len = ((size - self.facts.size) as usize)
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

/// The positions of lines, in octets from the start of the piece; they can be negative.
#[derive(Clone, Copy)]
struct Lines {
    /// Where the current line begins, after a dropped dot.
    line: i64,
    longest: i64,
    moved: i64,
    header: Option<u64>,
}

impl Lines {
    /// Not 0 while a line inside one block may be the longest.
    fn short(&self) -> u64 {
        u64::from(self.longest < BLOCK as i64)
    }

    /// All ones before the empty line after the header section.
    fn awaiting(&self) -> u64 {
        if self.header.is_none() { u64::MAX } else { 0 }
    }

    /// Take a block's line ends together. A line that begins and ends in it is no longer than the longest so far, so
    /// only the first end counts.
    #[inline(always)]
    fn skim(&mut self, base: usize, valid: u64, crlf: u64) {
        // Without an end this is `unfinished`, without an unpredictable branch.
        let octets = 64 - valid.leading_zeros();
        let end = base as i64 + i64::from(crlf.trailing_zeros().min(octets)) - 1;
        self.longest = self.longest.max(end - self.line);
        if crlf != 0 {
            self.line = base as i64 + 64 - i64::from(crlf.leading_zeros());
        }
    }

    /// A line that continues after a block is at least as long as its part so far, without a CR in the last place.
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

/// The position at which the content ends before the piece does, and the reason.
type Stop = Option<(usize, Standing)>;

/// The results of a pass.
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
        // An empty line may end here: after a line end in this block, or at its very start.
        let blank = ends.crlf & (ends.crlf << 2 | 3) & state.awaiting;
        let steps = dots | blank | state.short;
        // Most blocks have nothing but line endings, which one test detects.
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

/// Handle the block's line endings and leading dots one by one; return the mask of the octets that are content. The
/// state is passed by value, which keeps it in registers on the path that has no steps.
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
