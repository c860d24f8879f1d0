"""Mail for a local domain arrives unchanged in the Maildir, with LF line endings and trace fields above it."""

from __future__ import annotations

import asyncio
import base64
import re
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

PLAIN = b"Subject: hello\r\nFrom: <jo@elsewhere.example>\r\n\r\nline\r\n"
DOTS = b"Subject: dots\r\n\r\n.\r\n..\r\n.x\r\n...y\r\n\r\n.\r\n"


def attachment() -> bytes:
    message = EmailMessage(policy=policy.SMTP)
    message["Subject"] = "with attachment"
    message["From"] = "jo@elsewhere.example"
    message.set_content("See the file.")
    message.add_attachment(bytes(range(256)) * 2000, maintype="application", subtype="octet-stream", filename="b.bin")
    return message.as_bytes()


def split(stored: bytes) -> tuple[str, bytes]:
    """Return the three trace fields, unfolded, and the rest."""
    match = re.match(rb"(Return-Path: .*\nDelivered-To: .*\nReceived: .*\n(?:[ \t].*\n)*)", stored)
    assert match is not None, stored[:500]
    return re.sub(r"\n(?=[ \t])", "", match[1].decode()), stored[match.end() :]


@pytest.mark.parametrize("content", [PLAIN, DOTS, attachment()], ids=["plain", "dots", "attachment"])
def test_content_arrives_unchanged_under_return_path_and_received(system: Callable, content: bytes) -> None:
    async def scenario() -> None:
        async with system() as here:
            await here.submit("jo@elsewhere.example", "flo@here.example", content)
            await here.queue_empty()
            (stored,) = here.delivered()
        trace, rest = split(stored)
        assert rest == content.replace(b"\r\n", b"\n")
        lines = trace.splitlines()
        assert lines[:2] == ["Return-Path: <jo@elsewhere.example>", "Delivered-To: flo@here.example"]
        assert re.fullmatch(
            r"Received: from client\.example \(\[127\.0\.0\.1\]\) by mx\.here\.example with ESMTP id \w+"
            r" for <flo@here\.example>; Tue, 14 Nov 2023 22:13:20 \+0000",
            lines[2],
        )

    asyncio.run(scenario())


def test_the_attachment_can_be_opened(system: Callable) -> None:
    async def scenario() -> None:
        async with system() as here:
            await here.submit("jo@elsewhere.example", "flo@here.example", attachment())
            await here.queue_empty()
            (stored,) = here.delivered()
        (part,) = message_from_bytes(stored, policy=policy.default).iter_attachments()
        assert part.get_content() == bytes(range(256)) * 2000
        assert base64.b64encode(bytes(range(30))) in stored.replace(b"\n", b"")

    asyncio.run(scenario())


def test_a_utf8_address_and_header_arrive(system: Callable) -> None:
    content = "Subject: grüße\r\nFrom: <jö@elsewhere.example>\r\n\r\nkörper\r\n".encode()

    async def scenario() -> None:
        async with system() as here:
            await here.submit(
                "jö@elsewhere.example", "flö@here.example", content, options=("SMTPUTF8", "BODY=8BITMIME")
            )
            await here.queue_empty()
            (stored,) = here.delivered()
        trace, rest = split(stored)
        assert rest == content.replace(b"\r\n", b"\n")
        assert trace.startswith("Return-Path: <jö@elsewhere.example>\n")
        assert " with UTF8SMTP id " in trace
        assert " for <flö@here.example>; " in trace

    asyncio.run(scenario())


def test_each_recipients_copy_names_no_other_recipient(system: Callable) -> None:
    async def scenario() -> None:
        async with system() as here:
            refused = await here.submit("jo@elsewhere.example", ["flo@here.example", "mo@here.example"], PLAIN)
            assert refused == {}
            await here.queue_empty()
            stored = here.delivered()
        assert len(stored) == 2
        for own, other in (("flo", "mo"), ("mo", "flo")):
            (trace, rest) = next(split(each) for each in stored if b"Delivered-To: %b@" % own.encode() in each)
            assert rest == PLAIN.replace(b"\r\n", b"\n")
            assert trace.count(f"{own}@here.example") == 1
            assert f"{other}@" not in trace.replace(f"{own}@", "")

    asyncio.run(scenario())


def test_an_empty_message_and_one_of_a_megabyte_arrive(system: Callable) -> None:
    large = b"Subject: large\r\n\r\n" + b"0123456789 0123456789 0123456789\r\n" * 35_000

    async def scenario() -> None:
        async with system() as here:
            for content in (b"", large):
                await here.submit("jo@elsewhere.example", "flo@here.example", content)
                await here.queue_empty()
            sizes = sorted(len(split(each)[1]) for each in here.delivered())
        assert sizes[0] <= 1  # smtplib sends a line ending even for empty content
        assert sizes[1] == len(large.replace(b"\r\n", b"\n"))

    asyncio.run(scenario())
