"""`route explain` over policy, routes and agents, with a scripted resolver."""

from __future__ import annotations

import asyncio

import pytest
from tests.policy.policy_kit import checks

from ironpost.delivery.agents import AgentContext, create_agents
from ironpost.delivery.maildir import MaildirOptions
from ironpost.delivery.own_system import OwnSystem
from ironpost.delivery.path_template import PathTemplate
from ironpost.model import NULL, Address
from ironpost.operations.explain import Explainer, Explanation, RouteOutcome
from ironpost.policy import Policy, Ports
from ironpost.policy.options import Enforcement
from ironpost.processes.clock import SystemClock, SystemRandom
from ironpost.routing.route import Route, Routes, Rule
from ironpost.testing.directory import local
from ironpost.testing.resolver import StaticResolver

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
    policy = Policy(checks(Ports(SystemClock(), RESOLVER), reverse_dns=Enforcement.REJECT))
    agents = create_agents(
        AgentContext(
            clock=SystemClock(),
            random=SystemRandom(),
            resolver=RESOLVER,
            name="mx.here.example",
            own=OwnSystem(frozenset({"mx.here.example"})),
        )
    )
    into = Route.local(options=MaildirOptions(PathTemplate("mail")))
    rules = [Rule(("customer.example",), Route.on_demand())]
    explainer = Explainer(policy, Routes(local(["here.example"]), rules, local=into), lambda route: agents[route.kind])
    return asyncio.run(explainer.explain(Address.parse(recipient), NULL, client=client))


@pytest.mark.parametrize(
    ("domain", "fate", "answer", "reasons"),
    [
        (
            "two.example", "delivered", "a.two.example [192.0.2.1], b.two.example [2001:db8::2]",
            "MX 10 a.two.example|MX 20 b.two.example",
        ),
        (
            "plain.example", "delivered", "plain.example [192.0.2.3]",
            "plain.example has no MX record: it is its own exchanger",
        ),
        (
            "half.example", "delivered", "a.two.example [192.0.2.1]",
            "MX 10 a.two.example|MX 20 dead.example"
            "|after these: 451 4.4.3 DNS lookup failed for the recipient's domain",
        ),
        ("null.example", "failing", "none: 556 5.1.10", "MX 0 . (null MX: accepts no mail)"),
        ("ours.example", "failing", "none: 554 5.4.6", "MX 10 mx.here.example"),
        ("nowhere.example", "failing", "none: 550 5.1.2", "nowhere.example does not exist"),
        ("dead.example", "deferred", "none: 451 4.4.3", "DNS lookup failed: dead.example MX: no name server answers"),
        ("[192.0.2.7]", "delivered", "[192.0.2.7]", "an address literal: no DNS lookup"),
    ],
)  # fmt: skip
def test_a_route_by_dns(domain: str, fate: str, answer: str, reasons: str) -> None:
    found = explain(f"grace@{domain}")
    last = found.steps[-1]
    assert found.outcome is RouteOutcome.ACCEPTED
    assert (found.targets, found.failing, found.deferred) == (1, fate == "failing", fate == "deferred")
    assert last.name == "next hop"
    assert last.answer.startswith(answer)
    assert "TLS may: no policy requires TLS" in last.reasons
    assert "|".join(each for each in last.reasons if not each.startswith("TLS ")) == reasons


def test_checks_that_ask_dns_are_awaited() -> None:
    found = explain("jo@here.example", "198.51.100.9")
    assert found.outcome is RouteOutcome.REFUSED
    assert [step.name for step in found.steps] == ["connect"]
    assert found.steps[0].reasons == ("reverse-dns: 198.51.100.9 has no reverse DNS name",)


def test_postmaster_without_a_domain_is_local() -> None:
    assert explain("postmaster").steps[-1].answer == "Maildir mail"


def test_mail_on_demand_waits_and_asks_no_dns() -> None:
    found = explain("jo@customer.example")
    assert found.outcome is RouteOutcome.ACCEPTED
    assert found.steps[-1].answer == "waits in the queue until the customer fetches it (ATRN)"
