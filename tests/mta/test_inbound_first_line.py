"""Content whose first line is not a header field does not become part of our fields."""

from __future__ import annotations

import asyncio

import pytest
from tests.mta.test_inbound import Talk

from ironpost import wire
from ironpost.message.trace import FinalContent, return_path
from ironpost.model import Address
from ironpost.protocol.dialect import LMTP, SMTP, Dialect

FORGED = " for <victim@example.org>; Thu, 01 Jan 1970 00:00:00 +0000\r\nSubject: x\r\n\r\nbody\r\n"


@pytest.mark.parametrize(("dialect", "hello"), [(SMTP, "EHLO"), (LMTP, "LHLO")])
@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("content", [FORGED, "\t" + FORGED, " \r\n" + FORGED, " "])
def test_f22_leading_white_space_does_not_continue_our_fields(
    content: str, chunking: bool, dialect: Dialect, hello: str
) -> None:
    async def run() -> None:
        talk = Talk(dialect=dialect)
        greeting = (f"{hello} a.example", "MAIL FROM:<sender@example.net>", "RCPT TO:<jo@example.org>")
        if chunking:
            talk.say(*greeting, f"BDAT {len(content)} LAST\r\n{content}".encode())
        else:
            talk.say(*greeting, "DATA")
            talk.say(f"{content.removesuffix(chr(13) + chr(10))}\r\n.\r\n".encode())
        await asyncio.sleep(0)
        ((message, _),) = talk.store.asked
        stored = message.prefix + talk.store.spools[0].octets
        section = wire.scan_header(stored)
        assert [field.name for field in section.fields] == ["Received"]
        assert b"victim" not in stored[: section.fields[0].end]
        assert stored[section.fields[0].end :].startswith(b"\r\n")
        talk.store.finish()
        await talk.settle()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("hello\r\n", []),
        ("hello\r\nSubject: x\r\n\r\n", []),
        ("Sujét: x\r\n\r\n", []),
        (": x\r\n\r\n", []),
        ("From jo", []),
        ("\r\nbody\r\n", []),
        ("", []),
        ("Subject : x\r\nTo: y\r\n\r\n", ["Subject", "To"]),
        ("From : x\r\n\r\n", ["From"]),
        ("X: " + "x" * 100_000 + "\r\n\r\n", ["X"]),
    ],
)
def test_f30_content_without_a_header_section_becomes_the_body(content: str, names: list[str]) -> None:
    async def run() -> None:
        talk = Talk(eight_bit="accept")
        octets = content.encode()
        talk.say("EHLO a.example", "MAIL FROM:<sender@example.net>", "RCPT TO:<jo@example.org>")
        talk.say(b"BDAT %d LAST\r\n" % len(octets) + octets)
        await asyncio.sleep(0)
        ((message, _),) = talk.store.asked
        stored = message.prefix + talk.store.spools[0].octets
        section = wire.scan_header(stored)
        assert [field.name for field in section.fields] == ["Received", *names]
        assert section.fault is None
        assert stored.endswith(octets)
        talk.store.finish()
        await talk.settle()

    asyncio.run(run())


@pytest.mark.parametrize("role", ["mx", "submission", "lmtp"])
@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("above", ["From jo@a.example Thu Jan  1 00:00:00 1970\r\n", ">From jo\r\n"])
def test_f30_an_mbox_line_is_removed_and_counted(above: str, chunking: bool, role: str) -> None:
    content = (
        "From: jo@a.example\r\nDate: Thu, 01 Jan 1970 00:00:00 +0000\r\nMessage-ID: <1@a.example>\r\n\r\nFrom me\r\n"
    )

    async def run() -> None:
        dialect = LMTP if role == "lmtp" else SMTP
        talk = Talk(role=role, dialect=dialect)
        hello = "LHLO" if role == "lmtp" else "EHLO"
        talk.say(f"{hello} a.example", "MAIL FROM:<sender@example.net>", "RCPT TO:<jo@example.org>")
        sent = above + content
        if chunking:
            first = len(above) - 3
            talk.say(f"BDAT {first}\r\n{sent[:first]}".encode())
            talk.say(f"BDAT {len(sent) - first} LAST\r\n{sent[first:]}".encode())
        else:
            talk.say("DATA")
            talk.say(f"{sent}.\r\n".encode())
        await asyncio.sleep(0)
        ((message, _),) = talk.store.asked
        assert talk.store.spools[0].octets == content.encode()
        stored = message.prefix + talk.store.spools[0].octets
        section = wire.scan_header(stored)
        assert [field.name for field in section.fields] == ["Received", "From", "Date", "Message-ID"]
        leniencies = talk.metrics.snapshot()["leniencies"]
        assert {kind: count for kind, count in leniencies.items() if count} == {"mbox_line": 1}
        talk.store.finish()
        await talk.settle()

    asyncio.run(run())


def test_f30_white_space_after_an_mbox_line_does_not_continue_our_fields() -> None:
    async def run() -> None:
        talk = Talk()
        talk.start()
        talk.say(f"From jo\r\n{FORGED}.\r\n".encode())
        await asyncio.sleep(0)
        ((message, _),) = talk.store.asked
        stored = message.prefix + talk.store.spools[0].octets
        section = wire.scan_header(stored)
        assert [field.name for field in section.fields] == ["Received"]
        assert stored[section.end :] == b"\r\n" + FORGED.encode()
        talk.store.finish()
        await talk.settle()

    asyncio.run(run())


def test_f30_a_bare_lf_hides_no_field_in_an_mbox_line() -> None:
    async def run() -> None:
        talk = Talk(newlines="accept")
        talk.start()
        assert talk.say(b"From jo\nBcc: x@a.example\r\n\r\nbody\r\n.\r\n").startswith("554 5.6.0 ")

    asyncio.run(run())


@pytest.mark.parametrize("content", [" <forged@example.net>\r\n\r\nbody\r\n", "Return-Path: <a@b.example>\r\n\r\n"])
def test_f22_content_does_not_continue_the_return_path(content: str) -> None:
    final = FinalContent(return_path(Address.parse("sender@example.org")))
    out = final.feed(content.encode()) + final.finish()
    assert out.startswith(b"Return-Path: <sender@example.org>\r\n\r\n")
