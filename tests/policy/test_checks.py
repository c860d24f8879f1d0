"""Each check by itself: what it finds, in what it is asked about and in what it is not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.lookup.static import StaticResolver
from ironpost.model import NULL, Address
from ironpost.model.patterns import Domains
from ironpost.model.verdict import Action, Verdict, drop, reject, tarpit
from ironpost.policy import Decision, Facts, Policy, Stage
from ironpost.policy.buckets import Buckets
from ironpost.policy.checks import Ports, configured
from ironpost.policy.settings import AccessRule, Measure, Pattern, Quota, SenderRule, Settings, rule_verdict
from ironpost.protocol.transaction import Identity
from ironpost.service.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Awaitable

STRANGER, FRIEND = "198.51.100.7", "127.0.0.1"
JO = Identity("jo", "PLAIN")
MEASURES = [measure for measure in Measure if measure is not Measure.OFF]


class Clock(SystemClock):
    """Stands still until it is told."""

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


def settings(**values: Any) -> Settings:
    return Settings(local_domains=Domains(["here.example"]), own_names=frozenset({"mx.here.example"}), **values)


def decide(stage: Stage, facts: Facts, ports: Ports = Ports(Clock(), RESOLVER), **values: Any) -> Decision:  # noqa: B008
    decision: Decision | Awaitable[Decision] = Policy(configured(settings(**values), ports)).decide(stage, facts)
    if isinstance(decision, Decision):
        return decision

    async def wait() -> Decision:
        return await decision

    return asyncio.run(wait())


def action(stage: Stage, facts: Facts, **values: Any) -> Action:
    return decide(stage, facts, **values).verdict.final.action


def expected(measure: Measure) -> Action:
    """What a measure makes of a finding; a tarpit is asked about apart."""
    return Action(measure.value) if measure.value in {"quarantine", "defer", "reject"} else Action.ACCEPT


def shown(decision: Decision) -> str:
    return str(decision.verdict.final.reply)


# ---------------------------------------------------------------------------------------------------------------------
# By network


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
        AccessRule(Settings.of(trusted_networks=networks).trusted_networks, rule_verdict(do, "", 5.0))  # type: ignore[arg-type]
        for networks, do in rules
    )
    decision = decide(Stage.CONNECT, Facts(ip=ip), access=access)
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
def test_what_a_rule_says(do: Any, text: str, verdict: Verdict) -> None:
    assert rule_verdict(do, text, 5.0) == verdict


@pytest.mark.parametrize("measure", MEASURES)
def test_a_stranger_without_a_name_that_leads_back(measure: Measure) -> None:
    for ip in ("198.51.100.9", "198.51.100.200"):
        decision = decide(Stage.CONNECT, Facts(ip=ip), reverse_dns=measure)
        assert decision.verdict.final.action is expected(measure)
        assert bool(decision.verdict.seconds) == (measure is Measure.TARPIT)
        assert decision.noted
    named = {STRANGER: "good.example", "::ffff:" + STRANGER: "good.example", "2001:db8::7": "six.example"}
    for ip, name in named.items():
        facts = Facts(ip=ip)
        assert decide(Stage.CONNECT, facts, reverse_dns=measure).verdict.action is Action.ACCEPT
        assert facts.name == name
    for facts in (Facts(ip=FRIEND), Facts(), Facts(ip="198.51.100.9", name="told.example")):
        assert decide(Stage.CONNECT, facts, reverse_dns=measure) == Decision(decide(Stage.CONNECT, facts).verdict, ())


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("ip", ["198.51.100.10", "198.51.100.11"])
def test_r27_without_an_answer_about_a_name_nobody_is_refused_for_good(measure: Measure, ip: str) -> None:
    decision = decide(Stage.CONNECT, Facts(ip=ip), reverse_dns=measure)
    refuses = measure in {Measure.DEFER, Measure.REJECT}
    assert decision.verdict.action is (Action.DEFER if refuses else Action.ACCEPT)
    assert "no name server answers" in decision.reasons[0]


# ---------------------------------------------------------------------------------------------------------------------
# By name


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("name", ["mx.here.example", "MX.Here.example", "[192.0.2.25]", "[IPv6:2001:db8::25]"])
def test_a_stranger_who_uses_our_name(measure: Measure, name: str) -> None:
    local_ip = "2001:db8::25" if "IPv6" in name else "192.0.2.25"
    decision = decide(Stage.HELLO, Facts(ip=STRANGER, helo=name, local_ip=local_ip), helo_own_name=measure)
    assert decision.verdict.final.action is expected(measure)
    assert decision.noted
    assert action(Stage.HELLO, Facts(ip=FRIEND, helo=name, local_ip=local_ip), helo_own_name=measure) is Action.ACCEPT


def test_by_default_the_use_of_our_name_is_recorded_and_nothing_else_is_looked_for() -> None:
    assert decide(Stage.HELLO, Facts(ip=STRANGER, helo="mx.here.example")).noted
    for name in ("localhost", "[192.0.2.1]", "nothere.example"):
        assert decide(Stage.HELLO, Facts(ip=STRANGER, helo=name)).reasons == ()


def test_a_bare_name() -> None:
    for name, verdict in {"desktop": Action.REJECT, "desktop.": Action.REJECT, "a.example": Action.ACCEPT}.items():
        facts = Facts(ip=STRANGER, helo=name)
        assert action(Stage.HELLO, facts, helo_bare_name=Measure.REJECT) is verdict
    literal = Facts(ip=STRANGER, helo="[198.51.100.7]")
    assert action(Stage.HELLO, literal, helo_bare_name=Measure.REJECT) is Action.ACCEPT


def test_a_literal_that_is_not_the_clients_is_never_refused() -> None:
    for name, verdict in {
        "[192.0.2.1]": Action.QUARANTINE, "[198.51.100.7]": Action.ACCEPT, "[IPv6:::ffff:198.51.100.7]": Action.ACCEPT,
        "[x-tag:y]": Action.QUARANTINE,
    }.items():  # fmt: skip
        facts = Facts(ip=STRANGER, helo=name)
        assert action(Stage.HELLO, facts, helo_literal=Measure.QUARANTINE) is verdict
    for measure in (Measure.DEFER, Measure.REJECT):
        with pytest.raises(ValueError, match="address literal"):
            configured(settings(helo_literal=measure))


# ---------------------------------------------------------------------------------------------------------------------
# By sender


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
def test_rules_about_senders(sender: str, verdict: Action) -> None:
    rules = [("friend@bad.example", "accept"), ("bad.example", "reject"), ("*.bad.example", "defer")]
    senders = tuple(SenderRule((Pattern(text),), rule_verdict(do, "", 5.0)) for text, do in rules)  # type: ignore[arg-type]
    assert action(Stage.MAIL, mail(sender), senders=senders) is verdict
    every = (SenderRule((Pattern("*"),), reject()),)
    assert action(Stage.MAIL, mail(sender), senders=every) is (Action.REJECT if sender else Action.ACCEPT)


@pytest.mark.parametrize("text", ["", "@mail.example", "*.", "a b", "*@mail.example@", "<jo@mail.example>", "x@y\r\nz"])
def test_a_pattern_that_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        Pattern(text)


@pytest.mark.parametrize("measure", MEASURES)
def test_our_domain_from_a_stranger(measure: Measure) -> None:
    assert action(Stage.MAIL, mail("jo@HERE.example"), own_sender=measure) is expected(measure)
    ours = (mail("jo@here.example", FRIEND), mail("jo@here.example", identity=JO))
    for facts in (*ours, mail("jo@other.example"), mail("")):
        assert decide(Stage.MAIL, facts, own_sender=measure).reasons == ()


@pytest.mark.parametrize("measure", MEASURES)
def test_a_sender_to_whom_no_report_can_come_back(measure: Measure) -> None:
    for domain, status in {"nowhere.example": "1.8", "null.example": "7.27"}.items():
        decision = decide(Stage.MAIL, mail(f"jo@{domain}"), sender_domain=measure)
        assert decision.verdict.final.action is expected(measure)
        if decision.verdict.refused:
            assert f".{status} " in shown(decision)
    for sender in ("jo@mail.example", "jo@plain.example", "jo@[192.0.2.1]", "jo@here.example", ""):
        assert decide(Stage.MAIL, mail(sender), sender_domain=measure).reasons == ()
    known = Identity("jo@nowhere.example", "PLAIN")
    assert decide(Stage.MAIL, mail("jo@nowhere.example", identity=known), sender_domain=measure).reasons == ()


@pytest.mark.parametrize("measure", MEASURES)
def test_r27_without_an_answer_about_a_senders_domain_nobody_is_refused_for_good(measure: Measure) -> None:
    decision = decide(Stage.MAIL, mail("jo@dead.example"), sender_domain=measure)
    refuses = measure in {Measure.DEFER, Measure.REJECT}
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
        ("boss", "whoever@wherever.example", True),
        ("flo@here.example", "Flo@here.example", True),
        ("flo@here.example", "jo@here.example", False),
        ("unlisted", "jo@here.example", False),
        ("unlisted", "unlisted@here.example", True),
    ],
)
def test_a_login_uses_its_own_senders(login: str, sender: str, allowed: bool) -> None:
    senders = {name: tuple(map(Pattern, patterns)) for name, patterns in LOGINS.items()}
    # A rule that accepts the sender does not lift it.
    values = {"sender_login": senders, "senders": (SenderRule((Pattern("*"),), rule_verdict("accept", "", 5.0)),)}
    decision = decide(Stage.MAIL, mail(sender, identity=Identity(login, "PLAIN")), **values)
    assert decision.verdict.refused != allowed
    if not allowed:
        assert shown(decision).startswith("553 5.7.1")
    assert decide(Stage.MAIL, mail(sender), **values).verdict.action is Action.ACCEPT


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
def test_f61_without_a_map_a_login_sends_as_itself_alone(login: str, sender: str, allowed: bool) -> None:
    decision = decide(Stage.MAIL, mail(sender, identity=Identity(login, "PLAIN")))
    assert decision.verdict.refused != allowed


def test_f61_a_map_can_let_every_login_use_every_sender() -> None:
    facts = mail("any@wherever.example", identity=JO)
    assert decide(Stage.MAIL, facts).verdict.refused
    assert not decide(Stage.MAIL, facts, sender_login={"*": (Pattern("*"),)}).verdict.refused


# ---------------------------------------------------------------------------------------------------------------------
# By recipient


def to(recipient: str = "jo@here.example", ip: str = STRANGER, **values: Any) -> Facts:
    return Facts(ip=ip, forward_path=Address.parse(recipient), **values)


def test_who_has_authenticated_may_relay_and_nobody_else() -> None:
    assert action(Stage.RECIPIENT, to("x@other.example", identity=JO)) is Action.ACCEPT
    assert decide(Stage.RECIPIENT, to("x@other.example", identity=JO)).reasons == ("relay: jo is authenticated",)
    assert action(Stage.RECIPIENT, to("x@other.example")) is Action.REJECT


@pytest.mark.parametrize("measure", [Measure.RECORD, Measure.TARPIT, Measure.QUARANTINE])
def test_a_report_to_several_is_never_refused(measure: Measure) -> None:
    several = to(reverse_path=NULL, recipients=1)
    decision = decide(Stage.RECIPIENT, several, null_sender=measure)
    assert decision.verdict.final.action is expected(measure)
    assert decision.noted
    for facts in (to(reverse_path=NULL), to(reverse_path=Address.parse("a@b.example"), recipients=5)):
        assert not decide(Stage.RECIPIENT, facts, null_sender=measure).noted
    # It is no yes either.
    refused = decide(Stage.RECIPIENT, to("x@other.example", reverse_path=NULL, recipients=1), null_sender=measure)
    assert refused.verdict.refused
    for forbidden in (Measure.DEFER, Measure.REJECT):
        with pytest.raises(ValueError, match="null reverse-path"):
            configured(settings(null_sender=forbidden))


# ---------------------------------------------------------------------------------------------------------------------
# How much


def test_a_front_server_that_speaks_lmtp_is_no_stranger() -> None:
    front = {"listener": "lmtp", "ip": "", "helo": "desktop"}
    values: dict[str, Any] = {
        "helo_bare_name": Measure.REJECT, "own_sender": Measure.REJECT, "sender_domain": Measure.REJECT,
        "reverse_dns": Measure.REJECT, "network_messages": Quota(1, 60.0),
    }  # fmt: skip
    policy = Policy(configured(settings(**values), Ports(Clock(), RESOLVER)))
    for sender in ("jo@here.example", "jo@nowhere.example", "jo@here.example"):
        for stage in (Stage.CONNECT, Stage.HELLO, Stage.MAIL):
            decision = policy.decide(stage, Facts(**front, reverse_path=Address.parse(sender)))  # type: ignore[arg-type]
            assert isinstance(decision, Decision)
            assert decision.verdict.action is Action.ACCEPT
    assert action(Stage.RECIPIENT, to("x@other.example", ip="", listener="lmtp")) is Action.REJECT


def test_a_bucket_gives_so_many_at_once_and_the_rest_evenly() -> None:
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


def test_what_buckets_remember_is_bounded() -> None:
    buckets = Buckets(Quota(1, 60.0), Clock(), keys=2)
    assert [buckets.take(key) for key in "abc"] == [0, 0, 0]
    assert buckets.take("b") > 0
    assert buckets.take("c") > 0
    assert buckets.take("a") == 0  # forgotten


@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.RECIPIENT])
def test_networks_and_logins_are_counted_each_by_itself(stage: Stage) -> None:
    clock = Clock()
    what = "messages" if stage is Stage.MAIL else "recipients"
    values: dict[str, Any] = {f"network_{what}": Quota(2, 3600.0), f"login_{what}": Quota(1, 3600.0)}
    policy = Policy(configured(settings(**values), Ports(clock, RESOLVER)))

    def ask(ip: str, identity: Identity | None = None) -> str:
        facts = Facts(
            ip=ip, identity=identity, reverse_path=NULL,
            forward_path=Address.parse("jo@here.example"),
        )  # fmt: skip
        decision = policy.decide(stage, facts)
        assert isinstance(decision, Decision)
        return shown(decision)[:9] if decision.verdict.refused else "yes"

    assert [ask(STRANGER) for _ in range(3)] == ["yes", "yes", "451 4.7.1"]
    assert ask("198.51.100.8") == "yes"
    assert [ask(f"2001:db8:0:1::{n}") for n in range(3)] == ["yes", "yes", "451 4.7.1"]  # one /64
    assert ask("2001:db8:0:2::1") == "yes"
    assert [ask(FRIEND) for _ in range(5)] == ["yes"] * 5
    assert [ask(STRANGER, JO), ask(FRIEND, JO), ask(FRIEND, Identity("flo", "PLAIN"))] == ["yes", "451 4.7.1", "yes"]
    clock.passed += 3600
    assert ask(STRANGER) == "yes"


@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.RECIPIENT])
def test_a_login_has_one_quota_however_it_writes_its_name(stage: Stage) -> None:
    """As the senders of a login are found without regard to case, and a database may compare names so."""
    quota = Quota(1, 60.0)
    policy = Policy(configured(settings(login_messages=quota, login_recipients=quota), Ports(Clock(), RESOLVER)))
    to = Address.parse("jo@here.example")

    def taken(name: str) -> Any:
        facts = Facts(ip=STRANGER, identity=Identity(name, "PLAIN"), reverse_path=to, forward_path=to)
        return policy.decide(stage, facts)

    assert taken("jo").verdict.action is Action.ACCEPT
    assert taken("JO").verdict.action is Action.DEFER
