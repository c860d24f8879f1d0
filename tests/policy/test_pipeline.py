"""The pipeline: order, reasons, asynchronous checks, and recipients, which are refused by default."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from tests.policy.policy_kit import check_at

from ironpost.message.header import HeaderError
from ironpost.message.section import Header
from ironpost.model.verdict import Action, drop, quarantine, reject, tarpit
from ironpost.policy import ACCEPT, NEUTRAL, Check, Context, Facts, Finding, Policy, PolicyDecision, PolicyStage
from ironpost.policy.check import NoOptions, Scanner

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.model.verdict import Verdict

NO = reject("no")


@dataclass
class Says:
    """A check with one finding, at once or later."""

    name: str
    finding: Finding
    stage: PolicyStage = PolicyStage.MAIL
    later: bool = False
    asked: int = 0

    @property
    def check(self) -> Check:
        return check_at(self.stage, self.judge, self.name)

    def judge(self, facts: Facts) -> Finding | Awaitable[Finding]:
        self.asked += 1
        return self._later() if self.later else self.finding

    async def _later(self) -> Finding:
        return self.finding


def decide(*checks: Says, stage: PolicyStage = PolicyStage.MAIL) -> PolicyDecision:
    answer = Policy(each.check for each in checks).decide(stage, Facts())
    if isinstance(answer, PolicyDecision):
        assert not any(check.later and check.asked for check in checks)
        return answer

    async def wait() -> PolicyDecision:
        return await answer

    return asyncio.run(wait())


@pytest.mark.parametrize(
    "later", [(False, False, False), (True, False, False), (False, True, False), (True, True, True)]
)
def test_the_first_that_is_not_neutral_decides_and_all_reasons_are_kept(later: tuple[bool, ...]) -> None:
    first = Says("one", Finding(NEUTRAL, "looked"), later=later[0])
    second = Says("two", Finding(NO, "bad"), later=later[1])
    third = Says("three", Finding(ACCEPT, "good"), later=later[2])
    assert decide(first, second, third) == PolicyDecision(NO, ("one: looked", "two: bad"))
    assert (first.asked, second.asked, third.asked) == (1, 1, 0)


@pytest.mark.parametrize("later", [False, True])
def test_a_check_runs_only_at_its_stage(later: bool) -> None:
    check = Says("hello", Finding(NO), PolicyStage.HELLO, later)
    assert decide(check).verdict is ACCEPT
    assert check.asked == 0


@pytest.mark.parametrize("stage", [stage for stage in PolicyStage if stage is not PolicyStage.RECIPIENT])
def test_without_a_decisive_check_a_stage_is_accepted(stage: PolicyStage) -> None:
    assert decide(Says("n", Finding(NEUTRAL, "why"), stage), stage=stage) == PolicyDecision(ACCEPT, ("n: why",))
    assert decide(stage=stage) == PolicyDecision(ACCEPT, ())


@pytest.mark.parametrize("later", [False, True])
def test_a_recipient_that_no_check_accepts_is_refused(later: bool) -> None:
    decision = decide(Says("n", Finding(NEUTRAL), PolicyStage.RECIPIENT, later), stage=PolicyStage.RECIPIENT)
    assert decision.verdict.reply is not None
    assert decision.verdict.reply.code == 550
    assert decision.reasons == ("no check accepts the recipient",)
    assert decide(stage=PolicyStage.RECIPIENT).verdict.refused


@pytest.mark.parametrize("later", [(False, False), (True, False), (False, True)])
def test_a_quarantine_or_a_delay_modifies_the_decision_of_the_others(later: tuple[bool, bool]) -> None:
    apart = Says("apart", Finding(quarantine("odd"), "looks odd"), later=later[0])
    slow = Says("slow", Finding(tarpit(5), "slow"), later=later[1])
    assert decide(apart, slow).verdict == tarpit(5, quarantine("odd"))
    assert decide(apart, slow, Says("yes", Finding(ACCEPT))).verdict == tarpit(5, quarantine("odd"))
    refused = decide(apart, slow, Says("no", Finding(NO, "bad")), Says("never", Finding(ACCEPT)))
    assert refused == PolicyDecision(tarpit(5, NO), ("apart: looks odd", "slow: slow", "no: bad"))
    assert decide(slow, slow, Says("gone", Finding(drop("abuse")))).verdict == tarpit(10, drop("abuse"))


@pytest.mark.parametrize("verdict", [quarantine("odd"), tarpit(5), tarpit(5, quarantine("odd"))])
def test_a_quarantine_or_a_delay_does_not_accept_a_recipient(verdict: Verdict) -> None:
    decision = decide(Says("n", Finding(verdict), PolicyStage.RECIPIENT), stage=PolicyStage.RECIPIENT)
    assert decision.verdict.refused
    assert decision.verdict.final.reply is not None
    assert decision.verdict.final.reply.code == 550


def test_a_delayed_refusal_decides() -> None:
    never = Says("never", Finding(ACCEPT))
    assert decide(Says("slow", Finding(tarpit(5, NO))), never).verdict == tarpit(5, NO)
    assert never.asked == 0
    assert decide(*(Says("slow", Finding(tarpit(200))),) * 2).verdict.action is Action.TARPIT


# ---------------------------------------------------------------------------------------------------------------------
# Header fields


@pytest.mark.parametrize("later", [False, True])
def test_a_decision_has_the_header_fields_of_all_findings(later: bool) -> None:
    one = Says("one", Finding(fields=(b"A: b\r\n",)), later=later)
    two = Says("two", Finding(quarantine("odd"), fields=(b"C: d\r\n e\r\n", b"F: g\r\n")))
    decision = decide(one, two)
    assert decision.fields == (b"A: b\r\n", b"C: d\r\n e\r\n", b"F: g\r\n")
    assert decide(one).verdict is ACCEPT


@pytest.mark.parametrize("stage", list(PolicyStage))
def test_header_fields_are_added_at_the_stages_of_a_message_only(stage: PolicyStage) -> None:
    accept = Says("accept", Finding(ACCEPT), stage)
    adds = Says("adds", Finding(fields=(b"A: b\r\n",)), stage)
    if stage in {PolicyStage.MAIL, PolicyStage.CONTENT}:
        assert decide(adds, accept, stage=stage).fields == (b"A: b\r\n",)
    else:
        with pytest.raises(ValueError, match=f"adds: a finding for {stage.value} cannot"):
            decide(adds, accept, stage=stage)


class Strips(Check):
    """Removes fields of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(NoOptions(), Context())
        self._name = name

    def strip(self, facts: Facts) -> frozenset[str]:
        return frozenset({self._name})


