"""Several shards in one process: draining, closing, refusing, and migrating an older directory."""

from __future__ import annotations

import asyncio
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
    unclaim,
)

from ironpost.queue.selection import EVERYTHING, Selection
from ironpost.queue.store import StoreFull
from ironpost.storage.bodies.store import ShardBodies
from ironpost.storage.lock import DirectoryInUse, DirectoryLock
from ironpost.storage.sqlite import shards
from ironpost.storage.sqlite.schema import DATABASE, SchemaError
from ironpost.storage.sqlite.shards import SHARDS, ShardedStore, ShardsReader, lay_out
from ironpost.storage.sqlite.store import SqliteStore
from ironpost.storage.sqlite.submissions import SharedSubmissions

LARGE = b"x" * 200_000


def within(scenario):
    async def main():
        return await asyncio.wait_for(scenario(), 30)

    return asyncio.run(main())


async def filled(data, workers, **messages):
    """One message in the shard of each worker: `m0` in shard 0, and so on."""
    lay_out(data)
    for worker in range(workers):
        store = ShardedStore.at(data, worker=worker, workers=workers, now=Clock(), reserve=0)
        await put(store, f"m{worker}", at=NOW + worker, **messages)
        await store.close()


def databases(data):
    return sorted(path.parent.name for path in data.glob(f"shards/*/{DATABASE}"))


def sync_processes(store):
    return [shard._commits._syncer.pid for shard in (store._main, *store._others) if shard._commits._syncer.pid]


def test_fewer_workers_own_and_deliver_everything(tmp_path):
    async def scenario():
        await filled(tmp_path, 5)
        for workers in (2, 1, 3):
            stores = [
                ShardedStore.at(tmp_path, worker=worker, workers=workers, now=Clock(), reserve=0)
                for worker in range(workers)
            ]
            found = [message.id for store in stores for message in await claim(at(store, NOW + 60), 100)]
            assert sorted(found) == ["m0", "m1", "m2", "m3", "m4"]
            for store in stores:
                await store.close()

    within(scenario)


def test_one_worker_has_one_shard_and_one_sync_process(tmp_path):
    async def scenario():
        await filled(tmp_path, 1)
        store = ShardedStore.at(tmp_path, now=Clock(), reserve=0)
        assert store.shards == 1
        assert len(sync_processes(store)) == 1
        await store.close()
        assert databases(tmp_path) == ["00"]

    within(scenario)


def test_new_mail_goes_into_one_shard_while_others_are_drained(tmp_path):
    async def scenario():
        await filled(tmp_path, 4)
        store = ShardedStore.at(tmp_path, worker=1, workers=2, now=Clock(), reserve=0)
        for number in range(20):
            await put(store, f"n{number}")
        await store.close()
        reader = ShardsReader.open_readonly(tmp_path)
        mine = SqliteStore.at(tmp_path / "shards" / "01", now=Clock(), reserve=0)
        assert len(await mine.list()) == 21
        assert len(await reader.list()) == 24
        reader.close()
        await mine.close()

    within(scenario)


def test_a_drained_shard_is_closed_and_an_idle_one_has_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "REST_SECONDS", 0.0)

    async def scenario():
        await filled(tmp_path, 3)
        store = ShardedStore.at(tmp_path, now=Clock(), reserve=0)
        assert store.shards == 3
        assert len(sync_processes(store)) == 1, "nothing was written to the others yet"
        await claim(at(store, NOW + 60), 10)
        await record(store, [delivered("m1")])
        await record(store, [deferred("m2")])
        while store.shards > 2 or len(sync_processes(store)) > 1:
            await asyncio.sleep(0)
        assert ids(await store.list()) == ["m0", "m2"]
        (again,) = [message for message in await claim(at(store, NOW + 6000), 10) if message.id == "m2"]
        assert again.recipients[0].attempts == 1
        await record(store, [delivered("m2")])
        while store.shards > 1:
            await asyncio.sleep(0)
        await store.close()
        assert not {"m1", "m2"} & set(ids(await reopened_list(tmp_path)))

    async def reopened_list(data):
        reader = ShardsReader.open_readonly(data)
        try:
            return await reader.list()
        finally:
            reader.close()

    within(scenario)


