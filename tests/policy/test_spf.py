"""The check of SPF: what each result leads to, and what it writes into the message."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.policy import policy_kit

from ironpost.mail_auth import SpfAnswer, SpfResult
from ironpost.model import Address
from ironpost.model.patterns import AddressPattern
from ironpost.model.verdict import Action
from ironpost.policy import Facts, Policy, PolicyDecision, PolicyStage, Ports
from ironpost.policy.authentication import SECONDS
from ironpost.policy.checks.senders import SenderRule
from ironpost.policy.options import Enforcement
from ironpost.processes.clock import SystemClock
from ironpost.protocol.server.transaction import Identity
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from ironpost.model.dns import Records, RecordType

STRANGER = "198.51.100.7"
RECORDS = {
    "pass.example": b"v=spf1 ip4:198.51.100.7 -all",
    "fail.example": b"v=spf1 -all",
    "why.example": b"v=spf1 -all exp=text.example",
    "text.example": b"%{i} is not ours",
    "soft.example": b"v=spf1 ~all",
    "neutral.example": b"v=spf1 ?all",
    "bad.example": b"v=spf1 oops",
    "slow.example": b"v=spf1 a:a.slow.example a:b.slow.example -all",
}
RESOLVER = StaticResolver(
    txt={name: [text] for name, text in RECORDS.items()},
    addresses={"a.slow.example": ["192.0.2.1"], "b.slow.example": [STRANGER]},
    failing=["dead.example"],
)
MEASURES = [measure for measure in Enforcement if measure is not Enforcement.OFF]


class Clock(SystemClock):
    """A clock that each query moves on."""

    passed = 0.0

    def monotonic(self) -> float:
        return self.passed


class SlowResolver(StaticResolver):
    """Takes some seconds for each query."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__(
            txt={"slow.example": [RECORDS["slow.example"]]},
            addresses={"a.slow.example": ["192.0.2.1"], "b.slow.example": [STRANGER]},
        )
        self._clock = clock
        self._seconds = seconds

    async def resolve(self, name: str, kind: RecordType, /) -> Records[Any]:
        self._clock.passed += self._seconds
        return await super().resolve(name, kind)


def facts(sender: str, **values: Any) -> Facts:
    return Facts(**{"ip": STRANGER, "helo": "pass.example", "reverse_path": Address.parse(sender), **values})


def decide(
    found: Facts,
    measure: Enforcement = Enforcement.REJECT,
    ports: Ports = Ports(SystemClock(), RESOLVER),  # noqa: B008
) -> PolicyDecision:
    policy = Policy(policy_kit.checks(ports, name="us.example", spf=measure))

    async def wait() -> PolicyDecision:
        decision = policy.decide(PolicyStage.MAIL, found)
        return decision if isinstance(decision, PolicyDecision) else await decision

    return asyncio.run(wait())


def strip(found: Facts) -> frozenset[str]:
    ports = Ports(SystemClock(), RESOLVER)
    rule = SenderRule((AddressPattern("pass.example"),), "accept")
    return Policy(policy_kit.checks(ports, spf=Enforcement.RECORD, sender=(rule,))).strip(found)


@pytest.mark.parametrize(
    ("domain", "result"),
    [
        ("pass.example", SpfResult.PASS),
        ("soft.example", SpfResult.SOFTFAIL),
        ("neutral.example", SpfResult.NEUTRAL),
        ("bad.example", SpfResult.PERMERROR),
        ("none.example", SpfResult.NONE),
    ],
)
def test_other_results_than_fail_are_recorded(domain: str, result: SpfResult) -> None:
    found = facts(f"jo@{domain}")
    decision = decide(found)
    assert (decision.verdict.action, decision.noted) == (Action.ACCEPT, False)
    answer = found.result(SpfAnswer)
    assert answer is not None
    assert answer.result is result
    assert decision.reasons == (f"spf: {result}: {answer.reason}",)
    (written,) = decision.authentication
    assert (written.method, written.result, written.reason) == ("spf", result, answer.reason)
    assert written.properties == (("smtp.mailfrom", domain),)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_fail_has_the_consequence_of_the_option(measure: Enforcement) -> None:
    decision = decide(facts("jo@fail.example"), measure)
    expected = {
        Enforcement.QUARANTINE: Action.QUARANTINE, Enforcement.DEFER: Action.DEFER, Enforcement.REJECT: Action.REJECT,
    }  # fmt: skip
    assert decision.verdict.final.action is expected.get(measure, Action.ACCEPT)
    assert (decision.verdict.action is Action.TARPIT) == (measure is Enforcement.TARPIT)
    assert decision.noted


def test_the_reply_has_the_explanation_of_the_domain() -> None:
    reply = decide(facts("jo@why.example")).verdict.reply
    assert str(reply) == (
        "550 5.7.23 Sender address rejected: SPF of why.example does not allow this client. "
        f"The domain explains: {STRANGER} is not ours"
    )


@pytest.mark.parametrize("measure", MEASURES)
def test_r27_a_failed_lookup_of_spf_never_rejects(measure: Enforcement) -> None:
    decision = decide(facts("jo@dead.example"), measure)
    refuses = measure in {Enforcement.DEFER, Enforcement.REJECT}
    assert decision.verdict.action is (Action.DEFER if refuses else Action.ACCEPT)
    assert decision.noted


@pytest.mark.parametrize(("seconds", "action"), [(SECONDS / 4, Action.ACCEPT), (SECONDS, Action.DEFER)])
def test_r23_no_query_is_sent_after_some_time(seconds: float, action: Action) -> None:
    clock = Clock()
    decision = decide(facts("jo@slow.example"), ports=Ports(clock, SlowResolver(clock, seconds)))
    assert decision.verdict.action is action
    assert clock.passed <= 3 * SECONDS


def test_a_null_reverse_path_is_checked_by_helo() -> None:
    decision = decide(facts("", helo="fail.example"))
    assert decision.verdict.action is Action.REJECT
    assert decision.authentication[0].properties == (("smtp.helo", "fail.example"),)


def test_r48_received_results_are_removed() -> None:
    assert strip(facts("jo@pass.example")) == {"authentication-results"}
    assert strip(facts("jo@pass.example", ip="127.0.0.1")) == frozenset()


@pytest.mark.parametrize(
    "values",
    [{"ip": "127.0.0.1"}, {"ip": ""}, {"listener": "lmtp"}, {"identity": Identity("jo@fail.example", "PLAIN")}],
)
def test_trusted_clients_are_not_checked(values: dict[str, Any]) -> None:
    decision = decide(facts("jo@fail.example", **values))
    assert (decision.verdict.action, decision.reasons, decision.authentication) == (Action.ACCEPT, (), ())


@pytest.mark.parametrize("ports", [Ports(), Ports(SystemClock()), Ports(None, RESOLVER)])
def test_without_resolver_and_clock_nothing_is_checked(ports: Ports) -> None:
    assert decide(facts("jo@fail.example"), ports=ports).verdict.action is Action.ACCEPT
