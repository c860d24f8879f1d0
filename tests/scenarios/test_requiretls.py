"""A message with REQUIRETLS is not relayed without TLS, and its bounce contains only the header (RFC 8689)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ironpost.model import Address, Envelope, Recipient
from ironpost.queue.store import NewMessage

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = b"Subject: x\r\n\r\nthe secret\r\n"


def test_r38_without_tls_the_message_fails_and_its_bounce_has_only_the_header_section(system: Callable) -> None:
    async def scenario() -> bytes:
        async with system() as here:
            spool = here.store.spool()
            spool.write(SECRET)
            to = (Recipient(Address.parse("jo@next.example")), Recipient(Address.parse("flo@by-mx.example")))
            envelope = Envelope(Address.parse("flo@here.example"), to, {"REQUIRETLS": None})
            here.runner.accept(await here.store.commit(NewMessage("m1", envelope, here.clock.now(), b"", spool)))
            await here.queue_empty()
            assert here.next_hop.asked == 0
            assert here.next_hop.taken == []
            reports = here.delivered()
            assert len(reports) == 2  # one for each destination
            return b"".join(reports)

    reports = asyncio.run(scenario())
    assert reports.count(b"Status: 5.7.10\n") == 2
    assert b"the secret" not in reports
    assert b"Subject: x\n" in reports


def test_a_bounce_of_requiretls_mail_is_delivered_without_it(system: Callable) -> None:
    async def scenario() -> None:
        async with system() as here:
            here.next_hop.refusals = []
            spool = here.store.spool()
            spool.write(SECRET)
            to = (Recipient(Address.parse("jo@by-mx.example")),)
            envelope = Envelope(Address.parse("flo@next.example"), to, {"REQUIRETLS": None})
            here.runner.accept(await here.store.commit(NewMessage("m1", envelope, here.clock.now(), b"", spool)))
            await here.queue_empty()
            ((sender, recipients, content),) = here.next_hop.taken
            assert (sender, recipients) == ("<>", ["flo@next.example"])
            assert b"Status: 5.7.10" in content
            assert b"the secret" not in content

    asyncio.run(scenario())
