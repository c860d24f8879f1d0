"""MTA-STS: records, policies, matching of host names, and the requirement that follows from a policy."""

from __future__ import annotations

import asyncio

import pytest

from ironpost.model import Address, Envelope, Recipient
from ironpost.model.tls import BY_AUTHORITIES, UNAUTHENTICATED, PolicyType, TlsFailure
from ironpost.protocol import replies
from ironpost.routing.tls import MxHost, MxLevel, Refusal, Requirement, TlsPolicies, TlsRule, TlsUse, tls_policies
from ironpost.routing.tls.mta_sts import (
    MAX_AGE,
    StsMode,
    StsPolicy,
    StsSyntaxError,
    parse_policy,
    parse_record,
    policy_domain,
)

MESSAGE = Envelope(Address.parse("a@us.example"), (Recipient(Address.parse("b@a.example")),))
TAGGED = MESSAGE._replace(parameters={"REQUIRETLS": None})
POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mail.a.example\r\nmx: *.b.example\r\nmax_age: 604800\r\n"


# -- records ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "identifier"),
    [
        ([b"v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        ([b"v=STSv1;id=1"], "1"),
        ([b"v=STSv1 ;\tid=1 ; "], "1"),
        ([b"v=STSv1; x=y; id=1; a.b-c_d=!~:"], "1"),
        ([b"v=STSv1; id=1; id=2"], "1"),
        ([b"v=spf1 -all", b"v=STSv1; id=1", b"v=STSv10; id=2", b"V=STSv1; id=3"], "1"),
        ([b"v=STSv1; id=" + b"a" * 32], "a" * 32),
        ([], None),
        ([b"v=spf1 -all", b"", b"v=STSv1", b" v=STSv1; id=1"], None),
    ],
)
def test_a_record_announces_the_id_of_a_policy(records: list[bytes], identifier: str | None) -> None:
    assert parse_record(records) == identifier


@pytest.mark.parametrize(
    "records",
    [
        [b"v=STSv1; id=1", b"v=STSv1; id=1"],
        [b"v=STSv1;"],
        [b"v=STSv1; x=y"],
        [b"v=STSv1; id="],
        [b"v=STSv1; id=a-b"],
        [b"v=STSv1; id=" + b"a" * 33],
        [b"v=STSv1; ID=1"],
        [b"v=STSv1;; id=1"],
        [b"v=STSv1; id=1;;"],
        [b"v=STSv1; id=1; x"],
        [b"v=STSv1; id=1; x=a=b"],
        [b"v=STSv1; id=1; x=a b"],
        [b"v=STSv1; id=1; =y"],
        [b"v=STSv1; id=1; x=\xff"],
        [b"v=STSv1; id=1; " + b"x" * 33 + b"=y"],
        [b"v=STSv1; id=1\0"],
    ],
)
def test_an_invalid_record_is_refused_as_a_whole(records: list[bytes]) -> None:
    with pytest.raises(StsSyntaxError) as caught:
        parse_record(records)
    assert str(caught.value).isascii()


# -- policies ---------------------------------------------------------------------------------------------------------


def test_a_policy_has_mode_patterns_and_lifetime() -> None:
    policy = parse_policy(POLICY)
    assert policy == StsPolicy(StsMode.ENFORCE, ("mail.a.example", "*.b.example"), 604_800)
    assert "\r\n".join(policy.lines) + "\r\n" == POLICY.decode()
    assert parse_policy("\n".join(policy.lines).encode()) == policy


@pytest.mark.parametrize(
    "body",
    [
        POLICY.replace(b"\r\n", b"\n"),
        POLICY.removesuffix(b"\r\n"),
        POLICY + b"\r\n\n",
        POLICY.replace(b": ", b":").replace(b"\r\n", b" \t\r\n"),
        POLICY + "x-note: Grüße, Wörter\r\n".encode(),
        POLICY + b"mode: none\r\nversion: STSv2\r\nmax_age: x\r\n",  # only the first of each counts
        b"max_age: 604800\nmx: MAIL.a.example\nmx: *.B.example\nmode: enforce\nversion: STSv1",
    ],
)
def test_equal_policies_are_written_in_several_ways(body: bytes) -> None:
    assert parse_policy(body) == parse_policy(POLICY)


def test_lifetimes_are_bounded_and_none_needs_no_hosts() -> None:
    policy = parse_policy(b"version: STSv1\nmode: none\nmax_age: 9999999999\n")
    assert policy == StsPolicy(StsMode.NONE, (), MAX_AGE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"version: STSv1\r\n", b""),
        (b"STSv1", b"STSv2"),
        (b"STSv1", b"stsv1"),
        (b"mode: enforce\r\n", b""),
        (b"enforce", b"Enforce"),
        (b"max_age: 604800\r\n", b""),
        (b"604800", b"-1"),
        (b"604800", b"1.5"),
        (b"604800", b"12345678901"),
        (b"mx: mail.a.example\r\nmx: *.b.example\r\n", b""),
        (b"mail.a.example", b"mail..example"),
        (b"mail.a.example", b"*mail.example"),
        (b"mail.a.example", b"a.*.example"),
        (b"mail.a.example", b"*"),
        (b"mail.a.example", b"mail.a.example."),
        (b"mail.a.example", b"[192.0.2.1]"),
        (b"mail.a.example", "müller.example".encode()),
        (b"mail.a.example", b"x." * 130 + b"example"),
        (b"mode: ", b"mode = "),
        (b"mode", b"mo de"),
        (b"mode: enforce", b"mode:"),
        (b"enforce", b"enf\0rce"),
        (b"enforce\r\n", b"enforce\r"),
        (b"version", b"\xff\xfe"),
        (b"version", b"<html>"),
    ],
)
def test_an_invalid_policy_is_refused_as_a_whole(old: bytes, new: bytes) -> None:
    body = POLICY.replace(old, new, 1)
    assert body != POLICY
    with pytest.raises(StsSyntaxError) as caught:
        parse_policy(body)
    assert str(caught.value).isascii()
    assert "\0" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "pattern"),
    [
        ("mail.a.example", "mail.a.example"),
        ("mail.a.example.", "mail.a.example"),
        ("x.mail.a.example", None),
        ("a.example", None),
        ("x.b.example", "*.b.example"),
        ("b.example", None),
        ("x.y.b.example", None),
        ("xb.example", None),
        ("*.b.example", "*.b.example"),
        ("", None),
        ("example", None),
    ],
)
def test_r37_a_wildcard_matches_one_label_only(host: str, pattern: str | None) -> None:
    """RFC 8461 §4.1."""
    assert parse_policy(POLICY).matches(host) == pattern


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("a.example", "a.example"),
        ("a.example.", "a.example"),
        ("müller.example", "xn--mller-kva.example"),
        ("[192.0.2.1]", None),
        ("192.0.2.1", None),
        ("2001:db8::1", None),
        ("localhost", None),
        ("a." + "x" * 240, None),
    ],
)
def test_addresses_and_single_labels_have_no_policy(name: str, domain: str | None) -> None:
    assert policy_domain(name) == domain


