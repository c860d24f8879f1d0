"""What a program does with its mail decides what the sender learns: a bounce, nothing yet, or nothing at all."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from email import message_from_bytes, policy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ironpost.delivery.pipe import PipeOptions
from ironpost.model.patterns import AddressPattern
from ironpost.routing.route import Kind, LocalRule, Route

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT = b"Subject: x\r\n\r\nx\r\n"
HOUR = 3600.0
USER = "nobody" if os.geteuid() == 0 else ""
PYTHON = "/usr/bin/python3" if USER else sys.executable


def program(code: str, timeout: float = 60.0) -> list[LocalRule]:
    """Mail for help@here.example goes to this program in Python."""
    options = PipeOptions((PYTHON, "-I", "-c", code), user=USER, timeout=timeout)
    return [LocalRule((AddressPattern("help@here.example"),), Route.local(Kind.PIPE, options), "local.delivery[1]")]


@pytest.mark.parametrize(
    ("code", "status", "diagnostic"),
    [
        ("print('Closed'); raise SystemExit(67)", "5.1.1", "550 5.1.1 No such user: Closed"),
        ("raise SystemExit(77)", "5.7.0", "550 5.7.0 Permission denied"),
    ],
)
def test_a_permanent_exit_status_is_reported_to_the_sender(
    system: Callable, code: str, status: str, diagnostic: str
) -> None:
    async def scenario() -> bytes:
        async with system(local_rules=program(code)) as here:
            await here.submit("flo@here.example", "help@here.example", CONTENT)
            await here.queue_empty()
            (stored,) = here.delivered()
            return stored

    report = message_from_bytes(asyncio.run(scenario()), policy=policy.default)
    _, recipient = report.get_payload()[1].get_payload()
    assert recipient["Final-Recipient"] == "rfc822; help@here.example"
    assert recipient["Action"] == "failed"
    assert recipient["Status"] == status
    assert diagnostic in report.get_payload()[0].get_content()


@pytest.mark.parametrize(
    ("code", "timeout", "reply"),
    [
        ("print('Locked'); raise SystemExit(75)", 60.0, "451 4.3.0 The program failed: Locked"),
        ("import os; os.kill(os.getpid(), 9)", 60.0, "451 4.3.0 The program failed"),
        ("import signal; signal.pause()", 1.0, "451 4.3.0 The program failed"),
    ],
    ids=["status 75", "signal", "timeout"],
)
def test_other_ends_are_retried_until_the_message_expires(
    system: Callable, code: str, timeout: float, reply: str
) -> None:
    async def scenario() -> bytes:
        async with system(local_rules=program(code, timeout)) as here:
            await here.submit("flo@here.example", "help@here.example", CONTENT)
            await here.deferred()
            (message,) = await here.store.list()
            assert message.recipients[0].reply == reply
            assert here.delivered() == []
            here.clock.pass_time(120 * HOUR)
            await here.queue_empty()
            (stored,) = here.delivered()
            return stored

    report = message_from_bytes(asyncio.run(scenario()), policy=policy.default)
    _, recipient = report.get_payload()[1].get_payload()
    assert (recipient["Action"], recipient["Status"]) == ("failed", "4.4.7")
    assert f"Delivery time expired; at last {reply}" in " ".join(report.get_payload()[0].get_content().split())


def test_a_program_that_fails_once_gets_the_message_again(system: Callable) -> None:
    with tempfile.TemporaryDirectory() as name:  # not below `tmp_path`, which only we may enter
        tried, mail = Path(name) / "tried", Path(name) / "mail"
        Path(name).chmod(0o777)
        code = (
            "import os, sys\n"
            f"if not os.path.exists({str(tried)!r}): open({str(tried)!r}, 'w').close(); sys.exit(75)\n"
            f"open({str(mail)!r}, 'wb').write(sys.stdin.buffer.read())"
        )

        async def scenario() -> None:
            async with system(local_rules=program(code)) as here:
                await here.submit("flo@here.example", "help@here.example", CONTENT)
                await here.deferred()
                here.clock.pass_time(HOUR)
                await here.queue_empty()
                assert here.delivered() == []

        asyncio.run(scenario())
        assert mail.read_bytes().endswith(b"\nSubject: x\n\nx\n")
