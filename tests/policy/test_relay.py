"""Who may relay: a recipient is accepted for one of five reasons, and refused otherwise (RFC 2505 §2.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.policy.policy_kit import checks, system

from ironpost.model import Address
from ironpost.model.patterns import Addresses, Domains
from ironpost.model.verdict import Action
from ironpost.policy import Facts, Policy, PolicyDecision, PolicyStage, Ports
from ironpost.routing.mail_directory import MailDirectory

if TYPE_CHECKING:
    from collections.abc import Iterable

OUTSIDE = "198.51.100.7"


def decide(
    recipient: str, ip: str = OUTSIDE, ports: Ports = Ports(),  # noqa: B008
    local_domains: Iterable[str] = ("Example.ORG", "[192.0.2.1]"), **values: Any,
) -> PolicyDecision:  # fmt: skip
    policy = Policy(checks(ports, local_domains=local_domains, **values))
    decision = policy.decide(PolicyStage.RECIPIENT, Facts(ip=ip, forward_path=Address.parse(recipient)))
    assert isinstance(decision, PolicyDecision)
    return decision


@pytest.mark.parametrize(
    "recipient", ["jo@example.org", "jo@EXAMPLE.org", "jo@[192.0.2.1]", "postmaster", "Postmaster"]
)
def test_a_local_recipient_is_accepted_from_anybody(recipient: str) -> None:
    decision = decide(recipient)
    assert decision.verdict.action is Action.ACCEPT
    assert len(decision.reasons) == 1


@pytest.mark.parametrize("ip", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_a_trusted_client_may_relay(ip: str) -> None:
    decision = decide("jo@elsewhere.example", ip)
    assert decision.verdict.action is Action.ACCEPT
    assert decision.reasons == (f"relay: {ip} is in a trusted network",)


@pytest.mark.parametrize(
    "recipient",
    [
        "jo@elsewhere.example",
        "jo@sub.example.org",
        "jo@example.org.elsewhere.example",
        '"jo@example.org"@elsewhere.example',
        "jo@[198.51.100.9]",
        "jo@[IPv6:::1]",
    ],
)
@pytest.mark.parametrize(
    "ip", [OUTSIDE, "", "localhost", "128.0.0.1", "2001:db8::1", "::ffff:198.51.100.7", "127.0.0.1.1"]
)
def test_all_others_are_refused_with_550_5_7_1(recipient: str, ip: str) -> None:
    decision = decide(recipient, ip)
    reply = decision.verdict.reply
    assert reply is not None
    assert (reply.code, reply.enhanced) == (550, "5.7.1")
    assert "not local" in decision.reasons[0]


@pytest.mark.parametrize(
    "recipient",
    ["jo%elsewhere.example@example.org", "elsewhere.example!jo@example.org", '"jo@elsewhere.example"@example.org'],
)
def test_a_route_inside_a_local_part_is_a_local_mailbox(recipient: str) -> None:
    decision = decide(recipient)
    assert decision.verdict.action is Action.ACCEPT
    assert decision.reasons == ("relay: example.org is local",)


def test_with_a_list_of_mailboxes_all_others_are_unknown() -> None:
    ports = Ports(directory=MailDirectory(Domains(["example.org"]), listed=Addresses(["Jo@example.org"])))
    assert decide("jo@example.org", ports=ports).verdict.action is Action.ACCEPT
    assert decide("postmaster@example.org", ports=ports).verdict.action is Action.ACCEPT
    refused = decide("flo@example.org", "127.0.0.1", ports).verdict.reply
    assert refused is not None
    assert (refused.code, refused.enhanced) == (550, "5.1.1")


def test_f60_with_a_star_every_recipient_is_local() -> None:
    for recipient in ("jo@a.example", "jo@[192.0.2.1]", "jo@B.EXAMPLE"):
        assert decide(recipient, local_domains=["*"], trusted_networks=[]).verdict.action is Action.ACCEPT
    assert decide("jo@a.example", local_domains=["*"]).reasons == ("relay: a.example is local by *",)


def test_f60_mailboxes_may_be_patterns() -> None:
    domains, recipients = ["a.example", "b.example", "*.c.example"], ["jo@a.example", "*@B.example", "*@*.c.example"]
    ports = Ports(directory=MailDirectory(Domains(domains), listed=Addresses(recipients)))
    for recipient in ("jo@a.example", "any@b.example", "any@x.c.example", "*@b.example"):
        assert decide(recipient, ports=ports).verdict.action is Action.ACCEPT, recipient
    for recipient in ("flo@a.example", "*@a.example", "any@c.example"):
        assert decide(recipient, ports=ports).verdict.refused, recipient


def test_trusted_networks_are_those_of_the_configuration() -> None:
    ours = system(trusted_networks=["192.0.2.0/24", "2001:db8::/32"])
    assert ours.may_relay("192.0.2.200")
    assert ours.may_relay("::ffff:192.0.2.200")
    assert ours.may_relay("2001:db8:5::1")
    assert not ours.may_relay("127.0.0.1")
    assert not ours.may_relay("192.0.3.1")
