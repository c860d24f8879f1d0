"""Delivery into a Maildir, read back by the standard library's `mailbox.Maildir`."""

from __future__ import annotations

import asyncio
import errno
import mailbox
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.delivery.mailbox_kit import Clock, Content, Tokens, queued

from ironpost.delivery import maildir as module
from ironpost.delivery.maildir import Maildir, MaildirOptions
from ironpost.delivery.maildir_files import AT_ONCE
from ironpost.delivery.path_template import PathTemplate
from ironpost.model import Disposition, Outcome
from ironpost.model.body import PIECE, BodyDamaged
from ironpost.routing.route import Kind, Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ironpost.queue.store import QueuedMessage
    from ironpost.routing.directory import Directory


def stored(recipient: str) -> bytes:
    """`CONTENT` as it is stored in the Maildir."""
    top = b"Return-Path: <sender@example.org>\nDelivered-To: %b\n" % recipient.encode()
    return top + b"Received: by mx.example\nSubject: x\n\n.dot\nbare \r cr\n"


STORED = stored("jo@localhost")


def local(path: Path) -> Route:
    """The route into one Maildir."""
    return Route.local(Kind.LOCAL, MaildirOptions(PathTemplate.fixed(path)))


def deliver(
    path: Path, message: QueuedMessage, options: MaildirOptions | None = None, directory: Directory | None = None
) -> list[Outcome]:
    """Deliver into the Maildir at `path`, or as `options` say."""
    current = None if directory is None else lambda: directory
    agent = Maildir(clock=Clock(), random=Tokens(), host="mx.example", directory=current)
    route = local(path) if options is None else Route.local(Kind.LOCAL, options)
    try:
        results = asyncio.run(agent.deliver(message, message.recipients, route))
    finally:
        asyncio.run(agent.close())
    assert [number for number, _ in results] == list(range(len(message.recipients)))
    return [outcome for _, outcome in results]


def files(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((path / "new").iterdir())]


def test_content_is_unchanged_below_return_path(tmp_path: Path) -> None:
    path = tmp_path / "mail"
    (outcome,) = deliver(path, queued("jo@localhost"))
    assert outcome.disposition is Disposition.DELIVERED
    assert files(path) == [STORED]
    box = mailbox.Maildir(path, create=False)
    ((key, read),) = box.items()
    assert read["Return-Path"] == "<sender@example.org>"
    assert read.get_payload().startswith(".dot\n")
    with box.get_file(key) as file:
        assert file.read() == STORED
    assert sorted(entry.name for entry in path.iterdir()) == ["cur", "new", "tmp"]
    assert list((path / "tmp").iterdir()) == []


