"""Behaviour of the store when a sync fails or is not answered. The sync processes are real."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import sqlite3
import sys
from pathlib import Path

import pytest
from store_kit import NOW, child, claim, content, delivered, ids, new, opened, put, record, turns, unclaim

from ironpost.queue.selection import Selection
from ironpost.storage.bodies import RECORD_BODY
from ironpost.storage.sqlite import commit as sqlite_commit
from ironpost.storage.sqlite import recovery as sqlite_recovery
from ironpost.storage.sqlite import sync as sqlite_sync
from ironpost.storage.sqlite.schema import DATABASE, PAGE
from ironpost.storage.sqlite.store import SqliteStore
from ironpost.storage.sqlite.sync import Syncer

LARGE = b"x" * 200_000
HUGE = b"x" * (RECORD_BODY + 1)
LIMIT = 60
"""Seconds after which a test hangs."""


def run(path, scenario, **options):
    async def main():
        async with opened("sqlite", path, **options) as store:
            return await asyncio.wait_for(scenario(store), LIMIT)

    return asyncio.run(main())


class Fatal:
    """Raised instead of ending the process."""

    def __init__(self):
        self.future = asyncio.get_running_loop().create_future()

    def __call__(self, error):
        self.future.set_result(error)


def run_to_the_end(path, scenario):
    """Runs a scenario in which the store fails; the scenario also gets the future of its last error."""

    async def main():
        fatal = Fatal()
        store = SqliteStore.at(path, reserve=0, now=lambda: NOW, fatal=fatal)
        try:
            await asyncio.wait_for(scenario(store, fatal.future), LIMIT)
        finally:
            store.abandon()

    asyncio.run(main())


def without_log(path):
    """The messages in the database file without its log."""
    alone = path / "alone.sqlite3"
    shutil.copy(path / DATABASE, alone)
    with contextlib.closing(sqlite3.connect(alone)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name='message'").fetchall():
            return []
        return [name for (name,) in connection.execute("SELECT id FROM message ORDER BY seq")]


def stop(process):
    """Stop a process; return when it is stopped."""
    os.kill(process, signal.SIGSTOP)
    os.waitid(os.P_PID, process, os.WSTOPPED | os.WNOWAIT)


async def settled(store):
    """Wait until nothing is being written."""
    while store._bodies.busy or not store._commits.idle:
        await asyncio.sleep(0)


async def asked(store):
    """Wait until a sync of the log is outstanding."""
    while not store._syncer._log.requests:
        await asyncio.sleep(0)


# -- a failed sync


@pytest.mark.parametrize("body", [b"small", LARGE])
def test_f01_after_a_failed_sync_the_log_is_emptied_and_the_message_acknowledged(tmp_path, failing, caplog, body):
    async def scenario(store):
        await put(store, "m0", content=body)  # a body outside its row has its segment listed by then
        await settled(store)
        failing.write_text("-wal 1\n")
        await put(store, "m1", content=body)
        assert failing.read_text().split() == ["-wal", "0"]
        assert (tmp_path / f"{DATABASE}-wal").stat().st_size == 0
        assert without_log(tmp_path) == ["m0", "m1"]
        await put(store, "m2")
        assert await content(await store.get("m1")) == b"Received: trace\r\n" + body
        assert ids(await store.list()) == ["m0", "m1", "m2"]
        assert store.steady() is None

    run(tmp_path, scenario)
    assert "recovered: nothing was lost" in caplog.text


def test_f10_no_error_is_returned_for_a_written_message(tmp_path, failing, monkeypatch):
    """A client that retries after an error would cause a second delivery."""
    monkeypatch.setattr(sqlite_commit, "RECOVERY_SECONDS", 0.2)
    failing.write_text("none 0\n")

    async def scenario(store, fatal):
        await put(store, "m0")
        failing.write_text("-wal -1\n")
        waiting = [store.commit(await new(store, "m1")), store.commit(await new(store, "m2", content=LARGE))]
        waiting.append(asyncio.ensure_future(record(store, [delivered("m0")])))
        error = await fatal
        assert "cannot be synced" in str(error)
        await turns()
        assert not any(each.done() for each in waiting)
        for each in waiting:
            each.cancel()

    run_to_the_end(tmp_path, scenario)


class FailingCommit:
    """A connection whose COMMIT fails."""

    def __init__(self, connection):
        self._connection = connection

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def execute(self, statement, *values):
        if statement == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(statement, *values)


def test_f10_a_transaction_that_a_failed_commit_left_in_the_log_is_not_found_after_a_kill(tmp_path):
    """SQLite writes all frames before it extends the index, which may fail: then the log has valid frames."""
    here, there, killed = (tmp_path / name for name in ("here", "there", "killed"))

    def found(directory):
        with contextlib.closing(sqlite3.connect(directory / DATABASE)) as connection:
            return [name for (name,) in connection.execute("SELECT id FROM message ORDER BY seq")]

    def copied(directory):
        directory.mkdir()
        for name in (DATABASE, f"{DATABASE}-wal"):
            shutil.copy(here / name, directory)

    async def scenario(store):
        await put(store, "m0")
        end = sqlite_recovery.end_of(sqlite_recovery.extent(store._commits._index), 4096)
        copied(there)
        with contextlib.closing(sqlite3.connect(there / DATABASE)) as connection:
            columns = "seq, id, accepted, reverse_path, size, body"
            connection.execute(f"INSERT INTO message ({columns}) VALUES (9, 'm1', 0, '', 0, '')")
            connection.commit()
            frames = (there / f"{DATABASE}-wal").read_bytes()[end:]
        with (here / f"{DATABASE}-wal").open("r+b") as log:
            log.seek(end)
            log.write(frames)
        copied(killed)
        assert found(killed) == ["m0", "m1"]
        shutil.rmtree(killed)
        store._commits._db = FailingCommit(store._writer)
        with pytest.raises(OSError, match="disk I/O error"):
            await put(store, "m2")
        copied(killed)
        assert found(killed) == ["m0"]
        store._commits._db = store._writer
        await put(store, "m3")
        shutil.rmtree(killed)
        copied(killed)
        assert found(killed) == ["m0", "m3"]

    run(here, scenario)


def test_f01_nothing_begins_while_the_log_is_poisoned(tmp_path, failing):
    async def scenario(store):
        await put(store, "m0")
        await unclaim(store, ["m0"])
        with contextlib.closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM message").fetchall()  # keeps the recovery from ending
            failing.write_text("-wal 1\n")
            first = store.commit(await new(store, "m1"))
            while store.steady() is None:
                await asyncio.sleep(0)
            before = store.transactions
            second = store.commit(await new(store, "m2"))
            claiming = asyncio.create_task(claim(store, 10))
            take = asyncio.create_task(store.take("m0", ["rcpt.example"]))
            waiter = asyncio.ensure_future(store.steady())
            await turns(100)
            assert not any(each.done() for each in (first, second, claiming, take, waiter))
            assert store.transactions == before
            waiter.cancel()  # one who waits no longer takes nothing from the others
        await asyncio.gather(first, second)
        assert (len(await claiming), await take) in [(1, None), (0, await store.get("m0"))]
        assert store.steady() is None

    run(tmp_path, scenario)


def test_f01_a_reader_that_holds_the_log_is_named_when_the_process_ends(tmp_path, failing, monkeypatch):
    monkeypatch.setattr(sqlite_commit, "RECOVERY_SECONDS", 0.2)

    async def scenario(store, fatal):
        await put(store, "m0")
        with contextlib.closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM message").fetchall()
            failing.write_text("-wal 1\n")
            commit = store.commit(await new(store, "m1"))
            error = await fatal
            assert error.errno == errno.EBUSY
            assert "another program reads the queue's database" in str(error)
            assert not commit.done()
            commit.cancel()

    run_to_the_end(tmp_path, scenario)


def test_f01_a_stale_page_is_never_acknowledged(tmp_path, failing):
    async def scenario(store, fatal):
        await put(store, "m0")
        real = store._syncer.sync

        def sync():
            with (tmp_path / f"{DATABASE}-wal").open("r+b") as log:
                log.seek(-100, os.SEEK_END)
                log.write(b"\0" * 100)
            return real()

        store._syncer.sync = sync
        failing.write_text("-wal 1\n")
        commit = store.commit(await new(store, "m1"))
        error = await fatal
        assert error.errno == errno.EBADMSG
        assert not commit.done()
        commit.cancel()

    run_to_the_end(tmp_path, scenario)
    # The next start finds what was acknowledged.
    run(tmp_path, only("m0"))


def only(*names):
    async def scenario(store):
        assert ids(await store.list()) == list(names)

    return scenario


ENDING = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
import store_kit as kit
from pathlib import Path
from ironpost.storage.sqlite import commit as sqlite_commit
sqlite_commit.RECOVERY_SECONDS = 0.2
async def main():
    store = kit.SqliteStore.at(Path(sys.argv[1]), reserve=0)
    await kit.put(store, "m0")
    print("good", flush=True)
    sys.stdin.readline()
    try:
        await kit.put(store, "m1")
    finally:
        print("answered", flush=True)
asyncio.run(main())
"""


