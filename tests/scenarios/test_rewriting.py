"""Rewriting in a whole system: mail from an internal host, as a mailbox here and another system get it."""

from __future__ import annotations

import asyncio
import email
import email.policy
from typing import TYPE_CHECKING

from ironpost.model.patterns import AddressPattern
from ironpost.routing.rewriting import RewriteRule, Rewriting

if TYPE_CHECKING:
    from collections.abc import Callable

RECEPTION = Rewriting([RewriteRule((AddressPattern("old.example"),), "here.example", name="rewrite[1]")])
DELIVERY = Rewriting([RewriteRule((AddressPattern("lan.example"),), "here.example", name="rewrite[2]")])
CONTENT = (
    b"From: =?utf-8?q?Fl=C3=B6?= (cron) <flo@lan.example>\r\n"
    b"To: jo@old.example,\r\n\tmo@next.example\r\nSubject: flo@lan.example\r\n\r\nflo@lan.example\r\n"
)


def test_each_system_gets_the_addresses_it_may_see(system: Callable) -> None:
    async def scenario() -> None:
        async with system(reception=RECEPTION, delivery=DELIVERY) as here:
            await here.submit("flo@lan.example", ["jo@old.example", "mo@next.example"], CONTENT)
            await here.queue_empty()
            (kept,) = here.delivered()
            assert b"Return-Path: <flo@lan.example>" in kept
            assert b"Delivered-To: jo@here.example\n" in kept
            moved = CONTENT.replace(b"jo@old.", b"jo@here.")
            assert kept.endswith(moved.replace(b"\r\n", b"\n"))
            ((sender, recipients, content),) = here.next_hop.taken
            assert (sender, recipients) == ("flo@here.example", ["mo@next.example"])
            assert content.endswith(moved.replace(b"<flo@lan.", b"<flo@here."))
            parsed = email.message_from_bytes(content, policy=email.policy.default)
            (author,) = parsed["From"].addresses
            assert (author.display_name, author.addr_spec) == ("Flö", "flo@here.example")
            assert [each.addr_spec for each in parsed["To"].addresses] == ["jo@here.example", "mo@next.example"]

    asyncio.run(scenario())


def test_a_bounce_goes_to_the_stored_sender(system: Callable) -> None:
    async def scenario() -> None:
        async with system(reception=RECEPTION, delivery=DELIVERY) as here:
            here.next_hop.refusals = ["550 5.1.1 unknown"]
            await here.submit("flo@old.example", ["mo@next.example"], b"From: flo@old.example\r\n\r\nx\r\n")
            await here.queue_empty()
            (bounce,) = here.delivered()
            assert b"Delivered-To: flo@here.example\n" in bounce
            assert b"mo@next.example" in bounce

    asyncio.run(scenario())