# -- the requirement --------------------------------------------------------------------------------------------------


class Fixed:
    """A source of one policy for `a.example`."""

    def __init__(self, mode: StsMode) -> None:
        self.policy = StsPolicy(mode, ("*.a.example",), 86_400)
        self.asked: list[str] = []

    async def find(self, domain: str) -> StsPolicy | None:
        self.asked.append(domain)
        return self.policy if domain == "a.example" else None


def required(policies: TlsPolicies, host: MxHost, envelope: Envelope = MESSAGE) -> Requirement | Refusal:
    async def main() -> Requirement | Refusal:
        return await policies.for_host(host, envelope, await policies.for_domain(host.domain, envelope))

    return asyncio.run(main())


LISTED = MxHost("a.example", "mx.a.example", MxLevel.UNVERIFIED)
OTHER = LISTED._replace(name="mx.evil.example")


def test_r37_enforce_needs_a_listed_host_with_a_valid_certificate() -> None:
    policies = tls_policies(sts=Fixed(StsMode.ENFORCE))
    found = required(policies, LISTED)
    assert isinstance(found, Requirement)
    assert (found.use, found.verifier, found.proves, found.permanent) == (
        TlsUse.VERIFY, BY_AUTHORITIES, MxLevel.MTA_STS, False,
    )  # fmt: skip
    assert found.reasons[-1] == "the MTA-STS policy of a.example (enforce) lists *.a.example"
    assert found.policy is not None
    assert (found.policy.type, found.policy.domain, found.policy.mx) == (PolicyType.STS, "a.example", ("*.a.example",))
    assert found.policy.strings[1] == "mode: enforce"
    reply = found.refusal(replies.PEER_LACKS_STARTTLS)
    assert (reply.code, reply.enhanced) == (451, "4.7.10")
    assert str(reply).endswith("(MTA-STS policy of a.example)")


