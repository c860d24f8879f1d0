"""The pipeline: order, reasons, checks that answer later, and no by default for recipients."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from ironpost.model import Reply
from ironpost.policy import ACCEPT, NEUTRAL, Action, Decision, Facts, Finding, Policy, Stage, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable

NO = Verdict.refuse(Reply(550, "5.7.1", ("no",)))


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
    assert decide(first, second, third) == (NO, ("one: looked", "two: bad"))
    assert (first.asked, second.asked, third.asked) == (1, 1, 0)


@pytest.mark.parametrize("later", [False, True])
def test_a_check_is_asked_only_at_its_stage(later: bool) -> None:
    check = Says("hello", Finding(NO), Stage.HELLO, later)
    assert decide(check).verdict is ACCEPT
    assert check.asked == 0


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.RECIPIENT])
def test_without_a_decisive_check_a_stage_is_accepted(stage: Stage) -> None:
    assert decide(Says("n", Finding(NEUTRAL, "why"), stage), stage=stage) == (ACCEPT, ("n: why",))
    assert decide(stage=stage) == (ACCEPT, ())


@pytest.mark.parametrize("later", [False, True])
def test_a_recipient_that_nobody_accepts_is_refused(later: bool) -> None:
    decision = decide(Says("n", Finding(NEUTRAL), Stage.RECIPIENT, later), stage=Stage.RECIPIENT)
    assert decision.verdict.reply is not None
    assert decision.verdict.reply.code == 550
    assert decision.reasons == ("no check accepts the recipient",)
    assert decide(stage=Stage.RECIPIENT).verdict.refused


def test_a_refusal_has_a_reply_that_refuses() -> None:
    with pytest.raises(ValueError, match="250"):
        Verdict.refuse(Reply(250, "2.0.0", ("yes",)))
    with pytest.raises(ValueError, match="needs a reply"):
        Verdict(Action.REFUSE)
    with pytest.raises(ValueError, match="nothing else has one"):
        Verdict(Action.ACCEPT, Reply(550, "5.0.0", ("no",)))
