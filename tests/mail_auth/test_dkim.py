"""DKIM: signatures that are valid, and all the ways in which they are not."""

from __future__ import annotations

import asyncio
import builtins
from base64 import b64encode
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st
from tests.mail_auth.signed import (
    ED25519_PEM,
    MESSAGE,
    PUBLISHED,
    RFC_6376_MESSAGE,
    RFC_6376_PUBLISHED,
    RFC_6376_SIGNATURE,
    RSA_PEM,
    SIGNATURES,
    KeyServer,
    cut,
    key,
    rsa_key,
    rsa_octets,
    rsa_record,
    signed,
)

from ironpost.mail_auth import (
    DkimAnswer,
    DkimFailure,
    DkimResult,
    DkimVerifier,
    Key,
    KeyFault,
    Records,
    RecordType,
    ResolverError,
    key_name,
    of_dkim,
    parse_key_record,
    results_field,
    verify_dkim,
)
from ironpost.mail_auth.dkim import SIGNATURES_LIMIT
from ironpost.mail_auth.keys import RECORD_LIMIT, RSA_LIMIT
from ironpost.mail_auth.signature import RECORDS_LIMIT, SIGNATURE_LIMIT, BodyHash
from ironpost.message.section import Header
from ironpost.model.packages import PackageMissing
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Awaitable

NOW = 1_700_000_000.0
NAME = "s._domainkey.a.example"
RECORD = key().record.encode()


def verify(message: bytes, *records: bytes, resolver: Any = None, now: float = NOW) -> tuple[DkimAnswer, ...]:
    """Verify a message with the records of s._domainkey.a.example, or with its key."""
    resolver = resolver or KeyServer({NAME: records or [RECORD]})
    return asyncio.run(verify_dkim(message, resolver=resolver, now=now))


def outcome(message: bytes, *records: bytes, **options: Any) -> tuple[str, str]:
    """The result and the reason for the only signature of a message."""
    (answer,) = verify(message, *records, **options)
    return answer.result, answer.reason


# -- signatures that are valid ----------------------------------------------------------------------------------------


def test_the_example_of_rfc_8463_has_two_valid_signatures() -> None:
    resolver = KeyServer(PUBLISHED)
    first, second = verify(SIGNATURES + MESSAGE, resolver=resolver)
    assert first == DkimAnswer(
        DkimResult.PASS,
        "signed with the key brisbane._domainkey.football.example.com",
        "football.example.com",
        "brisbane",
        "ed25519-sha256",
        "@football.example.com",
        "/gCrinpc",
    )
    assert (second.result, second.selector, second.algorithm) == ("pass", "test", "rsa-sha256")
    assert resolver.asked == list(PUBLISHED)


def test_the_example_of_rfc_6376_has_a_valid_signature() -> None:
    answers = verify(RFC_6376_SIGNATURE + RFC_6376_MESSAGE, resolver=StaticResolver(txt=RFC_6376_PUBLISHED))
    assert [(answer.result, answer.domain, answer.identity) for answer in answers] == [
        ("pass", "example.com", "joe@football.example.com")
    ]


def test_a_message_without_signatures_has_no_results() -> None:
    assert verify(MESSAGE) == verify(b"") == verify(b"\r\n") == verify(b"no header section") == ()


@pytest.mark.parametrize("canonicalisation", ["simple", "relaxed", "simple/relaxed", "relaxed/simple", None])
@pytest.mark.parametrize(
    "message",
    [
        MESSAGE,
        b"From: jo@a.example\r\n\r\n",
        b"From: jo@a.example\r\n\r\n\r\n\r\n",
        b"FROM:\tjo@a.example \r\n\t\r\nSubject:\r\n\r\n  a \t b \r\n\r\nc\r\n \r\n\r\n",
        b"From : jo@a.example\r\nTo:a\r\nto:b\r\n\r\nno end of line",
    ],
)
def test_both_canonical_forms_are_verified(message: bytes, canonicalisation: str | None) -> None:
    assert outcome(signed(message, c=canonicalisation))[0] == "pass"


