"""Outbound TLS policies: local rules, REQUIRETLS, and how answers are combined."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ironpost.model import Address, Envelope, Recipient, Reply
from ironpost.model.envelope import TLS_REQUIRED
from ironpost.model.tls import (
    BY_AUTHORITIES,
    UNAUTHENTICATED,
    PolicyType,
    PublishedPolicy,
    TlsLevel,
    Verification,
)
from ironpost.protocol import replies
from ironpost.routing.tls import (
    MxHost,
    MxLevel,
    Refusal,
    Requirement,
    TlsPolicies,
    TlsPolicy,
    TlsRule,
    TlsUse,
    tls_policies,
)
from ironpost.routing.tls.local import LocalRules
from ironpost.routing.tls.requiretls import RequireTls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from ironpost.routing.tls.policy import DomainAnswer, HostAnswer

PLAIN = Envelope(Address.parse("a@us.example"), (Recipient(Address.parse("b@a.example")),))
TAGGED = PLAIN._replace(parameters={"REQUIRETLS": None})
REPORT = TAGGED._replace(reverse_path=Address("", ""))
HOST = MxHost("a.example", "mx.a.example", MxLevel.UNVERIFIED)


def required(policies: TlsPolicies, envelope: Envelope, host: MxHost = HOST) -> Requirement | Refusal:
    async def main() -> Requirement | Refusal:
        return await policies.for_host(host, envelope, await policies.for_domain(host.domain, envelope))

    return asyncio.run(main())


def use(policies: TlsPolicies, domain: str) -> TlsUse:
    found = required(policies, PLAIN, HOST._replace(domain=domain))
    assert isinstance(found, Requirement)
    return found.use


def test_levels_are_ordered() -> None:
    assert TlsLevel.NONE < TlsLevel.ENCRYPTED < TlsLevel.AUTHENTICATED
    assert MxLevel.UNVERIFIED < MxLevel.MTA_STS < MxLevel.DNSSEC < MxLevel.GIVEN
    assert [each.level for each in TlsUse] == sorted(each.level for each in TlsUse)


def test_without_any_rule_tls_is_opportunistic() -> None:
    for policies in (tls_policies(), TlsPolicies([])):
        found = required(policies, PLAIN)
        assert isinstance(found, Requirement)
        assert (found.use, found.level, found.attempts[-1][0]) == (TlsUse.MAY, TlsLevel.NONE, TlsUse.NONE)
        assert found.verifier == UNAUTHENTICATED


def test_the_first_rule_that_matches_decides() -> None:
    policies = tls_policies(
        [
            TlsRule(("sure.example",), TlsUse.VERIFY),
            TlsRule(("*.sure.example", "some.example"), TlsUse.ENCRYPT),
            TlsRule(("old.example",), TlsUse.NONE),
            TlsRule(("*",), TlsUse.MAY),
            TlsRule(("never.example",), TlsUse.VERIFY),
        ]
    )
    assert use(policies, "sure.example") is TlsUse.VERIFY
    assert use(policies, "x.sure.example") is TlsUse.ENCRYPT
    assert use(policies, "some.example") is TlsUse.ENCRYPT
    assert use(policies, "old.example") is TlsUse.NONE
    assert use(policies, "never.example") is TlsUse.MAY
    found = required(policies, PLAIN, HOST._replace(domain="x.sure.example"))
    assert isinstance(found, Requirement)
    assert found.reasons == ("TLS rule 2 matches by *.sure.example",)


def test_r38_requiretls_needs_an_authenticated_host_with_an_authenticated_name() -> None:
    """RFC 8689 §4.2.1."""
    policies = tls_policies([TlsRule(("*",), TlsUse.NONE)])
    refused = required(policies, TAGGED)
    assert isinstance(refused, Refusal)
    reply = refused.reply
    assert (reply.code, reply.enhanced, reply.text) == (550, "5.7.10", replies.PEER_NAME_NOT_VERIFIED.text)
    for level in (MxLevel.MTA_STS, MxLevel.DNSSEC, MxLevel.GIVEN):
        found = required(policies, TAGGED, HOST._replace(level=level))
        assert isinstance(found, Requirement)
        assert (found.use, found.verifier, found.permanent) == (TlsUse.VERIFY, BY_AUTHORITIES, True)
        assert len(found.reasons) == 2, "those of the local rule and of REQUIRETLS"


def test_a_report_about_a_tagged_message_is_sent_without_tls_too() -> None:
    """RFC 8689 §5: it should not be discarded."""
    found = required(tls_policies(), REPORT)
    assert isinstance(found, Requirement)
    assert found.use is TlsUse.MAY


class Pinned:
    """A verifier of its own kind."""

    uses_authorities = False

    def verify(self, chain: Sequence[bytes]) -> Verification:
        return Verification(TlsLevel.AUTHENTICATED, f"pinned {len(chain)}")


PINNED = Pinned()


class Published(TlsPolicy):
    """Stands for MTA-STS: fetches the domain's policy, and raises the level of the hosts that it names."""

    async def _fetched(self) -> DomainAnswer:
        await asyncio.sleep(0)
        return Requirement(TlsUse.VERIFY, PINNED, mx=MxLevel.MTA_STS, reasons=("published",))

    def for_domain(self, domain: str, envelope: Envelope) -> Awaitable[DomainAnswer] | None:
        return self._fetched() if domain == "a.example" else None

    def for_host(self, host: MxHost, envelope: Envelope) -> HostAnswer:
        if host.domain != "a.example":
            return None
        if host.name != "mx.a.example":
            return Refusal(Reply(451, "4.7.5", ("The host is not in the domain's policy",)))
        return Requirement(proves=MxLevel.MTA_STS)


