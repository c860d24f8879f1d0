"""Each check alone: what it objects to, and what it leaves to others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.policy import policy_kit

from ironpost.model import NULL, Address
from ironpost.model.network import parse_networks
from ironpost.model.patterns import AddressPattern
from ironpost.model.verdict import Action, Verdict, drop, reject, tarpit
from ironpost.policy import Check, Facts, Policy, PolicyDecision, PolicyStage, Ports
from ironpost.policy.buckets import Buckets
from ironpost.policy.checks.access import AccessRule
from ironpost.policy.checks.reverse_dns import ConfirmedName
from ironpost.policy.checks.senders import SenderRule
from ironpost.policy.options import Enforcement, Quota, rule_verdict
from ironpost.processes.clock import SystemClock
from ironpost.protocol.server.transaction import Identity
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Awaitable

STRANGER, FRIEND = "198.51.100.7", "127.0.0.1"
JO = Identity("jo", "PLAIN")
MEASURES = [measure for measure in Enforcement if measure is not Enforcement.OFF]


class Clock(SystemClock):
    """A clock that stands still until a test moves it."""

    passed = 1000.0

    def monotonic(self) -> float:
        return self.passed


RESOLVER = StaticResolver(
    mx={"null.example": [(0, ".")], "mail.example": [(10, "mx.example")]},
    addresses={
        "good.example": [STRANGER],
        "other.example": ["198.51.100.8"],
        "six.example": ["2001:db8::7"],
        "plain.example": ["192.0.2.1"],
    },
    names={
        STRANGER: ["other.example", "Good.example."],
        "198.51.100.9": ["other.example"],
        "2001:db8::7": ["six.example"],
        "198.51.100.10": ["dead.example"],
    },
    failing=["dead.example", "198.51.100.11"],
)


def checks(ports: Ports = Ports(), **values: Any) -> list[Check]:  # noqa: B008
    return policy_kit.checks(ports, local_domains=["here.example"], own_names=frozenset({"mx.here.example"}), **values)


def decide(stage: PolicyStage, facts: Facts, ports: Ports = Ports(Clock(), RESOLVER), **values: Any) -> PolicyDecision:  # noqa: B008
    decision: PolicyDecision | Awaitable[PolicyDecision] = Policy(checks(ports, **values)).decide(stage, facts)
    if isinstance(decision, PolicyDecision):
        return decision

    async def wait() -> PolicyDecision:
        return await decision

    return asyncio.run(wait())


def action(stage: PolicyStage, facts: Facts, **values: Any) -> Action:
    return decide(stage, facts, **values).verdict.final.action


def expected(measure: Enforcement) -> Action:
    """What a measure makes of a finding; a tarpit is asked about apart."""
    return Action(measure.value) if measure.value in {"quarantine", "defer", "reject"} else Action.ACCEPT


def shown(decision: PolicyDecision) -> str:
    return str(decision.verdict.final.reply)


# ---------------------------------------------------------------------------------------------------------------------
# Client address


@pytest.mark.parametrize(
    ("ip", "verdict", "reason"),
    [
        ("192.0.2.1", Action.ACCEPT, "access: rule 1: 192.0.2.1 is in 192.0.2.1/32"),
        ("::ffff:192.0.2.1", Action.ACCEPT, "access: rule 1: ::ffff:192.0.2.1 is in 192.0.2.1/32"),
        ("192.0.2.2", Action.REJECT, "access: rule 2: 192.0.2.2 is in 192.0.2.0/24"),
        ("2001:db8::5", Action.TARPIT, "access: rule 3: 2001:db8::5 is in 2001:db8::/32"),
        ("198.51.100.1", Action.DROP, "access: rule 4: 198.51.100.1 is in 0.0.0.0/0"),
        ("2001:db9::5", Action.ACCEPT, ""),
        ("", Action.ACCEPT, ""),
    ],
)
def test_the_first_access_rule_that_matches_decides(ip: str, verdict: Action, reason: str) -> None:
    rules = [
        (["192.0.2.1/32"], "accept"), (["192.0.2.0/24"], "reject"),
        (["203.0.113.0/24", "2001:db8::/32"], "tarpit"), (["0.0.0.0/0"], "drop"),
    ]  # fmt: skip
    access = tuple(
        AccessRule(parse_networks(networks), do)  # type: ignore[arg-type]
        for networks, do in rules
    )
    decision = decide(PolicyStage.CONNECT, Facts(ip=ip), access=access)
    assert decision.verdict.action is verdict
    assert decision.reasons == ((reason,) if reason else ())


@pytest.mark.parametrize(
    ("do", "text", "verdict"),
    [
        ("reject", "", reject("Access denied")),
        ("reject", "Go away", reject("Go away")),
        ("drop", "abuse", drop("abuse")),
        ("tarpit", "", tarpit(5)),
    ],
)
def test_the_verdict_of_a_rule(do: Any, text: str, verdict: Verdict) -> None:
    assert rule_verdict(do, text, 5.0) == verdict


@pytest.mark.parametrize("measure", MEASURES)
def test_an_untrusted_client_without_forward_confirmed_reverse_dns(measure: Enforcement) -> None:
    for ip in ("198.51.100.9", "198.51.100.200"):
        decision = decide(PolicyStage.CONNECT, Facts(ip=ip), reverse_dns=measure)
        assert decision.verdict.final.action is expected(measure)
        assert bool(decision.verdict.seconds) == (measure is Enforcement.TARPIT)
        assert decision.noted
    named = {STRANGER: "good.example", "::ffff:" + STRANGER: "good.example", "2001:db8::7": "six.example"}
    for ip, name in named.items():
        facts = Facts(ip=ip)
        assert decide(PolicyStage.CONNECT, facts, reverse_dns=measure).verdict.action is Action.ACCEPT
        assert facts.result(ConfirmedName) == ConfirmedName(name)
    for facts in (Facts(ip=FRIEND), Facts(), Facts(ip="198.51.100.9", name="told.example")):
        assert decide(PolicyStage.CONNECT, facts, reverse_dns=measure) == PolicyDecision(
            decide(PolicyStage.CONNECT, facts).verdict, ()
        )


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("ip", ["198.51.100.10", "198.51.100.11"])
def test_r27_a_failed_reverse_lookup_never_rejects(measure: Enforcement, ip: str) -> None:
    decision = decide(PolicyStage.CONNECT, Facts(ip=ip), reverse_dns=measure)
    refuses = measure in {Enforcement.DEFER, Enforcement.REJECT}
    assert decision.verdict.action is (Action.DEFER if refuses else Action.ACCEPT)
    assert "no name server answers" in decision.reasons[0]


# ---------------------------------------------------------------------------------------------------------------------
# EHLO name


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("name", ["mx.here.example", "MX.Here.example", "[192.0.2.25]", "[IPv6:2001:db8::25]"])
def test_an_untrusted_client_that_uses_our_name(measure: Enforcement, name: str) -> None:
    local_ip = "2001:db8::25" if "IPv6" in name else "192.0.2.25"
    decision = decide(PolicyStage.HELLO, Facts(ip=STRANGER, helo=name, local_ip=local_ip), helo_own_name=measure)
    assert decision.verdict.final.action is expected(measure)
    assert decision.noted
    assert (
        action(PolicyStage.HELLO, Facts(ip=FRIEND, helo=name, local_ip=local_ip), helo_own_name=measure)
        is Action.ACCEPT
    )


def test_by_default_only_the_use_of_our_name_is_recorded() -> None:
    assert decide(PolicyStage.HELLO, Facts(ip=STRANGER, helo="mx.here.example")).noted
    for name in ("localhost", "[192.0.2.1]", "nothere.example"):
        assert decide(PolicyStage.HELLO, Facts(ip=STRANGER, helo=name)).reasons == ()


def test_a_bare_name() -> None:
    for name, verdict in {"desktop": Action.REJECT, "desktop.": Action.REJECT, "a.example": Action.ACCEPT}.items():
        facts = Facts(ip=STRANGER, helo=name)
        assert action(PolicyStage.HELLO, facts, helo_bare_name=Enforcement.REJECT) is verdict
    literal = Facts(ip=STRANGER, helo="[198.51.100.7]")
    assert action(PolicyStage.HELLO, literal, helo_bare_name=Enforcement.REJECT) is Action.ACCEPT


def test_a_literal_that_is_not_the_clients_is_never_refused() -> None:
    for name, verdict in {
        "[192.0.2.1]": Action.QUARANTINE, "[198.51.100.7]": Action.ACCEPT, "[IPv6:::ffff:198.51.100.7]": Action.ACCEPT,
        "[x-tag:y]": Action.QUARANTINE,
    }.items():  # fmt: skip
        facts = Facts(ip=STRANGER, helo=name)
        assert action(PolicyStage.HELLO, facts, helo_literal=Enforcement.QUARANTINE) is verdict
    for measure in (Enforcement.DEFER, Enforcement.REJECT):
        with pytest.raises(ValueError, match="address literal"):
            checks(helo_literal=measure)


# ---------------------------------------------------------------------------------------------------------------------
# Sender


def mail(sender: str, ip: str = STRANGER, identity: Identity | None = None) -> Facts:
    return Facts(ip=ip, identity=identity, reverse_path=Address.parse(sender))


@pytest.mark.parametrize(
    ("sender", "verdict"),
    [
        ("friend@bad.example", Action.ACCEPT),
        ("FRIEND@Bad.Example", Action.ACCEPT),
        ("x@bad.example", Action.REJECT),
        ("x@very.bad.example", Action.DEFER),
        ("x@verybad.example", Action.ACCEPT),
        ("", Action.ACCEPT),
    ],
)
def test_the_first_sender_rule_that_matches_decides(sender: str, verdict: Action) -> None:
    rules = [("friend@bad.example", "accept"), ("bad.example", "reject"), ("*.bad.example", "defer")]
    senders = tuple(SenderRule((AddressPattern(text),), do) for text, do in rules)  # type: ignore[arg-type]
    assert action(PolicyStage.MAIL, mail(sender), sender=senders) is verdict
    every = (SenderRule((AddressPattern("*"),), "reject"),)
    assert action(PolicyStage.MAIL, mail(sender), sender=every) is (Action.REJECT if sender else Action.ACCEPT)


@pytest.mark.parametrize("text", ["", "@mail.example", "*.", "a b", "*@mail.example@", "<jo@mail.example>", "x@y\r\nz"])
def test_an_invalid_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        AddressPattern(text)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_local_sender_from_an_untrusted_client(measure: Enforcement) -> None:
    assert action(PolicyStage.MAIL, mail("jo@HERE.example"), own_sender=measure) is expected(measure)
    ours = (mail("jo@here.example", FRIEND), mail("jo@here.example", identity=JO))
    for facts in (*ours, mail("jo@other.example"), mail("")):
        assert decide(PolicyStage.MAIL, facts, own_sender=measure).reasons == ()


@pytest.mark.parametrize("measure", MEASURES)
def test_a_sender_domain_that_accepts_no_bounces(measure: Enforcement) -> None:
    for domain, status in {"nowhere.example": "1.8", "null.example": "7.27"}.items():
        decision = decide(PolicyStage.MAIL, mail(f"jo@{domain}"), sender_domain=measure)
        assert decision.verdict.final.action is expected(measure)
        if decision.verdict.refused:
            assert f".{status} " in shown(decision)
    for sender in ("jo@mail.example", "jo@plain.example", "jo@[192.0.2.1]", "jo@here.example", ""):
        assert decide(PolicyStage.MAIL, mail(sender), sender_domain=measure).reasons == ()
    known = Identity("jo@nowhere.example", "PLAIN")
    assert decide(PolicyStage.MAIL, mail("jo@nowhere.example", identity=known), sender_domain=measure).reasons == ()


@pytest.mark.parametrize("measure", MEASURES)
def test_r27_a_failed_lookup_of_the_sender_domain_never_rejects(measure: Enforcement) -> None:
    decision = decide(PolicyStage.MAIL, mail("jo@dead.example"), sender_domain=measure)
    refuses = measure in {Enforcement.DEFER, Enforcement.REJECT}
    assert decision.verdict.action is (Action.DEFER if refuses else Action.ACCEPT)


LOGINS = {
    "jo": ("jo@here.example", "lists.here.example"),
    "boss": ("*",),
    "*": ("info@here.example",),
}


@pytest.mark.parametrize(
    ("login", "sender", "allowed"),
    [
        ("jo", "jo@here.example", True),
        ("JO", "Jo@Here.example", True),
        ("jo", "any@lists.here.example", True),
        ("jo", "info@here.example", True),
        ("jo", "boss@here.example", False),
        ("jo", "jo@here.example.other.example", False),
        ("jo", "", True),
        ("boss", "someone@elsewhere.example", True),
        ("flo@here.example", "Flo@here.example", True),
        ("flo@here.example", "jo@here.example", False),
        ("unlisted", "jo@here.example", False),
        ("unlisted", "unlisted@here.example", True),
    ],
)
def test_a_login_may_use_the_senders_granted_to_it(login: str, sender: str, allowed: bool) -> None:
    senders = {name: tuple(map(AddressPattern, patterns)) for name, patterns in LOGINS.items()}
    # A rule that accepts the sender does not lift it.
    values = {"sender_login": senders, "sender": (SenderRule((AddressPattern("*"),), "accept"),)}
    decision = decide(PolicyStage.MAIL, mail(sender, identity=Identity(login, "PLAIN")), **values)
    assert decision.verdict.refused != allowed
    if not allowed:
        assert shown(decision).startswith("553 5.7.1")
    assert decide(PolicyStage.MAIL, mail(sender), **values).verdict.action is Action.ACCEPT


@pytest.mark.parametrize(
    ("login", "sender", "allowed"),
    [
        ("jo", "jo@here.example", True),
        ("JO", "Jo@HERE.example", True),
        ("jo", "jo@other.example", False),
        ("jo", "flo@here.example", False),
        ("flo@other.example", "flo@other.example", True),
        ("flo@other.example", "flo@here.example", False),
        ("", "jo@here.example", False),
        ("jo", "", True),
    ],
)
def test_f61_by_default_a_login_may_only_send_as_itself(login: str, sender: str, allowed: bool) -> None:
    decision = decide(PolicyStage.MAIL, mail(sender, identity=Identity(login, "PLAIN")))
    assert decision.verdict.refused != allowed


def test_f61_every_login_can_be_granted_every_sender() -> None:
    facts = mail("any@wherever.example", identity=JO)
    assert decide(PolicyStage.MAIL, facts).verdict.refused
    assert not decide(PolicyStage.MAIL, facts, sender_login={"*": (AddressPattern("*"),)}).verdict.refused


# ---------------------------------------------------------------------------------------------------------------------
# Recipient


def to(recipient: str = "jo@here.example", ip: str = STRANGER, **values: Any) -> Facts:
    return Facts(ip=ip, forward_path=Address.parse(recipient), **values)


def test_only_an_authenticated_client_may_relay() -> None:
    assert action(PolicyStage.RECIPIENT, to("x@other.example", identity=JO)) is Action.ACCEPT
    assert decide(PolicyStage.RECIPIENT, to("x@other.example", identity=JO)).reasons == ("relay: jo is authenticated",)
    assert action(PolicyStage.RECIPIENT, to("x@other.example")) is Action.REJECT


@pytest.mark.parametrize("measure", [Enforcement.RECORD, Enforcement.TARPIT, Enforcement.QUARANTINE])
def test_a_bounce_with_several_recipients_is_never_refused(measure: Enforcement) -> None:
    several = to(reverse_path=NULL, recipients=1)
    decision = decide(PolicyStage.RECIPIENT, several, null_sender=measure)
    assert decision.verdict.final.action is expected(measure)
    assert decision.noted
    for facts in (to(reverse_path=NULL), to(reverse_path=Address.parse("a@b.example"), recipients=5)):
        assert not decide(PolicyStage.RECIPIENT, facts, null_sender=measure).noted
    # It does not count as acceptance either.
    refused = decide(PolicyStage.RECIPIENT, to("x@other.example", reverse_path=NULL, recipients=1), null_sender=measure)
    assert refused.verdict.refused
    for forbidden in (Enforcement.DEFER, Enforcement.REJECT):
        with pytest.raises(ValueError, match="null reverse-path"):
            checks(null_sender=forbidden)


# ---------------------------------------------------------------------------------------------------------------------
# Rates


def test_a_front_server_that_speaks_lmtp_is_trusted() -> None:
    front = {"listener": "lmtp", "ip": "", "helo": "desktop"}
    values: dict[str, Any] = {
        "helo_bare_name": Enforcement.REJECT, "own_sender": Enforcement.REJECT, "sender_domain": Enforcement.REJECT,
        "reverse_dns": Enforcement.REJECT, "network_messages": Quota(1, 60.0),
    }  # fmt: skip
    policy = Policy(checks(Ports(Clock(), RESOLVER), **values))
    for sender in ("jo@here.example", "jo@nowhere.example", "jo@here.example"):
        for stage in (PolicyStage.CONNECT, PolicyStage.HELLO, PolicyStage.MAIL):
            decision = policy.decide(stage, Facts(**front, reverse_path=Address.parse(sender)))  # type: ignore[arg-type]
            assert isinstance(decision, PolicyDecision)
            assert decision.verdict.action is Action.ACCEPT
    assert action(PolicyStage.RECIPIENT, to("x@other.example", ip="", listener="lmtp")) is Action.REJECT


def test_a_bucket_allows_a_burst_and_refills_evenly() -> None:
    clock = Clock()
    buckets = Buckets(Quota(3, 60.0), clock)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, pytest.approx(20)]
    assert buckets.take("b") == 0
    clock.passed += 19
    assert buckets.take("a") == pytest.approx(1)
    clock.passed += 1
    assert [buckets.take("a"), buckets.take("a")] == [0, pytest.approx(20)]
    clock.passed += 1000
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, pytest.approx(20)]


def test_a_token_that_is_given_back_can_be_taken_again() -> None:
    buckets = Buckets(Quota(2, 60.0), Clock())
    buckets.give_back("a")
    assert [buckets.take("a") for _ in range(3)] == [0, 0, pytest.approx(30)]
    buckets.give_back("a")
    assert [buckets.take("a") for _ in range(2)] == [0, pytest.approx(30)]


def test_the_number_of_remembered_keys_is_bounded() -> None:
    buckets = Buckets(Quota(1, 60.0), Clock(), keys=2)
    assert [buckets.take(key) for key in "abc"] == [0, 0, 0]
    assert buckets.take("b") > 0
    assert buckets.take("c") > 0
    assert buckets.take("a") == 0  # forgotten


@pytest.mark.parametrize("stage", [PolicyStage.MAIL, PolicyStage.RECIPIENT])
def test_networks_and_logins_are_counted_separately(stage: PolicyStage) -> None:
    clock = Clock()
    what = "messages" if stage is PolicyStage.MAIL else "recipients"
    values: dict[str, Any] = {f"network_{what}": Quota(2, 3600.0), f"login_{what}": Quota(1, 3600.0)}
    policy = Policy(checks(Ports(clock, RESOLVER), **values))

    def ask(ip: str, identity: Identity | None = None) -> str:
        facts = Facts(
            ip=ip, identity=identity, reverse_path=NULL,
            forward_path=Address.parse("jo@here.example"),
        )  # fmt: skip
        decision = policy.decide(stage, facts)
        assert isinstance(decision, PolicyDecision)
        return shown(decision)[:9] if decision.verdict.refused else "yes"

    assert [ask(STRANGER) for _ in range(3)] == ["yes", "yes", "451 4.7.1"]
    assert ask("198.51.100.8") == "yes"
    assert [ask(f"2001:db8:0:1::{n}") for n in range(3)] == ["yes", "yes", "451 4.7.1"]  # one /64
    assert ask("2001:db8:0:2::1") == "yes"
    assert [ask(FRIEND) for _ in range(5)] == ["yes"] * 5
    assert [ask(STRANGER, JO), ask(FRIEND, JO), ask(FRIEND, Identity("flo", "PLAIN"))] == ["yes", "451 4.7.1", "yes"]
    clock.passed += 3600
    assert ask(STRANGER) == "yes"


@pytest.mark.parametrize("stage", [PolicyStage.MAIL, PolicyStage.RECIPIENT])
def test_the_quota_of_a_login_ignores_case(stage: PolicyStage) -> None:
    """As the senders of a login are found without regard to case, and a database may compare names so."""
    quota = Quota(1, 60.0)
    policy = Policy(checks(Ports(Clock(), RESOLVER), login_messages=quota, login_recipients=quota))
    to = Address.parse("jo@here.example")

    def taken(name: str) -> Any:
        facts = Facts(ip=STRANGER, identity=Identity(name, "PLAIN"), reverse_path=to, forward_path=to)
        return policy.decide(stage, facts)

    assert taken("jo").verdict.action is Action.ACCEPT
    assert taken("JO").verdict.action is Action.DEFER