def test_f01_the_process_ends_without_an_answer(tmp_path, failing):
    with child(ENDING, tmp_path, os.path.dirname(__file__)) as process:  # noqa: PTH120
        assert process.stdout.readline() == "good\n"
        failing.write_text("-wal -1\n")
        said, errors = process.communicate("\n", LIMIT)
    assert (said, process.returncode) == ("", sqlite_commit.IO_ERROR)
    assert "cannot be recovered" in errors
    assert "Traceback" not in errors


def test_f01_every_process_has_the_same_description_of_the_log(tmp_path):
    """A write-back error is reported once to each description; one opened later may miss it."""

    def place(process):
        return int(Path(f"/proc/{process}/fdinfo/{store_log}").read_text().split()[1])

    if not os.path.exists("/proc/self/fdinfo"):  # noqa: PTH110
        pytest.skip("needs /proc")
    store_log = -1

    async def scenario(store):
        nonlocal store_log
        store_log = store._syncer.log
        os.lseek(store_log, 12_345, os.SEEK_SET)
        await put(store, "m1")
        first = store._syncer.pid
        assert place(first) == 12_345
        os.kill(first, signal.SIGKILL)
        await put(store, "m2")
        await put(store, "m3")
        assert store._syncer.pid != first
        assert place(store._syncer.pid) == 12_345
        os.lseek(store_log, 54_321, os.SEEK_SET)
        assert place(store._syncer.pid) == 54_321

    run(tmp_path, scenario)