def test_a_message_may_end_with_its_header_section() -> None:
    message = signed(b"From: jo@a.example\r\nSubject: x\r\n\r\n", c="relaxed/relaxed")
    assert outcome(message.removesuffix(b"\r\n"))[0] == "pass"
    assert outcome(message.removesuffix(b"\r\n\r\n"))[0] == "pass"


@pytest.mark.parametrize(
    "tags",
    [
        {"i": "@a.example"},
        {"i": "jo@b.A.example"},
        {"t": "1600000000", "x": "1700000001"},
        {"q": "dns/txt"},
        {"q": "other:dns/txt"},
        {"h": "From : to\r\n :subject:  no-such-field :to"},
        {"z": "From:jo|Subject:x", "other": ""},
        {"d": "A.Example", "s": "S"},
        {"l": str(len(MESSAGE.partition(b"\r\n\r\n")[2]))},
    ],
)
def test_tags_that_do_not_prevent_a_pass(tags: dict[str, str]) -> None:
    assert outcome(signed(MESSAGE, **tags)) == ("pass", f"signed with the key {NAME}")


SIGNED = signed(MESSAGE)
SIGNED_TWICE = signed(SIGNED, c="relaxed/relaxed")


@given(cuts=st.lists(st.integers(0, len(MESSAGE)), max_size=6))
def test_the_body_may_be_read_in_any_pieces(cuts: list[int]) -> None:
    message = SIGNED_TWICE
    start = message.index(b"\r\n\r\n") + 4
    body = message[start:]
    verifier = DkimVerifier()
    verifier.header(Header(message[:start]))
    for piece in cut(body, cuts):
        verifier.body(piece)
    answers = asyncio.run(verifier.finish(KeyServer({NAME: [RECORD]}), NOW))
    assert [answer.result for answer in answers] == ["pass", "pass"]


def test_names_that_are_not_ascii_are_converted() -> None:
    name = key_name("schlüssel", "bücher.example")
    assert name == "xn--schlssel-95a._domainkey.xn--bcher-kva.example"
    message = signed(MESSAGE, d="bücher.example", s="schlüssel", i="jö@bücher.example")
    (answer,) = verify(message, resolver=KeyServer({name: [RECORD]}))
    assert (answer.result, answer.domain, answer.selector) == ("pass", "xn--bcher-kva.example", "schlüssel")


@pytest.mark.parametrize(
    ("selector", "domain"),
    [
        *[("s", domain) for domain in ("", ".", "a.example; l=0", "a\r\nb", "a:b", "a!b")],
        *[(selector, "a.example") for selector in ("", "s.", "s s", "s;x=1")],
    ],
)
def test_r49_the_name_of_a_key_cannot_write_tags(selector: str, domain: str) -> None:
    for act in (key_name, lambda selector, domain: Key.load(domain, selector, ED25519_PEM)):
        with pytest.raises(ValueError, match=r"is not a domain name|cannot be the name of a key"):
            act(selector, domain)


def test_a_selector_may_have_several_labels() -> None:
    for selector in ("2026.a", "a_b", "a._domainkey.b"):
        loaded = Key.load("A.example.", selector, ED25519_PEM)
        assert (loaded.domain, loaded.selector) == ("a.example", selector)
        assert loaded.name == f"{selector}._domainkey.a.example"


# -- signatures that are not ------------------------------------------------------------------------------------------


def test_no_octet_of_the_example_can_be_changed() -> None:
    message = SIGNATURES + MESSAGE
    second = SIGNATURES.index(b"DKIM-Signature", 1)
    resolver = StaticResolver(txt=PUBLISHED)
    for at, octet in enumerate(message):
        if not chr(octet).isalnum():
            continue
        changed = message[:at] + (b"k" if chr(octet) in "wxX" else b"x") + message[at + 1 :]
        passed = {each.selector for each in verify(changed, resolver=resolver) if each.result == "pass"}
        expected = {"test"} if at < second else {"brisbane"} if at < len(SIGNATURES) else set()
        assert passed == expected, changed


