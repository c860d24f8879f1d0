"""A full disk: content is refused with 452, and accepted again once there is space."""

from __future__ import annotations

import asyncio
import smtplib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = b"Subject: x\r\n\r\nx\r\n"
LARGE = b"Subject: x\r\n\r\n" + b"0123456789abcdef 0123456789abcdef\r\n" * 10_000
CAPACITY = 100_000


@pytest.mark.parametrize("declared", [(), (f"SIZE={len(LARGE)}",)], ids=["found out while writing", "declared"])
def test_a_full_disk_is_452_and_the_server_continues(system: Callable, declared: tuple[str, ...]) -> None:
    async def scenario() -> None:
        async with system(capacity=CAPACITY) as here:

            def send() -> tuple[int, bytes]:
                """Open one connection and send MAIL with exactly these parameters."""
                with smtplib.SMTP("127.0.0.1", here.server.port, "client.example", 30) as client:
                    client.ehlo()
                    client.mail("jo@elsewhere.example", declared)
                    client.rcpt("flo@here.example")
                    try:
                        answer = client.data(LARGE)
                    except smtplib.SMTPDataError as error:
                        answer = (error.smtp_code, error.smtp_error)
                    client.rset()
                    assert client.sendmail("jo@elsewhere.example", "flo@here.example", SMALL) == {}
                    return answer

            code, text = await asyncio.to_thread(send)
            assert code == 452
            assert text.startswith(b"4.3.1 ")
            await here.queue_empty()
            (stored,) = here.delivered()
            assert stored.endswith(b"\nx\n")

    asyncio.run(scenario())


def test_a_full_mailbox_defers_and_is_retried(system: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    real = os.fsync
    full = True

    def fsync(fd: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd)

    async def scenario() -> None:
        nonlocal full
        async with system() as here:
            monkeypatch.setattr(os, "fsync", fsync)
            await here.submit("jo@elsewhere.example", "flo@here.example", SMALL)
            await here.deferred()
            (message,) = await here.store.list()
            assert message.recipients[0].last.startswith("452 4.3.1 ")
            assert message.recipients[0].attempts == 0  # no remote was asked
            assert here.delivered() == []
            full = False
            here.clock.pass_time(3600)
            await here.queue_empty()
            assert len(here.delivered()) == 1

    asyncio.run(scenario())
