"""The sync process by itself, without a store."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import threading
from pathlib import Path
from socket import socketpair

import pytest
from store_kit import child

from ironpost.storage.sqlite import recovery as sqlite_recovery
from ironpost.storage.sqlite import sync_process
from ironpost.storage.sqlite.schema import DATABASE, connect
from ironpost.storage.sqlite.sync import Syncer

LIMIT = 60
"""Seconds after which a test hangs."""


def test_f08_an_unexpected_exception_is_answered_and_the_thread_continues():
    ours, theirs = socketpair()
    handled = []

    def handle(words):
        handled.append(words)
        if len(handled) == 1:
            raise RuntimeError("on purpose")

    with ours:
        channel = sync_process._Channel(theirs.detach())
        thread = threading.Thread(target=sync_process._serve, args=(channel, handle))
        thread.start()
        ours.settimeout(LIMIT)
        ours.sendall(b"first 1\nsecond\n")
        answers = b""
        while len(answers) < 4:
            answers += ours.recv(4)
        ours.shutdown(1)
        thread.join(LIMIT)
        channel._socket.close()
    assert not thread.is_alive()
    assert answers == bytes((0, errno.EIO, 0, 0))
    assert handled == [[b"first", b"1"], [b"second"]]


KILLED = """
import asyncio, os, signal, sys
sys.path.insert(0, sys.argv[2])
import store_kit as kit
from pathlib import Path
async def main():
    store = kit.SqliteStore.at(Path(sys.argv[1]), reserve=0)
    await kit.put(store, "m0")
    process = store._syncer.pid
    os.kill(process, signal.SIGSTOP)
    store._syncer.checkpoint()
    store._syncer.remove(["none"])
    store._syncer.sync()
    print(process, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


def test_f08_a_killed_server_leaves_no_traceback(tmp_path):
    """Its sync process has answers that nothing will read."""
    with child(KILLED, tmp_path, os.path.dirname(__file__)) as server:  # noqa: PTH120
        process = int(server.stdout.readline())
        server.wait(LIMIT)
        os.kill(process, signal.SIGCONT)
        assert server.stderr.read() == ""  # the end of the file is that of the sync process


def test_f29_signals_for_the_server_do_not_end_a_process_that_is_only_starting(tmp_path):
    """A Ctrl-C goes to every process of the terminal; the child may not ignore it yet."""

    async def scenario():
        with syncer(tmp_path) as (found, _):
            before = found.pid
            for number in sync_process.IGNORED:
                os.kill(before, number)
            await found.sync()
            assert found.pid == before
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(sync_process.IGNORED)

    asyncio.run(asyncio.wait_for(scenario(), LIMIT))


@contextlib.contextmanager
def syncer(path):
    with contextlib.closing(connect(path)) as database, contextlib.closing(Syncer(path, DATABASE)) as found:
        yield found, database


def test_a_segments_descriptor_is_sent_once_and_forgotten(tmp_path):
    (tmp_path / "segments").mkdir()

    def held(process):
        return sum("/segments/" in str(each.readlink()) for each in Path(f"/proc/{process}/fd").iterdir())

    async def scenario(syncer):
        descriptors = {
            number: os.open(tmp_path / "segments" / str(number), os.O_RDWR | os.O_CREAT) for number in (1, 2)
        }
        order = []
        asked = [syncer.segment(number, descriptors[number], new=new) for number, new in
                 ((1, True), (1, False), (2, True), (1, False))]  # fmt: skip
        for at, each in enumerate(asked):
            each.add_done_callback(lambda _, at=at: order.append(at))
        await asyncio.gather(*asked)
        assert order == [0, 1, 2, 3]
        assert held(syncer.pid) == 2
        syncer.forget(1)
        await syncer.segment(2, descriptors[2], new=False)
        assert held(syncer.pid) == 1
        before = syncer.pid
        os.kill(before, signal.SIGKILL)
        with pytest.raises(OSError, match="lost before it had answered"):
            await syncer.segment(2, descriptors[2], new=False)
        await syncer.segment(2, descriptors[2], new=False)
        assert syncer.pid != before
        assert held(syncer.pid) == 1
        for descriptor in descriptors.values():
            os.close(descriptor)

    with syncer(tmp_path) as (found, _):
        asyncio.run(asyncio.wait_for(scenario(found), LIMIT))


def test_a_failed_segment_sync_does_not_affect_the_log(tmp_path, failing):
    (tmp_path / "segments").mkdir()

    async def scenario(syncer):
        descriptor = os.open(tmp_path / "segments" / "7", os.O_RDWR | os.O_CREAT)
        await syncer.segment(7, descriptor, new=True)
        failing.write_text("segments/7 1\n")
        with pytest.raises(OSError, match="segment 7") as caught:
            await syncer.segment(7, descriptor, new=False)
        assert caught.value.errno == errno.EIO
        await syncer.sync()
        os.close(descriptor)

    with syncer(tmp_path) as (found, _):
        asyncio.run(asyncio.wait_for(scenario(found), LIMIT))


def test_a_busy_channel_does_not_delay_the_others(tmp_path):
    """A recovery delayed by a reader represents any long request on the log's channel."""
    (tmp_path / "segments").mkdir()
    (tmp_path / "file").write_bytes(b"x")

    async def scenario(syncer, database):
        descriptor = os.open(tmp_path / "segments" / "1", os.O_RDWR | os.O_CREAT)
        database.execute("BEGIN")
        database.execute("SELECT count(*) FROM message").fetchall()
        database.execute("CREATE TABLE more (x)")
        recovery = syncer.recover(30, sqlite_recovery.LogExtent(0, b""))
        await syncer.segment(1, descriptor, new=True)
        await syncer.file("file")
        await syncer.remove(["file"])
        assert not recovery.done()
        database.execute("COMMIT")
        await recovery
        os.close(descriptor)

    with syncer(tmp_path) as (found, database):
        asyncio.run(asyncio.wait_for(scenario(found, database), LIMIT))


def test_punching_holes_keeps_the_size_of_a_segment(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    before = (tmp_path / "file").stat().st_blocks

    async def scenario(syncer):
        (punched,) = await asyncio.gather(syncer.punch("file", [(4096, 8192), (40_960, 4096)]), return_exceptions=True)
        if isinstance(punched, OSError) and punched.errno == errno.EOPNOTSUPP:
            pytest.skip("this file system cannot punch holes")
        assert punched is None
        found = (tmp_path / "file").stat()
        assert found.st_size == 100_000
        assert found.st_blocks <= before - (8192 + 4096) // 512
        data = (tmp_path / "file").read_bytes()
        assert data == b"x" * 4096 + bytes(8192) + b"x" * 28_672 + bytes(4096) + b"x" * 54_944
        with pytest.raises(OSError, match="none"):
            await syncer.punch("none", [(0, 4096)])

    with syncer(tmp_path) as (found, _):
        asyncio.run(asyncio.wait_for(scenario(found), LIMIT))


def test_files_are_removed_and_a_missing_one_is_ignored(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"x")

    async def scenario(syncer):
        await syncer.remove(["a", "none", "c", "nowhere/at/all"])
        assert [name for name in ("a", "b", "c") if (tmp_path / name).exists()] == ["b"]

    with syncer(tmp_path) as (found, _):
        asyncio.run(asyncio.wait_for(scenario(found), LIMIT))