@pytest.mark.parametrize("report", [b"Subject: failed\r\n\r\n", LARGE], ids=["small", "large"])
def test_a_report_is_stored_in_the_shard_of_its_message(tmp_path, report):
    async def scenario():
        await filled(tmp_path, 2)
        store = ShardedStore.at(tmp_path, now=Clock(), reserve=0)
        await claim(at(store, NOW + 60), 10)
        await record(store, [failed("m1")], [await new(store, "report", content=report, sender="")])
        (message,) = [message for message in await claim(at(store, NOW + 60), 10) if message.id == "report"]
        assert (await content(message)).endswith(report)
        await store.close()
        other = SqliteStore.at(tmp_path / "shards" / "01", now=Clock(), reserve=0)
        (message,) = await other.list()
        assert message.id == "report"
        assert (await content(message)).endswith(report)
        await other.close()

    within(scenario)


def test_a_shard_closed_during_a_change_is_skipped(tmp_path, monkeypatch):
    async def scenario():
        await filled(tmp_path, 3)
        store = ShardedStore.at(tmp_path, now=Clock(), reserve=0)
        waiting, empty = store._others
        await claim(at(store, NOW + 60), 100)
        monkeypatch.setattr(shards, "REST_SECONDS", 1e9)
        await record(store, [delivered("m2")])
        await unclaim(store, ["m0", "m1"])
        retry = waiting.retry

        async def slowly(messages):
            store._look(empty)
            return await retry(messages)

        monkeypatch.setattr(waiting, "retry", slowly)
        assert await at(store, NOW + 60).retry(EVERYTHING) == 2
        assert store.shards == 2
        await store.close()

    within(scenario)


def test_queries_and_changes_cover_every_shard(tmp_path):
    async def scenario():
        await filled(tmp_path, 3)
        store = ShardedStore.at(tmp_path, now=Clock(), reserve=0)
        assert ids(await store.list(2)) == ["m0", "m1"]
        assert (await store.get("m2")).id == "m2"
        assert await store.get("m9") is None
        assert await next_due(store) == NOW
        assert len(await claim(at(store, NOW + 60), 2)) == 2
        await unclaim(store, ["m0", "m1", "m2"])
        assert await at(store, NOW + 500).retry(EVERYTHING) == 3
        assert await next_due(store) == NOW + 500
        assert await at(store, NOW).retry(Selection.of("m1")) == 1
        assert await at(store, NOW).drop(Selection.of("m0", "m2", "m9")) == 2
        assert ids(await store.list()) == ["m1"]
        await store.close()

    within(scenario)


def test_shards_take_turns_at_being_claimed_from_first(tmp_path):
    async def scenario():
        await filled(tmp_path, 3)
        store = ShardedStore.at(tmp_path, now=Clock(), reserve=0)
        for number in range(20):
            await unclaim(store, [(await put(store, f"n{number}")).id])
        found = [ids(await claim(at(store, NOW + 60), 1)) for _ in range(6)]
        assert {"m1", "m2"} <= {name for (name,) in found}, "old mail does not wait for all the new"
        await store.close()

    within(scenario)


def test_a_record_changes_nothing_in_another_shard(tmp_path):
    async def scenario():
        await filled(tmp_path, 2)
        store = ShardedStore.at(tmp_path, now=Clock(), reserve=0)
        leases = {message.id: message.lease for message in await claim(at(store, NOW + 60), 10)}
        assert len(set(leases.values())) == 2
        await store.record(leases["m0"], [delivered("m1")])
        assert ids(await store.list()) == ["m0", "m1"]
        await store.record(leases["m1"], [delivered("m1")])
        assert ids(await store.list()) == ["m0"]
        await store.close()

    within(scenario)


def test_a_shard_belongs_to_one_process(tmp_path):
    async def scenario():
        await filled(tmp_path, 2)
        store = ShardedStore.at(tmp_path, worker=1, workers=2, reserve=0)
        with pytest.raises(DirectoryInUse):
            ShardedStore.at(tmp_path, reserve=0)
        await store.close()
        await ShardedStore.at(tmp_path, reserve=0).close()  # nothing of the failed attempt is left

    within(scenario)


