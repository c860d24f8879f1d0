"""Delivery into mbox files: the format, locks, what is wrong with a file, and many deliveries at the same time."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import mailbox
import os
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.delivery import mailbox_kit
from tests.delivery.mailbox_kit import Content, queued

from ironpost.delivery.mbox import AT_ONCE, LOCK_TRIES, STALE_SECONDS, Mbox, MboxOptions
from ironpost.delivery.path_template import PathTemplate
from ironpost.model import Address, Disposition, Outcome
from ironpost.model.body import BodyDamaged
from ironpost.model.options import Seconds
from ironpost.routing.directory import Mailbox
from ironpost.routing.route import Kind, Route

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ironpost.queue.store import QueuedMessage

JO = "jo@mail.example"
TOP = (
    b"From sender@example.org Fri Feb 13 23:31:30 2009\n"
    b"Return-Path: <sender@example.org>\nDelivered-To: jo@mail.example\n"
)
SIMPLE = b"Subject: x\r\n\r\nbody\r\n"
STORED = TOP + b"Subject: x\n\nbody\n\n"


class Clock(mailbox_kit.Clock):
    """A clock on which waiting takes no time."""

    def __init__(self, waiting: Callable[[], object] = lambda: None) -> None:
        self.waits = 0
        self._waiting = waiting

    async def sleep(self, seconds: float) -> None:
        self.waits += 1
        self._waiting()
        await asyncio.sleep(0)


class Directory:
    """Every address is a mailbox with this quota."""

    has_aliases = False

    def __init__(self, quota: int) -> None:
        self._quota = quota

    def find(self, address: Address) -> Mailbox:
        return Mailbox("here", address, quota=self._quota)


def options(folder: Path, **more: object) -> MboxOptions:
    return MboxOptions(**{"path": PathTemplate(f"{folder}/{{local}}"), **more})  # type: ignore[arg-type]


def deliver(
    folder: Path, *messages: QueuedMessage, clock: Clock | None = None, quota: int | None = None, **more: object
) -> list[Outcome]:
    """Deliver messages at the same time; the outcomes of their recipients."""
    directory = None if quota is None else lambda: Directory(quota)
    agent = Mbox(clock=clock or Clock(), host="mx.example", directory=directory)
    route = Route.local(Kind.MBOX, options(folder, **more))

    async def run() -> list[Outcome]:
        done = await asyncio.gather(*(agent.deliver(each, each.recipients, route) for each in messages))
        return [outcome for results in done for _, outcome in results]

    try:
        return asyncio.run(run())
    finally:
        asyncio.run(agent.close())


def simple(*recipients: str) -> QueuedMessage:
    return queued(*recipients or (JO,), content=Content(SIMPLE))


def codes(outcomes: list[Outcome]) -> list[tuple[Disposition, int, str]]:
    return [(each.disposition, each.reply.code, each.reply.enhanced) for each in outcomes]


DELIVERED = (Disposition.DELIVERED, 250, "2.0.0")


def read(path: Path) -> list[mailbox.mboxMessage]:
    """What a reader of mbox files finds."""
    with closing(mailbox.mbox(path)) as found:
        return list(found)


# -- the format


def test_a_message_is_between_a_separator_and_an_empty_line(tmp_path: Path) -> None:
    assert codes(deliver(tmp_path, simple())) == [DELIVERED]
    assert (tmp_path / "jo").read_bytes() == STORED
    deliver(tmp_path, simple())
    assert (tmp_path / "jo").read_bytes() == STORED * 2
    assert [each.name for each in tmp_path.iterdir()] == ["jo"], "no lock is left"


def test_readers_find_each_message(tmp_path: Path) -> None:
    bodies = [b"From the start\n", b"a\n\nFrom here\n>From there\n", b"no end"]
    for body in bodies:
        content = b"Subject: x\r\n\r\n" + body.replace(b"\n", b"\r\n")
        deliver(tmp_path, queued(JO, content=Content(content)))
    found = [each.get_payload() for each in read(tmp_path / "jo")]
    assert found == [">From the start\n", "a\n\n>From here\n>>From there\n", "no end\n"]


@pytest.mark.parametrize(
    "name", ["Content-Length", "Status", "X-IMAP", "X-IMAPbase", "X-Keywords", "X-Status", "x-uid", "Delivered-To"]
)
def test_fields_that_readers_would_believe_are_removed(tmp_path: Path, name: str) -> None:
    content = b"Subject: x\r\n" + name.encode() + b": 7\r\n\r\nbody\r\n"
    deliver(tmp_path, queued(JO, content=Content(content)))
    assert (tmp_path / "jo").read_bytes() == STORED


def test_a_large_message_is_whole(tmp_path: Path) -> None:
    line = b"From x" * 20 + b"\r\n"
    times = 3 * AT_ONCE // len(line)
    deliver(tmp_path, queued(JO, content=Content(line, times)))
    stored = (tmp_path / "jo").read_bytes()
    assert stored.removeprefix(TOP) == b"\n" + (b">" + line[:-2] + b"\n") * times + b"\n"
    assert [each.name for each in tmp_path.iterdir()] == ["jo"]


def test_each_address_has_its_own_file_and_one_copy(tmp_path: Path) -> None:
    outcomes = deliver(tmp_path, simple(JO, "flo@mail.example", "JO@mail.example", JO))
    assert codes(outcomes) == [DELIVERED] * 4
    assert len(read(tmp_path / "jo")) == 2
    assert len(read(tmp_path / "flo")) == 1


def test_mail_that_was_delivered_to_a_mailbox_before_loops(tmp_path: Path) -> None:
    content = Content(b"Delivered-To: Jo@Mail.example\r\nSubject: x\r\n\r\nbody\r\n")
    outcomes = deliver(tmp_path, queued(JO, "flo@mail.example", content=content))
    assert codes(outcomes) == [(Disposition.FAILED, 554, "5.4.6"), DELIVERED]
    assert [each.name for each in tmp_path.iterdir()] == ["flo"]


def test_r47_files_are_0600_and_directories_0700(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        assert codes(deliver(tmp_path, simple(), path=PathTemplate(f"{tmp_path}/{{domain}}/{{local}}"))) == [DELIVERED]
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "mail.example").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "mail.example" / "jo").stat().st_mode) == 0o600


# -- errors


def test_a_message_that_cannot_be_written_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(tmp_path, simple())
    for code, reply in ((errno.ENOSPC, (452, "4.3.1")), (errno.EIO, (451, "4.3.0"))):

        def fail(descriptor: int, code: int = code) -> None:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            (outcome,) = deliver(tmp_path, simple())
        assert codes([outcome]) == [(Disposition.DEFERRED, *reply)]
        assert str(tmp_path / "jo") in outcome.reply.detail
        assert (tmp_path / "jo").read_bytes() == STORED
    assert codes(deliver(tmp_path, simple())) == [DELIVERED]


def test_damaged_content_is_not_appended(tmp_path: Path) -> None:
    deliver(tmp_path, simple())
    (outcome,) = deliver(tmp_path, queued(JO, content=Content(SIMPLE, fails=BodyDamaged)))
    assert outcome.disposition is not Disposition.DELIVERED
    assert (tmp_path / "jo").read_bytes() == STORED


@pytest.mark.parametrize(("end", "missing"), [(b"half a li", b"\n\n"), (b"a line\n", b"\n"), (b"a line\n\n", b"")])
def test_the_rest_of_a_delivery_that_a_crash_ended_stays_apart(tmp_path: Path, end: bytes, missing: bytes) -> None:
    (tmp_path / "jo").write_bytes(STORED + TOP + b"\n" + end)
    deliver(tmp_path, simple())
    assert (tmp_path / "jo").read_bytes() == STORED + TOP + b"\n" + end + missing + STORED
    assert len(read(tmp_path / "jo")) == 3


@pytest.mark.parametrize("kind", ["link", "second name", "directory", "pipe"])
def test_r47_only_a_regular_file_with_one_name_is_written(tmp_path: Path, kind: str) -> None:
    other, jo = tmp_path / "other", tmp_path / "jo"
    other.write_bytes(b"precious\n")
    if kind == "link":
        jo.symlink_to(other)
    elif kind == "second name":
        jo.hardlink_to(other)
    elif kind == "directory":
        jo.mkdir()
    else:
        os.mkfifo(jo)
    (outcome,) = deliver(tmp_path, simple())
    assert outcome.disposition is Disposition.DEFERRED
    assert outcome.reply.code == 451
    assert f"{jo}" in outcome.reply.detail
    assert "move it away" in outcome.reply.detail
    assert other.read_bytes() == b"precious\n"
    assert not (tmp_path / "jo.lock").exists()


def test_a_wrong_owner_and_a_missing_file_have_their_own_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert codes(deliver(tmp_path / "absent", simple())) == [(Disposition.DEFERRED, 450, "4.2.1")]
    (missing,) = deliver(tmp_path, simple(), create=False)
    assert codes([missing]) == [(Disposition.DEFERRED, 450, "4.2.1")]
    assert "set create = true" in missing.reply.detail
    deliver(tmp_path, simple())
    assert codes(deliver(tmp_path, simple(), create=False)) == [DELIVERED]
    ours = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: ours + 1)
    (foreign,) = deliver(tmp_path, simple())
    assert codes([foreign]) == [(Disposition.DEFERRED, 451, "4.3.5")]
    assert (tmp_path / "jo").read_bytes() == STORED * 2


def test_r42_no_address_is_the_lock_of_another(tmp_path: Path) -> None:
    outcomes = deliver(tmp_path, simple("jo.lock@mail.example", "JO.LOCK@mail.example", "lock@mail.example"))
    assert codes(outcomes) == [(Disposition.FAILED, 553, "5.1.3")] * 2 + [DELIVERED]
    assert [each.name for each in tmp_path.iterdir()] == ["lock"]
    with pytest.raises(ValueError, match="the lock of another mailbox"):
        MboxOptions(PathTemplate("/var/mail/all.lock"))


def test_a_full_mailbox_defers_and_later_refuses(tmp_path: Path) -> None:
    quota = 2 * len(STORED) - 1
    fresh = simple()._replace(accepted=mailbox_kit.Clock().now())
    waited = fresh._replace(accepted=fresh.accepted - 3600)
    assert codes(deliver(tmp_path, fresh, quota=quota)) == [DELIVERED]
    assert codes(deliver(tmp_path, fresh, quota=quota)) == [(Disposition.DEFERRED, 452, "4.2.2")]
    assert codes(deliver(tmp_path, waited, quota=quota, full_wait=Seconds(3600.0))) == [
        (Disposition.FAILED, 552, "5.2.2")
    ]
    assert codes(deliver(tmp_path, fresh, quota=len(STORED) - 1)) == [(Disposition.FAILED, 552, "5.2.3")]
    assert codes(deliver(tmp_path, fresh, quota=quota + 1)) == [DELIVERED]


# -- locks


@contextmanager
def locked_by_another_program(path: Path) -> Iterator[Callable[[], None]]:
    """Lock a file by fcntl in another process; calling the value ends that."""
    code = "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()

        def end() -> None:
            process.communicate(b"\n")

        yield end
        if process.returncode is None:
            end()


def test_a_file_that_is_locked_by_fcntl_is_waited_for(tmp_path: Path) -> None:
    deliver(tmp_path, simple())
    with locked_by_another_program(tmp_path / "jo") as end:
        clock = Clock()
        assert codes(deliver(tmp_path, simple(), clock=clock)) == [(Disposition.DEFERRED, 450, "4.2.0")]
        assert clock.waits == LOCK_TRIES
        clock = Clock()
        assert codes(deliver(tmp_path, simple(), simple(), clock=clock)) == [(Disposition.DEFERRED, 450, "4.2.0")] * 2
        assert clock.waits == 2 * LOCK_TRIES, "both at the same time"
        assert (tmp_path / "jo").read_bytes() == STORED
        assert not (tmp_path / "jo.lock").exists()
        clock = Clock(end)
        assert codes(deliver(tmp_path, simple(), clock=clock)) == [DELIVERED]
        assert clock.waits == 1


def test_a_file_with_a_lock_file_is_waited_for(tmp_path: Path) -> None:
    deliver(tmp_path, simple())
    lock = tmp_path / "jo.lock"
    lock.touch()
    assert codes(deliver(tmp_path, simple())) == [(Disposition.DEFERRED, 450, "4.2.0")]
    assert lock.exists()
    clock = Clock(lock.unlink)
    assert codes(deliver(tmp_path, simple(), clock=clock)) == [DELIVERED]
    assert clock.waits == 1
    assert not lock.exists()


def test_a_stale_lock_file_is_replaced(tmp_path: Path) -> None:
    lock = tmp_path / "jo.lock"
    for age, expected in ((STALE_SECONDS - 60, (Disposition.DEFERRED, 450, "4.2.0")), (STALE_SECONDS + 60, DELIVERED)):
        lock.touch()
        os.utime(lock, (time.time() - age,) * 2)
        assert codes(deliver(tmp_path, simple())) == [expected]
    assert not lock.exists()


def test_the_file_is_locked_twice_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(tmp_path, simple())
    probe = f"import fcntl; fcntl.lockf(open({str(tmp_path / 'jo')!r}, 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    seen = []
    fsync = os.fsync

    def look(descriptor: int) -> None:
        other = subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False)
        seen.append((b"BlockingIOError" in other.stderr, (tmp_path / "jo.lock").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    deliver(tmp_path, simple())
    assert seen == [(True, True)]
    with (tmp_path / "jo").open("r+b") as free:
        fcntl.lockf(free, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_many_messages_at_the_same_time_are_appended_whole(tmp_path: Path) -> None:
    clock = Clock()
    messages = [queued(JO, content=Content(b"Subject: %d\r\n\r\n" % n + b"x" * 5000)) for n in range(60)]
    assert codes(deliver(tmp_path, *messages, clock=clock)) == [DELIVERED] * 60
    assert clock.waits == 0, "deliveries in one process take turns"
    found = read(tmp_path / "jo")
    assert sorted(int(each["Subject"]) for each in found) == list(range(60))
    assert {each.get_payload() for each in found} == {"x" * 5000 + "\n"}


def test_several_processes_append_to_one_file(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from pathlib import Path
from tests.delivery.mailbox_kit import Content, queued
from tests.delivery.test_mbox import JO, MboxOptions, Kind, Mbox, PathTemplate, Route
from ironpost.processes.clock import SystemClock

class Clock(SystemClock):
    async def sleep(self, seconds):
        await asyncio.sleep(seconds / 100)

async def main():
    agent = Mbox(clock=Clock())
    route = Route.local(Kind.MBOX, MboxOptions(PathTemplate(sys.argv[1] + "/{local}")))
    for number in range(20):
        message = queued(JO, content=Content(b"Subject: %s-%d\\r\\n\\r\\n" % (sys.argv[2].encode(), number)))
        while (await agent.deliver(message, message.recipients, route))[0][1].reply.code != 250:
            pass
    await agent.close()

asyncio.run(main())
"""
    root = str(Path(__file__).parents[2])
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), name], cwd=root, env={**os.environ, "PYTHONPATH": root}
        )
        for name in "abc"
    ]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    subjects = [each["Subject"] for each in read(tmp_path / "jo")]
    assert sorted(subjects) == sorted(f"{name}-{number}" for name in "abc" for number in range(20))
    for name in "abc":
        assert [each for each in subjects if each.startswith(name)] == [f"{name}-{number}" for number in range(20)]