def test_fields_that_any_check_removes_are_removed_whatever_is_decided() -> None:
    accepts = check_at(PolicyStage.MAIL, lambda facts: Finding(ACCEPT), "accepts")
    assert Policy([accepts, Strips("a"), Strips("b"), Strips("a")]).strip(Facts()) == {"a", "b"}
    assert Policy([accepts]).strip(Facts()) == frozenset()


class Serves(Check):
    """Has one service."""

    def __init__(self, name: str) -> None:
        super().__init__(NoOptions(), Context())
        self._name = name

    def services(self, facts: Facts) -> frozenset[str]:
        return frozenset({self._name})


def test_the_services_of_all_checks_are_those_of_the_system() -> None:
    assert Policy([Serves("a.example"), Strips("x"), Serves("b.example")]).services(Facts()) == {
        "a.example",
        "b.example",
    }
    assert Policy([Strips("x")]).services(Facts()) == frozenset()


NOT_ONE_FIELD = (
    b"", b"A: b", b"A: b\r\nC: d\r\n", b"A: b\n", b"A: b\r\n\r\n", b"A: b\rC: d\r\n", b"A b\r\n", b" A: b\r\n",
    b"A: \0\r\n",
)  # fmt: skip


@pytest.mark.parametrize("octets", NOT_ONE_FIELD)
def test_r43_what_is_not_one_field_is_never_added(octets: bytes) -> None:
    with pytest.raises(HeaderError):
        decide(Says("adds", Finding(fields=(octets,))))


# ---------------------------------------------------------------------------------------------------------------------
# Scanners


class Scans(Check):
    """Scans, and judges content as well."""

    name = "scans"

    def scanner(self, facts: Facts) -> Scanner | None:
        return Counts() if facts.size else None

    def content(self, facts: Facts) -> Finding:
        return Finding(NEUTRAL, "judged")


class Counts(Scanner):
    def __init__(self) -> None:
        self.octets = 0

    def body(self, piece: bytes) -> None:
        self.octets += len(piece)

    def finish(self, facts: Facts) -> Finding:
        return Finding(NEUTRAL, f"{self.octets} octets")


def test_a_scanner_judges_in_the_place_of_its_check() -> None:
    first, last = (Says(name, Finding(NEUTRAL, "looked"), PolicyStage.CONTENT) for name in ("first", "last"))
    policy = Policy([first.check, Scans(NoOptions(), Context()), last.check])
    facts = Facts(size=1)
    scan = policy.scan(facts)
    assert scan is not None
    scan.header(Header(b"A: b\r\n\r\n"))
    scan.body(b"abc")
    decision = policy.decide(PolicyStage.CONTENT, facts, scan)
    assert isinstance(decision, PolicyDecision)
    assert decision.reasons == ("first: looked", "scans: 3 octets", "scans: judged", "last: looked")


def test_a_message_that_no_check_reads_is_not_scanned() -> None:
    looks = Says("looks", Finding(NEUTRAL, "looked"), PolicyStage.CONTENT)
    assert Policy([looks.check]).scan(Facts(size=1)) is None
    policy = Policy([looks.check, Scans(NoOptions(), Context())])
    assert policy.scan(Facts()) is None
    decision = policy.decide(PolicyStage.CONTENT, Facts(), None)
    assert isinstance(decision, PolicyDecision)
    assert decision.reasons == ("looks: looked", "scans: judged")