def test_the_error_for_a_lock_held_by_workers_says_so(tmp_path):
    """A worker inherits the lock and holds it until it ends."""
    code = (
        "import os, subprocess, sys; from pathlib import Path; from ironpost.storage.lock import DirectoryLock\n"
        "lock = DirectoryLock(Path(sys.argv[1]))\n"
        "subprocess.Popen([sys.executable, '-c', 'input()'], pass_fds=[lock.descriptor])\n"
        "print(os.getpid(), flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
    ) as taker:  # fmt: skip
        assert taker.stdout is not None
        owner = int(taker.stdout.readline())
        taker.wait(30)
        with pytest.raises(DirectoryInUse, match=f"workers of process {owner}, which was killed"):
            DirectoryLock(tmp_path)


def test_r47_directories_and_the_record_are_private(tmp_path):
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    within(lambda: filled(data, 2))
    assert {stat.S_IMODE(path.stat().st_mode) for path in data.rglob("*") if path.is_dir()} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in data.rglob("*") if path.is_file()} == {0o600}


def test_the_number_of_shards_is_fixed_when_the_directory_is_made(tmp_path, monkeypatch):
    assert lay_out(tmp_path) == SHARDS
    monkeypatch.setattr(shards, "SHARDS", 8)
    assert lay_out(tmp_path) == SHARDS
    (tmp_path / "shards" / "count").write_text("many\n")
    with pytest.raises(SchemaError, match=r"count says 'many'"):
        lay_out(tmp_path)


def test_readers_skip_a_shard_that_is_being_created(tmp_path):
    async def scenario():
        await filled(tmp_path, 1)
        made = tmp_path / "shards" / "01"
        made.mkdir()
        (made / DATABASE).touch()
        reader = ShardsReader.open_readonly(tmp_path)
        assert ids(await reader.list()) == ["m0"]
        reader.close()

    within(scenario)


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no queue"):
        ShardsReader.open_readonly(tmp_path)


# -- the layout before shards


async def old_layout(data):
    async with opened("sqlite", data) as store:
        await put(store, "old")
        await put(store, "oldlarge", content=LARGE)


async def everything_is_there(data):
    store = ShardedStore.at(data, now=Clock(), reserve=0)
    assert ids(await store.list()) == ["old", "oldlarge"]
    assert (await content(await store.get("oldlarge"))).endswith(LARGE)
    await store.close()


def test_an_older_data_directory_is_readable_and_becomes_a_shard(tmp_path):
    async def scenario():
        await old_layout(tmp_path)
        reader = ShardsReader.open_readonly(tmp_path)
        assert ids(await reader.list()) == ["old", "oldlarge"]
        reader.close()
        lay_out(tmp_path)
        assert databases(tmp_path) == ["00"]
        assert not (tmp_path / DATABASE).exists()
        assert not (tmp_path / "bodies").exists()
        await everything_is_there(tmp_path)

    within(scenario)