@pytest.mark.parametrize("level", [MxLevel.UNVERIFIED, MxLevel.DNSSEC, MxLevel.GIVEN])
def test_r37_a_host_that_is_not_listed_is_refused_for_now(level: MxLevel) -> None:
    refused = required(tls_policies(sts=Fixed(StsMode.ENFORCE)), OTHER._replace(level=level))
    assert isinstance(refused, Refusal)
    assert (refused.reply.code, refused.reply.enhanced, refused.failure) == (
        451, "4.7.5", TlsFailure.VALIDATION_FAILURE,
    )  # fmt: skip
    assert "MTA-STS policy" in str(refused.reply)
    assert refused.reply.detail == "the MTA-STS policy of a.example (enforce) does not list mx.evil.example"
    assert refused.policy is not None


def test_r37_testing_only_records() -> None:
    policies = tls_policies(sts=Fixed(StsMode.TESTING))
    listed, other = required(policies, LISTED), required(policies, OTHER)
    for found in (listed, other):
        assert isinstance(found, Requirement)
        assert (found.use, found.verifier, found.proves) == (TlsUse.MAY, UNAUTHENTICATED, MxLevel.UNVERIFIED)
        assert found.policy is not None
        assert str(found.refusal(replies.HANDSHAKE_FAILED)).startswith("451")
    assert isinstance(listed, Requirement)
    assert isinstance(other, Requirement)
    assert (listed.trial, listed.violation) == (BY_AUTHORITIES, "")
    assert (other.trial, bool(other.violation)) == (None, True)


def test_testing_does_not_turn_tls_on_where_a_rule_turns_it_off() -> None:
    policies = tls_policies([TlsRule(("a.example",), TlsUse.NONE)], sts=Fixed(StsMode.TESTING))
    for host in (LISTED, OTHER):
        found = required(policies, host)
        assert isinstance(found, Requirement)
        assert found.use is TlsUse.NONE


def test_mode_none_and_domains_without_policy_require_nothing() -> None:
    source = Fixed(StsMode.NONE)
    policies = tls_policies(sts=source)
    for host in (LISTED, LISTED._replace(domain="other.example"), MxHost("[192.0.2.1]", "192.0.2.1", MxLevel.GIVEN)):
        found = required(policies, host)
        assert isinstance(found, Requirement)
        assert (found.use, found.policy) == (TlsUse.MAY, None)
    assert source.asked == ["a.example", "other.example"]


def test_the_policy_authenticates_the_host_name_of_a_message_with_requiretls() -> None:
    """RFC 8689 §4.2.1."""
    found = required(tls_policies(sts=Fixed(StsMode.ENFORCE)), LISTED, TAGGED)
    assert isinstance(found, Requirement)
    assert (found.use, found.permanent) == (TlsUse.VERIFY, True)
    assert isinstance(required(tls_policies(sts=Fixed(StsMode.TESTING)), LISTED, TAGGED), Refusal)


def test_a_local_rule_adds_to_the_policy_or_ignores_it() -> None:
    source = Fixed(StsMode.ENFORCE)
    found = required(tls_policies([TlsRule(("a.example",), TlsUse.ENCRYPT)], sts=source), LISTED)
    assert isinstance(found, Requirement)
    assert found.use is TlsUse.VERIFY
    found = required(tls_policies([TlsRule(("a.example",), TlsUse.ENCRYPT, published=False)], sts=source), OTHER)
    assert isinstance(found, Requirement)
    assert found.use is TlsUse.ENCRYPT
