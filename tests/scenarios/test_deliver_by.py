"""DELIVERBY (RFC 2852): a next hop without the extension, and a deadline that passes in the queue."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT = b"Subject: x\r\n\r\nx\r\n"
CLAIMS = frozenset({"DELIVERBY"})
YEARS = 999_999_999
"""The longest by-time: the client sends the time left by the clock of the machine, not by the scenario's."""


@pytest.mark.parametrize(
    ("by", "action", "status", "relayed"),
    [
        (f"{YEARS};N", b"relayed", b"2.0.0", 1),
        (f"{YEARS};NT", b"relayed", b"2.0.0", 1),
        (f"{YEARS};R", b"failed", b"5.3.3", 0),
    ],
)
def test_a_next_hop_without_the_extension(
    system: Callable, by: str, action: bytes, status: bytes, relayed: int
) -> None:
    async def scenario() -> None:
        async with system(claims=CLAIMS) as here:
            await here.submit("flo@here.example", "jo@next.example", CONTENT, options=(f"BY={by}",))
            await here.queue_empty()
            assert len(here.next_hop.taken) == relayed
            (report,) = here.delivered()
            assert b"\nAction: " + action in report
            assert b"\nStatus: " + status in report
            assert b"\nDeliver-By-Date: Fri, 23 Jul 2055 23:59:59 +0000\n" in report

    asyncio.run(scenario())


def test_a_deadline_passes_between_two_attempts(system: Callable) -> None:
    async def scenario() -> None:
        async with system(claims=CLAIMS) as here:
            here.next_hop.refusals = ["451 4.7.1 later"]
            await here.submit("flo@here.example", "jo@next.example", CONTENT, options=("BY=120;N",))
            await here.deferred()
            assert here.delivered() == []
            here.clock.pass_time(121)
            while not here.delivered():
                await asyncio.sleep(0)
            (report,) = here.delivered()
            assert b"\nAction: delayed" in report
            assert b"\nStatus: 4.4.7" in report
            here.clock.pass_time(3600)
            await here.queue_empty()
            assert len(here.next_hop.taken) == 1
            assert len(here.delivered()) == 1, "it was late before it was relayed, so no report of that"

    asyncio.run(scenario())


def test_local_mail_is_delivered_before_its_deadline(system: Callable) -> None:
    async def scenario() -> None:
        async with system(claims=CLAIMS) as here:
            await here.submit("flo@here.example", "jo@here.example", CONTENT, options=("BY=120;R",))
            await here.queue_empty()
            (mail,) = here.delivered()
            assert b"Subject: x" in mail
            assert b"Action:" not in mail

    asyncio.run(scenario())
