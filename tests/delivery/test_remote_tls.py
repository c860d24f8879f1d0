"""TLS of delivery: opportunistic, required, verified; fallback, reuse of connections, and policies of other kinds."""

from __future__ import annotations

import ssl
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.delivery.test_remote import (
    FIRST,
    MX_A,
    D,
    F,
    P,
    deliver,
    delivery,
    message,
    one,
    peer,
    run,
    tagged,
)

from ironpost.model import Address, Reply
from ironpost.model.envelope import TLS_REQUIRED
from ironpost.model.tls import (
    BY_AUTHORITIES,
    PolicyType,
    PublishedPolicy,
    TlsFailure,
    TlsLevel,
    TlsOutcome,
    TlsResult,
    Verification,
)
from ironpost.routing.route import Route
from ironpost.routing.tls import MxHost, Refusal, Requirement, TlsPolicies, TlsPolicy, TlsRule, TlsUse, tls_policies
from ironpost.routing.tls.local import LocalRules
from ironpost.routing.tls.requiretls import RequireTls
from ironpost.server.self_signed import write_self_signed
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ironpost.model import Envelope, Outcome

STARTTLS = {"EHLO": b"250-peer.example\r\n250 STARTTLS\r\n", "STARTTLS": b"220 go\r\n"}
"""A host that offers STARTTLS."""
STRIPPED = {**STARTTLS, "EHLO": b"250-peer.example\r\n250 8BITMIME\r\n"}
"""The same host, after an attacker has removed the offer."""
BROKEN = {**STARTTLS, "STARTTLS": b"220 go\r\nthis is not TLS\r\n"}
"""Octets after the reply, before TLS (SECURITY R10)."""
ONE_HOST = StaticResolver(mx={"a.example": [(1, "mx1.a.example")]}, addresses=FIRST, authentic=["a.example"])
AUTHENTIC = StaticResolver(mx=MX_A, addresses=FIRST, authentic=["a.example"])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Certificates by the name that they are for, each its own authority."""
    folder = tmp_path_factory.mktemp("certificates")
    found = {}
    for name in ("mx1.a.example", "other.example", "hub.example"):
        found[name] = folder / f"{name}.pem"
        write_self_signed(found[name], folder / f"{name}.key", [name])
    return found


def serving(files: dict[str, Path], name: str = "mx1.a.example") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[name], files[name].with_suffix(".key"))
    return context


def rules(use: TlsUse, *domains: str) -> TlsPolicies:
    return tls_policies([TlsRule(domains or ("a.example",), use)])


def tls(outcome: Outcome) -> TlsResult:
    assert outcome.tls is not None
    return outcome.tls


# -- opportunistic ----------------------------------------------------------------------------------------------------


def test_offered_tls_is_used_whatever_the_certificate(files: dict[str, Path]) -> None:
    async def main() -> None:
        async with peer(STARTTLS, tls=serving(files, "other.example")) as here, delivery(here.port) as made:
            for _ in range(2):
                outcome = one(await deliver(made, message("x@a.example")))
                assert outcome.disposition is D
                assert tls(outcome) == TlsResult(
                    "mx1.a.example", TlsLevel.ENCRYPTED, TlsLevel.NONE, "the certificate was not verified"
                )
            assert here.connections == 1
            assert here.levels == ["tls", "tls"]

    run(main)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (STRIPPED, "the host does not offer STARTTLS"),
        ({**STARTTLS, "STARTTLS": b"454 4.7.0 not now\r\n"}, "the host refused STARTTLS: 454 4.7.0 not now"),
    ],
)
def test_without_tls_the_message_is_sent_unencrypted_and_the_outcome_says_why(
    answers: dict[str, bytes], reason: str
) -> None:
    async def main() -> None:
        async with peer(answers) as here, delivery(here.port) as made:
            outcome = one(await deliver(made, message("x@a.example")))
            assert (outcome.disposition, tls(outcome).level, tls(outcome).reason) == (D, TlsLevel.NONE, reason)
            assert (here.connections, here.levels) == (1, [""])

    run(main)


def impatient() -> ssl.SSLContext:
    """The context of a host with which no handshake succeeds."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("PSK")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def test_after_a_failed_handshake_the_message_is_sent_unencrypted_over_one_more_connection() -> None:
    async def main() -> None:
        async with peer(STARTTLS, tls=impatient()) as here, delivery(here.port) as made:
            outcome = one(await deliver(made, message("x@a.example")))
            assert (outcome.disposition, tls(outcome).level) == (D, TlsLevel.NONE)
            assert tls(outcome).reason.startswith("TLS failed: ")
            assert (here.connections, here.levels) == (2, [""])
            assert [command for command in here.commands if command == "STARTTLS"] == ["STARTTLS"]
            assert one(await deliver(made, message("x@a.example"))).disposition is D
            assert here.connections == 2, "the unencrypted connection is reused by messages of the same policy"

    run(main)