def test_no_octet_that_is_signed_in_simple_form_can_be_changed() -> None:
    resolver = StaticResolver(txt=RFC_6376_PUBLISHED)
    for at, octet in enumerate(RFC_6376_MESSAGE):
        changed = RFC_6376_MESSAGE[:at] + (b"k" if octet in b"x" else b"x") + RFC_6376_MESSAGE[at + 1 :]
        (answer,) = verify(RFC_6376_SIGNATURE + changed, resolver=resolver)
        assert answer.result in {"fail", "permerror"}, changed


@pytest.mark.parametrize("name", [b"From", b"To", b"Subject", b"Date", b"Message-ID"])
def test_no_field_of_the_example_can_be_removed(name: bytes) -> None:
    lines = [line for line in MESSAGE.split(b"\r\n") if not line.startswith(name)]
    for answer in verify(SIGNATURES + b"\r\n".join(lines), resolver=StaticResolver(txt=PUBLISHED)):
        assert answer.result == ("permerror" if name == b"From" else "fail")


@pytest.mark.parametrize("name", [b"From", b"Subject", b"Date"])
def test_r49_no_field_that_is_signed_once_more_can_be_added(name: bytes) -> None:
    for message in (name + b": x\r\n" + SIGNATURES + MESSAGE, SIGNATURES + name + b": x\r\n" + MESSAGE):
        for answer in verify(message, resolver=StaticResolver(txt=PUBLISHED)):
            assert answer.result == ("permerror" if name == b"From" else "fail")


@pytest.mark.parametrize(
    ("tags", "result", "reason"),
    [
        ({"v": None}, "neutral", "the tag v is missing"),
        ({"v": "2"}, "neutral", "the version '2' is not known"),
        ({"a": None}, "neutral", "the tag a is missing"),
        ({"a": "rsa-sha512"}, "neutral", "the algorithm 'rsa-sha512' is not known"),
        ({"a": "rsa-sha1"}, "permerror", "rsa-sha1 is not secure"),
        ({"a": "ed25519-sha256"}, "permerror", f"{NAME}: the key is for rsa-sha256, the signature is ed25519-sha256"),
        ({"b": None}, "neutral", "the tag b is missing"),
        ({"b": ""}, "neutral", "the tag b is empty"),
        ({"b": "!"}, "neutral", "the value of the tag b is not base64"),
        ({"b": "YWI"}, "neutral", "the value of the tag b is not base64"),
        ({"b": "YWI="}, "fail", f"the header fields do not match the key {NAME}"),
        ({"bh": None}, "neutral", "the tag bh is missing"),
        ({"bh": "YWI="}, "fail", "the body does not match its hash"),
        ({"d": None}, "neutral", "the tag d is missing"),
        ({"d": "a..example"}, "neutral", "'s._domainkey.a..example' is not a domain name"),
        ({"d": "a b.example"}, "neutral", "'s._domainkey.a b.example' cannot be the name of a key"),
        ({"s": ""}, "neutral", "the tag s is empty"),
        ({"s": "s,s"}, "neutral", "'s,s._domainkey.a.example' cannot be the name of a key"),
        ({"h": None}, "neutral", "the tag h is missing"),
        ({"h": ""}, "permerror", "the field From is not signed"),
        ({"h": "to:subject"}, "permerror", "the field From is not signed"),
        ({"i": "jo@b.example"}, "permerror", "b.example of the tag i is not within a.example"),
        ({"i": "jo@xa.example"}, "permerror", "xa.example of the tag i is not within a.example"),
        ({"i": "a.example"}, "neutral", "the tag i has no @"),
        ({"i": "jo@"}, "neutral", "the tag i is invalid: '' is not a domain name"),
        ({"l": "-1"}, "neutral", "the tag l is not a number"),
        ({"l": "5"}, "policy", "only 5 of 55 octets of the body are signed"),
        ({"l": "56"}, "fail", "the body does not match its hash"),
        ({"q": "dns/other"}, "neutral", "the key is not in DNS (tag q)"),
        ({"t": "now"}, "neutral", "the tag t is not a number"),
        ({"x": ""}, "neutral", "the tag x is not a number"),
        ({"x": "1600000000", "t": "1600000000"}, "neutral", "the signature expires before it was made"),
        ({"x": "1699999999", "t": "1600000000"}, "policy", "the signature has expired"),
        ({"n": "1; n=2"}, "neutral", "the tag n occurs twice"),
        ({"n": "1;"}, "neutral", "invalid tag ''"),
        ({"n": "1; 2=3"}, "neutral", "invalid tag '2=3'"),
        ({"n": "\x00"}, "neutral", "the list of tags has a control character"),
    ],
)
def test_a_signature_with_a_wrong_tag_does_not_pass(tags: dict[str, str | None], result: str, reason: str) -> None:
    assert outcome(signed(MESSAGE, **tags)) == (result, reason)


