"""A directory with aliases, which are expanded at commit: delivery and bounces."""

from __future__ import annotations

import asyncio
import smtplib
from typing import TYPE_CHECKING

import pytest

from ironpost.protocol.dialect import SUBMISSION
from ironpost.protocol.server.settings import ServerSettings
from ironpost.routing.directory import MAX_TARGETS
from ironpost.testing.directory import TableDirectory

if TYPE_CHECKING:
    from collections.abc import Callable

EVERYBODY = [f"member{number}@here.example" for number in range(MAX_TARGETS)]
DIRECTORY = TableDirectory(
    ["here.example"],
    mailboxes=["jo@here.example", "flo@here.example", *EVERYBODY],
    aliases={
        "team@here.example": ["jo@here.example", "flo@here.example"],
        "abroad@here.example": ["grace@next.example"],
        "sender@here.example": ["jo@here.example"],
        "ping@here.example": ["pong@here.example", "flo@here.example"],
        "pong@here.example": ["ping@here.example"],
        "former@here.example": ["gone@here.example"],
        "everybody@here.example": EVERYBODY,
    },
    failing=["broken@here.example"],
)
OPEN = ServerSettings(dialect=SUBMISSION._replace(authenticate=False))
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
    ("recipient", "final", "status"),
    [("ping@here.example", "ping@here.example", "5.4.6"), ("former@here.example", "gone@here.example", "5.1.1")],
    ids=["loop", "unknown"],
)
def test_an_alias_that_leads_nowhere_ends_as_a_report(
    system: Callable, recipient: str, final: str, status: str
) -> None:
    async def scenario() -> None:
        async with system(directory=DIRECTORY) as here:
            await here.submit("sender@here.example", [recipient, "flo@here.example"], CONTENT)
            await here.queue_empty()
            stored = here.delivered()
        (report,) = [each for each in stored if b"\nDelivered-To: jo@here.example\n" in each]
        assert b"\nAction: failed\n" in report
        assert f"\nStatus: {status}\n".encode() in report
        assert f"\nOriginal-Recipient: rfc822; {recipient}\n".encode() in report
        assert f"\nFinal-Recipient: rfc822; {final}\n".encode() in report
        (copy,) = [each for each in stored if each is not report]
        assert b"\nDelivered-To: flo@here.example\n" in copy

    asyncio.run(scenario())


def test_an_alias_of_a_thousand_targets_is_expanded_before_the_250_and_delivered_to_all(system: Callable) -> None:
    async def scenario() -> None:
        async with system(directory=DIRECTORY, session=OPEN, claims=frozenset({"FUTURERELEASE"})) as here:
            await here.submit("jo@elsewhere.example", "everybody@here.example", CONTENT, options=("HOLDFOR=60",))
            (waiting,) = await here.store.list()
            here.clock.pass_time(60)
            await here.queue_empty()
            stored = here.delivered()
        assert [str(row.recipient.address) for row in waiting.recipients] == EVERYBODY
        lines = [line for each in stored for line in each.splitlines() if line.startswith(b"Delivered-To: ")]
        assert sorted(lines) == sorted(f"Delivered-To: {each}".encode() for each in EVERYBODY)

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
