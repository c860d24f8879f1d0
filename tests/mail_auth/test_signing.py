"""Signing with DKIM: the fields that are made, and that they protect the message."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.mail_auth.signed import ED25519_PEM, MESSAGE, KeyServer, cut, key

from ironpost.mail_auth import Key, Signer, sign, verify_dkim
from ironpost.mail_auth.signing import ADDED_LATER, ONCE, OTHERS
from ironpost.message.section import Header
from ironpost.wire import unfold

NOW = 1_700_000_000.9
RSA = key()
ED25519 = Key.load("a.example", "ed", ED25519_PEM)
PUBLISHED = {each.name: [each.record.encode()] for each in (RSA, ED25519)}


def results(message: bytes) -> list[str]:
    answers = asyncio.run(verify_dkim(message, resolver=KeyServer(PUBLISHED), now=NOW))
    return [answer.result for answer in answers]


def tags(field: bytes) -> dict[str, str]:
    text = unfold(field).decode().partition(": ")[2]
    return {name: value for name, _, value in (tag.strip().partition("=") for tag in text.split(";"))}


def test_each_key_makes_one_field() -> None:
    fields = sign(MESSAGE, [RSA, ED25519], NOW)
    assert results(fields + MESSAGE) == ["pass", "pass"]
    first, second = (b"DKIM-Signature:" + each for each in fields.split(b"DKIM-Signature:")[1:])
    assert [(tags(each)["a"], tags(each)["s"]) for each in (first, second)] == [
        ("rsa-sha256", "s"),
        ("ed25519-sha256", "ed"),
    ]
    for each in (first, second):
        assert {name: tags(each)[name] for name in ("v", "c", "d", "t")} == {
            "v": "1",
            "c": "relaxed/relaxed",
            "d": "a.example",
            "t": "1700000000",
        }
        assert "l" not in tags(each)
        assert tags(each)["bh"] == "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="  # as in RFC 8463
        assert all(len(line) <= 78 for line in each.split(b"\r\n"))


def test_without_keys_there_are_no_fields() -> None:
    assert sign(MESSAGE, [], NOW) == b""


@pytest.mark.parametrize(
    ("octets", "problem"),
    [
        (b"From: a\r\nevil\r\n\r\n", "neither a field nor an empty line"),
        (b"From: a\r\n" + b"X: y\r\n" * 1_000 + b"\r\n", "has too many fields"),
    ],
)
def test_a_header_section_that_cannot_be_read_to_its_end_is_refused(octets: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        sign(octets, [ED25519], NOW)


def test_fields_are_signed_as_often_as_they_occur_and_some_once_more() -> None:
    message = b"From: a\r\nList-Id: <x>\r\nX-Other: y\r\nTo: b\r\nResent-To: c\r\nResent-To: d\r\n\r\n"
    names = tags(sign(message, [ED25519], NOW))["h"].replace(" ", "").split(":")
    once = [name for name in ONCE if name not in ADDED_LATER]
    assert names == ["from", "to", "list-id", "resent-to", "resent-to", *once]


@pytest.mark.parametrize("name", sorted(ADDED_LATER))
def test_relays_may_add_what_a_message_lacks(name: str) -> None:
    message = b"From: joe@football.example.com\r\n\r\nHi.\r\n"
    added = f"{name}: x\r\n".encode()
    assert results(added + sign(message, [ED25519], NOW) + message) == ["pass"]
    complete = added + message
    assert results(added + sign(complete, [ED25519], NOW) + complete) == ["fail"]


@pytest.mark.parametrize("name", [name for name in ONCE if name != "sender"])
def test_r49_fields_that_occur_once_cannot_be_added(name: str) -> None:
    message = sign(MESSAGE, [ED25519], NOW) + MESSAGE
    assert results(f"{name}: x\r\n".encode() + message) == ["permerror" if name == "from" else "fail"]


@pytest.mark.parametrize("name", ["Reply-To", "Content-Type", "Content-Disposition"])
def test_r49_what_readers_show_or_decode_by_cannot_be_added_to_a_message_without_it(name: str) -> None:
    message = b"From: joe@football.example.com\r\n\r\nHi.\r\n"
    assert results(f"{name}: x\r\n".encode() + sign(message, [ED25519], NOW) + message) == ["fail"]


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_other_fields_can_be_added_but_not_changed(name: str) -> None:
    message = f"{name}: x\r\n".encode() + MESSAGE
    message = sign(message, [ED25519], NOW) + message
    assert results(f"{name}: y\r\n".encode() + message) == ["pass"]
    assert results(message.replace(f"{name}: x".encode(), f"{name}: y".encode())) == ["fail"]


def test_trace_fields_and_white_space_may_change() -> None:
    message = sign(MESSAGE, [RSA, ED25519], NOW) + MESSAGE
    changed = b"Received: x\r\nX-Spam: no\r\n" + message.replace(b"Subject: Is dinner", b"SUBJECT:Is\r\n\tdinner")
    assert results(changed.replace(b"Hi.\r\n", b"Hi. \t\r\n") + b"\r\n\r\n") == ["pass", "pass"]


@given(cuts=st.lists(st.integers(0, 60), max_size=5), first=st.booleans())
def test_the_body_may_be_fed_in_any_pieces_and_before_the_header_section(cuts: list[int], first: bool) -> None:
    start = MESSAGE.index(b"\r\n\r\n") + 4
    header, body = Header(MESSAGE[:start]), MESSAGE[start:]
    signer = Signer([ED25519], now=NOW)
    if first:
        signer.header(header)
    for piece in cut(body, cuts):
        signer.body(piece)
    if not first:
        signer.header(header)
    assert signer.finish() == sign(MESSAGE, [ED25519], NOW)


@given(
    names=st.lists(st.sampled_from([*ONCE, *OTHERS, "X-Y"]), max_size=12),
    value=st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20),
    body=st.binary(max_size=40),
)
def test_what_is_signed_passes(names: list[str], value: str, body: bytes) -> None:
    fields = "".join(f"{name}: {value}\r\n" for name in names if name != "from")
    message = f"From: jo@a.example\r\n{fields}\r\n".encode() + body
    assert results(sign(message, [ED25519], NOW) + message) == ["pass"]
