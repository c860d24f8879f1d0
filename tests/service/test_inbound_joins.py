"""Content that begins in the middle of a header field does not become a part of ours."""

from __future__ import annotations

import asyncio

import pytest
from tests.service.test_inbound import Talk

from ironpost import wire
from ironpost.message.trace import FinalContent, return_path
from ironpost.model import Address
from ironpost.protocol.dialect import LMTP, SMTP, Dialect

FORGED = " for <victim@example.org>; Thu, 01 Jan 1970 00:00:00 +0000\r\nSubject: x\r\n\r\nbody\r\n"


@pytest.mark.parametrize(("dialect", "hello"), [(SMTP, "EHLO"), (LMTP, "LHLO")])
@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("content", [FORGED, "\t" + FORGED, " \r\n" + FORGED, " "])
def test_f22_white_space_first_continues_no_field_of_ours(
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


@pytest.mark.parametrize("content", [" <forged@example.net>\r\n\r\nbody\r\n", "Return-Path: <a@b.example>\r\n\r\n"])
def test_f22_nothing_continues_the_return_path(content: str) -> None:
    final = FinalContent(return_path(Address.parse("sender@example.org")))
    out = final.feed(content.encode()) + final.finish()
    assert out.startswith(b"Return-Path: <sender@example.org>\r\n\r\n")