def test_f01_a_sync_whose_process_died_counts_as_failed(tmp_path, caplog):
    async def scenario(store):
        await put(store, "m0")
        before = store._syncer.pid
        stop(before)
        commit = store.commit(await new(store, "m1"))
        await asked(store)
        os.kill(before, signal.SIGKILL)
        await commit
        assert store._syncer.pid != before
        assert without_log(tmp_path) == ["m0", "m1"]
        await put(store, "m2", content=LARGE)

    run(tmp_path, scenario)
    assert "recovered: nothing was lost" in caplog.text


def test_f01_a_file_whose_process_died_counts_as_failed(tmp_path, caplog):
    async def scenario(store):
        spool = await new(store, "m1", content=HUGE)
        stop(store._syncer.pid)
        commit = store.commit(spool)
        while not store._syncer._work.requests:
            await asyncio.sleep(0)
        os.kill(store._syncer.pid, signal.SIGKILL)
        with pytest.raises(OSError, match="lost before it had answered"):
            await commit
        await put(store, "m2", content=HUGE)
        assert ids(await store.list()) == ["m2"]

    run(tmp_path, scenario)


def test_f01_a_record_whose_process_died_is_written_to_another_segment(tmp_path, caplog):
    async def scenario(store):
        first = await put(store, "m1", content=LARGE)
        await settled(store)
        stop(store._syncer.pid)
        commit = store.commit(await new(store, "m2", content=LARGE))
        while not store._syncer._segment.requests:
            await asyncio.sleep(0)
        os.kill(store._syncer.pid, signal.SIGKILL)
        second = await commit
        assert second.body.place.segment == first.body.place.segment + 1
        assert await content(second) == await content(first)

    run(tmp_path, scenario)


# -- a log that is left over


LEAVING = """
import asyncio, os, sys
sys.path.insert(0, sys.argv[2])
import store_kit as kit
from pathlib import Path
async def main():
    store = kit.SqliteStore.at(Path(sys.argv[1]), reserve=0)
    await kit.put(store, "m0")
    os._exit(0)
asyncio.run(main())
"""


@pytest.fixture
def left(tmp_path):
    """The directory of a store that was not closed."""
    with child(LEAVING, tmp_path, os.path.dirname(__file__)) as process:  # noqa: PTH120
        assert process.communicate(timeout=LIMIT) == ("", "")
    assert (tmp_path / f"{DATABASE}-wal").stat().st_size > 0
    assert without_log(tmp_path) == []
    return tmp_path


@pytest.mark.parametrize("resting", [False, True])
def test_f01_nothing_is_appended_to_an_old_log(left, resting):
    async def scenario(store):
        assert (left / f"{DATABASE}-wal").stat().st_size == 0
        assert without_log(left) == ["m0"]
        assert (store._syncer.pid == 0) == resting
        await put(store, "m1")
        assert ids(await store.list()) == ["m0", "m1"]

    run(left, scenario, resting=resting)