@pytest.mark.parametrize("value", ["strict", "simple/", "/simple", "Simple", ""])
def test_a_canonical_form_that_is_not_known_does_not_pass(value: str) -> None:
    message = signed(MESSAGE, c="simple").replace(b"c=simple", b"c=" + value.encode())
    assert outcome(message) == ("neutral", "the tag c is neither simple nor relaxed")


def test_a_signature_that_is_not_utf_8_does_not_pass() -> None:
    message = signed(MESSAGE, n="x").replace(b"n=x", b"n=\xff")
    assert outcome(message) == ("neutral", "the list of tags is not UTF-8")


def test_r49_a_signature_of_a_part_of_the_body_does_not_pass() -> None:
    message = signed(MESSAGE, l="5", c="relaxed/relaxed") + b"buy now\r\n"
    assert outcome(message) == ("policy", "only 5 of 63 octets of the body are signed")
    assert outcome(message.replace(b"Hi.", b"Ha.")) == ("policy", "only 5 of 63 octets of the body are signed")


def test_r23_the_body_is_hashed_once_for_each_canonical_form(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = Mock(side_effect=BodyHash)
    monkeypatch.setattr("ironpost.mail_auth.signature.BodyHash", hashed)
    message = MESSAGE
    for length in range(4):
        message = signed(message, l=str(length), c=f"relaxed/{'simple' if length % 2 else 'relaxed'}")
    assert [each.result for each in verify(message)] == ["policy"] * 4
    assert hashed.call_count == 2


def test_a_signature_does_not_cover_itself() -> None:
    names = "from:dkim-signature:dkim-signature"
    message = signed(MESSAGE, h=names)
    assert outcome(message)[0] == "pass"
    assert [answer.result for answer in verify(signed(message, h=names))] == ["pass", "fail"]


def test_r49_a_message_with_several_authors_or_none_does_not_pass() -> None:
    two = b"From: jo@a.example\r\nfrom : eve@b.example\r\n\r\nx\r\n"
    assert outcome(signed(two)) == ("permerror", "the message has 2 fields From; one is required")
    assert outcome(signed(b"To: jo\r\n\r\nx\r\n")) == ("permerror", "the message has 0 fields From; one is required")


def test_r49_fields_after_an_invalid_line_cannot_hide() -> None:
    message = signed(b"From: jo@a.example\r\n\r\nx\r\n")
    message = message.replace(b"\r\n\r\n", b"\r\nevil\r\nFrom: eve@b.example\r\n\r\n", 1)
    result, reason = outcome(message)
    assert result == "permerror"
    assert reason.startswith("Line after header field 2 is neither a field")


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\r\n "])
def test_r49_fields_after_a_bare_line_end_cannot_hide(end: bytes) -> None:
    message = signed(b"X: y" + end + b"From: eve@b.example\r\nFrom: jo@a.example\r\n\r\nx\r\n")
    assert outcome(message) == ("permerror", "Header section holds a bare CR or LF (RFC 5322 section 2.2)")


# -- keys -------------------------------------------------------------------------------------------------------------

PUBLIC = RECORD.rpartition(b"p=")[2]
DIFFIE_HELLMAN = bytes.fromhex(f"305c 3054 06092a864886f70d010301 3047 024201{'ff' * 65} 020102 0304 00 020105")
"""A key of the type dhKeyAgreement; OpenSSL tests whether its first number is prime, in minutes if it is long."""


@pytest.mark.parametrize(
    "record",
    [
        b"p=" + PUBLIC,
        b"p=" + PUBLIC + b";",
        b" v = DKIM1 ; h = sha1 : sha256 ; k=rsa; n=a note; s=other:email; t=; p=" + PUBLIC[:9] + b" " + PUBLIC[9:],
        b"v=DKIM1; s=*; p=" + PUBLIC,
    ],
)
def test_key_records_in_all_their_forms(record: bytes) -> None:
    assert outcome(signed(MESSAGE), record)[0] == "pass"


def test_r23_of_the_types_of_service_of_a_key_those_are_kept_that_mean_mail() -> None:
    assert parse_key_record(b"s=a:b:email:c; p=" + PUBLIC).services == {"email"}


def test_an_rsa_key_may_be_published_without_its_algorithm() -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    octets = key().private.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    assert outcome(signed(MESSAGE), b"p=" + b64encode(octets))[0] == "pass"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"v=DKIM1; p=", "the key was revoked"),
        (b"v=DKIM1", "the record has no key"),
        (b"", "the record has no key"),
        (b"v=DKIM2; p=" + PUBLIC, "the record does not start with v=DKIM1"),
        (b"v=spf1 -all", "the record does not start with v=DKIM1"),
        (b"p=" + PUBLIC + b"; v=DKIM1", "the record does not start with v=DKIM1"),
        (b"k=dsa; p=" + PUBLIC, "the type of the key is 'dsa', not rsa or ed25519"),
        (b"k=ed25519; p=" + PUBLIC, "the key is for ed25519-sha256, the signature is rsa-sha256"),
        (b"h=sha1; p=" + PUBLIC, "the key is not for sha256"),
        (b"s=tlsrpt; p=" + PUBLIC, "the key is not for mail"),
        (b"p=" + PUBLIC[:-1], "the record is invalid: the value of the tag p is not base64"),
        (b"p=YWI=", "the key is not an RSA key"),
        (b"p=" + b64encode(DIFFIE_HELLMAN), "the key is not an RSA key"),
        (b"p=" + PUBLIC + b"; p=" + PUBLIC, "the record is invalid: the tag p occurs twice"),
        (b"\xff", "the record is invalid: the list of tags is not UTF-8"),
        (b"n=" + b"x" * RECORD_LIMIT, "the record has 8194 octets; at most 8192 are read"),
        (rsa_record(512), "the RSA key has 512 bits; 1024 to 4096 are allowed"),
        (rsa_record(1023), "the RSA key has 1023 bits; 1024 to 4096 are allowed"),
        (rsa_record(16_000), f"the key has 2038 octets; at most {RSA_LIMIT} are read"),
        (rsa_record(4097), "the RSA key has 4097 bits; 1024 to 4096 are allowed"),
        (rsa_record(2048, (1 << 32) + 1), "the exponent of the RSA key has more than 32 bits"),
    ],
)
def test_r49_a_key_that_cannot_be_used(record: bytes, reason: str) -> None:
    assert outcome(signed(MESSAGE), record) == ("permerror", f"{NAME}: {reason}")


