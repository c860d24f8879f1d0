"""What is specific to the SQLite store: files, faults, locks, schema, views, readers."""

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
from store_kit import (
    NOW,
    Clock,
    at,
    claim,
    content,
    deferred,
    delivered,
    failed,
    ids,
    new,
    next_due,
    opened,
    put,
    record,
)

from ironpost.queue.selection import Selection
from ironpost.queue.store import RecipientState, StoreFull, Submission
from ironpost.storage.bodies import RECORD_BODY
from ironpost.storage.lock import DirectoryInUse
from ironpost.storage.sqlite import commit as sqlite_commit
from ironpost.storage.sqlite import history as sqlite_history
from ironpost.storage.sqlite import schema as sqlite_schema
from ironpost.storage.sqlite import sync as sqlite_sync
from ironpost.storage.sqlite.rows import Reader
from ironpost.storage.sqlite.schema import DATABASE, SchemaError
from ironpost.storage.sqlite.store import SqliteStore

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
    """Wait until unused space is freed."""
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


def test_acknowledged_mail_survives_a_restart(tmp_path):
    async def first(store):
        await put(store, "m1")
        await put(store, "m2", content=LARGE)
        await put(store, "m3")
        await record(store, [delivered("m3")])
        await record(store, [deferred("m2", due=NOW + 50)])

    async def second(store):
        assert ids(await claim(at(store, NOW), 10)) == ["m1"]
        (large,) = await claim(at(store, NOW + 50), 10)
        assert await content(large) == b"Received: trace\r\n" + LARGE
        await put(store, "m4")
        assert ids(await store.list()) == ["m1", "m2", "m4"]

    run(tmp_path, first)
    run(tmp_path, second)


def test_parameters_due_times_and_holds_survive_a_restart(tmp_path):
    given = []

    async def first(store):
        given.append((await put(store, "m1", due=NOW + 3600)).envelope)
        await put(store, "m2", held="odd")
        await put(store, "m3")
        await at(store, NOW + 1).hold(Selection.of("m3"))

    async def second(store):
        m1, m2, m3 = await store.list()
        assert m1.envelope == given[0]
        types = [type(value) for value in m1.envelope.parameters.values()]
        assert types == [type(value) for value in given[0].parameters.values()]
        assert (m1.not_before, m1.recipients[0].due) == (NOW + 3600, NOW + 3600)
        assert (m2.recipients[0].state, m3.recipients[0].state) == (RecipientState.HELD, RecipientState.HELD)
        assert await next_due(store) == NOW + 3600
        assert await at(store, NOW + 2).release(Selection.of("m2")) == 1
        assert ids(await claim(at(store, NOW + 2), 10)) == ["m2"]

    run(tmp_path, first)
    run(tmp_path, second)


def test_hold_and_release_appear_in_the_events_and_the_view(tmp_path):
    async def scenario(store):
        await put(store, "m1", "a@rcpt.example", "b@rcpt.example", held="odd")
        ask = store._writer.execute
        assert ask("SELECT state, released FROM queue").fetchall() == [("held", NOW)] * 2
        await record(store, [delivered("m1", 1)])
        await at(store, NOW + 1).release(Selection.of("m1"))
        await at(store, NOW + 2).hold(Selection.of("m1"))
        await at(store, NOW + 3).drop(Selection.of("m1"))
        assert ask("SELECT at, kind, number, reply FROM events ORDER BY seq").fetchall() == [
            (NOW, "accepted", None, None),
            (NOW, "held", 0, "odd"),
            (NOW, "held", 1, "odd"),
            (NOW, "delivered", 1, "250 2.0.0 Taken"),
            (NOW + 1, "released", 0, None),
            (NOW + 2, "held", 0, None),
            (NOW + 3, "dropped", 0, None),
        ]

    run(tmp_path, scenario)


def test_a_parameter_with_a_space_fails_alone(tmp_path):
    async def scenario(store):
        message = await new(store, "m1")
        bad = message._replace(envelope=message.envelope._replace(parameters={"X": "a b"}))
        with pytest.raises(ValueError, match="contains a space"):
            await store.commit(bad)
        await put(store, "m2")
        assert ids(await store.list()) == ["m2"]

    run(tmp_path, scenario)


def test_files_of_large_bodies_are_removed_with_their_message(tmp_path):
    async def scenario(store):
        await put(store, "small", content=b"x" * 65_536)
        await put(store, "record", content=b"x" * RECORD_BODY)
        assert body_files(tmp_path) == []
        await put(store, "m1", "a@rcpt.example", "b@rcpt.example", content=HUGE)
        other = await put(store, "m2", content=HUGE)
        assert len(body_files(tmp_path)) == 2
        await record(store, [delivered("m1", 0)])
        await settled(store)
        assert len(body_files(tmp_path)) == 2
        await record(store, [delivered("m1", 1)])
        await store.drop(Selection.of("m2"))
        await store.unclaim([other])
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
            assert await claim(store, 10) == []
            assert await next_due(store) is None
        finally:
            gate.set_result(None)
        await commit
        assert await claim(store, 10) == []  # it is the committer's

    run(tmp_path, scenario)


# -- a full disk and a failing one


def test_after_a_full_database_the_store_continues(tmp_path):
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