def test_a_policy_may_wait_and_may_raise_or_refuse_hosts() -> None:
    policies = TlsPolicies([Published()])
    found = required(policies, PLAIN)
    assert isinstance(found, Requirement)
    assert (found.use, found.verifier, found.proves) == (TlsUse.VERIFY, PINNED, MxLevel.MTA_STS)
    refused = required(policies, PLAIN, HOST._replace(name="mx.evil.example"))
    assert isinstance(refused, Refusal)
    assert refused.reply.transient
    assert use(policies, "other.example") is TlsUse.MAY


def test_the_strongest_answer_counts_whatever_the_order() -> None:
    class Encrypting(TlsPolicy):
        def for_domain(self, domain: str, envelope: Envelope) -> DomainAnswer:
            return Requirement(TlsUse.ENCRYPT, permanent=True, reasons=("encrypt",))

    for members in ([Encrypting(), Published()], [Published(), Encrypting()]):
        found = required(TlsPolicies(members), PLAIN)
        assert isinstance(found, Requirement)
        assert (found.use, found.verifier, found.permanent) == (TlsUse.VERIFY, PINNED, True)
        assert sorted(found.reasons) == ["encrypt", "published"]


@pytest.mark.parametrize(
    ("reply", "transient"),
    [
        (replies.PEER_LACKS_STARTTLS, "4.7.10"),
        (replies.HANDSHAKE_FAILED, "4.7.5"),
        (Reply(502, None, ("what",)), "4.7.4"),
    ],
)
def test_a_refusal_has_the_severity_of_the_requirement(reply: Reply, transient: str) -> None:
    deferred = Requirement(TlsUse.ENCRYPT).refusal(reply)
    assert (deferred.code, deferred.enhanced, deferred.text) == (451, transient, reply.text)
    failed = Requirement(TlsUse.VERIFY, permanent=True).refusal(reply)
    assert (failed.code, failed.enhanced) == (550, "5.7.10")


def test_requirements_are_equal_whatever_their_reasons() -> None:
    """They are keys of the connection pool."""
    assert Requirement(reasons=("a",)) == Requirement(reasons=("b",))
    assert hash(Requirement(reasons=("a",))) == hash(Requirement())
    assert Requirement(TlsUse.VERIFY, PINNED) != Requirement(TlsUse.VERIFY, BY_AUTHORITIES)


class Authenticating(TlsPolicy):
    """Stands for DANE: authenticates one host of the domain, and needs encryption at another."""

    published = True

    def for_host(self, host: MxHost, envelope: Envelope) -> HostAnswer:
        use = {"mx.a.example": TlsUse.VERIFY, "mx2.a.example": TlsUse.ENCRYPT}[host.name]
        return Requirement(use, PINNED, policy=PublishedPolicy(PolicyType.TLSA, host.domain))


class Refusing(TlsPolicy):
    """Stands for MTA-STS: refuses every host."""

    published = True

    def for_host(self, host: MxHost, envelope: Envelope) -> HostAnswer:
        return Refusal(Reply(451, "4.7.5", ("no",)))


def test_r36_after_a_published_policy_that_authenticates_the_host_no_other_is_consulted() -> None:
    policies = TlsPolicies([Authenticating(), Refusing()])
    found = required(policies, PLAIN)
    assert isinstance(found, Requirement)
    assert (found.use, found.policy) == (TlsUse.VERIFY, PublishedPolicy(PolicyType.TLSA, "a.example"))
    assert isinstance(required(policies, PLAIN, HOST._replace(name="mx2.a.example")), Refusal)


def test_a_local_rule_can_ignore_what_a_domain_publishes_but_not_requiretls() -> None:
    for published in (True, False):
        rules = LocalRules([TlsRule(("a.example",), TlsUse.MAY, published)])
        found = required(TlsPolicies([rules, RequireTls(), Refusing()]), PLAIN)
        assert isinstance(found, Refusal if published else Requirement)
        tagged = required(TlsPolicies([rules, RequireTls()]), TAGGED, HOST._replace(level=MxLevel.DNSSEC))
        assert isinstance(tagged, Requirement)
        assert tagged.use is TlsUse.VERIFY


def test_what_requires_nothing_does_not_turn_tls_on_where_a_rule_turns_it_off() -> None:
    optional = PLAIN._replace(parameters={TLS_REQUIRED: "No"})
    off = TlsPolicies([LocalRules([TlsRule(("a.example",), TlsUse.NONE)])])
    found = required(off, optional)
    assert isinstance(found, Requirement)
    assert (found.use, found.ignores_published) == (TlsUse.NONE, True)
    alone = required(TlsPolicies([]), optional)
    assert isinstance(alone, Requirement)
    assert alone.use is TlsUse.MAY
    assert Requirement(TlsUse.NONE, trial=BY_AUTHORITIES).attempts[0] == (TlsUse.NONE, UNAUTHENTICATED)


def test_a_trial_precedes_what_is_required() -> None:
    trial = Requirement(trial=BY_AUTHORITIES)
    assert trial.attempts == (
        (TlsUse.MAY, BY_AUTHORITIES),
        (TlsUse.MAY, UNAUTHENTICATED),
        (TlsUse.NONE, UNAUTHENTICATED),
    )
    assert Requirement(TlsUse.VERIFY, BY_AUTHORITIES, trial=BY_AUTHORITIES).attempts == (
        (TlsUse.VERIFY, BY_AUTHORITIES),
    )