def test_a_host_is_tried_unencrypted_once_only() -> None:
    async def main() -> None:
        async with (
            peer({**STARTTLS, "STARTTLS": None, "MAIL": None}) as first,
            peer(ip="127.0.0.2", port=first.port) as second,
            delivery(first.port) as made,
        ):
            outcome = one(await deliver(made, message("x@a.example")))
            assert (outcome.disposition, tls(outcome).host) == (D, "mx2.a.example")
            assert first.connections == 2
            assert second.levels == [""]

    run(main)


def test_r10_octets_before_the_handshake_are_no_reason_to_continue_unencrypted() -> None:
    async def main() -> None:
        async with peer(BROKEN) as here, delivery(here.port) as made:
            assert one(await deliver(made, message("x@a.example"))).disposition is P
            assert (here.connections, here.levels) == (1, [])

    run(main)


def test_a_local_rule_can_turn_tls_off(files: dict[str, Path]) -> None:
    async def main() -> None:
        async with (
            peer(STARTTLS, tls=serving(files)) as here,
            delivery(here.port, policies=rules(TlsUse.NONE)) as made,
        ):
            outcome = one(await deliver(made, message("x@a.example")))
            assert (outcome.disposition, tls(outcome).reason) == (D, "STARTTLS was not used")
            assert here.levels == [""]

    run(main)


# -- required ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", [TlsUse.ENCRYPT, TlsUse.VERIFY])
@pytest.mark.parametrize(
    ("answers", "enhanced"),
    [
        (STRIPPED, "4.7.10"),
        ({**STARTTLS, "STARTTLS": b"554 5.7.3 no\r\n"}, "4.7.3"),
        (STARTTLS, "4.7.5"),  # the handshake fails
    ],
)
def test_required_tls_that_fails_defers_without_sending_anything(
    use: TlsUse, answers: dict[str, bytes], enhanced: str
) -> None:
    async def main() -> None:
        async with (
            peer(answers, tls=impatient()) as first,
            peer(answers, "127.0.0.2", first.port, impatient()) as second,
            delivery(first.port, policies=rules(use)) as made,
        ):
            outcome = one(await deliver(made, message("x@a.example")))
            assert (outcome.disposition, outcome.reply.code, outcome.reply.enhanced) == (P, 451, enhanced)
            assert (tls(outcome).level, tls(outcome).required) == (TlsLevel.NONE, use.level)
            assert (first.connections, second.connections) == (1, 1)
            assert not any(command.startswith("MAIL") for command in first.commands + second.commands)

    run(main)


def test_a_host_without_tls_is_followed_by_one_with_it(files: dict[str, Path]) -> None:
    async def main() -> None:
        async with (
            peer(STRIPPED) as first,
            peer(STARTTLS, "127.0.0.2", first.port, serving(files)) as second,
            delivery(first.port, policies=rules(TlsUse.ENCRYPT)) as made,
        ):
            outcome = one(await deliver(made, message("x@a.example")))
            assert (outcome.disposition, tls(outcome).host) == (D, "mx2.a.example")
            assert tls(outcome).level is tls(outcome).required is TlsLevel.ENCRYPTED
            assert not first.messages
            assert second.levels == ["tls"]

    run(main)


