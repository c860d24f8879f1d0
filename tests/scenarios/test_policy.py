"""Policy decisions as clients and the queue see them: tarpit, quarantine, drop, rate limits."""

from __future__ import annotations

import asyncio
import smtplib
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from ironpost.model.patterns import AddressPattern
from ironpost.policy.checks.access import AccessRule
from ironpost.policy.checks.senders import SenderRule
from ironpost.policy.options import Quota
from ironpost.queue.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT = b"Subject: x\r\n\r\nx\r\n"
STRANGER = "127.0.0.2"
"""An address of this machine that the system does not trust: it trusts 127.0.0.1 alone."""


def test_a_tarpit_delays_only_its_network(system: Callable) -> None:
    async def scenario() -> None:
        rule = AccessRule((ip_network("127.0.0.2/32"),), "tarpit")
        async with system(access=(rule,), delay=60.0) as here:
            slow = asyncio.create_task(
                here.submit("jo@elsewhere.example", "flo@here.example", CONTENT, source=STRANGER)
            )
            while not here.server.connections:
                await asyncio.sleep(0)
            await here.submit("jo@elsewhere.example", "flo@here.example", CONTENT)
            here.clock.pass_time(59)
            await here.submit("jo@elsewhere.example", "flo@here.example", CONTENT)
            assert not slow.done()
            here.clock.pass_time(1)
            assert await slow == {}
            await here.queue_empty()
            assert len(here.delivered()) == 3

    asyncio.run(scenario())


def test_quarantined_mail_is_acknowledged_and_held_until_its_release(system: Callable) -> None:
    async def scenario() -> None:
        rule = SenderRule((AddressPattern("odd.example"),), "quarantine", "we are not sure")
        async with system(sender=(rule,)) as here:
            assert await here.submit("jo@odd.example", "flo@here.example", CONTENT) == {}
            here.clock.pass_time(10 * 3600)
            assert await here.submit("jo@plain.example", "flo@here.example", CONTENT) == {}
            while len(waiting := await here.store.list()) > 1:
                await asyncio.sleep(0)
            (held,) = waiting
            assert len(here.delivered()) == 1
            assert str(held.envelope.reverse_path) == "jo@odd.example"
            await here.store.release(Selection.of(held.id))
            here.runner.wake()
            await here.queue_empty()
            assert len(here.delivered()) == 2

    asyncio.run(scenario())


def test_dropped_mail_is_acknowledged_and_discarded(system: Callable) -> None:
    async def scenario() -> None:
        rule = SenderRule((AddressPattern("*.bad.example"),), "drop", "the attack of May")
        async with system(sender=(rule,)) as here:
            assert await here.submit("x@very.bad.example", ["flo@here.example", "x@next.example"], CONTENT) == {}
            assert await here.store.list() == []
            assert here.delivered() == []
            assert here.next_hop.asked == 0

    asyncio.run(scenario())


def test_a_network_over_its_rate_is_deferred_until_the_rate_allows_it(system: Callable) -> None:
    async def scenario() -> None:
        async with system(network_messages=Quota(2, 3600.0)) as here:

            async def send() -> None:
                await here.submit("jo@elsewhere.example", "flo@here.example", CONTENT, source=STRANGER)

            await send()
            await send()
            with pytest.raises(smtplib.SMTPSenderRefused) as refusal:
                await send()
            assert (refusal.value.smtp_code, refusal.value.smtp_error) == (
                451,
                b"4.7.1 Too many messages, try again later",
            )
            here.clock.pass_time(1800)
            await send()
            await here.queue_empty()
            assert len(here.delivered()) == 3

    asyncio.run(scenario())
