"""A directory with aliases, which are expanded at commit: delivery and bounces."""

from __future__ import annotations

import asyncio
import smtplib
from typing import TYPE_CHECKING

import pytest

from ironpost.testing.directory import TableDirectory

if TYPE_CHECKING:
    from collections.abc import Callable

DIRECTORY = TableDirectory(
    ["here.example"],
    mailboxes=["jo@here.example", "flo@here.example"],
    aliases={
        "team@here.example": ["jo@here.example", "flo@here.example"],
        "abroad@here.example": ["grace@next.example"],
        "sender@here.example": ["jo@here.example"],
    },
    failing=["broken@here.example"],
)
CONTENT = b"Subject: hello\r\n\r\nline\r\n"


def test_an_alias_is_delivered_to_two_maildir_recipients(system: Callable) -> None:
    async def scenario() -> None:
        async with system(directory=DIRECTORY, trusted=()) as here:
            await here.submit("jo@elsewhere.example", "team@here.example", CONTENT)
            await here.queue_empty()
            stored = here.delivered()
        delivered_to = sorted(line for each in stored for line in each.splitlines() if line.startswith(b"Delivered-To"))
        assert delivered_to == [b"Delivered-To: flo@here.example", b"Delivered-To: jo@here.example"]
        assert all(b"for <team@here.example>" in each for each in stored)

    asyncio.run(scenario())


def test_an_alias_may_point_to_another_system(system: Callable) -> None:
    async def scenario() -> None:
        async with system(directory=DIRECTORY, trusted=()) as here:
            await here.submit("jo@elsewhere.example", "abroad@here.example", CONTENT)
            await here.queue_empty()
            ((_, recipients, _),) = here.next_hop.taken
        assert recipients == ["grace@next.example"]

    asyncio.run(scenario())


def test_a_bounce_names_the_original_address_and_is_delivered_to_an_alias(system: Callable) -> None:
    async def scenario() -> None:
        async with system(directory=DIRECTORY) as here:
            here.next_hop.refusals = ["550 5.1.1 no such user"]
            await here.submit("sender@here.example", "abroad@here.example", CONTENT)
            await here.queue_empty()
            (report,) = here.delivered()
        assert b"\nDelivered-To: jo@here.example\n" in report
        assert b"\nOriginal-Recipient: rfc822; abroad@here.example\n" in report
        assert b"\nFinal-Recipient: rfc822; grace@next.example\n" in report

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("recipient", "code"),
    [("nobody@here.example", 550), ("grace@next.example", 550), ("broken@here.example", 451)],
    ids=["unknown", "not local", "directory fails"],
)
def test_relay_control_uses_the_directory(system: Callable, recipient: str, code: int) -> None:
    async def scenario() -> None:
        async with system(directory=DIRECTORY, trusted=()) as here:
            with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
                await here.submit("jo@elsewhere.example", recipient, CONTENT)
        assert refused.value.recipients[recipient][0] == code

    asyncio.run(scenario())