@pytest.mark.parametrize(
    ("served", "trusted", "expected"),
    [
        ("mx1.a.example", "mx1.a.example", D),
        ("mx1.a.example", "other.example", P),  # by an authority that is not trusted
        ("other.example", "other.example", P),  # for another name
    ],
)
def test_verify_needs_a_valid_certificate_for_the_host(
    served: str, trusted: str, expected: object, files: dict[str, Path]
) -> None:
    async def main() -> None:
        async with (
            peer(STARTTLS, tls=serving(files, served)) as here,
            delivery(here.port, resolver=ONE_HOST, policies=rules(TlsUse.VERIFY), authorities=files[trusted]) as made,
        ):
            outcome = one(await deliver(made, message("x@a.example")))
            assert outcome.disposition is expected
            if expected is D:
                assert tls(outcome).level is TlsLevel.AUTHENTICATED
            else:
                assert (outcome.reply.enhanced, here.levels) == ("4.7.5", [])
                assert "certificate was not accepted" in outcome.reply.detail

    run(main)


def test_rules_apply_to_a_smart_host_by_its_name_and_a_failure_is_ours(files: dict[str, Path]) -> None:
    resolver = StaticResolver(addresses={"hub.example": ["127.0.0.1"]})

    async def main() -> None:
        async with peer(STRIPPED, tls=serving(files, "hub.example")) as here:
            route = Route.smart([f"hub.example:{here.port}"])
            policies = rules(TlsUse.VERIFY, "hub.example")
            authorities = files["hub.example"]
            async with delivery(resolver=resolver, policies=policies, authorities=authorities) as made:
                outcome = one(await deliver(made, message("x@a.example"), route))
                assert (outcome.disposition, outcome.reply.enhanced, outcome.ours) == (P, "4.7.10", True)
                here.answers.update(STARTTLS)
                outcome = one(await deliver(made, message("x@a.example"), route))
                assert (outcome.disposition, tls(outcome).level) == (D, TlsLevel.AUTHENTICATED)

    run(main)


# -- messages that require TLS, and reuse -----------------------------------------------------------------------------

PROMISES = {**STARTTLS, "EHLO under TLS": b"250-peer.example\r\n250 REQUIRETLS\r\n"}


def test_r38_r39_a_message_that_requires_authentication_never_shares_an_encrypted_connection(
    files: dict[str, Path],
) -> None:
    async def main() -> None:
        async with (
            peer(PROMISES, tls=serving(files)) as here,
            delivery(here.port, resolver=AUTHENTIC, authorities=files["mx1.a.example"]) as made,
        ):
            outcome = one(await deliver(made, message("x@a.example")))
            assert (tls(outcome).level, here.connections) == (TlsLevel.ENCRYPTED, 1)
            outcome = one(await deliver(made, tagged("x@a.example")))
            assert (outcome.disposition, tls(outcome).level, here.connections) == (D, TlsLevel.AUTHENTICATED, 2)
            for sent, level in ((message, TlsLevel.ENCRYPTED), (tagged, TlsLevel.AUTHENTICATED)):
                assert tls(one(await deliver(made, sent("x@a.example")))).level is level
            assert here.connections == 2, "each finds the connection of its level again"
            mails = [command for command in here.commands if command.startswith("MAIL")]
            assert [mail.endswith(" REQUIRETLS") for mail in mails] == [False, True, False, True]

    run(main)


