"""ARC: chains that are valid, and all the ways in which they are not."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.mail_auth.signed import ED25519_PEM, MESSAGE, KeyServer, cut, key, sealed

from ironpost.mail_auth import ArcAnswer, ArcResult, ArcVerifier, Key, of_arc, results_field, verify_arc
from ironpost.mail_auth.arc import SETS_LIMIT
from ironpost.mail_auth.keys import KeyRecord
from ironpost.mail_auth.signature import VERIFICATIONS_LIMIT
from ironpost.mail_auth.tag_list import parse_tags
from ironpost.message.section import Header, split
from ironpost.testing.resolver import StaticResolver

NOW = 1_700_000_000.0
FIRST, SECOND = key("list.example"), Key.load("forwarder.example", "ed", ED25519_PEM)
KEYS = {each.name: [each.record.encode()] for each in (FIRST, SECOND)}
MESSAGE_SHORT = b"From: jo@a.example\r\nSubject: hello\r\n\r\nHi.\r\n"
ONE = sealed(MESSAGE, FIRST)
TWO = sealed(ONE, SECOND)


def verify(message: bytes, resolver: Any = None) -> ArcAnswer:
    return asyncio.run(verify_arc(message, resolver=resolver or KeyServer(KEYS), now=NOW))


def failure(message: bytes, resolver: Any = None) -> str:
    """The reason for which a chain is not valid."""
    answer = verify(message, resolver)
    assert (answer.result, answer.sealers) == ("fail", ())
    return answer.reason


# -- chains that are valid --------------------------------------------------------------------------------------------


def test_a_message_without_a_chain() -> None:
    assert verify(MESSAGE) == verify(b"") == ArcAnswer(ArcResult.NONE, "the message has no chain")


def test_each_seal_is_verified() -> None:
    assert verify(ONE) == ArcAnswer(ArcResult.PASS, "sealed by list.example", ("list.example",))
    both = ("list.example", "forwarder.example")
    assert verify(TWO) == ArcAnswer(ArcResult.PASS, "sealed by list.example, forwarder.example", both)
    assert verify(sealed(TWO, FIRST)).sealers == (*both, "list.example")


def test_a_sealer_may_change_the_message() -> None:
    changed = ONE.replace(b"Subject: ", b"Subject: [list] ") + b"-- \r\nthe list\r\n"
    assert failure(changed) == "ARC-Message-Signature with i=1: the body does not match its hash"
    assert verify(sealed(changed, SECOND)).result == "pass"


@pytest.mark.parametrize(
    ("signature", "seal", "results"),
    [
        ({"c": None}, {}, None),
        ({"c": "simple/relaxed"}, {"t": "1600000000", "x": "1", "other": ""}, None),
        ({"v": "7", "h": "from:arc-message-signature"}, {"c": "simple/simple"}, None),
        ({"h": ""}, {}, "(a comment) i (b) = 1 (c) ; us.example; none"),
    ],
)
def test_what_does_not_prevent_a_pass(
    signature: dict[str, str | None], seal: dict[str, str], results: str | None
) -> None:
    assert verify(sealed(MESSAGE_SHORT, FIRST, signature=signature, seal=seal, results=results)).result == "pass"


def test_the_order_of_the_fields_does_not_matter() -> None:
    header, _, body = TWO.partition(b"\r\n\r\n")
    lines = sorted(header.split(b"\r\n"))
    assert verify(b"\r\n".join(lines) + b"\r\n\r\n" + body).result == "pass"


@given(cuts=st.lists(st.integers(0, 60), max_size=5))
def test_the_body_may_be_read_in_any_pieces(cuts: list[int]) -> None:
    start = TWO.index(b"\r\n\r\n") + 4
    body = TWO[start:]
    verifier = ArcVerifier()
    verifier.header(Header(TWO[:start]))
    for piece in cut(body, cuts):
        verifier.body(piece)
    assert asyncio.run(verifier.finish(KeyServer(KEYS), NOW)).result == "pass"


# -- chains that are not ----------------------------------------------------------------------------------------------


def test_no_octet_of_a_chain_can_be_changed() -> None:
    message = sealed(sealed(MESSAGE_SHORT, FIRST), SECOND)
    resolver = StaticResolver(txt=KEYS)
    for at, octet in enumerate(message):
        if chr(octet).isalnum():
            changed = message[:at] + (b"k" if chr(octet) in "wxX" else b"x") + message[at + 1 :]
            assert verify(changed, resolver).result == "fail", changed


def test_no_field_of_a_chain_can_be_removed_or_repeated() -> None:
    fields = re.findall(rb"ARC-[^:]*: [^\r]*\r\n", sealed(TWO, FIRST))
    assert len(fields) == 9
    for field in fields:
        assert failure(sealed(TWO, FIRST).replace(field, b"")) == "a set is missing or not complete"
        assert failure(field + sealed(TWO, FIRST)) == "a set is missing or not complete"


def test_a_chain_starts_with_1() -> None:
    assert failure(re.sub(rb"ARC-[^\r]* i=1;[^\r]*\r\n", b"", TWO)) == "a set is missing or not complete"


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"cv": "none"}, "ARC-Seal with i=2: the tag cv is 'none', not pass"),
        ({"cv": "fail"}, "ARC-Seal with i=2: the tag cv is 'fail', not pass"),
        ({"cv": "PASS"}, "ARC-Seal with i=2: the tag cv is 'PASS', not pass"),
        ({"cv": None}, "ARC-Seal with i=2: the tag cv is missing"),
        ({"h": "from"}, "ARC-Seal with i=2: the tag h is not allowed"),
        ({"a": "rsa-sha1"}, "ARC-Seal with i=2: rsa-sha1 is not secure"),
        ({"d": None}, "ARC-Seal with i=2: the tag d is missing"),
        ({"s": "x"}, "ARC-Seal with i=2: there is no key x._domainkey.forwarder.example"),
        ({"t": "now"}, "ARC-Seal with i=2: the tag t is not a number"),
        ({"b": None}, "ARC-Seal with i=2: the tag b is missing"),
        ({"b": "YWI="}, f"ARC-Seal with i=2: the header fields do not match the key {SECOND.name}"),
        ({"i": None}, "ARC-Seal: the tag i is missing"),
        ({"i": "0"}, "ARC-Seal: the instance is not a number from 1 to 50"),
        ({"i": "51"}, "ARC-Seal: the instance is not a number from 1 to 50"),
        ({"i": "two"}, "ARC-Seal: the instance is not a number from 1 to 50"),
        ({"i": "1"}, "ARC-Seal: the instance 1 occurs twice"),
        ({"i": "3"}, "a set is missing or not complete"),
        ({"n": "1; n=2"}, "ARC-Seal: the tag n occurs twice"),
    ],
)
def test_a_seal_with_a_wrong_tag(tags: dict[str, str | None], reason: str) -> None:
    assert failure(sealed(ONE, SECOND, seal=tags)) == reason


def test_the_first_seal_says_that_there_was_no_chain() -> None:
    assert failure(sealed(MESSAGE, FIRST, seal={"cv": "pass"})) == "ARC-Seal with i=1: the tag cv is 'pass', not none"


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"h": None}, "the tag h is missing"),
        ({"h": "from:ARC-Seal"}, "ARC-Seal is signed"),
        ({"a": "rsa-sha1"}, "rsa-sha1 is not secure"),
        ({"bh": "YWI="}, "the body does not match its hash"),
        ({"b": "YWI="}, f"the header fields do not match the key {FIRST.name}"),
        ({"l": "1"}, "only 1 of 54 octets of the body are signed"),
        ({"t": "1", "x": "1699999999"}, "the signature has expired"),
    ],
)
def test_a_message_signature_with_a_wrong_tag(tags: dict[str, str | None], reason: str) -> None:
    assert failure(sealed(MESSAGE, FIRST, signature=tags)) == f"ARC-Message-Signature with i=1: {reason}"


@pytest.mark.parametrize(
    "results",
    ["us.example; none", "i=1", "i=1 us.example;", '"i=1"; us.example', "us; i=1;", "i=x;", "1; us.example; none"],
)
def test_results_without_an_instance(results: str) -> None:
    reason = failure(sealed(MESSAGE, FIRST, results=results))
    assert reason == "ARC-Authentication-Results: the instance is not a number from 1 to 50"


@pytest.mark.parametrize("names", ["", "subject", "to:subject:date"])
def test_r49_a_chain_whose_last_sealer_did_not_sign_the_author_names_no_sealer(names: str) -> None:
    forged = sealed(MESSAGE, FIRST, signature={"h": names}).replace(b"joe@football", b"eve@football")
    assert verify(forged) == ArcAnswer(ArcResult.PASS, "sealed by list.example, without the field From")
    assert verify(sealed(forged, SECOND)).sealers == ("list.example", "forwarder.example")


def test_r23_the_instance_of_results_is_read_only_near_the_start() -> None:
    assert verify(sealed(MESSAGE, FIRST, results=f"({'a' * 1000}) i=1; us.example; none")).result == "pass"
    reason = failure(sealed(MESSAGE, FIRST, results=f"({'a' * 1024}) i=1; us.example; none"))
    assert reason == "ARC-Authentication-Results: the instance is not a number from 1 to 50"


def test_r49_a_chain_does_not_pass_for_a_message_with_several_authors_or_none() -> None:
    assert failure(b"From: eve@b.example\r\n" + ONE) == "the message has 2 fields From; one is required"
    without = re.sub(rb"(?m)^From:[^\r]*\r\n", b"", ONE)
    assert failure(without) == "the message has 0 fields From; one is required"


def test_fields_after_an_invalid_line_cannot_hide() -> None:
    hidden = ONE.replace(b"\r\n\r\n", b"\r\nevil\r\nFrom: eve@b.example\r\n\r\n", 1)
    assert failure(hidden).startswith("Line after header field 8 is neither a field")


@pytest.mark.parametrize("end", [b"\n", b"\r"])
def test_r49_fields_after_a_bare_line_end_cannot_hide(end: bytes) -> None:
    hidden = ONE.replace(b"\r\n\r\n", b"\r\nX: y" + end + b"From: eve@b.example\r\n\r\n", 1)
    assert failure(hidden) == "Header section holds a bare CR or LF (RFC 5322 section 2.2)"


# -- DNS and limits ---------------------------------------------------------------------------------------------------


def test_r27_the_failure_of_a_query_is_temporary() -> None:
    answer = verify(TWO, StaticResolver(txt=KEYS, failing=[FIRST.name]))
    assert (answer.result, answer.temporary) == ("fail", True)
    assert answer.reason.startswith("ARC-Seal with i=1: DNS lookup failed")
    assert not verify(TWO, StaticResolver(txt={SECOND.name: KEYS[SECOND.name]})).temporary


def test_r23_a_chain_has_at_most_50_sets_and_each_key_is_queried_once() -> None:
    message = MESSAGE_SHORT
    for _ in range(SETS_LIMIT):
        message = sealed(message, SECOND)
    resolver = KeyServer(KEYS)
    assert verify(message, resolver).sealers == ("forwarder.example",) * SETS_LIMIT
    assert resolver.asked == [SECOND.name]
    assert failure(b"ARC-Seal: i=1\r\n" + message) == "there are more than 50 fields ARC-Seal"


OTHER = key("list.example", bits=1024)


@pytest.mark.parametrize(("records", "result"), [([FIRST], "pass"), ([OTHER, FIRST], "fail")])
def test_r23_one_message_has_few_verifications_and_others_run_between_them(
    records: list[Key], result: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = MESSAGE_SHORT
    for _ in range(SETS_LIMIT):
        message = sealed(message, FIRST)
    matches, verified, turn = KeyRecord.matches, [], 0

    def counted(record: KeyRecord, signature: bytes, digest: bytes) -> bool:
        verified.append(turn)
        return matches(record, signature, digest)

    async def run() -> ArcAnswer:
        nonlocal turn
        resolver = KeyServer({FIRST.name: [each.record.encode() for each in records]})
        task = asyncio.create_task(verify_arc(message, resolver=resolver, now=NOW))
        while not task.done():
            await asyncio.sleep(0)
            turn += 1
        return task.result()

    monkeypatch.setattr(KeyRecord, "matches", counted)
    assert asyncio.run(run()).result == result
    assert len(verified) == min(VERIFICATIONS_LIMIT, len(records) * (SETS_LIMIT + 1))
    assert len(set(verified)) == len(verified)


def test_r23_each_signature_is_parsed_once_and_none_if_a_set_is_not_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = Mock(side_effect=parse_tags)
    monkeypatch.setattr("ironpost.mail_auth.signature.parse_tags", parsed)
    ArcVerifier().header(split(b"ARC-Seal: i=1\r\n" + TWO)[0])
    assert parsed.call_count == 0
    ArcVerifier().header(split(TWO)[0])
    assert parsed.call_count == 4


def test_nothing_is_queried_for_a_chain_that_is_not_complete() -> None:
    resolver = KeyServer(KEYS)
    failure(TWO.replace(b"ARC-Seal: i=1", b"X: i=1"), resolver)
    assert resolver.asked == []


@given(
    fields=st.lists(
        st.tuples(
            st.sampled_from(["ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results"]),
            st.one_of(
                st.sampled_from(["i=1;", "i=1; a", "", ";;"]), st.text(st.characters(codec="utf-8"), max_size=20)
            ),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_r22_any_fields_have_a_result_that_can_be_written(fields: list[tuple[str, str]]) -> None:
    header = "".join(f"{name}: {value}\r\n" for name, value in fields).encode()
    for message in (header + MESSAGE, header + ONE):
        answer = verify(message)
        assert answer.result == "fail" or "\r\n\r\n" in header.decode()
        assert answer.reason.isascii()
        assert results_field("us.example", [of_arc(answer, "2001:db8::1")]).isascii()


def test_the_result_names_the_client() -> None:
    assert results_field("us.example", [of_arc(ArcAnswer(ArcResult.NONE, ""), "192.0.2.1")]) == (
        b"Authentication-Results: us.example; arc=none smtp.remote-ip=192.0.2.1\r\n"
    )
    assert of_arc(ArcAnswer(ArcResult.FAIL, "no")) == ("arc", "fail", (), "no")
