"""The pipeline: order, reasons, checks that answer later, and no by default for recipients."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from ironpost.model.verdict import Action, drop, quarantine, reject, tarpit
from ironpost.policy import ACCEPT, NEUTRAL, Decision, Facts, Finding, Policy, Stage

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.model.verdict import Verdict

NO = reject("no")


@dataclass
class Says:
    """A check that says one thing, at once or later."""

    name: str
    finding: Finding
    stage: Stage = Stage.MAIL
    later: bool = False
    asked: int = 0

    def judge(self, facts: Facts) -> Finding | Awaitable[Finding]:
        self.asked += 1
        return self._later() if self.later else self.finding

    async def _later(self) -> Finding:
        return self.finding


def decide(*checks: Says, stage: Stage = Stage.MAIL) -> Decision:
    answer = Policy(checks).decide(stage, Facts())
    if isinstance(answer, Decision):
        assert not any(check.later and check.asked for check in checks)
        return answer

    async def wait() -> Decision:
        return await answer

    return asyncio.run(wait())


@pytest.mark.parametrize(
    "later", [(False, False, False), (True, False, False), (False, True, False), (True, True, True)]
)
def test_the_first_that_is_not_neutral_decides_and_all_reasons_are_kept(later: tuple[bool, ...]) -> None:
    first = Says("one", Finding(NEUTRAL, "looked"), later=later[0])
    second = Says("two", Finding(NO, "bad"), later=later[1])
    third = Says("three", Finding(ACCEPT, "good"), later=later[2])
    assert decide(first, second, third) == Decision(NO, ("one: looked", "two: bad"))
    assert (first.asked, second.asked, third.asked) == (1, 1, 0)


@pytest.mark.parametrize("later", [False, True])
def test_a_check_is_asked_only_at_its_stage(later: bool) -> None:
    check = Says("hello", Finding(NO), Stage.HELLO, later)
    assert decide(check).verdict is ACCEPT
    assert check.asked == 0


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.RECIPIENT])
def test_without_a_decisive_check_a_stage_is_accepted(stage: Stage) -> None:
    assert decide(Says("n", Finding(NEUTRAL, "why"), stage), stage=stage) == Decision(ACCEPT, ("n: why",))
    assert decide(stage=stage) == Decision(ACCEPT, ())


@pytest.mark.parametrize("later", [False, True])
def test_a_recipient_that_nobody_accepts_is_refused(later: bool) -> None:
    decision = decide(Says("n", Finding(NEUTRAL), Stage.RECIPIENT, later), stage=Stage.RECIPIENT)
    assert decision.verdict.reply is not None
    assert decision.verdict.reply.code == 550
    assert decision.reasons == ("no check accepts the recipient",)
    assert decide(stage=Stage.RECIPIENT).verdict.refused


@pytest.mark.parametrize("later", [(False, False), (True, False), (False, True)])
def test_a_quarantine_or_a_delay_colours_what_the_others_decide(later: tuple[bool, bool]) -> None:
    apart = Says("apart", Finding(quarantine("odd"), "looks odd"), later=later[0])
    slow = Says("slow", Finding(tarpit(5), "slow"), later=later[1])
    assert decide(apart, slow).verdict == tarpit(5, quarantine("odd"))
    assert decide(apart, slow, Says("yes", Finding(ACCEPT))).verdict == tarpit(5, quarantine("odd"))
    refused = decide(apart, slow, Says("no", Finding(NO, "bad")), Says("never", Finding(ACCEPT)))
    assert refused == Decision(tarpit(5, NO), ("apart: looks odd", "slow: slow", "no: bad"))
    assert decide(slow, slow, Says("gone", Finding(drop("abuse")))).verdict == tarpit(10, drop("abuse"))


@pytest.mark.parametrize("verdict", [quarantine("odd"), tarpit(5), tarpit(5, quarantine("odd"))])
def test_a_quarantine_or_a_delay_is_never_the_yes_that_a_recipient_needs(verdict: Verdict) -> None:
    decision = decide(Says("n", Finding(verdict), Stage.RECIPIENT), stage=Stage.RECIPIENT)
    assert decision.verdict.refused
    assert decision.verdict.final.reply is not None
    assert decision.verdict.final.reply.code == 550


def test_a_delayed_refusal_decides() -> None:
    never = Says("never", Finding(ACCEPT))
    assert decide(Says("slow", Finding(tarpit(5, NO))), never).verdict == tarpit(5, NO)
    assert never.asked == 0
    assert decide(*(Says("slow", Finding(tarpit(200))),) * 2).verdict.action is Action.TARPIT