@pytest.mark.parametrize(
    ("record", "body_hash", "failure"),
    [
        (b"v=DKIM1; p=", None, DkimFailure.REVOKED),
        (b"p=" + PUBLIC, "YWI=", DkimFailure.BODY_HASH),
        (rsa_record(2048), None, DkimFailure.SIGNATURE),
        (b"p=YWI=", None, DkimFailure.SIGNATURE),
    ],
)
def test_what_is_wrong_with_a_signature(record: bytes, body_hash: str | None, failure: DkimFailure) -> None:
    message = signed(MESSAGE) if body_hash is None else signed(MESSAGE, bh=body_hash)
    (answer,) = verify(message, record)
    assert answer.failure is failure


def test_a_key_of_another_type_in_the_record_of_an_ed25519_key() -> None:
    resolver = KeyServer({"brisbane._domainkey.football.example.com": [b"k=ed25519; p=" + PUBLIC]})
    answer = verify(SIGNATURES + MESSAGE, resolver=resolver)[0]
    assert (answer.result, answer.reason.partition(": ")[2]) == ("permerror", "the key is not an Ed25519 key")


def test_a_key_may_be_for_the_signing_domain_only() -> None:
    strict = b"t=y:s; p=" + PUBLIC
    (answer,) = verify(signed(MESSAGE, i="jo@A.example"), strict)
    assert (answer.result, answer.testing) == ("pass", True)
    assert outcome(signed(MESSAGE, i="jo@b.a.example"), strict) == (
        "permerror",
        f"{NAME}: the key is for a.example only, the signature is for b.a.example",
    )