@pytest.mark.parametrize(
    ("answers", "served", "enhanced"),
    [
        (STARTTLS, "mx1.a.example", "5.7.30"),  # the host does not offer REQUIRETLS
        (PROMISES, "other.example", "5.7.10"),
        ({**PROMISES, **STRIPPED}, "mx1.a.example", "5.7.10"),
    ],
)
def test_r38_a_message_that_requires_tls_fails_if_no_host_can_carry_it(
    answers: dict[str, bytes], served: str, enhanced: str, files: dict[str, Path]
) -> None:
    """RFC 8689 §4.2.1: codes, and a non-delivery notification instead of a deferral."""

    async def main() -> None:
        async with (
            peer(answers, tls=serving(files, served)) as here,
            delivery(here.port, resolver=ONE_HOST, authorities=files["mx1.a.example"]) as made,
        ):
            outcome = one(await deliver(made, tagged("x@a.example")))
            assert (outcome.disposition, outcome.reply.code, outcome.reply.enhanced) == (F, 550, enhanced)
            assert not here.messages

    run(main)


# -- a policy of another kind -----------------------------------------------------------------------------------------


class Pin:
    """A verifier that accepts one certificate, as DANE does (RFC 7672 §3.1.1)."""

    uses_authorities = False

    def __init__(self, der: bytes) -> None:
        self._der = der

    def verify(self, chain: Sequence[bytes]) -> Verification:
        if chain[0] == self._der:
            return Verification(TlsLevel.AUTHENTICATED, "the certificate is pinned")
        return Verification(TlsLevel.ENCRYPTED, "the certificate is not the pinned one")


class Pinning(TlsPolicy):
    """The test double: `a.example` must have the pinned certificate, and one of its hosts is not to be used."""

    def __init__(self, der: bytes) -> None:
        self._pin = Pin(der)
        self.domains: list[str] = []
        self.hosts: list[MxHost] = []

    def for_domain(self, domain: str, envelope: Envelope) -> Requirement | None:
        self.domains.append(domain)
        return Requirement(TlsUse.VERIFY, self._pin, reasons=("pinned",)) if domain == "a.example" else None

    async def for_host(self, host: MxHost, envelope: Envelope) -> Refusal | None:
        self.hosts.append(host)
        if host.name != "mx1.a.example":
            return None
        return Refusal(Reply(451, "4.7.5", ("The host is on the test's list",)), TlsFailure.VALIDATION_FAILURE)


def pinned(files: dict[str, Path], name: str) -> tuple[Pinning, TlsPolicies]:
    policy = Pinning(ssl.PEM_cert_to_DER_cert(files[name].read_text()))
    return policy, TlsPolicies((LocalRules(), RequireTls(), policy))


def test_a_third_policy_is_consulted_once_for_each_domain_and_host(files: dict[str, Path]) -> None:
    policy, policies = pinned(files, "other.example")

    async def main() -> None:
        async with (
            peer(STARTTLS, tls=serving(files)) as first,
            peer(STARTTLS, "127.0.0.2", first.port, serving(files, "other.example")) as second,
            delivery(first.port, policies=policies) as made,
        ):
            outcome = one(await deliver(made, message("x@a.example")))
            assert (outcome.disposition, tls(outcome).host) == (D, "mx2.a.example")
            assert tls(outcome).level is tls(outcome).required is TlsLevel.AUTHENTICATED
            assert tls(outcome).reason == "the certificate is pinned"
            assert (first.connections, second.levels) == (0, ["tls"])
            assert policy.domains == ["a.example"]
            assert [host.name for host in policy.hosts] == ["mx1.a.example", "mx2.a.example"]

    run(main)


def test_a_verifier_that_fails_ends_the_session_with_quit(files: dict[str, Path]) -> None:
    """RFC 3207 §4.1."""
    _, policies = pinned(files, "other.example")

    async def main() -> None:
        async with (
            peer(STARTTLS) as first,
            peer(STARTTLS, "127.0.0.2", first.port, serving(files)) as second,
            delivery(first.port, policies=policies) as made,
        ):
            outcome = one(await deliver(made, message("x@a.example")))
            assert (outcome.disposition, outcome.reply.detail) == (P, "the certificate is not the pinned one")
            await second.until(lambda: not second.open)
            assert [command.partition(" ")[0] for command in second.commands] == ["EHLO", "STARTTLS", "EHLO", "QUIT"]

    run(main)