def test_a_message_that_does_not_fit_fails_alone(tmp_path):
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
        await record(store, [delivered("m1")])
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
    """Uses a small tmpfs, if one can be mounted in a new namespace."""
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
                await store.record(store.lease, [kit.delivered(identifier)])
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


def test_the_log_restarts_under_continuous_load(tmp_path, monkeypatch):
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
from ironpost.storage.sqlite.rows import Reader
async def main():
    reader = Reader.open_readonly(Path(sys.argv[1]))
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


def test_reading_a_directory_without_a_queue_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="no queue"):
        Reader.open_readonly(tmp_path)


def test_a_reader_cannot_write(tmp_path):
    run(tmp_path, put_one)
    reader = Reader.open_readonly(tmp_path)
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
        Reader.open_readonly(tmp_path)


def test_an_older_schema_is_migrated_forward_and_keeps_its_mail(tmp_path, monkeypatch):
    run(tmp_path, put_one)
    later = (*sqlite_schema.MIGRATIONS, "CREATE TABLE extra (x); INSERT INTO extra VALUES ('a;b');")
    monkeypatch.setattr(sqlite_schema, "MIGRATIONS", later)
    monkeypatch.setattr(sqlite_schema, "VERSION", len(later))
    with pytest.raises(SchemaError, match="start the server once"):
        Reader.open_readonly(tmp_path)

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
        (old,) = await claim(store, 10)
        assert old.envelope.parameters == {"SIZE": 12, "BODY": "8BITMIME", "SMTPUTF8": None}
        assert [to.parameters for to in old.envelope.recipients] == [{"X": None, "Y": "z"}, {}]
        assert old.not_before == NOW
        await put(store, "new")
        assert ids(await store.list()) == ["old", "new"]

    run(tmp_path, scenario)


def test_a_queue_of_version_7_gets_its_priorities_and_deadlines(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_schema, "MIGRATIONS", sqlite_schema.MIGRATIONS[:7])
        patch.setattr(sqlite_schema, "VERSION", 7)
        with contextlib.closing(sqlite_schema.connect(tmp_path)) as connection:
            for seq, parameters in enumerate(
                (
                    None,
                    "BODY=8BITMIME MT-PRIORITY=-3",
                    "MT-PRIORITY=9",
                    "MT-PRIORITY=x BY=2023-11-15T00:00:00Z;R",
                    "BY=x",
                )
            ):
                connection.execute(
                    "INSERT INTO message (seq, id, accepted, reverse_path, parameters, size, body, released)"
                    " VALUES (?, ?, ?, 'a@sender.example', ?, 1, x'0A', 0)",
                    (seq + 1, f"m{seq}", int(NOW * 1e6), parameters),
                )
                connection.execute(
                    "INSERT INTO recipient (message, number, address, state, attempts, due, changed, last, remote,"
                    " domain) VALUES (?, 0, 'b@rcpt.example', 0, 0, ?, ?, '', '', 'rcpt.example')",
                    (seq + 1, int(NOW * 1e6), int(NOW * 1e6)),
                )

    async def scenario(store):
        assert [queue[2] async for queue in store.queues()] == [-3, 0, 9]
        usual = (await store.claim("rcpt.example", "", 0, 10)).messages
        assert ids(usual) == ["m0", "m3", "m4"]
        assert [message.recipients[0].deadline for message in usual] == [None, 1_700_006_400.0, None]
        assert ids((await store.claim("rcpt.example", "", 9, 10)).messages) == ["m2"]

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


def test_a_file_that_is_not_a_database_is_an_error_and_the_lock_is_free_again(tmp_path):
    (tmp_path / DATABASE).write_bytes(b"this is not a database, only text" * 100)
    for _ in range(2):
        with pytest.raises(OSError, match="cannot be opened") as caught:
            SqliteStore.at(tmp_path)
        assert not isinstance(caught.value, DirectoryInUse)


# -- keys of submissions


def test_overdue_keys_are_removed(tmp_path):
    clock = Clock()

    async def scenario(store):
        for number in range(1200):
            message = await new(store, f"m{number}", at=clock.time)
            await store.commit(message._replace(submission=Submission(f"key {number}", b"digest")))
            clock.time += 1
        assert not store.untidy()
        clock.time = NOW + 86_400 + 1100
        assert store.untidy()
        await store.tend()
        (left,) = store._writer.execute("SELECT count(*) FROM submission").fetchone()
        assert left == 99
        assert not store.untidy()

    run(tmp_path, scenario, clock=clock)


# -- history


def test_the_views_tell_the_story_of_a_message(tmp_path):
    clock = Clock()

    async def scenario(store):
        await put(store, "m1", "a@rcpt.example", "b@rcpt.example")
        await put(store, "m2")
        clock.time = NOW + 1
        await record(store, [deferred("m1", 0, due=NOW + 600), delivered("m1", 1)])
        clock.time = NOW + 2
        await record(store, [failed("m1", 0)])
        await at(store, NOW + 3).drop(Selection.of("m2"))
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
            await record(store, [delivered(f"m{number}")])
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


def test_a_message_of_200_mb_takes_little_memory(tmp_path):
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


def test_a_writer_faster_than_the_disk_gets_back_pressure(tmp_path):
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