def test_of_several_records_the_one_counts_that_matches() -> None:
    other = b"p=" + key(bits=1024).record.encode().rpartition(b"p=")[2]
    assert outcome(signed(MESSAGE), b"v=spf1 -all", other, RECORD)[0] == "pass"
    assert outcome(signed(MESSAGE), b"v=spf1 -all", other)[0] == "fail"
    assert outcome(signed(MESSAGE), b"v=spf1 -all", b"p=")[0] == "permerror"
    assert outcome(signed(MESSAGE), *[other] * RECORDS_LIMIT, RECORD)[0] == "fail"


def test_r27_a_query_that_fails_is_a_temporary_error() -> None:
    result, reason = outcome(signed(MESSAGE), resolver=StaticResolver(failing=[NAME]))
    assert (result, reason) == ("temperror", f"DNS lookup failed: {NAME} TXT: no name server answers")
    assert outcome(signed(MESSAGE), resolver=StaticResolver()) == ("permerror", f"there is no key {NAME}")


def test_a_private_key_is_read_from_pem() -> None:
    pem = rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    rsa, ed25519 = Key.load("A.example.", "S1", pem), Key.load("bücher.example", "s", ED25519_PEM)
    assert (rsa.domain, rsa.selector, rsa.algorithm, rsa.bits) == ("a.example", "s1", "rsa-sha256", 2048)
    assert (ed25519.domain, ed25519.algorithm, ed25519.bits) == ("xn--bcher-kva.example", "ed25519-sha256", 256)
    published = Key("a.example", "s", load_pem_private_key(RSA_PEM, None))  # type: ignore[arg-type] # an RSA key
    assert published.record.encode() == PUBLISHED["test._domainkey.football.example.com"][0]
    assert ed25519.record.encode() == PUBLISHED["brisbane._domainkey.football.example.com"][0]
    assert parse_key_record(rsa.record.encode()).public == rsa.public
    assert "PRIVATE" not in repr(rsa)


@pytest.mark.parametrize(
    ("pem", "problem"),
    [
        (b"", "not a private key in PEM"),
        (RSA_PEM[:-100], "not a private key in PEM"),
        (b"-----BEGIN EC PRIVATE KEY-----\nx\n-----END EC PRIVATE KEY-----\n", "not a private key in PEM"),
    ],
)
def test_a_private_key_that_cannot_be_used(pem: bytes, problem: str) -> None:
    with pytest.raises(KeyFault, match=problem):
        Key.load("a.example", "s", pem)


