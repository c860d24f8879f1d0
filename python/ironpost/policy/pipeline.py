"""The pipeline: the checks of a stage in order, the first that accepts or refuses decides.

Promises: a stage without a decisive check is accepted, except RECIPIENT, which is refused (RFC 5321 §3.6.1: a server
need not relay). A decision costs no turn of the event loop unless a check awaits something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from ironpost.policy.verdict import ACCEPT, Action, Decision, Finding, Stage, Verdict
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
        if not checks:
            return _undecided(stage, ())
        reasons: tuple[str, ...] = ()
        for at, check in enumerate(checks):
            opinion = check.judge(facts)
            if not isinstance(opinion, Finding):
                return self._decide_later(checks, at, opinion, facts, reasons)
            if opinion.reason:
                reasons = (*reasons, f"{check.name}: {opinion.reason}")
            if opinion.verdict.action is not Action.NEUTRAL:
                return Decision(opinion.verdict, reasons)
        return _undecided(stage, reasons)

    async def _decide_later(
        self, checks: tuple[Check, ...], at: int, opinion: Opinion, facts: Facts, reasons: tuple[str, ...]
    ) -> Decision:
        for check in checks[at:]:
            if check is not checks[at]:
                opinion = check.judge(facts)
            finding = opinion if isinstance(opinion, Finding) else await opinion
            if finding.reason:
                reasons = (*reasons, f"{check.name}: {finding.reason}")
            if finding.verdict.action is not Action.NEUTRAL:
                return Decision(finding.verdict, reasons)
        return _undecided(checks[at].stage, reasons)


def _undecided(stage: Stage, reasons: tuple[str, ...]) -> Decision:
    if stage is Stage.RECIPIENT:
        return Decision(Verdict.refuse(replies.RELAY_DENIED), (*reasons, "no check accepts the recipient"))
    return Decision(ACCEPT, reasons) if reasons else _NOTHING_AGAINST
