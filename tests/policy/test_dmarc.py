"""The checks of DKIM, ARC and DMARC: what they find in a message, and what is done with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mail_auth.signed import KeyServer, sealed
from tests.policy import policy_kit

from ironpost.mail_auth import (
    DmarcEvaluation,
    DmarcPolicy,
    DmarcResult,
    Key,
    OverrideType,
    results_field,
    sign,
)
from ironpost.mail_auth.signature import BodyHash
from ironpost.model import NULL, Address
from ironpost.model.network import parse_networks
from ironpost.model.patterns import AddressPattern, DomainPattern
from ironpost.model.verdict import Action
from ironpost.policy import Facts, Policy, PolicyDecision, Ports
from ironpost.policy.checks.dmarc import DmarcOverride
from ironpost.policy.checks.senders import SenderRule
from ironpost.policy.options import Enforcement
from ironpost.processes.clock import SystemClock
from ironpost.protocol.server.transaction import Identity
from ironpost.testing.resolver import StaticResolver
from ironpost.wire import unfold

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ironpost.model.dns import Records, RecordType, Resolver

STRANGER = "198.51.100.7"
PEM = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
KEYS = {domain: Key.load(domain, "s", PEM) for domain in ("bank.example", "lists.example", "dead.example")}
SPF = b"v=spf1 ip4:198.51.100.0/24 -all"
RECORDS = {
    **{key.name: key.record.encode() for domain, key in KEYS.items() if domain != "dead.example"},
    "_dmarc.bank.example": b"v=DMARC1; p=reject",
    "_dmarc.news.example": b"v=DMARC1; p=quarantine",
    "_dmarc.shop.example": b"v=DMARC1; p=none",
    "_dmarc.dead.example": b"v=DMARC1; p=reject",
    "news.example": SPF,
    "lists.example": SPF,
    "lists.xn--bcher-kva.example": SPF,
    "other.example": SPF,
}
RESOLVER = StaticResolver(
    txt={name: [text] for name, text in RECORDS.items()},
    failing=["s._domainkey.dead.example", "_dmarc.lost.example", "shop.example"],
)
MOST = [Enforcement.RECORD, Enforcement.QUARANTINE, Enforcement.REJECT]


def message(author: str, signers: Iterable[str] = (), field: str = "") -> bytes:
    """A message of jo@AUTHOR, with signatures of these domains."""
    content = f"From: {field or f'jo@{author}'}\r\nSubject: hi\r\n\r\n{'hello ' * 500}\r\n".encode()
    return sign(content, [KEYS[domain] for domain in signers], now=0.0) + content


def receive(
    content: bytes,
    reverse_path: str = "jo@other.example",
    dmarc: Enforcement = Enforcement.REJECT,
    facts: dict[str, Any] | None = None,
    resolver: Resolver = RESOLVER,
    **options: Any,
) -> tuple[PolicyDecision, DmarcEvaluation | None]:
    """Receive a message from a stranger; what is decided, and what is recorded."""
    recorded: list[DmarcEvaluation] = []
    ports = Ports(SystemClock(), resolver, dmarc_recorder=recorded.append)
    options = {"spf": Enforcement.RECORD, "dkim": Enforcement.RECORD, "dmarc": dmarc, **options}
    policy = Policy(policy_kit.checks(ports, name="us.example", **options))
    found = Facts(
        **{"ip": STRANGER, "helo": "other.example", "reverse_path": Address.parse(reverse_path), **(facts or {})}
    )
    decision = asyncio.run(policy_kit.received(policy, found, content))
    assert len(recorded) <= 1
    return decision, recorded[0] if recorded else None


def result_of(decision: PolicyDecision, method: str) -> list[str]:
    """The results of one method in the field Authentication-Results."""
    return [each.summary for each in decision.authentication if each.method == method]


def test_a_message_that_its_author_signed_passes() -> None:
    decision, recorded = receive(message("bank.example", ["bank.example"]))
    assert (decision.verdict.action, decision.noted) == (Action.ACCEPT, False)
    assert result_of(decision, "dkim")[0].startswith("dkim=pass header.d=bank.example")
    assert result_of(decision, "dmarc") == ["dmarc=pass header.from=bank.example policy.dmarc=none"]
    assert recorded is not None
    assert (recorded.answer.result, recorded.disposition) == (DmarcResult.PASS, DmarcPolicy.NONE)
    assert [(each.domain, each.selector, each.result) for each in recorded.dkim] == [("bank.example", "s", "pass")]


def test_a_message_from_a_client_of_its_author_passes() -> None:
    decision, recorded = receive(message("news.example"), "jo@news.example")
    assert decision.verdict.action is Action.ACCEPT
    assert result_of(decision, "dkim") == ["dkim=none"]
    assert recorded is not None
    assert recorded.spf is not None
    assert (recorded.answer.result, recorded.spf.domain) == ("pass", "news.example")
    assert str(recorded.reverse_path) == "jo@news.example"


@pytest.mark.parametrize("most", MOST)
@pytest.mark.parametrize(("author", "asked"), [("bank", "reject"), ("news", "quarantine"), ("shop", "none")])
def test_a_forged_author_has_the_consequence_of_the_domain_up_to_the_option(
    author: str, asked: str, most: Enforcement
) -> None:
    decision, recorded = receive(message(f"{author}.example", ["lists.example"]), dmarc=most)
    order = ["none", "quarantine", "reject"]
    allowed = "none" if most is Enforcement.RECORD else most.value
    done = min(asked, allowed, key=order.index)
    actions = {"none": Action.ACCEPT, "quarantine": Action.QUARANTINE, "reject": Action.REJECT}
    assert (decision.verdict.action, decision.noted) == (actions[done], True)
    assert recorded is not None
    assert (recorded.answer.policy, recorded.disposition) == (asked, done)
    assert f"{author}.example asks for {asked}" in decision.reasons[-1]


def test_the_reply_names_the_domain_that_publishes_the_policy() -> None:
    reply = receive(message("sub.bank.example"))[0].verdict.reply
    assert str(reply) == "550 5.7.1 Message rejected by the DMARC policy of bank.example"


@pytest.mark.parametrize("most", MOST)
@pytest.mark.parametrize(
    "content", [message("lost.example"), message("dead.example", ["dead.example"])], ids=["policy", "key"]
)
def test_r27_a_failed_lookup_of_dmarc_defers_what_might_be_refused(content: bytes, most: Enforcement) -> None:
    decision, recorded = receive(content, dmarc=most)
    assert recorded is not None
    assert recorded.answer.result is DmarcResult.TEMPERROR
    assert decision.verdict.action is (Action.ACCEPT if most is Enforcement.RECORD else Action.DEFER)
    assert decision.noted


def test_a_failed_lookup_of_another_domain_than_the_author_does_not_matter() -> None:
    decision, recorded = receive(message("bank.example"), "jo@shop.example")
    assert recorded is not None
    assert recorded.answer.result is DmarcResult.FAIL
    assert decision.verdict.action is Action.REJECT


def test_r27_a_failed_lookup_is_accepted_if_the_domain_asks_for_nothing() -> None:
    decision, recorded = receive(message("shop.example"), "jo@shop.example")
    assert recorded is not None
    assert recorded.answer.result is DmarcResult.TEMPERROR
    assert decision.verdict.action is Action.ACCEPT


@pytest.mark.parametrize(
    "field", ["jo@bank.example, x@other.example", "jo", "<>", "jo@other.example\r\nFrom: x@y.example"]
)
@pytest.mark.parametrize("most", MOST)
def test_r49_a_message_without_one_author_is_refused_by_the_option(field: str, most: Enforcement) -> None:
    decision, _ = receive(message("", field=field), dmarc=most)
    actions = {Enforcement.QUARANTINE: Action.QUARANTINE, Enforcement.REJECT: Action.REJECT}
    assert decision.verdict.action is actions.get(most, Action.ACCEPT)
    assert result_of(decision, "dmarc") == ["dmarc=permerror"]


LISTS = DmarcOverride(OverrideType.MAILING_LIST, (DomainPattern("lists.example"), DomainPattern("*.lists.example")))
NETWORK = DmarcOverride(OverrideType.TRUSTED_FORWARDER, networks=parse_networks([f"{STRANGER}/32"]))


@pytest.mark.parametrize(
    ("signers", "sender", "override", "comment"),
    [
        (["lists.example"], "jo@other.example", LISTS, "dkim=pass of lists.example"),
        ([], "bounces@lists.example", LISTS, "spf=pass of lists.example"),
        ([], "jo@other.example", NETWORK, f"the client is in {STRANGER}/32"),
    ],
)
def test_an_override_accepts_what_a_list_or_forwarder_sends(
    signers: list[str], sender: str, override: DmarcOverride, comment: str
) -> None:
    decision, recorded = receive(message("bank.example", signers), sender, dmarc_override=(override,))
    assert (decision.verdict.action, decision.noted) == (Action.ACCEPT, True)
    assert recorded is not None
    assert recorded.overrides == ((override.reason, comment),)
    assert recorded.disposition is DmarcPolicy.NONE
    assert decision.reasons[-1].endswith(f"accepted as {override.reason}: {comment}")
    assert result_of(decision, "dmarc") == ["dmarc=fail header.from=bank.example policy.dmarc=reject"]


def test_the_domain_of_an_override_may_have_u_labels() -> None:
    books = DmarcOverride(OverrideType.MAILING_LIST, (DomainPattern("*.b\u00fccher.example"),))
    reverse_path = "bounces@lists.b\u00fccher.example"
    assert receive(message("bank.example"), reverse_path, dmarc_override=(books,))[0].verdict.action is Action.ACCEPT


@pytest.mark.parametrize("sender", ["jo@other.example", "jo@xlists.example", "jo@fail.lists.example"])
def test_an_override_needs_a_domain_that_is_confirmed(sender: str) -> None:
    forged = message("bank.example", ["bank.example"]).replace(b"hello", b"hallo")
    decision, recorded = receive(forged, sender, dmarc_override=(LISTS,))
    assert recorded is not None
    assert (decision.verdict.action, recorded.overrides) == (Action.REJECT, ())


@pytest.mark.parametrize(
    ("sealers", "overrides", "measures"),
    [
        (["lists.example"], (LISTS,), Action.ACCEPT),
        (["bank.example", "lists.example"], (LISTS,), Action.ACCEPT),
        (["lists.example", "bank.example"], (LISTS,), Action.REJECT),
        (["lists.example"], (), Action.REJECT),
        (["bank.example"], (LISTS,), Action.REJECT),
    ],
)
def test_a_chain_is_evidence_if_the_last_sealer_is_named(
    sealers: list[str], overrides: tuple[DmarcOverride, ...], measures: Action
) -> None:
    content = message("bank.example", ["bank.example"]).replace(b"hello", b"hallo")
    for each in sealers:
        content = sealed(content, KEYS[each])
    decision, recorded = receive(content, arc=Enforcement.RECORD, dmarc_override=overrides)
    assert decision.verdict.action is measures
    assert result_of(decision, "arc") == [f"arc=pass smtp.remote-ip={STRANGER}"]
    assert recorded is not None
    assert [each.comment for each in recorded.overrides] == (
        ["arc=pass of lists.example"] if measures is Action.ACCEPT else []
    )
    assert receive(content + b"x", arc=Enforcement.RECORD, dmarc_override=(LISTS,))[0].verdict.action is Action.REJECT


def test_a_signature_of_a_domain_that_is_testing_counts_as_none() -> None:
    keys = [KEYS[domain] for domain in ("bank.example", "lists.example")]
    testing = {key.name: [key.record.encode() + b"; t=y"] for key in keys}
    resolver = StaticResolver(txt={"_dmarc.bank.example": [RECORDS["_dmarc.bank.example"]], **testing})
    content = message("bank.example", ["bank.example", "lists.example"])
    decision, recorded = receive(content, resolver=resolver, dmarc_override=(LISTS,))
    assert recorded is not None
    assert [each.result for each in recorded.dkim] == ["pass", "pass"]
    assert (decision.verdict.action, recorded.answer.result, recorded.overrides) == (Action.REJECT, "fail", ())


def test_r49_a_chain_is_not_evidence_if_the_author_is_not_signed() -> None:
    content = sealed(message("other.example"), KEYS["lists.example"], signature={"h": "subject"})
    forged = content.replace(b"jo@other", b"jo@bank")
    decision, _ = receive(forged, arc=Enforcement.RECORD, dmarc_override=(LISTS,))
    assert decision.verdict.action is Action.REJECT
    assert result_of(decision, "arc") == [f"arc=pass smtp.remote-ip={STRANGER}"]


def test_a_message_without_a_chain_has_no_result_of_arc() -> None:
    assert result_of(receive(message("bank.example"), arc=Enforcement.RECORD)[0], "arc") == []


def test_r23_dkim_and_arc_share_the_hash_of_the_body_and_each_key(monkeypatch: pytest.MonkeyPatch) -> None:
    content = sealed(message("bank.example", ["bank.example"]), KEYS["bank.example"])
    hashed = Mock(side_effect=BodyHash)
    monkeypatch.setattr("ironpost.mail_auth.signature.BodyHash", hashed)
    resolver = KeyServer({name: [text] for name, text in RECORDS.items()})
    decision, _ = receive(content, arc=Enforcement.RECORD, resolver=resolver)
    assert result_of(decision, "arc") == [f"arc=pass smtp.remote-ip={STRANGER}"]
    assert [each.result for each in decision.authentication if each.method == "dkim"] == ["pass"]
    assert hashed.call_count == 1
    assert resolver.asked.count(KEYS["bank.example"].name) == 1


def test_r27_a_chain_that_cannot_be_verified_now_defers_what_an_override_might_accept() -> None:
    content = sealed(message("bank.example"), KEYS["dead.example"])
    decision, recorded = receive(content, arc=Enforcement.RECORD, dmarc_override=(LISTS,))
    assert (decision.verdict.action, recorded) == (Action.DEFER, None)
    assert receive(content, arc=Enforcement.RECORD)[0].verdict.action is Action.REJECT
    passes = sealed(message("bank.example", ["bank.example"]), KEYS["dead.example"])
    assert receive(passes, arc=Enforcement.RECORD, dmarc_override=(LISTS,))[0].verdict.action is Action.ACCEPT


def test_a_sender_that_a_rule_accepts_is_checked_by_dmarc_nevertheless() -> None:
    rule = SenderRule((AddressPattern("*"),), "accept")
    decision, recorded = receive(message("news.example"), "jo@news.example", sender=(rule,))
    assert recorded is not None
    assert recorded.answer.result is DmarcResult.PASS
    assert result_of(decision, "spf") == ["spf=pass smtp.mailfrom=news.example"]
    assert receive(message("bank.example"), sender=(rule,))[0].verdict.action is Action.REJECT


def test_a_null_reverse_path_is_checked_by_helo() -> None:
    decision, recorded = receive(message("news.example"), "", facts={"helo": "mx.news.example"})
    assert recorded is not None
    assert (recorded.reverse_path, decision.verdict.action) == (NULL, Action.QUARANTINE)
    assert receive(message("news.example"), "", facts={"helo": "news.example"})[0].verdict.action is Action.ACCEPT


@pytest.mark.parametrize(
    "values", [{"ip": "127.0.0.1"}, {"ip": ""}, {"listener": "lmtp"}, {"identity": Identity("jo@x.example", "PLAIN")}]
)
def test_trusted_clients_are_not_checked(values: dict[str, Any]) -> None:
    decision, recorded = receive(message("bank.example"), facts=values, sender_login={"*": (AddressPattern("*"),)})
    assert (decision.verdict.action, decision.reasons, decision.authentication) == (Action.ACCEPT, (), ())
    assert recorded is None


@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_r50_signatures_are_verified_however_the_message_is_cut(piece: int) -> None:
    ports = Ports(SystemClock(), RESOLVER)
    policy = Policy(policy_kit.checks(ports, dkim=Enforcement.RECORD))
    facts = Facts(ip=STRANGER, helo="x.example", reverse_path=Address.parse("jo@other.example"))
    content = message("bank.example", ["bank.example", "lists.example"])
    decision = asyncio.run(policy_kit.received(policy, facts, content, piece))
    assert [each.result for each in decision.authentication] == ["pass", "pass"]
    assert policy.strip(facts) == {"authentication-results"}


class CountingResolver:
    """Counts the queries."""

    def __init__(self) -> None:
        self.count = 0

    async def resolve(self, name: str, kind: RecordType, /) -> Records[Any]:
        self.count += 1
        return await RESOLVER.resolve(name, kind)


SIGNED = message("bank.example", ["bank.example", "lists.example"])
CHAIN = sealed(sealed(message("bank.example"), KEYS["bank.example"]), KEYS["lists.example"])
FIELDS = [
    b"From: jo@bank.example\r\n",
    b"From: =?utf-8?q?x?= <jo@\xc3\xa4.example>, (c <a@b>) x:y@z;\r\n",
    b"From:\r\n",
    b"from : <jo@" + b"a." * 200 + b"example>\r\n",
    b"DKIM-Signature: v=1; a=rsa-sha256; d=" + b"x." * 130 + b"; s=" + b"s" * 300 + b"; h=from; bh=AA; b=AA\r\n",
    b"DKIM-Signature: " + b"v=1;" * 300 + b"\r\n",
    b"Authentication-Results: us.example; dmarc=pass\r\n",
    SIGNED[: SIGNED.index(b"From:")],
    CHAIN[: CHAIN.index(b"From:")],
    b"ARC-Seal: i=1; cv=none; a=rsa-sha256; d=bank.example; s=s; b=AA\r\n",
    b"Subject: " + b"x" * 5000 + b"\r\n",
    b"\0\r\n",
    b"no field\r\n",
    b" folded\r\n",
]


@settings(deadline=None)
@given(
    fields=st.lists(st.one_of(st.sampled_from(FIELDS), st.binary(max_size=40)), max_size=30),
    sender=st.sampled_from(["", "jo@news.example", "jo@dead.example"]),
)
def test_r22_a_hostile_header_section_has_a_result_with_a_bounded_number_of_queries(
    fields: list[bytes], sender: str
) -> None:
    resolver = CountingResolver()
    content = b"".join(fields) + b"\r\nhello\r\n"
    decision, recorded = receive(content, sender, resolver=resolver, arc=Enforcement.RECORD)
    assert recorded is not None
    assert decision.authentication[-1].method == "dmarc"
    written = results_field("us.example", decision.authentication)
    assert unfold(written).count(b"\r\n") == 1
    assert len(written) < 10_000
    # SPF: 1 record. A policy and the domains of five signatures: 8 names each, and a key each. ARC: 2 keys.
    assert resolver.count <= 1 + 8 * 7 + 5 + 2
