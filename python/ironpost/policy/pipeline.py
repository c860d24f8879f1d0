"""The pipeline: the checks of a stage in order, the first that accepts or refuses decides.

Promises: a stage without a decisive check is accepted, except RECIPIENT, which is refused (RFC 5321 §3.6.1: a server
need not relay). A check that quarantines or delays does not decide: it colours what the others decide, so that neither
ever stands for the yes that a recipient needs. A decision costs no turn of the event loop unless a check awaits
something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from ironpost.model.verdict import LONGEST, Action, Verdict, quarantine, tarpit
from ironpost.policy.verdict import ACCEPT, Decision, Finding, Stage
from ironpost.protocol import replies

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from ironpost.policy.verdict import Check, Facts, Opinion

Answer: TypeAlias = "Decision | Awaitable[Decision]"

_NOTHING_AGAINST: Final = Decision(ACCEPT, ())


class Policy:
    """Checks, sorted by stage, asked in the order given."""

    __slots__ = ("_checks",)

    def __init__(self, checks: Iterable[Check]) -> None:
        listed = tuple(checks)
        self._checks: dict[Stage, tuple[Check, ...]] = {
            stage: tuple(check for check in listed if check.stage is stage) for stage in Stage
        }

    def decide(self, stage: Stage, facts: Facts) -> Answer:
        """The decision for a stage: at once, or an awaitable if a check returned one."""
        checks = self._checks[stage]
        if not checks and stage is not Stage.RECIPIENT:
            return _NOTHING_AGAINST
        tally = _Tally(stage)
        for at, check in enumerate(checks):
            opinion = check.judge(facts)
            if not isinstance(opinion, Finding):
                return self._decide_later(checks, at, opinion, facts, tally)
            if tally.takes(check, opinion):
                return tally.decision(opinion.verdict)
        return tally.decision(None)

    async def _decide_later(
        self, checks: tuple[Check, ...], at: int, opinion: Opinion, facts: Facts, tally: _Tally
    ) -> Decision:
        while True:
            finding = opinion if isinstance(opinion, Finding) else await opinion
            if tally.takes(checks[at], finding):
                return tally.decision(finding.verdict)
            at += 1
            if at == len(checks):
                return tally.decision(None)
            opinion = checks[at].judge(facts)


class _Tally:
    """What the checks of one stage have said so far."""

    __slots__ = ("_apart", "_noted", "_reasons", "_seconds", "_stage")

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._reasons: tuple[str, ...] = ()
        self._seconds = 0.0
        self._noted = False
        self._apart = ""
        """Why the message is to be kept apart."""

    def takes(self, check: Check, finding: Finding) -> bool:
        """Notes a finding; whether it decides."""
        if finding.reason:
            self._reasons = (*self._reasons, f"{check.name}: {finding.reason}")
            self._noted = self._noted or finding.noted
        verdict = finding.verdict
        if verdict is None:
            return False
        if verdict.then is not None:
            self._seconds += verdict.seconds
            verdict = verdict.then
            if verdict.action is Action.ACCEPT:
                return False
        if verdict.action is Action.QUARANTINE:
            self._apart = f"{self._apart}; {verdict.reason}" if self._apart else verdict.reason
            return False
        return True

    def decision(self, verdict: Verdict | None) -> Decision:
        """The decision, with the verdict that decided, if one did."""
        reasons = self._reasons
        if verdict is None:
            if self._stage is Stage.RECIPIENT:
                verdict, reasons = _NOBODY, (*reasons, "no check accepts the recipient")
            elif not reasons and not self._seconds and not self._apart:
                return _NOTHING_AGAINST
            else:
                verdict = ACCEPT
        verdict = verdict.final
        if self._apart and verdict.action is Action.ACCEPT:
            verdict = quarantine(self._apart)
        if self._seconds:
            verdict = tarpit(min(self._seconds, LONGEST), verdict)
        return Decision(verdict, reasons, self._noted)


_NOBODY: Final = Verdict.refuse(replies.RELAY_DENIED)
