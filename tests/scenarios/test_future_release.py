"""FUTURERELEASE (RFC 4865): a message is submitted now, and sent at the requested time."""

from __future__ import annotations

import asyncio
import smtplib
from typing import TYPE_CHECKING

import pytest

from ironpost.protocol.dialect import SUBMISSION
from ironpost.protocol.server.settings import ServerSettings
from ironpost.queue.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT = b"Subject: x\r\n\r\nx\r\n"
HOUR = 3600.0
DAY = 24 * HOUR
CLAIMS = frozenset({"FUTURERELEASE"})
OPEN = ServerSettings(dialect=SUBMISSION._replace(authenticate=False))


def test_future_release_mail_is_sent_at_its_time_and_not_before(system: Callable) -> None:
    async def scenario() -> None:
        async with system(session=OPEN, claims=CLAIMS) as here:
            await here.submit("flo@here.example", "jo@next.example", CONTENT, options=("HOLDFOR=864000",))
            await here.submit(
                "flo@here.example", "jo@here.example", CONTENT, options=("HOLDUNTIL=2023-11-25T00:00:00Z",)
            )
            await here.submit("flo@here.example", "now@here.example", CONTENT)
            while len(here.delivered()) < 1:
                await asyncio.sleep(0)
            for _ in range(9):
                here.clock.pass_time(DAY)
                await here.deferred()
            assert here.next_hop.asked == 0
            assert len(here.delivered()) == 1
            here.clock.pass_time(DAY - 1)
            await here.deferred()
            here.next_hop.refusals = ["451 4.7.1 later"]  # it is ten days old, and has not expired
            here.clock.pass_time(2)
            while here.next_hop.asked == 0:
                await asyncio.sleep(0)
            await here.deferred()
            here.clock.pass_time(2 * DAY)
            await here.queue_empty()
            assert [recipients for _, recipients, _ in here.next_hop.taken] == [["jo@next.example"]]
            assert len(here.delivered()) == 2

    asyncio.run(scenario())


def test_a_bounce_repeats_the_requested_time(system: Callable) -> None:
    async def scenario() -> bytes:
        async with system(session=OPEN, claims=CLAIMS) as here:
            here.next_hop.refusals = ["550 5.1.1 nobody"]
            await here.submit("flo@here.example", "jo@next.example", CONTENT, options=("HOLDFOR=60",))
            here.clock.pass_time(61)
            await here.queue_empty()
            (report,) = here.delivered()
            return report

    report = asyncio.run(scenario())
    assert b"\nArrival-Date: Tue, 14 Nov 2023 22:13:20 +0000\n" in report
    assert b"\nFuture-Release-Request: for;60\n" in report


def test_an_operator_may_send_future_release_mail_earlier(system: Callable) -> None:
    async def scenario() -> None:
        async with system(session=OPEN, claims=CLAIMS) as here:
            await here.submit("flo@here.example", "jo@next.example", CONTENT, options=("HOLDFOR=600",))
            (message,) = await here.store.list()
            assert await here.store.retry(Selection.of(message.id)) == 1
            here.runner.wake()
            await here.queue_empty()
            assert len(here.next_hop.taken) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(("session", "claims"), [(OPEN, frozenset()), (ServerSettings(), CLAIMS)])
def test_future_release_is_refused_on_other_listeners(
    system: Callable, session: ServerSettings, claims: frozenset[str]
) -> None:
    async def scenario() -> None:
        async with system(session=session, claims=claims) as here:
            with pytest.raises(smtplib.SMTPSenderRefused) as refused:
                await here.submit("flo@here.example", "jo@next.example", CONTENT, options=("HOLDFOR=60",))
            assert refused.value.smtp_code == 555

    asyncio.run(scenario())