def test_a_host_that_a_policy_refuses_is_not_contacted(files: dict[str, Path]) -> None:
    _, policies = pinned(files, "other.example")

    async def main() -> None:
        async with peer() as here, delivery(here.port, resolver=ONE_HOST, policies=policies) as made:
            outcome = one(await deliver(made, message("x@a.example")))
            assert (outcome.disposition, outcome.reply.enhanced, outcome.asked) == (P, "4.7.5", False)
            assert tls(outcome).required is TlsLevel.AUTHENTICATED
            assert not here.connections

    run(main)


def test_the_preview_shows_policies_and_reasons_for_domain_and_hosts(files: dict[str, Path]) -> None:
    _, policies = pinned(files, "other.example")

    async def main() -> None:
        async with delivery(policies=policies) as made:
            hops = await made.preview(Address.parse("x@a.example"), Route.mx())
            assert "TLS verify: pinned" in hops.reasons
            assert "mx1.a.example [127.0.0.1] is not used: 451 4.7.5 The host is on the test's list" in hops.reasons
            hops = await made.preview(Address.parse("x@a.example"), Route.smart(["127.0.0.1:2525"]))
            assert hops.reasons == ("[127.0.0.1]:2525: TLS may: no policy requires TLS",)

    run(main)


# -- records for reports ----------------------------------------------------------------------------------------------


class Trying(TlsPolicy):
    """The test double of a policy in testing mode (RFC 8461 §5): verification is tried, and never decides."""

    policy = PublishedPolicy(PolicyType.STS, "a.example", ("version: STSv1",), ("*.a.example",))

    def for_host(self, host: MxHost, envelope: Envelope) -> Requirement:
        return Requirement(trial=BY_AUTHORITIES, policy=self.policy)


@pytest.mark.parametrize(
    ("served", "trusted", "level", "failure"),
    [
        ("mx1.a.example", "mx1.a.example", TlsLevel.AUTHENTICATED, None),
        ("mx1.a.example", "other.example", TlsLevel.ENCRYPTED, TlsFailure.CERTIFICATE_NOT_TRUSTED),
        ("other.example", "other.example", TlsLevel.ENCRYPTED, TlsFailure.CERTIFICATE_HOST_MISMATCH),
        ("", "other.example", TlsLevel.NONE, TlsFailure.STARTTLS_NOT_SUPPORTED),
    ],
)
def test_a_trial_is_recorded_and_never_prevents_delivery(
    served: str, trusted: str, level: TlsLevel, failure: TlsFailure | None, files: dict[str, Path]
) -> None:
    outcomes: list[TlsOutcome] = []

    async def main() -> None:
        async with (
            peer(STARTTLS if served else STRIPPED, tls=serving(files, served) if served else None) as here,
            delivery(
                here.port,
                resolver=ONE_HOST,
                policies=TlsPolicies((Trying(),)),
                authorities=files[trusted],
                recorder=outcomes.append,
            ) as made,
        ):
            for _ in range(2):
                outcome = one(await deliver(made, message("x@a.example")))
                assert (outcome.disposition, tls(outcome).level, tls(outcome).failure) == (D, level, failure)
            assert here.connections == 1 + (level is TlsLevel.ENCRYPTED), "the connection of the trial failed"

    run(main)
    (found,) = outcomes
    assert (found.policy, found.failure, found.host) == (Trying.policy, failure, "mx1.a.example")
    assert (found.host_ip, found.our_ip) == ("127.0.0.1", "127.0.0.1")
    assert bool(found.detail) is (failure is not None)