def test_a_cancelled_delivery_leaves_a_whole_file(tmp_path: Path) -> None:
    """It is cancelled at each of its steps in turn."""

    async def run(steps: int) -> bool:
        agent = Mbox(clock=Clock())
        message = queued(JO, content=Content(SIMPLE.replace(b"body", b"x" * 9000), 200))
        route = Route.local(Kind.MBOX, options(tmp_path))
        task = asyncio.ensure_future(agent.deliver(message, message.recipients, route))
        for _ in range(steps):
            await asyncio.sleep(0)
        done = task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await agent.close()
        return done

    for steps in range(0, 40, 3):
        asyncio.run(run(steps))
        stored = (tmp_path / "jo").read_bytes() if (tmp_path / "jo").exists() else b""
        assert stored == b"" or stored.endswith(b"x\n\n")
        assert not (tmp_path / "jo.lock").exists()
    assert codes(deliver(tmp_path, simple())) == [DELIVERED]
    assert (tmp_path / "jo").read_bytes().endswith(STORED)


def test_a_delivery_that_outlives_its_agent_closes_its_file(tmp_path: Path) -> None:
    """It waits for a lock while the agent is closed; a file that stayed open would fail this test by a warning."""

    class Ending(Clock):
        async def sleep(self, seconds: float) -> None:
            await agent.close()

    async def run() -> None:
        message = queued(JO, content=Content(SIMPLE.replace(b"body", b"x" * AT_ONCE), 2))
        ((_, outcome),) = await agent.deliver(message, message.recipients, Route.local(Kind.MBOX, options(tmp_path)))
        assert "after shutdown" in str(outcome.crash)

    (tmp_path / "jo.lock").touch()
    agent = Mbox(clock=Ending())
    asyncio.run(run())
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == ["jo.lock"]


def test_a_cancelled_delivery_closes_the_file_that_a_thread_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed in between, its temporary file would stay open: an unraisable ResourceWarning fails this test. The agent
    waits for the thread without blocking the event loop."""
    opening, cancelled = threading.Event(), threading.Event()
    rollover = tempfile.SpooledTemporaryFile.rollover

    def waiting(file: tempfile.SpooledTemporaryFile[bytes]) -> None:
        opening.set()
        assert cancelled.wait(60)
        rollover(file)

    async def run() -> None:
        agent = Mbox(clock=Clock())
        message = queued(JO, content=Content(SIMPLE.replace(b"body", b"x" * AT_ONCE), 2))
        route = Route.local(Kind.MBOX, options(tmp_path))
        task = asyncio.ensure_future(agent.deliver(message, message.recipients, route))
        assert await asyncio.to_thread(opening.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        closing = asyncio.create_task(agent.close())
        await asyncio.sleep(0)  # until it waits
        assert not closing.done()
        cancelled.set()
        await closing

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", waiting)
    asyncio.run(run())
    gc.collect()
    assert list(tmp_path.iterdir()) == []
