"""A client outside the trusted networks can send to local recipients, and cannot relay."""

from __future__ import annotations

import asyncio
import smtplib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT = b"Subject: x\r\n\r\nx\r\n"
STRANGER = "127.0.0.2"
"""An address of this machine that the system does not trust: it trusts 127.0.0.1 alone."""


@pytest.mark.parametrize(
    "recipient",
    ["jo@next.example", '"jo@here.example"@next.example', "@here.example:jo@next.example", "jo@[127.0.0.1]"],
)
def test_an_untrusted_client_cannot_relay(system: Callable, recipient: str) -> None:
    async def scenario() -> None:
        async with system() as here:
            with pytest.raises(smtplib.SMTPRecipientsRefused) as refusal:
                await here.submit("jo@elsewhere.example", [f"<{recipient}>"], CONTENT, source=STRANGER)
            ((code, text),) = refusal.value.recipients.values()
            assert (code, text) == (550, b"5.7.1 Relay access denied")
            assert await here.store.list() == []
            assert here.next_hop.asked == 0

    asyncio.run(scenario())


def test_an_untrusted_client_may_send_to_local_recipients_only(system: Callable) -> None:
    async def scenario() -> None:
        async with system() as here:
            refused = await here.submit(
                "jo@elsewhere.example", ["flo@here.example", "jo@next.example"], CONTENT, source=STRANGER
            )
            assert list(refused) == ["jo@next.example"]
            await here.queue_empty()
            assert len(here.delivered()) == 1
            assert here.next_hop.taken == []

    asyncio.run(scenario())


def test_a_route_in_a_local_part_is_not_followed(system: Callable) -> None:
    async def scenario() -> None:
        async with system() as here:
            await here.submit("jo@elsewhere.example", "jo%next.example@here.example", CONTENT, source=STRANGER)
            await here.queue_empty()
            assert len(here.delivered()) == 1
            assert here.next_hop.asked == 0

    asyncio.run(scenario())


def test_a_trusted_client_relays(system: Callable) -> None:
    async def scenario() -> None:
        async with system() as here:
            await here.submit("flo@here.example", "jo@next.example", CONTENT)
            await here.queue_empty()
            ((sender, recipients, content),) = here.next_hop.taken
            assert (sender, recipients) == ("flo@here.example", ["jo@next.example"])
            assert content.startswith(b"Received: from client.example ([127.0.0.1]) by mx.here.example")
            assert content.endswith(b" Tue, 14 Nov 2023 22:13:20 +0000\r\n" + CONTENT)
            assert b"Return-Path" not in content

    asyncio.run(scenario())
