"""The process that writes Maildirs: what it returns, and what remains when it or the server ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING

import pytest
from tests.delivery.mailbox_kit import Clock, Content, Tokens, queued

from ironpost.delivery.maildir import BATCH, LARGE, Maildir, MaildirOptions
from ironpost.delivery.maildir_files import File, Job, Target
from ironpost.delivery.maildir_process import MaildirProcess
from ironpost.delivery.path_template import PathTemplate
from ironpost.model import Disposition, Outcome
from ironpost.routing.route import Kind, Route

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 30.0
"""Seconds after which a test fails."""


@pytest.fixture
def process() -> Iterator[MaildirProcess]:
    made = MaildirProcess()
    yield made
    asyncio.run(made.close())


@pytest.fixture
def agent(process: MaildirProcess) -> Iterator[Maildir]:
    made = Maildir(clock=Clock(), random=Tokens(), host="mx.example", process=process)
    yield made
    asyncio.run(made.close())


async def deliver(agent: Maildir, path: Path, *recipients: str, content: Content | None = None) -> list[Outcome]:
    """The outcome of each recipient of one message into one Maildir."""
    message = queued(*recipients or ("jo@localhost",), content=content)
    route = Route.local(Kind.LOCAL, MaildirOptions(PathTemplate.fixed(path)))
    async with asyncio.timeout(LIMIT):
        return [outcome for _, outcome in await agent.deliver(message, message.recipients, route)]


def job(path: Path, *names: str) -> Job:
    """A message for one recipient, with the names of its files in a Maildir: more than one is a bug."""
    target = Target(path, path.parent)
    return Job(File(target, names[0]), [b"a\n"], target, list(names), [b""], 0.0, False)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing meanwhile, for at most `LIMIT`: a test whose event loop waits for it fails."""
    waited = Timer(LIMIT, os.kill, (pid, signal.SIGCONT))
    waited.start()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        waited.cancel()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def delivered(path: Path) -> int:
    """The number of messages; nothing is left in `tmp`."""
    assert list((path / "tmp").iterdir()) == []
    return len(list((path / "new").iterdir()))