@pytest.mark.parametrize(
    ("answers", "use", "failures"),
    [
        (STARTTLS, TlsUse.MAY, [None]),
        (STRIPPED, TlsUse.MAY, [TlsFailure.STARTTLS_NOT_SUPPORTED]),
        ({**STARTTLS, "STARTTLS": b"554 5.7.3 no\r\n"}, TlsUse.ENCRYPT, [TlsFailure.STARTTLS_NOT_SUPPORTED]),
        (STARTTLS, TlsUse.NONE, []),
        ({"greeting": None}, TlsUse.MAY, []),
    ],
)
def test_the_tls_of_a_domain_without_policy_is_recorded_too(
    answers: dict[str, bytes | None], use: TlsUse, failures: list[TlsFailure | None], files: dict[str, Path]
) -> None:
    outcomes: list[TlsOutcome] = []

    async def main() -> None:
        async with (
            peer(answers, tls=serving(files)) as here,
            delivery(here.port, resolver=ONE_HOST, policies=rules(use), recorder=outcomes.append) as made,
        ):
            await deliver(made, message("x@a.example"))
            await deliver(made, message("x@a.example"), Route.smart([f"127.0.0.1:{here.port}"]))

    run(main)
    assert [(each.domain, each.policy, each.failure) for each in outcomes] == [
        ("a.example", PublishedPolicy(PolicyType.NONE, "a.example"), failure) for failure in failures
    ]


def test_a_host_that_a_policy_refuses_is_recorded(files: dict[str, Path]) -> None:
    outcomes: list[TlsOutcome] = []
    _, policies = pinned(files, "other.example")

    async def main() -> None:
        async with delivery(resolver=ONE_HOST, policies=policies, recorder=outcomes.append) as made:
            await deliver(made, message("x@a.example"))

    run(main)
    assert [(each.failure, each.host, each.our_ip) for each in outcomes] == [
        (TlsFailure.VALIDATION_FAILURE, "mx1.a.example", "")
    ]


class Publishing(TlsPolicy):
    """The test double of a policy that the domain publishes, and that no host fulfils."""

    published = True
    policy = PublishedPolicy(PolicyType.STS, "a.example", ("version: STSv1",), ("*.a.example",))

    def for_host(self, host: MxHost, envelope: Envelope) -> Requirement:
        return Requirement(TlsUse.VERIFY, BY_AUTHORITIES, policy=self.policy)


def test_a_report_about_tls_arrives_despite_failures_and_is_not_recorded() -> None:
    outcomes: list[TlsOutcome] = []

    async def main() -> None:
        async with (
            peer(STRIPPED) as here,
            delivery(
                here.port, resolver=ONE_HOST, policies=TlsPolicies((Publishing(),)), recorder=outcomes.append
            ) as made,
        ):
            for _ in range(2):
                report = message("x@a.example")
                report = report._replace(envelope=report.envelope._replace(parameters={TLS_REQUIRED: "No"}))
                assert one(await deliver(made, report)).disposition is D
            assert outcomes == []
            assert one(await deliver(made, message("x@a.example"))).disposition is P

    run(main)
    assert [each.failure for each in outcomes] == [TlsFailure.STARTTLS_NOT_SUPPORTED]


def test_a_verifier_that_relies_on_authorities_needs_a_context_that_verifies() -> None:
    from ironpost.client.tls import context_for, encrypting, suits, verifier_for

    assert suits(context_for(BY_AUTHORITIES), BY_AUTHORITIES)
    assert not suits(encrypting(), BY_AUTHORITIES)
    assert verifier_for(context_for(BY_AUTHORITIES)) == BY_AUTHORITIES
    assert not verifier_for(encrypting()).uses_authorities


def test_an_outcome_records_its_connection() -> None:
    result = TlsResult("mx.example", TlsLevel.NONE, TlsLevel.NONE, "why")
    from ironpost.model import Outcome

    outcome = Outcome.of(Reply(250, "2.0.0", ("ok",)), "mx.example")
    assert outcome.over(result) == replace(outcome, tls=result)