@pytest.mark.parametrize("step", range(8))
def test_the_migration_to_shards_can_be_interrupted_anywhere(tmp_path, monkeypatch, step):
    """A crash is an exception at the n-th sync of a directory: before, between and after the renames."""

    class Crash(BaseException):
        pass

    count = 0

    def crash(_directory):
        nonlocal count
        count += 1
        if count > step:
            raise Crash

    async def scenario():
        await old_layout(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(shards, "sync_directory", crash)
            try:
                lay_out(tmp_path)
            except Crash:
                pass
            else:
                assert step >= count
        lay_out(tmp_path)
        await everything_is_there(tmp_path)

    within(scenario)


def test_an_older_database_beside_shards_becomes_one_more(tmp_path):
    async def scenario():
        await filled(tmp_path, 1)
        await old_layout(tmp_path)  # an older program was started once more
        lay_out(tmp_path)
        assert databases(tmp_path) == ["00", "01"]
        store = ShardedStore.at(tmp_path, now=Clock(), reserve=0)
        assert ids(await store.list()) == ["m0", "old", "oldlarge"]
        await store.close()

    within(scenario)


def test_an_older_database_with_a_reader_is_not_migrated(tmp_path):
    async def scenario():
        await old_layout(tmp_path)
        reader = ShardsReader.open_readonly(tmp_path)
        with pytest.raises(SchemaError, match="stop the program that has it open"):
            lay_out(tmp_path)
        reader.close()
        lay_out(tmp_path)
        await everything_is_there(tmp_path)

    within(scenario)


def test_a_damaged_older_database_is_named(tmp_path):
    (tmp_path / DATABASE).write_bytes(b"no database " * 1000)
    with pytest.raises(OSError, match="file is not a database"):
        lay_out(tmp_path)


@pytest.mark.parametrize("number", [0, 1], ids=["where new mail goes", "another"])
def test_f11_a_damaged_shard_is_named_and_the_others_serve(tmp_path, caplog, number):
    async def scenario():
        await filled(tmp_path, 2)
        path = tmp_path / "shards" / f"{number:02}" / DATABASE
        good = path.read_bytes()
        path.write_bytes(b"no database " * 1000)
        store = ShardedStore.at(tmp_path, reserve=0)
        await put(store, "new")
        assert set(ids(await store.list())) == {f"m{1 - number}", "new"}
        await store.close()
        assert str(path.parent) in caplog.text
        assert path.read_bytes() == b"no database " * 1000
        path.write_bytes(good)
        store = ShardedStore.at(tmp_path, reserve=0)
        assert set(ids(await store.list())) == {"m0", "m1", "new"}
        await store.close()

    within(scenario)


def test_f11_without_a_usable_shard_the_error_names_it(tmp_path):
    async def scenario():
        await filled(tmp_path, 1)
        (tmp_path / "shards" / "count").write_text("1\n")
        (tmp_path / "shards" / "00" / DATABASE).write_bytes(b"no database " * 1000)
        with pytest.raises(OSError, match=f"file is not a database.*{tmp_path}/shards/00"):
            ShardedStore.at(tmp_path, reserve=0)

    within(scenario)


def test_every_shard_has_the_views(tmp_path):
    within(lambda: filled(tmp_path, 2))
    for name in databases(tmp_path):
        connection = sqlite3.connect(f"file:{tmp_path}/shards/{name}/{DATABASE}?mode=ro", uri=True)
        assert connection.execute("SELECT message, state FROM queue").fetchall() == [(f"m{int(name)}", "queued")]
        assert connection.execute("SELECT kind FROM events").fetchall() == [("accepted",)]
        connection.close()


@pytest.mark.parametrize("workers", [1, 4])
def test_each_worker_uses_its_share_of_the_free_space(tmp_path, monkeypatch, workers):
    """What others use until the next query is not known; when the share is used up, the disk is queried again."""
    looks = 0
    free = 100_000_000

    class Space:
        f_frsize = 1
        f_blocks = f_bfree = 0

        @property
        def f_bavail(self):
            nonlocal looks
            looks += 1
            return free

    async def scenario():
        nonlocal free
        lay_out(tmp_path)
        store = ShardedStore.at(tmp_path, workers=workers, now=Clock(), reserve=40_000_000)
        monkeypatch.setattr("ironpost.storage.reserve.os.statvfs", lambda _: Space())
        monkeypatch.setattr("ironpost.storage.sqlite.room.LOOK_SECONDS", 1e9)
        store.spool(10_000_000).discard()
        assert looks == 1
        store.spool(20_000_000).discard()
        assert looks == (1 if workers == 1 else 2), "more than its part of 60 million"
        free = 50_000_000
        if workers > 1:
            with pytest.raises(StoreFull):
                store.spool(20_000_000)
        await store.close()

    within(scenario)


def test_a_shard_that_cannot_be_closed_cleanly_loses_nothing_that_was_submitted(tmp_path, monkeypatch):
    async def scenario():
        await filled(tmp_path, 3)
        store = ShardedStore.at(tmp_path, now=Clock(), reserve=0)
        await claim(at(store, NOW + 60), 100)
        close, failing = ShardBodies.close, store._others[0]._bodies

        async def fails(bodies):
            if bodies is failing:
                raise OSError("the disk fails")
            await close(bodies)

        monkeypatch.setattr(ShardBodies, "close", fails)
        shards = (store._main, *store._others)
        recording = [
            asyncio.ensure_future(shard.record(shard.lease, [delivered(f"m{number}")]))
            for number, shard in enumerate(shards)
        ]
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="the disk fails"):
            await store.close()
        assert all(each.done() for each in recording)
        await asyncio.gather(*recording)
        store = ShardedStore.at(tmp_path, now=Clock(), reserve=0)
        assert await store.list() == []
        await store.close()

    within(scenario)


def test_the_locks_of_submissions_may_be_closed_while_one_is_held(tmp_path):
    async def main():
        submissions = SharedSubmissions(tmp_path, Clock(), 60.0)
        async with submissions.turn("tenant", "key"):
            submissions.close()
        submissions.close()

    asyncio.run(main())
