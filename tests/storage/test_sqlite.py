"""What only the SQLite store does: files, faults, locks, schema, views, other readers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
import stat
import subprocess
import sys

import pytest
from store_kit import NOW, Clock, content, deferred, delivered, failed, ids, new, opened, put

from ironpost.queue.store import State, StoreFull
from ironpost.storage import sqlite_commit, sqlite_history, sqlite_schema, sqlite_sync
from ironpost.storage.bodies import RECORD_BODY
from ironpost.storage.lock import DirectoryInUse
from ironpost.storage.sqlite import SqliteStore, open_readonly
from ironpost.storage.sqlite_schema import DATABASE, SchemaError

LARGE = b"x" * 200_000
HUGE = b"x" * (RECORD_BODY + 1)


def run(path, scenario, **options):
    async def main():
        async with opened("sqlite", path, **options) as store:
            return await asyncio.wait_for(scenario(store), 30)

    return asyncio.run(main())


def body_files(path):
    return [file for file in (path / "bodies").rglob("*") if file.is_file()]


async def settled(store):
    """Until space that is not needed was given back."""
    while store._bodies.busy or not store._commits.idle:
        await asyncio.sleep(0)


def test_r47_files_are_0600_and_directories_0700(tmp_path):
    data = tmp_path / "data"

    async def scenario(store):
        await put(store, "m1", content=LARGE)
        found = {path: stat.S_IMODE(path.stat().st_mode) for path in [data, *data.rglob("*")]}
        assert {mode for path, mode in found.items() if path.is_dir()} == {0o700}
        assert {mode for path, mode in found.items() if not path.is_dir()} == {0o600}
        assert len(found) >= 7

    before = os.umask(0)
    try:
        run(data, scenario)
    finally:
        os.umask(before)


def test_what_was_acknowledged_is_there_after_a_restart(tmp_path):
    async def first(store):
        await put(store, "m1")
        await put(store, "m2", content=LARGE)
        await put(store, "m3")
        await store.record([delivered("m3")])
        await store.record([deferred("m2", due=NOW + 50)])

    async def second(store):
        assert ids(await store.claim(NOW, 10)) == ["m1"]
        (large,) = await store.claim(NOW + 50, 10)
        assert await content(large) == b"Received: trace\r\n" + LARGE
        await put(store, "m4")
        assert ids(await store.list()) == ["m1", "m2", "m4"]

    run(tmp_path, first)
    run(tmp_path, second)


def test_typed_parameters_and_what_is_due_later_or_held_are_the_same_after_a_restart(tmp_path):
    given = []

    async def first(store):
        given.append((await put(store, "m1", due=NOW + 3600)).envelope)
        await put(store, "m2", held=True)
        await put(store, "m3")
        await store.hold(["m3"], NOW + 1)

    async def second(store):
        m1, m2, m3 = await store.list()
        assert m1.envelope == given[0]
        types = [type(value) for value in m1.envelope.parameters.values()]
        assert types == [type(value) for value in given[0].parameters.values()]
        assert (m1.released, m1.recipients[0].due) == (NOW + 3600, NOW + 3600)
        assert (m2.recipients[0].state, m3.recipients[0].state) == (State.HELD, State.HELD)
        assert await store.next_due() == NOW + 3600
        assert await store.resume(["m2"], NOW + 2) == 1
        assert ids(await store.claim(NOW + 2, 10)) == ["m2"]

    run(tmp_path, first)
    run(tmp_path, second)


def test_holding_and_releasing_stand_in_the_events_and_in_the_view(tmp_path):
    async def scenario(store):
        await put(store, "m1", "a@rcpt.example", "b@rcpt.example", held=True)
        ask = store._writer.execute
        assert ask("SELECT state, released FROM queue").fetchall() == [("held", NOW)] * 2
        await store.record([delivered("m1", 1)])
        await store.resume(["m1"], NOW + 1)
        await store.hold(["m1"], NOW + 2)
        await store.drop(["m1"], NOW + 3)
        assert ask("SELECT at, kind, number FROM events ORDER BY seq").fetchall() == [
            (NOW, "accepted", None),
            (NOW, "held", 0),
            (NOW, "held", 1),
            (NOW, "delivered", 1),
            (NOW + 1, "released", 0),
            (NOW + 2, "held", 0),
            (NOW + 3, "dropped", 0),
        ]

    run(tmp_path, scenario)


def test_a_parameter_that_holds_a_space_is_refused_and_nothing_else_is(tmp_path):
    async def scenario(store):
        message = await new(store, "m1")
        bad = message._replace(envelope=message.envelope._replace(parameters={"X": "a b"}))
        with pytest.raises(ValueError, match="holds a space"):
            await store.commit(bad)
        await put(store, "m2")
        assert ids(await store.list()) == ["m2"]

    run(tmp_path, scenario)


def test_large_bodies_are_files_that_go_with_their_message(tmp_path):
    async def scenario(store):
        await put(store, "small", content=b"x" * 65_536)
        await put(store, "record", content=b"x" * RECORD_BODY)
        assert body_files(tmp_path) == []
        await put(store, "m1", "a@rcpt.example", "b@rcpt.example", content=HUGE)
        await put(store, "m2", content=HUGE)
        assert len(body_files(tmp_path)) == 2
        await store.record([delivered("m1", 0)])
        await settled(store)
        assert len(body_files(tmp_path)) == 2
        await store.record([delivered("m1", 1)])
        await store.drop(["m2"], NOW)
        await store.release(["m2"])
        await settled(store)
        assert body_files(tmp_path) == []

    run(tmp_path, scenario)


def test_body_files_without_a_message_are_removed_at_start(tmp_path):
    async def first(store):
        await put(store, "m1", content=HUGE)
        spool = store.spool()
        for piece in (HUGE, HUGE):  # the crash comes before the commit
            if (waiter := spool.write(piece)) is not None:
                await waiter
        assert len(body_files(tmp_path)) == 2

    async def second(store):
        (file,) = body_files(tmp_path)
        assert file.read_bytes() == HUGE
        assert await content(await store.get("m1")) == b"Received: trace\r\n" + HUGE
        assert store._writer.execute("SELECT count(*) FROM body_file WHERE name LIKE 'bodies/%'").fetchone() == (1,)

    run(tmp_path, first)
    run(tmp_path, second)


def test_everything_that_arrives_during_a_sync_shares_the_next(tmp_path, monkeypatch):
    syncs = 0
    real = sqlite_sync.Syncer.sync

    def counting(self):
        nonlocal syncs
        syncs += 1
        return real(self)

    monkeypatch.setattr(sqlite_sync.Syncer, "sync", counting)

    async def scenario(store):
        messages = [await new(store, f"m{n}") for n in range(101)]
        first = store.commit(messages[0])
        while not syncs:  # it may wait for company
            await asyncio.sleep(0)
        await asyncio.gather(first, *map(store.commit, messages[1:]))
        assert syncs == 2

    run(tmp_path, scenario)


def test_nothing_is_acknowledged_or_claimed_before_the_sync_has_answered(tmp_path, monkeypatch):
    gate = None

    def held(self):
        return gate

    async def scenario(store):
        nonlocal gate
        gate = asyncio.get_running_loop().create_future()
        monkeypatch.setattr(sqlite_sync.Syncer, "sync", held)
        commit = store.commit(await new(store, "m1"))
        try:
            for _ in range(20):
                await asyncio.sleep(0)
            assert not commit.done()
            assert await store.claim(NOW, 10) == []
            assert await store.next_due() is None
        finally:
            gate.set_result(None)
        await commit
        assert await store.claim(NOW, 10) == []  # it is the committer's

    run(tmp_path, scenario)


# -- a full disk and a failing one


def test_a_full_database_refuses_and_the_store_goes_on(tmp_path):
    async def scenario(store):
        await put(store, "m1")
        pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
        store._writer.execute(f"PRAGMA max_page_count={pages + 20}")
        kept, refused = ["m1"], 0
        for number in range(20):
            try:
                kept.append((await put(store, f"full{number}", content=b"x" * 60_000)).id)
            except StoreFull:
                refused += 1
        assert 0 < refused < 20
        assert ids(await store.list()) == kept
        store._writer.execute("PRAGMA max_page_count=1000000")
        await put(store, "m2", content=b"x" * 60_000)
        assert ids(await store.list()) == [*kept, "m2"]
        assert store._writer.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert store._writer.execute("SELECT count(DISTINCT message) FROM recipient").fetchone()[0] == len(kept) + 1

    run(tmp_path, scenario)


def test_one_that_does_not_fit_takes_nobody_with_it(tmp_path):
    async def scenario(store):
        messages = [await new(store, "a"), await new(store, "big", content=b"x" * 60_000), await new(store, "b")]
        pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
        store._writer.execute(f"PRAGMA max_page_count={pages + 5}")
        results = await asyncio.gather(*map(store.commit, messages), return_exceptions=True)
        assert [isinstance(result, StoreFull) for result in results] == [False, True, False]
        assert ids(await store.list()) == ["a", "b"]

    run(tmp_path, scenario)


def test_the_reserve_is_kept_from_new_mail_and_not_from_results(tmp_path, monkeypatch):
    async def scenario(store):
        await put(store, "m1")
        early = await new(store, "m2")
        real = os.statvfs

        def nearly_full(path):
            values = list(real(path))
            values[4] = 10  # f_bavail
            return os.statvfs_result(values)

        monkeypatch.setattr(os, "statvfs", nearly_full)
        store._room.look_again()
        with pytest.raises(StoreFull, match="reserve"):
            store.spool()
        with pytest.raises(StoreFull, match="reserve"):
            await store.commit(early)
        await store.record([delivered("m1")])
        assert await store.list() == []
        monkeypatch.undo()
        await put(store, "m3")  # room again: seen at once

    run(tmp_path, scenario, reserve=1024 * 1024)


@pytest.mark.parametrize(("body", "call"), [(LARGE, "pwritev"), (HUGE, "writev")], ids=["record", "file"])
def test_a_body_that_does_not_fit_is_a_full_store(tmp_path, monkeypatch, body, call):
    async def scenario(store):
        def full(*arguments):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(StoreFull):
                await put(store, "m1", content=body)
        await settled(store)
        assert body_files(tmp_path) == []
        assert await store.list() == []
        await put(store, "m1", content=body)
        assert await content(await store.get("m1")) == b"Received: trace\r\n" + body

    run(tmp_path, scenario)


def test_a_real_full_disk(tmp_path):
    """On a small tmpfs, where the machine lets us mount one in a namespace of our own."""
    script = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
import store_kit as kit
from ironpost.queue.store import StoreFull
from pathlib import Path
async def main():
    async with kit.opened("sqlite", Path(sys.argv[1]) / "data", reserve=24 << 20) as store:
        async def fill(size):
            kept = []
            try:
                while len(kept) < 1000:
                    kept.append((await kit.put(store, f"m{size}-{len(kept)}", content=b"x" * size)).id)
            except StoreFull:
                pass
            assert kit.ids(await store.list()) == kept
            return kept
        # The second time around there is room in the database's free pages.
        counts = []
        for size in (500_000, 60_000, 60_000):
            kept = await fill(size)
            assert 10 < len(kept) < 1000
            counts.append(len(kept) * size)
            for identifier in kept:  # what is in the queue can leave it
                await store.record([kit.delivered(identifier)])
            assert await store.list() == []
            while store._bodies.busy:  # space is given back a moment later
                await asyncio.sleep(0)
        assert counts[2] > 0.5 * counts[1]
        print("fine")
asyncio.run(main())
"""
    command = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=80m none "$1" && shift && exec "$@"', "sh"]
    probe = subprocess.run([*command, tmp_path, "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("no mount namespaces on this machine")
    here = os.path.dirname(__file__)  # noqa: PTH120
    done = subprocess.run(
        [*command, tmp_path, sys.executable, "-c", script, tmp_path, here],
        capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.stdout == "fine\n", done.stderr


# -- the log


def test_the_log_is_copied_into_the_database_outside_the_loop(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_commit, "CHECKPOINT_FRAMES", 25)

    async def scenario(store):
        for number in range(50):
            await put(store, f"m{number}", content=b"x" * 50_000)

    run(tmp_path, scenario)

    async def grown(store):
        size = (tmp_path / DATABASE).stat().st_size
        for number in range(50):
            await put(store, f"n{number}", content=b"x" * 50_000)
        await store._syncer.checkpoint()
        assert (tmp_path / DATABASE).stat().st_size > size + 2_000_000

    run(tmp_path, grown)


def test_the_log_starts_over_though_there_is_never_a_pause(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_commit, "CHECKPOINT_FRAMES", 50)
    largest = 0

    async def scenario(store):
        async def produce(name):
            nonlocal largest
            for number in range(100):
                await put(store, f"{name}x{number}", content=b"x" * 30_000)
                largest = max(largest, (tmp_path / f"{DATABASE}-wal").stat().st_size)

        await asyncio.gather(*(produce(f"p{n}") for n in range(8)))

    run(tmp_path, scenario)
    # 24 MB were written. A log that is never copied in whole does not start over.
    assert largest < 3_000_000


# -- one owner, many readers


def test_a_second_server_is_refused_with_the_name_of_the_first(tmp_path):
    async def scenario(store):
        with pytest.raises(DirectoryInUse, match=f"in use by process {os.getpid()}"):
            SqliteStore.at(tmp_path)

    run(tmp_path, scenario)
    run(tmp_path, put_one)  # and the lock is gone with its owner


async def put_one(store):
    await put(store, "one")


def test_another_process_reads_while_the_server_runs_and_after(tmp_path):
    script = """
import asyncio, sys
from pathlib import Path
from ironpost.storage.sqlite import open_readonly
async def main():
    reader = open_readonly(Path(sys.argv[1]))
    for message in await reader.list():
        print(message.id, message.body.size, *[str(r.recipient.address) for r in message.recipients])
    found = await reader.get("m1")
    print((await found.body.head(8)).decode())
    reader.close()
asyncio.run(main())
"""

    def read():
        done = subprocess.run(
            [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False, timeout=30,
            env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.split("\n")

    async def scenario(store):
        await put(store, "m1", "a@rcpt.example", "b@rcpt.example")
        assert read() == ["m1 38 a@rcpt.example b@rcpt.example", "Received", ""]
        await put(store, "m2")
        assert len(read()) == 4

    run(tmp_path, scenario)
    assert len(read()) == 4


def test_reading_where_no_queue_is_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no queue"):
        open_readonly(tmp_path)


def test_a_reader_cannot_write(tmp_path):
    run(tmp_path, put_one)
    reader = open_readonly(tmp_path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._connection.execute("DELETE FROM message")
    reader.close()


# -- schema


def test_a_newer_schema_is_refused_with_a_sentence(tmp_path):
    run(tmp_path, put_one)
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        connection.execute(f"PRAGMA user_version={sqlite_schema.VERSION + 1}")
    with pytest.raises(SchemaError, match="a newer ironpost wrote it"):
        SqliteStore.at(tmp_path)
    with pytest.raises(SchemaError, match="a newer ironpost wrote it"):
        open_readonly(tmp_path)


def test_an_older_schema_is_migrated_forward_and_keeps_its_mail(tmp_path, monkeypatch):
    run(tmp_path, put_one)
    later = (*sqlite_schema.MIGRATIONS, "CREATE TABLE extra (x); INSERT INTO extra VALUES ('a;b');")
    monkeypatch.setattr(sqlite_schema, "MIGRATIONS", later)
    monkeypatch.setattr(sqlite_schema, "VERSION", len(later))
    with pytest.raises(SchemaError, match="start the server once"):
        open_readonly(tmp_path)

    async def scenario(store):
        assert ids(await store.list()) == ["one"]
        assert store._writer.execute("SELECT x FROM extra").fetchall() == [("a;b",)]

    run(tmp_path, scenario)


def test_a_queue_of_version_1_is_read_with_its_parameters(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_schema, "MIGRATIONS", sqlite_schema.MIGRATIONS[:1])
        patch.setattr(sqlite_schema, "VERSION", 1)
        with contextlib.closing(sqlite_schema.connect(tmp_path)) as connection:
            connection.execute(
                "INSERT INTO message VALUES (1, 'old', ?, 'a@sender.example', ?, NULL, 1, NULL, x'0A')",
                (int(NOW * 1e6), '{"SIZE": "12", "BODY": "8BITMIME", "SMTPUTF8": null}'),
            )
            connection.execute(
                "INSERT INTO recipient VALUES (1, 0, 'b@rcpt.example', ?, 0, 0, ?, ?, '', '')",
                ('{"X": null, "Y": "z"}', int(NOW * 1e6), int(NOW * 1e6)),
            )
            connection.execute(
                "INSERT INTO recipient VALUES (1, 1, 'c@rcpt.example', NULL, 0, 0, ?, ?, '', '')",
                (int(NOW * 1e6), int(NOW * 1e6)),
            )

    async def scenario(store):
        (old,) = await store.claim(NOW, 10)
        assert old.envelope.parameters == {"SIZE": 12, "BODY": "8BITMIME", "SMTPUTF8": None}
        assert [to.parameters for to in old.envelope.recipients] == [{"X": None, "Y": "z"}, {}]
        assert old.released == NOW
        await put(store, "new")
        assert ids(await store.list()) == ["old", "new"]

    run(tmp_path, scenario)


def test_a_migration_that_fails_changes_nothing(tmp_path, monkeypatch):
    run(tmp_path, put_one)
    with monkeypatch.context() as patch:
        broken = (*sqlite_schema.MIGRATIONS, "CREATE TABLE extra (x); INSERT INTO nowhere VALUES (1);")
        patch.setattr(sqlite_schema, "MIGRATIONS", broken)
        patch.setattr(sqlite_schema, "VERSION", len(broken))
        with pytest.raises(OSError, match="nowhere"):
            SqliteStore.at(tmp_path)

    async def scenario(store):
        assert ids(await store.list()) == ["one"]
        assert store._writer.execute("SELECT count(*) FROM sqlite_schema WHERE name='extra'").fetchall() == [(0,)]

    run(tmp_path, scenario)


def test_a_file_that_is_no_database_is_an_error_and_the_lock_is_free_again(tmp_path):
    (tmp_path / DATABASE).write_bytes(b"this is not a database, only text" * 100)
    for _ in range(2):
        with pytest.raises(OSError, match="cannot be opened") as caught:
            SqliteStore.at(tmp_path)
        assert not isinstance(caught.value, DirectoryInUse)


# -- history


def test_the_views_tell_the_story_of_a_message(tmp_path):
    clock = Clock()

    async def scenario(store):
        await put(store, "m1", "a@rcpt.example", "b@rcpt.example")
        await put(store, "m2")
        clock.time = NOW + 1
        await store.record([deferred("m1", 0, due=NOW + 600), delivered("m1", 1)])
        clock.time = NOW + 2
        await store.record([failed("m1", 0)])
        await store.drop(["m2"], NOW + 3)
        await put(store, "m3")

        def ask(query):
            return store._writer.execute(query).fetchall()

        reply = {"deferred": "451 4.7.1 Come back", "delivered": "250 2.0.0 Taken", "failed": "550 5.1.1 Nobody"}
        assert ask("SELECT at, message, recipient, outcome, attempts, reply, remote FROM attempts") == [
            (NOW + at, "m1", name, kind, 1, reply[kind], "mx.rcpt.example [192.0.2.7]")
            for at, name, kind in (
                (1, "a@rcpt.example", "deferred"), (1, "b@rcpt.example", "delivered"), (2, "a@rcpt.example", "failed"),
            )
        ]  # fmt: skip
        assert ask("SELECT kind, message, number, address FROM events ORDER BY seq") == [
            ("accepted", "m1", None, "from@sender.example"),
            ("accepted", "m2", None, "from@sender.example"),
            ("deferred", "m1", 0, "a@rcpt.example"),
            ("delivered", "m1", 1, "b@rcpt.example"),
            ("failed", "m1", 0, "a@rcpt.example"),
            ("dropped", "m2", 0, "to@rcpt.example"),
            ("accepted", "m3", None, "from@sender.example"),
        ]
        assert ask("SELECT message, reverse_path, recipient, state, attempts, due, size FROM queue") == [
            ("m3", "from@sender.example", "to@rcpt.example", "queued", 0, NOW, 38)
        ]

    run(tmp_path, scenario, clock=clock)


def test_history_is_pruned_by_age_in_pieces(tmp_path):
    clock = Clock()

    async def scenario(store):
        for number in range(300):
            await put(store, f"m{number}")
            await store.record([delivered(f"m{number}")])
        count = "SELECT count(*) FROM event"
        assert store._writer.execute(count).fetchone()[0] == 600
        clock.time = NOW + sqlite_history.HISTORY_SECONDS + 1
        await put(store, "n0", at=clock.time)
        after_one = store._writer.execute(count).fetchone()[0]
        assert 400 < after_one < 600
        for number in range(1, 8):
            await put(store, f"n{number}", at=clock.time)
        assert store._writer.execute(count).fetchone()[0] == 8
        await put(store, "n8", at=clock.time)
        assert store._writer.execute(count).fetchone()[0] == 9

    run(tmp_path, scenario, clock=clock)


# -- size costs no memory


def test_200_mb_pass_through_with_little_memory(tmp_path):
    script = """
import asyncio, resource, sys
sys.path.insert(0, sys.argv[2])
import store_kit as kit
from pathlib import Path
async def main():
    async with kit.opened("sqlite", Path(sys.argv[1]) / "data") as store:
        await kit.put(store, "warm", content=b"x" * 5_000_000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        piece, spool = b"0123456789abcde\\n" * 4096, store.spool()
        for _ in range(200 * 16):
            waiter = spool.write(piece)
            if waiter is not None:
                await waiter
        message = await store.commit(kit.NewMessage("m1", kit.envelope(), kit.NOW, b"", spool))
        size = 0
        async for part in message.body.pieces():
            size += len(part)
        assert size == message.body.size == 200 * 16 * 65536
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
asyncio.run(main())
"""
    here = os.path.dirname(__file__)  # noqa: PTH120
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path, here],
        capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 8 * 1024  # kilobytes


def test_a_writer_that_is_faster_than_the_disk_is_asked_to_wait(tmp_path):
    async def scenario(store):
        spool = store.spool()
        waited = 0
        for _ in range(100):
            waiter = spool.write(b"x" * 256 * 1024)
            if waiter is not None:
                waited += 1
                await waiter
        assert waited > 0
        spool.discard()

    run(tmp_path, scenario)
