"""A message in a mail loop is refused (RFC 5321 §6.3), and so is a route that leads back to this server."""

from __future__ import annotations

import asyncio
import smtplib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

HOP = b"Received: from a.example by b.example; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
REST = b"Subject: round and round\r\n\r\nx\r\n"


def test_r48_a_hundred_received_fields_are_refused_and_ninety_nine_are_not(system: Callable) -> None:
    async def scenario() -> None:
        async with system() as here:
            with pytest.raises(smtplib.SMTPDataError) as refusal:
                await here.submit("jo@elsewhere.example", "flo@here.example", HOP * 100 + REST)
            assert refusal.value.smtp_code == 554
            assert refusal.value.smtp_error.startswith(b"5.4.6 ")
            assert await here.store.list() == []
            await here.submit("jo@elsewhere.example", "flo@here.example", HOP * 99 + REST)
            await here.queue_empty()
            (stored,) = here.delivered()
            assert stored.count(b"Received: ") == 100

    asyncio.run(scenario())


def test_an_exchanger_that_is_this_system_bounces_the_mail(system: Callable) -> None:
    async def scenario() -> bytes:
        async with system() as here:
            await here.submit("flo@here.example", "jo@circle.example", REST)
            await here.queue_empty()
            assert here.next_hop.asked == 0
            (stored,) = here.delivered()
            return stored

    assert b"\nStatus: 5.4.6\n" in asyncio.run(scenario())