def gone(pid: int) -> bool:
    """Whether a process has ended, and was waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_process_delivers_as_a_thread_does(tmp_path: Path, agent: Maildir, process: MaildirProcess) -> None:
    async def run() -> None:
        missing = tmp_path / "missing" / "jo"
        in_thread = Maildir(clock=Clock(), random=Tokens(1000), host="mx.example")
        for path, recipients in ((tmp_path / "jo", ("jo@localhost", "al@localhost")), (missing, ("jo@localhost",))):
            assert await deliver(agent, path, *recipients) == await deliver(in_thread, path, *recipients)
        await in_thread.close()
        (outcome,) = await deliver(agent, missing)
        assert str(tmp_path / "missing") in outcome.reply.detail
        assert process.pid

    asyncio.run(run())
    contents = sorted(file.read_bytes() for file in (tmp_path / "jo" / "new").iterdir())
    assert contents[0::2] == contents[1::2]
    assert delivered(tmp_path / "jo") == 4


def test_concurrent_messages_share_batches(tmp_path: Path, agent: Maildir) -> None:
    async def run() -> None:
        for outcomes in await asyncio.gather(*(deliver(agent, tmp_path / "jo") for _ in range(100))):
            assert [outcome.disposition for outcome in outcomes] == [Disposition.DELIVERED]

    asyncio.run(run())
    assert delivered(tmp_path / "jo") == 100


def test_large_content_is_not_sent_to_the_process(tmp_path: Path, agent: Maildir, process: MaildirProcess) -> None:
    content = Content(b"Subject: x\r\n\r\n" + b"a" * LARGE)
    assert asyncio.run(deliver(agent, tmp_path / "jo", content=content))[0].disposition is Disposition.DELIVERED
    assert not process.pid
    assert delivered(tmp_path / "jo") == 1


def test_a_process_that_ended_between_two_batches_is_replaced(
    tmp_path: Path, agent: Maildir, process: MaildirProcess
) -> None:
    async def run() -> None:
        await deliver(agent, tmp_path / "jo")
        first = process.pid
        os.kill(first, signal.SIGKILL)
        assert process._process is not None
        process._process.wait(LIMIT)
        (outcome,) = await deliver(agent, tmp_path / "jo")
        assert outcome.disposition is Disposition.DELIVERED
        assert process.pid != first
        assert gone(first)

    asyncio.run(run())
    assert delivered(tmp_path / "jo") == 2


def test_a_message_whose_process_ended_is_deferred(
    tmp_path: Path, agent: Maildir, process: MaildirProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        await deliver(agent, tmp_path / "jo")
        real = process._received

        async def received(length: int) -> bytes:
            os.kill(process.pid, signal.SIGKILL)
            return await real(length)

        os.kill(process.pid, signal.SIGSTOP)
        with monkeypatch.context() as patch:
            patch.setattr(process, "_received", received)
            (outcome,) = await deliver(agent, tmp_path / "jo")
        assert outcome.disposition is Disposition.DEFERRED
        assert "the process that writes Maildirs has ended" in outcome.reply.detail
        assert (await deliver(agent, tmp_path / "jo"))[0].disposition is Disposition.DELIVERED

    asyncio.run(run())
    assert delivered(tmp_path / "jo") == 2


def test_a_process_that_cannot_be_started_defers(
    tmp_path: Path, agent: Maildir, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(tmp_path / "no-python"))
        (outcome,) = asyncio.run(deliver(agent, tmp_path / "jo"))
    assert outcome.disposition is Disposition.DEFERRED
    assert "no-python" in outcome.reply.detail
    assert asyncio.run(deliver(agent, tmp_path / "jo"))[0].disposition is Disposition.DELIVERED


def test_a_bug_in_the_process_is_an_error_here_and_it_continues(tmp_path: Path, process: MaildirProcess) -> None:
    async def run() -> None:
        with pytest.raises(RuntimeError, match="ValueError: zip"):
            await process.publish([job(tmp_path / "jo", "one", "two", "three")])
        ((outcome,),) = await process.publish([job(tmp_path / "jo", "four")])
        assert outcome.disposition is Disposition.DELIVERED

    asyncio.run(run())
    assert delivered(tmp_path / "jo") == 1


def test_the_process_ignores_the_signals_meant_for_the_server(
    tmp_path: Path, agent: Maildir, process: MaildirProcess
) -> None:
    async def run() -> None:
        await deliver(agent, tmp_path / "jo")
        first = process.pid
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(first, number)
        (outcome,) = await deliver(agent, tmp_path / "jo")
        assert outcome.disposition is Disposition.DELIVERED
        assert process.pid == first

    asyncio.run(run())


def test_close_waits_for_the_outcomes_of_a_batch_without_blocking_the_event_loop(
    tmp_path: Path, process: MaildirProcess
) -> None:
    async def run() -> None:
        await process.publish([job(tmp_path / "jo", "one")])
        pid = process.pid
        with stopped(pid):
            publishing = asyncio.create_task(process.publish([job(tmp_path / "jo", "two")]))
            await asyncio.sleep(0)  # until it has sent the batch
            closing = asyncio.create_task(process.close())
            await asyncio.sleep(0)  # until it waits
            assert not closing.done()
            assert not gone(pid)
        async with asyncio.timeout(LIMIT):
            ((outcome,),) = await publishing
            await closing
        assert outcome.disposition is Disposition.DELIVERED
        assert gone(pid)

    asyncio.run(run())
    assert delivered(tmp_path / "jo") == 2


def test_a_cancelled_batch_is_finished_while_a_new_process_writes_the_next(
    tmp_path: Path, process: MaildirProcess
) -> None:
    async def run() -> None:
        await process.publish([job(tmp_path / "jo", "one")])
        first = process.pid
        with stopped(first):
            publishing = asyncio.create_task(process.publish([job(tmp_path / "jo", "two")]))
            await asyncio.sleep(0)  # until it has sent the batch
            publishing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await publishing
            assert not gone(first)
            ((outcome,),) = await process.publish([job(tmp_path / "jo", "three")])
            assert outcome.disposition is Disposition.DELIVERED
            assert process.pid != first
            assert not gone(first)
        await process.close()
        assert gone(first)

    asyncio.run(run())
    assert delivered(tmp_path / "jo") == 3


def test_close_lets_deliveries_that_have_begun_finish(tmp_path: Path, agent: Maildir, process: MaildirProcess) -> None:
    async def run() -> None:
        running = [asyncio.create_task(deliver(agent, tmp_path / "jo")) for _ in range(2 * BATCH)]
        while not process.pid:
            await asyncio.sleep(0)
        await agent.close()
        for (outcome,) in await asyncio.gather(*running):
            assert outcome.disposition is Disposition.DELIVERED

    asyncio.run(run())
    assert delivered(tmp_path / "jo") == 2 * BATCH


def test_close_waits_for_the_process_and_nothing_is_delivered_after_it(
    tmp_path: Path, agent: Maildir, process: MaildirProcess
) -> None:
    async def run() -> None:
        await deliver(agent, tmp_path / "jo")
        pid = process.pid
        await agent.close()
        assert gone(pid)
        with pytest.raises(RuntimeError):
            await deliver(agent, tmp_path / "jo")

    asyncio.run(run())


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.delivery.test_maildir_process import Clock, Maildir, MaildirProcess, Tokens, deliver
async def main():
    process = MaildirProcess()
    agent = Maildir(clock=Clock(), random=Tokens(), process=process)
    await deliver(agent, Path(sys.argv[1]))
    print(process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


def test_the_process_ends_with_a_server_that_was_killed(tmp_path: Path) -> None:
    """It inherits standard output, so `run` returns when both have ended."""
    command = [sys.executable, "-c", KILLED, str(tmp_path / "jo")]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, timeout=LIMIT, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert int(ended.stdout)
