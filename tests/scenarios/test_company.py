"""A company's mailboxes, aliases and forwarding, from the configuration to the Maildir and the next hop."""

from __future__ import annotations

import asyncio
import smtplib
from typing import TYPE_CHECKING

import pytest

from ironpost.compose.directory import directory
from ironpost.config import parse

if TYPE_CHECKING:
    from collections.abc import Callable

DIRECTORY = directory(
    parse("""
[local]
domains = ["here.example", "shop.example"]
postmaster = "ada@here.example"
[[mailbox]]
address = "ada@here.example"
[[mailbox]]
address = "jo@here.example"
forward = ["jo@next.example"]
keep = true
[[mailbox]]
address = "left@here.example"
disabled = true
[[alias]]
address = "team@here.example"
targets = ["staff@here.example"]
[[alias]]
address = "staff@here.example"
targets = ["ada@here.example", "jo@here.example"]
[[alias]]
address = "@shop.example"
targets = ["ada@here.example"]
[[alias]]
address = "ping@here.example"
targets = ["pong@here.example"]
[[alias]]
address = "pong@here.example"
targets = ["ping@here.example"]
[[relay]]
domains = ["next.example"]
recipients = ["kim@next.example", "jo@next.example"]
""")
)


@pytest.mark.parametrize(
    ("recipient", "kept", "relayed"),
    [
        ("Ada@here.example", ["Ada@here.example"], []),
        ("ada+news@here.example", ["ada+news@here.example"], []),
        ("jo@here.example", ["jo@here.example"], ["jo@next.example"]),
        ("team@here.example", ["ada@here.example", "jo@here.example"], ["jo@next.example"]),
        ("anything@shop.example", ["ada@here.example"], []),
        ("abuse@shop.example", ["ada@here.example"], []),
        ("ping@here.example", [], []),
        ("kim@next.example", [], ["kim@next.example"]),
    ],
)
def test_mail_goes_where_the_directory_says(
    system: Callable, recipient: str, kept: list[str], relayed: list[str]
) -> None:
    async def scenario() -> None:
        async with system(directory=DIRECTORY, trusted=()) as here:
            await here.submit("jo@elsewhere.example", recipient, b"Subject: hello\r\n\r\nline\r\n")
            await here.queue_empty()
            stored = here.delivered()
            taken = [each for _, recipients, _ in here.next_hop.taken for each in recipients]
        lines = sorted(line for each in stored for line in each.splitlines() if line.startswith(b"Delivered-To"))
        assert lines == [f"Delivered-To: {each}".encode() for each in kept]
        assert taken == relayed

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("recipient", "reply"),
    [
        ("left@here.example", b"5.2.1"),
        ("nobody@here.example", b"5.1.1"),
        ("nobody@next.example", b"5.1.1"),
        ("jo@other.example", b"5.7.1"),
    ],
)
def test_what_does_not_exist_is_refused(system: Callable, recipient: str, reply: bytes) -> None:
    async def scenario() -> None:
        async with system(directory=DIRECTORY, trusted=()) as here:
            with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
                await here.submit("jo@elsewhere.example", recipient, b"Subject: hello\r\n\r\nline\r\n")
        code, text = refused.value.recipients[recipient]
        assert (code, text.split()[0]) == (550, reply)

    asyncio.run(scenario())