def test_f01_a_log_that_cannot_be_emptied_keeps_the_store_from_opening(left, monkeypatch):
    monkeypatch.setattr(sqlite_commit, "RECOVERY_SECONDS", 0.1)
    with contextlib.closing(sqlite3.connect(left / DATABASE, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM message").fetchall()
        with pytest.raises(OSError, match="another program reads the queue's database"):
            SqliteStore.at(left)
    run(left, only("m0"))


def test_f01_a_hole_hidden_by_a_reader_prevents_opening(left):
    with contextlib.closing(sqlite3.connect(left / DATABASE)) as reader:
        reader.execute("SELECT count(*) FROM message").fetchall()  # its index knows the log as it was
        with (left / f"{DATABASE}-wal").open("r+b") as log:
            log.seek(-100, os.SEEK_END)
            log.write(b"\0" * 100)
        with pytest.raises(OSError, match="does not hold what was written"):
            SqliteStore.at(left)


def test_f01_an_empty_log_needs_no_recovery(tmp_path, monkeypatch):
    run(tmp_path, only())

    def recover(self, seconds):
        raise AssertionError("there is nothing to recover")

    monkeypatch.setattr(Syncer, "recover_now", recover)
    run(tmp_path, only())


# -- each job by itself


def test_f06_an_exception_after_a_commit_fails_one_job_only(tmp_path, caplog):
    async def scenario(store):
        job = store._commits.job()
        job.action = lambda: 1

        def broken():
            raise RuntimeError("on purpose")

        job.on_durable = broken
        first = store.commit(await new(store, "m1"))
        futures = [store._commits.submit(job), store.commit(await new(store, "m2"))]
        assert await first
        assert await futures[0] == 1  # it is durable, whatever follows from that
        assert await futures[1]
        await put(store, "m3")
        assert store._commits.idle

    run(tmp_path, scenario)
    assert "on purpose" in caplog.text


def test_f06_a_sync_that_cannot_be_requested_counts_as_failed(tmp_path, monkeypatch, caplog):
    async def scenario(store):
        await put(store, "m0")
        with monkeypatch.context() as patch:

            def broken(self):
                patch.undo()
                raise RuntimeError("on purpose")

            patch.setattr(Syncer, "sync", broken)
            await put(store, "m1")
        await put(store, "m2")
        assert ids(await store.list()) == ["m0", "m1", "m2"]

    run(tmp_path, scenario)
    assert "on purpose" in caplog.text


# -- a process that is silent


def test_f14_a_stopped_sync_process_is_replaced(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sqlite_sync, "SYNC_SECONDS", 0.2)

    async def scenario(store):
        await put(store, "m1")
        before = store._syncer.pid
        stop(before)
        await put(store, "m2")
        assert store._syncer.pid != before
        assert ids(await store.list()) == ["m1", "m2"]

    run(tmp_path, scenario)
    assert "does not answer" in caplog.text


def test_f14_a_late_request_is_repeated_in_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_sync, "WORK_SECONDS", 0.2)

    async def scenario(store):
        await put(store, "m1")
        before = store._syncer.pid
        stop(before)
        monkeypatch.setattr(sqlite_sync, "WORK_SECONDS", 30.0)  # for the second one, which has to start
        store._syncer._work.requests.clear()
        checkpoint = store._syncer.checkpoint()
        store._syncer._work.requests[0].deadline = 0.0
        store._syncer._look()
        await checkpoint
        assert store._syncer.pid != before
        assert without_log(tmp_path) == ["m1"]

    run(tmp_path, scenario)


def test_f14_a_recovery_that_is_not_answered_ends_the_process(tmp_path, monkeypatch):
    async def scenario(store, fatal):
        await put(store, "m0")
        monkeypatch.setattr(sqlite_commit, "RECOVERY_SECONDS", 0.1)
        monkeypatch.setattr(sqlite_sync, "RECOVERY_GRACE", 0.1)
        process = store._syncer.pid

        def sync():
            stop(process)
            failed = asyncio.get_running_loop().create_future()
            failed.set_exception(OSError(errno.EIO, "Input/output error"))
            return failed

        store._syncer.sync = sync
        commit = store.commit(await new(store, "m1"))
        assert "was lost" in str(await fatal)
        assert not commit.done()
        commit.cancel()

    run_to_the_end(tmp_path, scenario)


def test_f14_a_sync_process_that_never_lives_ends_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_commit, "RECOVERY_SECONDS", 0.3)

    async def scenario(store, fatal):
        await put(store, "m1")
        monkeypatch.setattr(sys, "executable", "/bin/false")
        os.kill(store._syncer.pid, signal.SIGKILL)
        commit = store.commit(await new(store, "m2"))
        assert "cannot be synced" in str(await fatal)
        assert not commit.done()
        commit.cancel()

    run_to_the_end(tmp_path, scenario)


