//! Encoding content as a DATA body on the wire (RFC 5321 §4.5.2).

use std::ops::ControlFlow;

use super::Newline;
use super::plan::{DROP, INSERT_CR, INSERT_DOT, INSERT_LF, Plan};
use crate::fault::{Fault, FaultId};
use crate::scan::{Carry, Kernel, Masks, Visitor, visit};

/// Encodes content as a DATA body on the wire, with its end.
#[derive(Clone, Debug)]
pub struct DataEncoder {
    kernel: Kernel,
    newline: Newline,
    carry: Carry,
    /// A CR at the end of the last piece is held back until it is known to be followed by LF.
    held_cr: bool,
    /// Octets of content encoded so far.
    taken: usize,
}

impl DataEncoder {
    /// An encoder at the start of a body. `Newline::Accept` would send bare CR and LF (SECURITY R3), so it counts as
    /// `Normalise`.
    #[must_use]
    pub fn new(newline: Newline) -> Self {
        Self::with_kernel(newline, Kernel::best())
    }

    /// The same with a given kernel, for tests and benchmarks.
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

    /// Encode the next piece; `plan` is overwritten and yields its wire form.
    ///
    /// # Errors
    /// With `Newline::Reject`: `bare-cr` or `bare-lf`, with its offset in the whole body. The message cannot be sent.
    pub fn feed(&mut self, data: &[u8], plan: &mut Plan) -> Result<(), Fault> {
        plan.restart();
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
        plan.len = usize::from(plan.prefix_cr) + plan.end + plan.edits.len();
        Ok(())
    }

    /// The end of the body: CRLF if the last line lacks it, then the terminating dot (RFC 5321 §4.1.1.4).
    ///
    /// # Errors
    /// With `Newline::Reject`: `bare-cr` if the body ends in CR.
    pub fn finish(self) -> Result<&'static [u8], Fault> {
        if self.held_cr && self.newline == Newline::Reject {
            return Err(Fault {
                id: FaultId::BareCr,
                offset: self.taken - 1,
            });
        }
        Ok(match self.carry {
            Carry { start: 1, .. } => b".\r\n",
            _ => b"\r\n.\r\n",
        })
    }
}

/// A pass that doubles (`STUFF`) or drops the dots that are first on a line, and normalises or reports bare CR and LF.
struct Encoding<'a, const STUFF: bool> {
    newline: Newline,
    carry: Carry,
    plan: &'a mut Plan,
    /// The first fault and the position at which it was detected.
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
        // A CRLF that results from normalising ends a line too, and the octet after it starts the next one.
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

/// The plan that doubles every dot of `data` at the start of a line (RFC 5321 §4.5.2). The start of `data` is the start
/// of a line; nothing is added at the end; bare CR and LF stay as they are.
#[must_use]
pub fn dot_stuff(data: &[u8]) -> Plan {
    whole::<true>(data)
}

/// The plan that drops every dot of `data` at the start of a line (RFC 5321 §4.5.2). `data` has no terminator: a line
/// of one dot becomes an empty line.
#[must_use]
pub fn dot_unstuff(data: &[u8]) -> Plan {
    whole::<false>(data)
}

fn whole<const STUFF: bool>(data: &[u8]) -> Plan {
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
    visit(Kernel::best(), data, &mut pass);
    plan.len = if STUFF {
        data.len() + plan.edits.len()
    } else {
        data.len() - plan.edits.len()
    };
    plan
}
