"""What `route explain` says of a route by DNS, with a scripted resolver."""

from __future__ import annotations

import asyncio

import pytest

from ironpost.delivery.next_hop import OwnSystem
from ironpost.lookup.static import StaticResolver
from ironpost.model import NULL, Address
from ironpost.policy import Policy
from ironpost.policy.checks import Ports, configured
from ironpost.policy.settings import Measure, Settings
from ironpost.routing.route import Routes
from ironpost.service.clock import SystemClock, SystemRandom
from ironpost.service.explain import Explainer, Explanation, Outcome

RESOLVER = StaticResolver(
    mx={
        "two.example": [(20, "b.two.example"), (10, "a.two.example")],
        "null.example": [(0, "")],
        "ours.example": [(10, "mx.here.example")],
        "half.example": [(10, "a.two.example"), (20, "dead.example")],
    },
    addresses={"a.two.example": ["192.0.2.1"], "b.two.example": ["2001:db8::2"], "plain.example": ["192.0.2.3"]},
    failing=["dead.example"],
)


def explain(recipient: str, client: str = "127.0.0.1") -> Explanation:
    policy = Policy(configured(Settings(reverse_dns=Measure.REJECT), Ports(SystemClock(), RESOLVER)))
    own = OwnSystem(frozenset({"mx.here.example"}))
    explainer = Explainer(policy, Routes(["here.example"]), RESOLVER, SystemRandom(), own, "the mailbox")
    return asyncio.run(explainer.explain(Address.parse(recipient), NULL, client=client))


@pytest.mark.parametrize(
    ("domain", "outcome", "answer", "reasons"),
    [
        (
            "two.example", "accepted", "a.two.example [192.0.2.1], b.two.example [2001:db8::2]",
            "MX 10 a.two.example|MX 20 b.two.example",
        ),
        ("plain.example", "accepted", "plain.example [192.0.2.3]", "plain.example has no MX: it is its own exchanger"),
        (
            "half.example", "accepted", "a.two.example [192.0.2.1]",
            "MX 10 a.two.example|MX 20 dead.example"
            "|behind these: 451 4.4.3 DNS gives no answer for the recipient's domain",
        ),
        ("null.example", "refused", "none: 556 5.1.10", "MX 0 . (no mail is taken)"),
        ("ours.example", "refused", "none: 554 5.4.6", "MX 10 mx.here.example"),
        ("nowhere.example", "refused", "none: 550 5.1.2", "nowhere.example does not exist"),
        ("dead.example", "deferred", "none: 451 4.4.3", "no answer: dead.example: no name server answers"),
        ("[192.0.2.7]", "accepted", "[192.0.2.7]", "an address literal: nothing is looked up"),
    ],
)  # fmt: skip
def test_a_route_by_dns(domain: str, outcome: str, answer: str, reasons: str) -> None:
    found = explain(f"grace@{domain}")
    last = found.steps[-1]
    assert found.outcome is Outcome(outcome)
    assert last.name == "next hop"
    assert last.answer.startswith(answer)
    assert "|".join(last.reasons) == reasons


def test_checks_that_ask_dns_are_awaited() -> None:
    found = explain("jo@here.example", "198.51.100.9")
    assert found.outcome is Outcome.REFUSED
    assert [step.name for step in found.steps] == ["connect"]
    assert found.steps[0].reasons == ("reverse-dns: 198.51.100.9 has no name",)


def test_postmaster_without_a_domain_is_local() -> None:
    assert explain("postmaster").steps[-1].answer == "the mailbox"