def test_r49_a_private_key_of_another_kind_or_size_is_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    for private, problem in (
        (ec.generate_private_key(ec.SECP256R1()), "neither an RSA nor an Ed25519 key"),
        (rsa.generate_private_key(3, 4100), "has 4100 bits"),
        (rsa_key(2047), "has 2047 bits; 2048 to 4096 are allowed to sign with; make a new one: ironpost dkim new"),
    ):
        with pytest.raises(KeyFault, match=problem):
            Key.load("a.example", "s", private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ValueError, match="is not a domain name"):
        Key.load("a..example", "s", ED25519_PEM)


def test_without_cryptography_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def absent(name: str, *arguments: Any) -> Any:
        if name == "cryptography":
            raise ModuleNotFoundError("absent", name=name)
        return original(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", absent)
    for act in (DkimVerifier, lambda: Key.load("a.example", "s", RSA_PEM)):
        with pytest.raises(PackageMissing, match=r"pip install 'ironpost\[mail-auth\]'"):
            act()


# -- bounded work -----------------------------------------------------------------------------------------------------


def test_r23_five_signatures_are_verified_and_each_key_is_queried_once() -> None:
    message = MESSAGE
    for _ in range(SIGNATURES_LIMIT + 2):
        message = signed(message)
    resolver = KeyServer({NAME: [RECORD]})
    answers = verify(message, resolver=resolver)
    assert [answer.result for answer in answers] == ["pass"] * SIGNATURES_LIMIT
    assert answers[-1].reason == f"signed with the key {NAME}; 2 more signatures not verified"
    assert resolver.asked == [NAME]
    failing = KeyServer({}, failing=[NAME])
    assert [answer.result for answer in verify(message, resolver=failing)] == ["temperror"] * SIGNATURES_LIMIT
    assert failing.asked == [NAME]


def test_the_keys_of_all_signatures_are_queried_at_once() -> None:
    """Those of signatures that cannot be valid are not queried; the results keep the order of the signatures."""
    keys = [key(selector=f"s{number}") for number in range(4)]
    message = MESSAGE
    for signer in keys:  # the last signature is the first field
        message = signed(message, signer, **({"x": "1"} if signer is keys[1] else {}))
    started: list[str] = []

    class Waiting:
        """Answers when all keys were asked for, the last one first."""

        def __init__(self) -> None:
            self.answered = [asyncio.Event() for _ in range(3)]

        def resolve(self, name: str, kind: RecordType, /) -> Awaitable[Records[bytes]]:
            del kind
            started.append(name)
            if len(started) == len(self.answered):
                self.answered[-1].set()
            return asyncio.ensure_future(self._answer(len(started) - 1))

        async def _answer(self, number: int) -> Records[bytes]:
            await self.answered[number].wait()
            self.answered[number - 1].set()
            if number == 1:
                raise ResolverError("timeout")
            return Records(True, (keys[0].record.encode(),))

    async def run() -> tuple[DkimAnswer, ...]:
        async with asyncio.timeout(10):
            return await verify_dkim(message, resolver=Waiting(), now=NOW)

    answers = asyncio.run(run())
    assert started == [keys[3].name, keys[2].name, keys[0].name]
    assert [(each.selector, each.result) for each in answers] == [
        ("s3", "pass"), ("s2", "temperror"), ("s1", "policy"), ("s0", "pass"),
    ]  # fmt: skip


def test_r23_a_signature_may_name_any_number_of_fields() -> None:
    fields = b"".join(b"X: %d\r\n" % number for number in range(900))
    names = "from:" + "x:" * 20_000 + "y"
    assert outcome(signed(b"From: a\r\n" + fields + b"\r\n", h="from" + ":x" * 900 + ":y"))[0] == "pass"
    assert outcome(signed(b"From: a\r\n" + fields + b"\r\n", h=names, b="YWI="))[0] == "fail"


def test_r23_a_long_signature_and_a_long_name_are_not_read() -> None:
    assert outcome(signed(MESSAGE, z="x" * SIGNATURE_LIMIT))[1].endswith("at most 65536 are read")
    for name in ("é." * 20_000, "a." * 20_000 + "é", "é" * 20_000):  # converting it would take seconds
        assert outcome(signed(MESSAGE, d=name))[1].endswith("is not a domain name")
        assert outcome(signed(MESSAGE, i=f"@{name}"))[1].endswith("is not a domain name")


def test_r23_a_header_section_beyond_its_limits_does_not_pass() -> None:
    fields = b"".join(b"X: %d\r\n" % number for number in range(1_000))
    result, reason = outcome(signed(b"From: jo@a.example\r\n" + fields + b"\r\n"))
    assert (result, reason) == ("permerror", "Header section has too many fields")


def test_r23_only_octets_that_look_like_an_rsa_key_are_loaded_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from cryptography.hazmat.primitives import serialization

    loaded: list[bytes] = []
    original = serialization.load_der_public_key

    def load(octets: bytes) -> Any:
        loaded.append(octets)
        return original(octets)

    monkeypatch.setattr(serialization, "load_der_public_key", load)
    damaged = key().public[:-1]
    for octets in (DIFFIE_HELLMAN, rsa_octets(16_000), damaged):
        for _ in range(2):
            result, reason = outcome(signed(MESSAGE), b"p=" + b64encode(octets))
            assert (result, reason.startswith(f"{NAME}: the key ")) == ("permerror", True)
    assert loaded == [damaged]


TAGS = st.one_of(
    st.sampled_from(["v=1", "a=rsa-sha256", "a=ed25519-sha256", "b=YWI=", "bh=YWI=", "c=relaxed", "d=a.example"]),
    st.sampled_from(["h=from", "h=from:to", "s=s", "i=@a.example", "i=", "l=0", "x=1", "t=99", "q=", "=", ""]),
    st.text(st.characters(codec="utf-8"), max_size=12),
)


@given(tags=st.lists(TAGS, max_size=14), separator=st.sampled_from([";", "; ", ";\r\n ", "\r\n"]))
def test_r22_any_signature_has_a_result_that_can_be_written(tags: list[str], separator: str) -> None:
    text = separator.join(tags).encode()
    for answer in verify(b"DKIM-Signature:" + text + b"\r\n" + MESSAGE):
        assert answer.result in set(DkimResult) - {"none", "pass"}
        assert answer.reason.isascii()
        assert answer.reason
        assert results_field("us.example", [of_dkim(answer)]).isascii()


@given(records=st.lists(st.one_of(st.binary(max_size=60), st.just(b"p=" + PUBLIC)), max_size=6))
def test_r22_any_record_of_a_key_has_a_result(records: list[bytes]) -> None:
    result, reason = outcome(SIGNED, resolver=StaticResolver(txt={NAME: records}))
    assert result == ("pass" if b"p=" + PUBLIC in records[:RECORDS_LIMIT] else "permerror")
    assert reason.isascii()


@given(octets=st.binary(max_size=400))
def test_r22_any_octets_have_a_result(octets: bytes) -> None:
    for answer in verify(octets) + verify(SIGNATURES + octets, resolver=StaticResolver(txt=PUBLISHED)):
        assert answer.result not in {"pass", "none"}


# -- Authentication-Results -------------------------------------------------------------------------------------------


def test_the_results_tell_signatures_apart() -> None:
    answer = DkimAnswer(DkimResult.PASS, "", "a.example", "s", "rsa-sha256", "@a.example", "AbCd+/12")
    assert results_field("us.example", [of_dkim(answer)]) == (
        b"Authentication-Results: us.example; dkim=pass header.d=a.example header.s=s\r\n"
        b' header.a=rsa-sha256 header.b="AbCd+/12"\r\n'
    )
    assert of_dkim(DkimAnswer(DkimResult.NEUTRAL, "no")).properties == ()
    other = DkimAnswer(DkimResult.FAIL, "no", "a.example", "s", "rsa-sha256", "jo@b.a.example", "AbCd")
    assert ("header.i", "jo@b.a.example") in of_dkim(other).properties
