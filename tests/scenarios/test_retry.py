"""Transient refusals are retried in virtual time, until the message is delivered or five days have passed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT = b"Subject: x\r\n\r\nx\r\n"
DAY = 86400.0


def test_a_4yz_is_retried_and_delivered(system: Callable) -> None:
    async def scenario() -> None:
        async with system() as here:
            here.next_hop.refusals = ["451 4.7.1 later", "450 4.2.0 later still"]
            await here.submit("flo@here.example", "jo@next.example", CONTENT)
            await here.deferred()
            assert here.next_hop.asked == 1
            (message,) = await here.store.list()
            assert message.recipients[0].attempts == 1
            assert message.recipients[0].last == "451 4.7.1 later"
            here.clock.pass_time(DAY / 24)
            while here.next_hop.asked == 1:
                await asyncio.sleep(0)
            await here.deferred()
            here.clock.pass_time(DAY / 4)
            await here.queue_empty()
            assert here.next_hop.asked == 3
            assert [recipients for _, recipients, _ in here.next_hop.taken] == [["jo@next.example"]]
            assert here.delivered() == []

    asyncio.run(scenario())


def test_after_five_days_the_sender_gets_a_bounce(system: Callable) -> None:
    async def scenario() -> bytes:
        async with system() as here:
            here.next_hop.refusals = ["451 4.7.1 later"] * 10_000
            await here.submit("flo@here.example", "jo@next.example", CONTENT)
            attempts = 0
            while await here.store.list() and here.clock.passed < 7 * DAY:
                await here.deferred_or_empty()
                attempts = here.next_hop.asked
                here.clock.pass_time(DAY / 8)
            assert 10 < attempts < 200
            assert 5 * DAY <= here.clock.passed < 6 * DAY
            (stored,) = here.delivered()
            return stored

    stored = asyncio.run(scenario())
    assert stored.startswith(b"Return-Path: <>\n")
    assert b"\nFinal-Recipient: rfc822; jo@next.example\n" in stored
    assert b"\nAction: failed\n" in stored
