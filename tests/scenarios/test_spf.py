"""SPF from the connection to the mailbox: a forged sender is refused, and results are ours alone."""

from __future__ import annotations

import asyncio
import smtplib
from typing import TYPE_CHECKING

import pytest

from ironpost.policy.options import Enforcement

if TYPE_CHECKING:
    from collections.abc import Callable

STRANGER = "127.0.0.2"
FORGED = b"Authentication-Results: mx.here.example; spf=pass smtp.mailfrom=bank.example\r\n"
CONTENT = b"Subject: x\r\n" + FORGED + b"\r\nx\r\n"


def test_r48_the_message_has_our_result_and_no_forged_one(system: Callable) -> None:
    async def scenario() -> None:
        async with system(spf=Enforcement.REJECT, name="mx.here.example") as here:
            await here.submit("jo@from-here.example", "flo@here.example", CONTENT, source=STRANGER)
            await here.queue_empty()
            (stored,) = here.delivered()
            assert stored.count(b"Authentication-Results: mx.here.example; spf=pass") == 1
            assert b"bank.example" not in stored
            assert b"smtp.mailfrom=from-here.example" in stored

    asyncio.run(scenario())


def test_a_client_that_the_domain_does_not_allow_is_refused(system: Callable) -> None:
    async def scenario() -> None:
        async with system(spf=Enforcement.REJECT) as here:
            with pytest.raises(smtplib.SMTPSenderRefused) as refusal:
                await here.submit("jo@from-elsewhere.example", "flo@here.example", CONTENT, source=STRANGER)
            assert refusal.value.smtp_code == 550
            assert refusal.value.smtp_error.startswith(b"5.7.23 ")
            assert await here.store.list() == []
            # A trusted client may send for any domain, and what it wrote is not removed.
            await here.submit("jo@from-elsewhere.example", "flo@here.example", CONTENT)
            await here.queue_empty()
            assert b"bank.example" in here.delivered()[0]

    asyncio.run(scenario())