def test_r47_files_are_0600_and_directories_0700(tmp_path: Path) -> None:
    path = tmp_path / "localhost" / "jo"
    old = os.umask(0)
    try:
        deliver(tmp_path, queued("jo@localhost"), MaildirOptions(PathTemplate(f"{tmp_path}/{{domain}}/{{local}}")))
    finally:
        os.umask(old)
    for folder in (path.parent, path, path / "cur", path / "new", path / "tmp"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (file,) = (path / "new").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_r42_file_names_contain_no_address(tmp_path: Path) -> None:
    deliver(tmp_path, queued('"../../evil"@localhost', "jo@localhost", sender='"/etc/x"@example.org'))
    names = sorted(file.name for file in (tmp_path / "new").iterdir())
    assert names == [f"1234567890.M250000P{os.getpid()}RT{n}.mx.example,S={size}" for n, size in ((1, 122), (2, 112))]


BOTH = sorted([stored("jo@localhost"), stored("flo@localhost")])


def test_f60_each_recipient_gets_its_own_file_and_equal_addresses_share_one(tmp_path: Path) -> None:
    outcomes = deliver(tmp_path, queued("jo@localhost", "flo@localhost", "jo@LOCALHOST"))
    assert [outcome.disposition for outcome in outcomes] == [Disposition.DELIVERED] * 3
    assert sorted(files(tmp_path)) == BOTH
    assert list((tmp_path / "tmp").iterdir()) == []


def test_f60_large_content_is_complete_in_each_copy(tmp_path: Path) -> None:
    body = b"0123456789abcde\r\n" * (PIECE // 17)
    content = Content(b"Subject: large\r\n\r\n" + body, times=40)
    deliver(tmp_path, queued("a-much-longer-name@localhost", "jo@localhost", content=content))
    rest = (content.octets * 40).replace(b"\r\n", b"\n")
    assert len(rest) > 2 * AT_ONCE
    for name, found in zip((b"a-much-longer-name", b"jo"), files(tmp_path), strict=True):
        assert found == b"Return-Path: <sender@example.org>\nDelivered-To: %b@localhost\n" % name + rest


def test_f60_a_copy_that_cannot_be_written_defers_and_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(fd: int, size: int, offset: int) -> bytes:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", no_room)
        outcomes = deliver(tmp_path, queued("jo@localhost", "flo@localhost"))
    assert {outcome.disposition for outcome in outcomes} == {Disposition.DEFERRED}
    assert list((tmp_path / "tmp").iterdir()) == list((tmp_path / "new").iterdir()) == []


def test_without_hard_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no links here", str(target))

    monkeypatch.setattr(os, "link", no_links)
    deliver(tmp_path, queued("jo@localhost", "flo@localhost"))
    assert sorted(files(tmp_path)) == BOTH


def test_large_content_is_written_in_pieces(tmp_path: Path) -> None:
    body = b"0123456789abcde\r\n" * (PIECE // 17)
    content = Content(b"Subject: large\r\n\r\n" + body, times=60)
    message = queued("jo@localhost", content=content)
    (outcome,) = deliver(tmp_path, message)
    assert outcome.disposition is Disposition.DELIVERED
    assert content.size > 10 * AT_ONCE
    top = b"Return-Path: <sender@example.org>\nDelivered-To: jo@localhost\n"
    assert files(tmp_path) == [top + (content.octets * 60).replace(b"\r\n", b"\n")]


def test_the_event_loop_thread_does_no_disk_io_and_everything_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str, bool]] = []

    def spy(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def called(*args: object, **keywords: object) -> object:
            where = str(Path(f"/proc/self/fd/{args[0]}").readlink()) if isinstance(args[0], int) else str(args[0])
            calls.append((name, where, threading.current_thread() is threading.main_thread()))
            return real(*args, **keywords)

        return called

    (tmp_path / "new").mkdir()
    (tmp_path / "tmp").mkdir()
    for name in ("open", "writev", "fsync", "link", "unlink"):
        monkeypatch.setattr(os, name, spy(name))
    deliver(tmp_path, queued("jo@localhost"))
    assert not any(on_loop for _, _, on_loop in calls)
    steps = [(name, "new" if where.endswith("/new") else "file") for name, where, _ in calls]
    assert [step for step in steps if step[0] in {"writev", "fsync", "link"}] == [
        ("writev", "file"),
        ("fsync", "file"),
        ("link", "file"),
        ("fsync", "new"),
    ]


@pytest.mark.parametrize(
    ("number", "code", "enhanced", "says"),
    [
        (errno.ENOSPC, 452, "4.3.1", "free space"),
        (errno.EDQUOT, 452, "4.3.1", "free space"),
        (errno.EACCES, 451, "4.3.0", f"user id {os.geteuid()} needs write permission"),
        (errno.EROFS, 451, "4.3.0", "needs write permission"),
        (errno.EIO, 451, "4.3.0", os.strerror(errno.EIO)),
    ],
)
@pytest.mark.parametrize("call", ["writev", "fsync", "link", "open"])
def test_a_disk_error_defers_and_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, code: int, enhanced: str, says: str
) -> None:
    real = getattr(os, call)
    failed = False

    def broken(*args: object, **keywords: object) -> object:
        nonlocal failed
        if failed:  # once: cleaning up may work
            return real(*args, **keywords)
        failed = True
        raise OSError(number, os.strerror(number))

    for folder in ("new", "tmp"):
        (tmp_path / folder).mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(module.os, call, broken)
        outcomes = deliver(tmp_path, queued("jo@localhost", "jo@LOCALHOST"))
    assert {outcome.disposition for outcome in outcomes} == {Disposition.DEFERRED}
    reply = outcomes[0].reply
    assert (reply.code, reply.enhanced) == (code, enhanced)
    assert says in reply.detail
    assert str(tmp_path) not in str(reply)
    assert not outcomes[0].asked
    assert list((tmp_path / "tmp").iterdir()) == list((tmp_path / "new").iterdir()) == []
    (again,) = deliver(tmp_path, queued("jo@localhost"))
    assert again.disposition is Disposition.DELIVERED


def test_a_directory_that_cannot_be_synced_gets_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def broken(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, "no")
        real(fd)

    for folder in ("new", "tmp"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(os, "fsync", broken)
    (outcome,) = deliver(tmp_path, queued("jo@localhost"))
    assert outcome.disposition is Disposition.DEFERRED
    assert list((tmp_path / "tmp").iterdir()) == list((tmp_path / "new").iterdir()) == []


def test_a_maildir_that_is_a_file_defers(tmp_path: Path) -> None:
    (tmp_path / "mail").write_text("in the way")
    (outcome,) = deliver(tmp_path / "mail", queued("jo@localhost"))
    assert outcome.disposition is Disposition.DEFERRED
    assert "mail" in outcome.reply.detail


@pytest.mark.parametrize(("fails", "disposition"), [(OSError, Disposition.DEFERRED), (BodyDamaged, Disposition.HELD)])
def test_a_body_that_cannot_be_read_leaves_no_files(
    tmp_path: Path, fails: type[OSError], disposition: Disposition
) -> None:
    content = Content(b"Subject: x\r\n\r\n" + b"a" * AT_ONCE, times=3, fails=fails)
    (outcome,) = deliver(tmp_path, queued("jo@localhost", content=content))
    assert outcome.disposition is disposition
    assert list((tmp_path / "tmp").iterdir()) == list((tmp_path / "new").iterdir()) == []


def test_a_cancelled_delivery_leaves_no_files(tmp_path: Path) -> None:
    class Endless(Content):
        async def pieces(self) -> AsyncIterator[bytes]:
            yield b"Subject: x\r\n\r\n" + b"a" * (2 * AT_ONCE)
            reached.set()
            await asyncio.Event().wait()

    reached = asyncio.Event()
    agent = Maildir(clock=Clock(), random=Tokens())

    async def run() -> None:
        message = queued("jo@localhost", content=Endless(b""))
        task = asyncio.create_task(agent.deliver(message, message.recipients, local(tmp_path)))
        await reached.wait()
        assert len(list((tmp_path / "tmp").iterdir())) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    asyncio.run(agent.close())
    assert list((tmp_path / "tmp").iterdir()) == list((tmp_path / "new").iterdir()) == []


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    deliver(tmp_path, queued("jo@localhost"))
    (first,) = (tmp_path / "new").iterdir()
    first.write_bytes(b"mine")
    (outcome,) = deliver(tmp_path, queued("jo@localhost"))  # the same clock, the same chance
    assert outcome.disposition is Disposition.DEFERRED
    assert files(tmp_path) == [b"mine"]


def together(path: Path, count: int) -> list[Outcome]:
    """Deliver `count` messages concurrently; they differ in their sender."""
    agent = Maildir(clock=Clock(), random=Tokens(1000 * count))

    async def run() -> list[Outcome]:
        messages = [queued("jo@localhost", sender=f"sender{n}@example.org") for n in range(count)]
        results = await asyncio.gather(
            *(agent.deliver(message, message.recipients, local(path)) for message in messages)
        )
        return [outcome for ((_, outcome),) in results]

    try:
        return asyncio.run(run())
    finally:
        asyncio.run(agent.close())


def test_concurrent_messages_share_syncs_of_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync
    synced: list[bool] = []

    def fsync(fd: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(fd).st_mode))
        real(fd)

    together(tmp_path, 1)  # makes the folders
    monkeypatch.setattr(os, "fsync", fsync)
    outcomes = together(tmp_path, 100)
    assert {outcome.disposition for outcome in outcomes} == {Disposition.DELIVERED}
    assert synced.count(False) == 100
    assert synced.count(True) <= 10
    assert len(files(tmp_path)) == 1 + 100
    senders = {content.split(b"\n", 1)[0] for content in files(tmp_path)}
    assert senders == {b"Return-Path: <sender%d@example.org>" % n for n in range(100)}


def test_concurrent_messages_look_for_a_count_once_a_batch_and_all_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open
    looked: list[Path] = []

    def watched(path: Path, *arguments: Any, **named: Any) -> int:
        if Path(path).name == "maildirsize":
            looked.append(path)
        return real(path, *arguments, **named)

    together(tmp_path, 1)  # makes the folders
    monkeypatch.setattr(os, "open", watched)
    together(tmp_path, 100)
    assert 1 <= len(looked) <= 10
    counted = tmp_path / "counted"
    counted.mkdir()
    (counted / "maildirsize").write_text("1000000S\n")
    together(counted, 100)
    lines = (counted / "maildirsize").read_text().splitlines()[1:]
    assert sum(int(line.split()[1]) for line in lines) == 100


@pytest.mark.parametrize("call", ["open", "writev", "fsync", "link"])
def test_an_error_of_one_file_does_not_affect_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real = getattr(os, call)
    lock = threading.Lock()
    calls = 0

    def broken(*args: object, **keywords: object) -> object:
        nonlocal calls
        with lock:
            directory = call == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode)  # type: ignore[arg-type]
            directory = directory or (call == "open" and bool(args[1] & os.O_DIRECTORY))  # type: ignore[operator]
            calls += not directory
            fails = not directory and calls == 20
        if fails:
            raise OSError(errno.ENOSPC, "no room")
        return real(*args, **keywords)

    together(tmp_path, 1)
    monkeypatch.setattr(os, call, broken)
    outcomes = together(tmp_path, 50)
    assert [outcome.disposition for outcome in outcomes].count(Disposition.DEFERRED) == 1
    assert len(files(tmp_path)) == 50
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_delivery_cancelled_while_waiting_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch blocks in its sync, so that further deliveries wait."""
    together(tmp_path, 1)
    before = len(files(tmp_path))
    go = threading.Event()
    held = threading.Event()
    real = os.fsync

    def fsync(fd: int) -> None:
        held.set()
        go.wait(30)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    agent = Maildir(clock=Clock(), random=Tokens())

    async def run() -> None:
        message = queued("jo@localhost")
        first = asyncio.create_task(agent.deliver(message, message.recipients, local(tmp_path)))
        await asyncio.to_thread(held.wait)
        late = asyncio.create_task(agent.deliver(message, message.recipients, local(tmp_path)))
        for _ in range(3):
            await asyncio.sleep(0)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        go.set()
        await first

    asyncio.run(run())
    asyncio.run(agent.close())
    assert len(files(tmp_path)) == before + 1
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_delivery_that_outlives_its_agent_leaves_no_file(tmp_path: Path) -> None:
    class Ending(Content):
        async def pieces(self) -> AsyncIterator[bytes]:
            yield b"Subject: x\r\n\r\n" + b"x" * AT_ONCE
            await agent.close()
            yield b"x" * AT_ONCE

    async def run() -> None:
        message = queued("jo@localhost", content=Ending(b""))
        with pytest.raises(RuntimeError, match="after shutdown"):
            await agent.deliver(message, message.recipients, local(tmp_path / "mail"))

    agent = Maildir(clock=Clock(), random=Tokens())
    asyncio.run(run())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
