"""DANE for outgoing mail: when TLSA records are looked up, where, and what follows (RFC 7672 §2)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.routing.test_tlsa import LEAF, MIDDLE, NAMES, ROOT, Now, record

from ironpost.model import Address, Envelope, Recipient
from ironpost.model.dns import TLSA, Records, RecordType
from ironpost.model.envelope import TLS_REQUIRED
from ironpost.model.tls import BY_AUTHORITIES, UNAUTHENTICATED, PolicyType, PublishedPolicy, TlsFailure
from ironpost.protocol.extensions import tags
from ironpost.routing.tls import (
    Dane,
    Dnssec,
    MxHost,
    MxLevel,
    Refusal,
    Requirement,
    TlsRule,
    TlsUse,
    tls_policies,
)
from ironpost.routing.tls.dane import LOOKUP_FAILED, reference_names
from ironpost.routing.tls.mta_sts import StsMode, StsPolicy
from ironpost.routing.tls.tlsa import ByTlsa, NothingUsable
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Sequence


PLAIN = Envelope(Address.parse("a@us.example"), (Recipient(Address.parse("b@a.example")),))
SECURED = PLAIN._replace(parameters={"REQUIRETLS": None})
OPTIONAL = PLAIN._replace(parameters={TLS_REQUIRED: "No"})

SIGNED = MxHost("a.example", "mx.a.example", MxLevel.DNSSEC, 25, Dnssec(True, "mx.a.example", "a.example"))
EE = record(3, 1, 1, LEAF)
TA = record(2, 0, 1, ROOT)
UNUSABLE = TLSA(1, 1, 1, bytes(32))


class Recording(StaticResolver):
    """Records its queries."""

    def __init__(self, **tables: Any) -> None:
        super().__init__(**tables)
        self.asked: list[str] = []

    async def resolve(self, name: str, kind: RecordType, /) -> Records[Any]:
        self.asked.append(f"{name} {kind}")
        return await super().resolve(name, kind)


def publishing(records: Sequence[TLSA] = (EE,), name: str = "mx.a.example", **more: Any) -> Recording:
    owner = f"_25._tcp.{name}"
    return Recording(tlsa={owner: records}, **{"authentic": [owner], **more})


def required(
    resolver: StaticResolver,
    host: MxHost = SIGNED,
    envelope: Envelope = PLAIN,
    rules: Sequence[TlsRule] = (),
) -> Requirement | Refusal:
    policies = tls_policies(rules, dane=Dane(resolver, Now()))

    async def main() -> Requirement | Refusal:
        return await policies.for_host(host, envelope, await policies.for_domain(host.domain, envelope))

    return asyncio.run(main())


def requirement(*arguments: Any, **more: Any) -> Requirement:
    found = required(*arguments, **more)
    assert isinstance(found, Requirement)
    return found


# -- what follows from records ----------------------------------------------------------------------------------------


def test_usable_records_must_match() -> None:
    found = requirement(publishing([EE, UNUSABLE]))
    assert (found.use, found.attempts, found.permanent) == (TlsUse.VERIFY, ((TlsUse.VERIFY, found.verifier),), False)
    assert found.verifier == ByTlsa(frozenset({EE}), NAMES, Now())
    assert found.server_name == "mx.a.example"
    assert any("TLSA records of mx.a.example: 1 1 1" in reason for reason in found.reasons)


def test_r32_unusable_records_require_tls_without_authentication() -> None:
    found = requirement(publishing([UNUSABLE]))
    assert found.attempts == ((TlsUse.ENCRYPT, NothingUsable()),)
    assert found.server_name == "mx.a.example"
    assert found.verifier.verify(LEAF.chain).failure is TlsFailure.TLSA_INVALID


@pytest.mark.parametrize(
    "resolver",
    [
        Recording(),  # NXDOMAIN
        Recording(authentic=["_25._tcp.mx.a.example"]),
        Recording(tlsa={"_25._tcp.mx.a.example": []}),  # NODATA
        Recording(tlsa={"_25._tcp.mx.a.example": [EE]}),  # not signed
    ],
)
def test_without_signed_records_tls_is_opportunistic(resolver: Recording) -> None:
    found = requirement(resolver)
    assert (found.use, found.verifier) == (TlsUse.MAY, UNAUTHENTICATED)
    assert resolver.asked == ["_25._tcp.mx.a.example TLSA"]


def test_r27_a_failed_lookup_makes_the_host_unusable() -> None:
    """RFC 7672 §2.1.2: never unauthenticated, never unencrypted."""
    refused = required(publishing(failing=["_25._tcp.mx.a.example"]))
    assert isinstance(refused, Refusal)
    assert refused.reply.transient
    assert refused.reply.text == LOOKUP_FAILED.text
    assert (refused.failure, refused.policy) == (
        TlsFailure.DNSSEC_INVALID,
        PublishedPolicy(PolicyType.TLSA, "mx.a.example"),
    )


def test_the_records_are_the_published_policy_of_reports() -> None:
    """RFC 8460 §1.1 and §4.4: of the TLSA base domain, in presentation format."""
    for records in ([EE, UNUSABLE], [UNUSABLE]):
        lines = sorted(f"{each.usage} {each.selector} {each.matching} {each.association.hex()}" for each in records)
        assert requirement(publishing(records)).policy == PublishedPolicy(PolicyType.TLSA, "mx.a.example", tuple(lines))
    assert requirement(Recording()).policy is None


# -- when and where records are looked up -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        SIGNED._replace(level=MxLevel.UNVERIFIED),  # the MX records are not signed
        SIGNED._replace(level=MxLevel.MTA_STS),
        SIGNED._replace(dnssec=Dnssec(False, "mx.a.example", "a.example")),  # the addresses are not
        SIGNED._replace(dnssec=Dnssec()),
        MxHost("[192.0.2.1]", "192.0.2.1", MxLevel.GIVEN),  # an address literal
    ],
)
def test_r28_without_signed_names_and_addresses_nothing_is_looked_up(host: MxHost) -> None:
    resolver = publishing()
    assert requirement(resolver, host).use is TlsUse.MAY
    assert resolver.asked == []


def test_r35_a_domain_without_mx_records_is_its_own_host() -> None:
    host = MxHost("a.example", "a.example", MxLevel.GIVEN, 25, Dnssec(True, "a.example", "a.example"))
    found = requirement(publishing(name="a.example"), host)
    assert (found.use, found.server_name) == (TlsUse.VERIFY, "a.example")
    assert found.verifier == ByTlsa(frozenset({EE}), ("a.example",), Now())


def test_a_smart_host_is_looked_up_with_its_port() -> None:
    host = MxHost("hub.example", "hub.example", MxLevel.GIVEN, 587, Dnssec(True, "hub.example"))
    resolver = Recording(tlsa={"_587._tcp.hub.example": [EE]}, authentic=["_587._tcp.hub.example"])
    assert requirement(resolver, host).use is TlsUse.VERIFY
    assert resolver.asked == ["_587._tcp.hub.example TLSA"]


ALIAS = SIGNED._replace(dnssec=Dnssec(True, "real.b.example", "a.example"))


def test_r29_below_an_alias_the_expanded_name_is_looked_up_first() -> None:
    resolver = publishing(name="real.b.example")
    found = requirement(resolver, ALIAS)
    assert found.server_name == "real.b.example"
    assert found.verifier == ByTlsa(frozenset({EE}), ("real.b.example", "a.example"), Now())
    assert resolver.asked == ["_25._tcp.real.b.example TLSA"]


def test_r29_then_the_original_name() -> None:
    resolver = publishing()
    assert requirement(resolver, ALIAS).server_name == "mx.a.example"
    assert resolver.asked == ["_25._tcp.real.b.example TLSA", "_25._tcp.mx.a.example TLSA"]
    # Records at the expanded name that are not signed do not count.
    unsigned = Recording(
        tlsa={"_25._tcp.real.b.example": [TA], "_25._tcp.mx.a.example": [EE]}, authentic=["_25._tcp.mx.a.example"]
    )
    assert requirement(unsigned, ALIAS).server_name == "mx.a.example"
    assert isinstance(required(publishing(failing=["_25._tcp.real.b.example"]), ALIAS), Refusal)


@pytest.mark.parametrize("signed", [True, False])
def test_r29_below_an_alias_whose_target_is_not_signed_only_the_original_name_counts(*, signed: bool) -> None:
    """RFC 7672 §2.2.2: and only if the CNAME itself is signed."""
    host = SIGNED._replace(dnssec=Dnssec(False, "real.b.example", "a.example"))
    names = ["_25._tcp.mx.a.example", "_25._tcp.real.b.example", *(["mx.a.example"] if signed else [])]
    resolver = Recording(
        tlsa={"_25._tcp.mx.a.example": [EE], "_25._tcp.real.b.example": [TA]},
        aliases={"mx.a.example": "real.b.example"},
        authentic=names,
    )
    found = requirement(resolver, host)
    if signed:
        assert (found.use, found.server_name) == (TlsUse.VERIFY, "mx.a.example")
        assert resolver.asked == ["mx.a.example CNAME", "_25._tcp.mx.a.example TLSA"]
    else:
        assert found.use is TlsUse.MAY
        assert resolver.asked == ["mx.a.example CNAME"]
    failing = Recording(failing=["mx.a.example"], authentic=names)
    assert isinstance(required(failing, host), Refusal), "R27"


def test_an_alias_of_the_tlsa_records_does_not_change_the_base_domain() -> None:
    """RFC 7672 §2.2.3."""
    resolver = Recording(
        tlsa={"ta._dane.example": [TA]},
        aliases={"_25._tcp.mx.a.example": "ta._dane.example"},
        authentic=["_25._tcp.mx.a.example", "ta._dane.example"],
    )
    assert requirement(resolver).server_name == "mx.a.example"


def test_r30_the_names_of_a_certificate() -> None:
    host = SIGNED._replace(domain="bücher.example", dnssec=Dnssec(True, "mx.a.example", "real.example"))
    assert reference_names(host, "mx.a.example") == ("mx.a.example", "xn--bcher-kva.example", "real.example")
    smart = MxHost("hub.example", "hub.example", MxLevel.GIVEN)
    assert reference_names(smart, "real.example") == ("real.example", "hub.example")


# -- with other policies ----------------------------------------------------------------------------------------------


class Sts:
    """The policy of `a.example`; records the domains that are looked up."""

    def __init__(self, mode: StsMode, mx: str) -> None:
        self.policy = StsPolicy(mode, (mx,), 86400)
        self.asked: list[str] = []

    async def find(self, domain: str) -> StsPolicy | None:
        self.asked.append(domain)
        return self.policy


def with_sts(resolver: StaticResolver, sts: Sts) -> Requirement | Refusal:
    policies = tls_policies(dane=Dane(resolver, Now()), sts=sts)

    async def main() -> Requirement | Refusal:
        return await policies.for_host(SIGNED, PLAIN, await policies.for_domain(SIGNED.domain, PLAIN))

    return asyncio.run(main())


@pytest.mark.parametrize("mode", [StsMode.ENFORCE, StsMode.TESTING])
@pytest.mark.parametrize("mx", ["mx.a.example", "other.example"])
def test_r36_dane_beats_mta_sts(mode: StsMode, mx: str) -> None:
    sts = Sts(mode, mx)
    found = with_sts(publishing(), sts)
    assert isinstance(found, Requirement)
    assert (found.use, found.verifier) == (TlsUse.VERIFY, ByTlsa(frozenset({EE}), NAMES, Now()))
    assert found.policy is not None
    assert (found.trial, found.violation, found.policy.type) == (None, "", PolicyType.TLSA)
    failed = with_sts(publishing(failing=["_25._tcp.mx.a.example"]), sts)
    assert isinstance(failed, Refusal), "RFC 8461 §2: a failure of DANE is not overridden"
    assert sts.asked == []


@pytest.mark.parametrize("resolver", [Recording(), publishing([UNUSABLE])], ids=["no records", "unusable"])
def test_r36_where_dane_does_not_authenticate_mta_sts_does(resolver: Recording) -> None:
    found = with_sts(resolver, Sts(StsMode.ENFORCE, "mx.a.example"))
    assert isinstance(found, Requirement)
    assert (found.use, found.verifier) == (TlsUse.VERIFY, BY_AUTHORITIES)
    assert isinstance(with_sts(resolver, Sts(StsMode.ENFORCE, "other.example")), Refusal)


def test_mta_sts_in_testing_mode_does_not_weaken_unusable_records() -> None:
    found = with_sts(publishing([UNUSABLE]), Sts(StsMode.TESTING, "mx.a.example"))
    assert isinstance(found, Requirement)
    assert found.attempts == ((TlsUse.ENCRYPT, BY_AUTHORITIES), (TlsUse.ENCRYPT, NothingUsable()))


def test_a_rule_that_demands_verification_is_fulfilled_by_dane() -> None:
    for use in (TlsUse.NONE, TlsUse.MAY, TlsUse.ENCRYPT, TlsUse.VERIFY):
        found = requirement(publishing(), rules=[TlsRule(("a.example",), use)])
        assert (found.use, found.verifier) == (TlsUse.VERIFY, ByTlsa(frozenset({EE}), NAMES, Now()))
    without = requirement(Recording(), rules=[TlsRule(("a.example",), TlsUse.VERIFY)])
    assert (without.use, without.verifier, without.server_name) == (TlsUse.VERIFY, BY_AUTHORITIES, "")
    unusable = requirement(publishing([UNUSABLE]), rules=[TlsRule(("a.example",), TlsUse.VERIFY)])
    assert (unusable.use, unusable.verifier, unusable.server_name) == (TlsUse.VERIFY, BY_AUTHORITIES, "")


def test_a_rule_can_ignore_what_a_domain_publishes() -> None:
    """RFC 7672 §9.1."""
    resolver = publishing(failing=["_25._tcp.mx.a.example"])
    rule = TlsRule(("a.example",), TlsUse.ENCRYPT, published=False)
    found = requirement(resolver, rules=[rule])
    assert (found.use, found.verifier, resolver.asked) == (TlsUse.ENCRYPT, UNAUTHENTICATED, [])
    assert isinstance(required(resolver, rules=[TlsRule(("b.example",), TlsUse.ENCRYPT, published=False)]), Refusal)


# -- REQUIRETLS and TLS-Required --------------------------------------------------------------------------------------


def test_r38_requiretls_accepts_a_host_that_dane_authenticates() -> None:
    """RFC 8689 §2: the certificate is verified by authorities or by DANE."""
    found = requirement(publishing(), envelope=SECURED)
    assert (found.use, found.permanent) == (TlsUse.VERIFY, True)
    assert found.verifier == ByTlsa(frozenset({EE}), NAMES, Now())
    unsigned = SIGNED._replace(level=MxLevel.UNVERIFIED)
    refused = required(publishing(), unsigned, SECURED)
    assert isinstance(refused, Refusal)
    assert (refused.reply.code, refused.reply.enhanced) == (550, "5.7.10")
    for resolver in (Recording(), publishing([UNUSABLE])):
        assert requirement(resolver, envelope=SECURED).verifier is BY_AUTHORITIES


def test_tls_required_no_ignores_what_the_domain_publishes() -> None:
    """RFC 8689 §4.2.2: and looks nothing up, so a broken zone does not delay the message."""
    resolver = publishing(failing=["_25._tcp.mx.a.example"])
    found = requirement(resolver, envelope=OPTIONAL)
    assert (found.use, resolver.asked) == (TlsUse.MAY, [])
    assert any("TLS-Required: No" in reason for reason in found.reasons)
    # The rules of this system are not the recipient's.
    found = requirement(resolver, envelope=OPTIONAL, rules=[TlsRule(("a.example",), TlsUse.ENCRYPT)])
    assert found.use is TlsUse.ENCRYPT


@pytest.mark.parametrize(
    ("values", "parameters", "tagged"),
    [
        ([b"No"], {}, True),
        ([b"no"], {}, True),
        ([b"NO"], {"BODY": "8BITMIME"}, True),
        ([b"Yes"], {}, False),
        ([b""], {}, False),
        ([b"No (please)"], {}, False),
        ([b"No", b"No"], {}, False),
        ([b"No", b"Yes"], {}, False),
        ([b"No"], {"REQUIRETLS": None}, False),
    ],
)
def test_the_header_field_tags_a_message(values: list[bytes], parameters: dict[str, Any], *, tagged: bool) -> None:
    """RFC 8689 §3: one field with the value No; §4.1: REQUIRETLS precedes it."""
    assert tags({"tls-required": values}, parameters) == ({TLS_REQUIRED: "No"} if tagged else {})


def test_an_anchor_may_be_any_authority_of_the_chain() -> None:
    """The records of a host can be of several kinds; the whole set is one verifier."""
    found = requirement(publishing([record(2, 1, 2, MIDDLE), TA]))
    assert found.verifier.verify(LEAF.chain).level is found.level