def test_f14_a_sync_process_that_recovers_in_time_fails_nothing(tmp_path, monkeypatch):
    async def scenario(store):
        await put(store, "m1")
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", "/bin/false")
            os.kill(store._syncer.pid, signal.SIGKILL)
            three = asyncio.gather(*(put(store, name) for name in ("m2", "m3", "m4")))
            while store.steady() is None:
                await asyncio.sleep(0)
        await three
        assert ids(await store.list()) == ["m1", "m2", "m3", "m4"]

    run(tmp_path, scenario)


def test_f14_a_store_whose_sync_process_is_silent_is_closed_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_commit, "CLOSE_SECONDS", 0.2)

    async def scenario(store, fatal):
        await put(store, "m1")
        stop(store._syncer.pid)
        commit = store.commit(await new(store, "m2"))
        await store.close()
        assert "cannot be closed in time" in str(await fatal)
        assert not commit.done()
        commit.cancel()

    run_to_the_end(tmp_path, scenario)


def test_f14_a_checkpoint_that_hangs_does_not_keep_a_store_from_closing(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_commit, "CLOSE_SECONDS", 0.2)

    async def scenario(store, fatal):
        await put(store, "m1")
        stop(store._syncer.pid)
        store._commits._checkpoint(lambda done: None)
        await store.close()
        assert not fatal.done()

    run_to_the_end(tmp_path, scenario)
    run(tmp_path, only("m1"))


def test_the_sync_process_ignores_the_signals_meant_for_the_server(tmp_path):
    async def scenario(store):
        await put(store, "m1")
        before = store._syncer.pid
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(before, number)
        await put(store, "m2")
        assert store._syncer.pid == before

    run(tmp_path, scenario)


# -- the log into the database


def test_f13_the_log_is_copied_by_pages_whatever_is_in_them(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_commit, "CHECKPOINT_FRAMES", 60)
    copied = 0
    real = Syncer.checkpoint

    def checkpoint(self):
        nonlocal copied
        copied += 1
        return real(self)

    monkeypatch.setattr(Syncer, "checkpoint", checkpoint)

    async def scenario(store):
        await put(store, "m1")
        for _ in range(100):  # an event and a row each: hardly any octets
            await store.hold(Selection.of("m1"))
            await store.release(Selection.of("m1"))
        assert copied >= 5

    run(tmp_path, scenario)


def test_f13_no_commit_copies_the_log(tmp_path, monkeypatch):
    """Otherwise the commit would stall the event loop."""
    monkeypatch.setattr(sqlite_commit, "CHECKPOINT_FRAMES", 10**9)

    async def scenario(store):
        assert store._writer.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
        size = (tmp_path / DATABASE).stat().st_size
        for number in range(100):
            await put(store, f"m{number}", content=b"x" * 60_000)
        assert sqlite_recovery.extent(store._commits._index).frames > 1500
        assert (tmp_path / DATABASE).stat().st_size == size

    run(tmp_path, scenario)


def test_f13_removing_a_message_does_not_write_the_pages_of_its_body(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_commit, "CHECKPOINT_FRAMES", 10**9)

    async def scenario(store):
        def frames():
            return sqlite_recovery.extent(store._commits._index).frames

        await put(store, "m1", content=b"x" * 60_000)
        stored = frames()
        await record(store, [delivered("m1")])
        assert await store.get("m1") is None
        assert frames() - stored < 60_000 // PAGE <= stored

    run(tmp_path, scenario)


def test_f13_a_log_that_a_reader_keeps_long_is_logged_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sqlite_commit, "CHECKPOINT_FRAMES", 20)
    monkeypatch.setattr(sqlite_commit, "LONG_LOG_FRAMES", 100)

    async def grow(store, name):
        for number in range(30):
            await put(store, f"{name}{number}", content=b"x" * 30_000)

    async def scenario(store):
        with contextlib.closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM message").fetchall()
            await grow(store, "a")
            assert caplog.text.count("has grown to") == 1
        await grow(store, "b")
        await settled(store)
        await put(store, "last")
        assert sqlite_recovery.extent(store._commits._index).frames < 100

    run(tmp_path, scenario)
