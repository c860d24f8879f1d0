"""Who may send through us: the ways to yes are counted, everything else is refused (RFC 2505 §2.1)."""

from __future__ import annotations

import pytest

from ironpost.model import Address
from ironpost.model.verdict import Action
from ironpost.policy import Decision, Facts, Policy, Stage
from ironpost.policy.checks import configured
from ironpost.policy.settings import Settings

OUTSIDE = "198.51.100.7"


def decide(recipient: str, ip: str = OUTSIDE, settings: Settings | None = None) -> Decision:
    policy = Policy(configured(settings or Settings.of(local_domains=["Example.ORG", "[192.0.2.1]"])))
    decision = policy.decide(Stage.RECIPIENT, Facts(ip=ip, forward_path=Address.parse(recipient)))
    assert isinstance(decision, Decision)
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
def test_everybody_else_is_refused_with_550_5_7_1(recipient: str, ip: str) -> None:
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


def test_with_a_list_of_mailboxes_the_others_are_unknown() -> None:
    settings = Settings.of(local_domains=["example.org"], local_recipients=["Jo@example.org"])
    assert decide("jo@example.org", settings=settings).verdict.action is Action.ACCEPT
    assert decide("postmaster@example.org", settings=settings).verdict.action is Action.ACCEPT
    refused = decide("flo@example.org", "127.0.0.1", settings=settings).verdict.reply
    assert refused is not None
    assert (refused.code, refused.enhanced) == (550, "5.1.1")


def test_f60_with_a_star_every_recipient_is_local() -> None:
    settings = Settings.of(local_domains=["*"], trusted_networks=[])
    for recipient in ("jo@a.example", "jo@[192.0.2.1]", "jo@B.EXAMPLE"):
        assert decide(recipient, settings=settings).verdict.action is Action.ACCEPT
    assert decide("jo@a.example", settings=settings).reasons == ("relay: a.example is local by *",)


def test_f60_mailboxes_may_be_patterns() -> None:
    settings = Settings.of(
        local_domains=["a.example", "b.example", "*.c.example"],
        local_recipients=["jo@a.example", "*@B.example", "*@*.c.example"],
    )
    for recipient in ("jo@a.example", "any@b.example", "any@x.c.example", "*@b.example"):
        assert decide(recipient, settings=settings).verdict.action is Action.ACCEPT, recipient
    for recipient in ("flo@a.example", "*@a.example", "any@c.example"):
        assert decide(recipient, settings=settings).verdict.refused, recipient


def test_trusted_networks_are_what_the_operator_says() -> None:
    settings = Settings.of(trusted_networks=["192.0.2.0/24", "2001:db8::/32"])
    assert settings.trusts("192.0.2.200")
    assert settings.trusts("::ffff:192.0.2.200")
    assert settings.trusts("2001:db8:5::1")
    assert not settings.trusts("127.0.0.1")
    assert not settings.trusts("192.0.3.1")


@pytest.mark.parametrize("network", ["192.0.2.1/24", "everybody", ""])
def test_a_network_that_is_none_is_refused(network: str) -> None:
    with pytest.raises(ValueError, match=network or "''"):
        Settings.of(trusted_networks=[network])
