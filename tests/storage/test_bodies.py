"""The body log: records, files, memory, checksums, and freed space."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import sqlite3
import zlib
from pathlib import Path

import pytest
from store_kit import NOW, claim, content, delivered, ids, new, opened, put, record, turns, unclaim

from ironpost.model.body import BodyDamaged
from ironpost.queue.selection import Selection
from ironpost.storage.bodies import RECORD_BODY, SMALL_BODY
from ironpost.storage.bodies import store as bodies_store
from ironpost.storage.bodies.segments import BLOCK, blocks, merged
from ironpost.storage.bodies.spool import MemoryBudget
from ironpost.storage.bodies.store import UnlistedBodies
from ironpost.storage.sqlite import sync as sqlite_sync
from ironpost.storage.sqlite.rows import Reader
from ironpost.storage.sqlite.schema import DATABASE
from ironpost.storage.sqlite.store import SqliteStore
from ironpost.storage.sqlite.verify import CheckedAmount, verify

PREFIX = b"Received: trace\r\n"
RECORD = b"r" * 100_000
HUGE = b"h" * (RECORD_BODY + 1)
SLACK = 2 * BLOCK
"""A block at the edge of a record, and one in which the file system may list where the others are."""


def run(path, scenario, **options):
    async def main():
        async with opened("sqlite", path, **options) as store:
            return await asyncio.wait_for(scenario(store), 60)

    return asyncio.run(main())


async def settled(store):
    """Wait until nothing is being written or freed."""
    while store._bodies.busy or not store._commits.idle:
        await asyncio.sleep(0)


def segments(path):
    return sorted((path / "segments").iterdir())


def on_disk(path):
    """Size of the bodies outside the database, in octets."""
    files = [*path.glob("segments/*"), *path.glob("bodies/*/*")]
    return sum(file.stat().st_blocks * 512 for file in files)


def failing(code=errno.EIO):
    future = asyncio.get_running_loop().create_future()
    future.set_exception(OSError(code, os.strerror(code)))
    return future


@pytest.fixture
def asked(monkeypatch):
    """The requests to the sync process, in order."""
    seen = []
    for name in ("sync", "segment", "file"):
        real = getattr(sqlite_sync.Syncer, name)

        def spy(self, *arguments, _name=name, _real=real, **named):
            seen.append(_name)
            return _real(self, *arguments, **named)

        monkeypatch.setattr(sqlite_sync.Syncer, name, spy)
    return seen


# -- the way in


def test_f02_a_batch_of_bodies_costs_two_syncs(tmp_path, asked):
    async def scenario(store):
        await put(store, "first", content=RECORD)  # opens the segment
        asked.clear()
        await asyncio.gather(*[put(store, f"m{number}", content=RECORD) for number in range(20)])
        assert asked == ["segment", "sync"]
        for message in await store.list():
            assert await content(message) == PREFIX + RECORD

    run(tmp_path, scenario)


def test_f02_the_row_is_committed_when_its_body_is_on_the_disk(tmp_path, monkeypatch):
    async def scenario(store):
        await put(store, "first", content=RECORD)
        reached = asyncio.Event()
        answer = asyncio.get_running_loop().create_future()
        monkeypatch.setattr(sqlite_sync.Syncer, "segment", lambda *_, **__: (reached.set(), answer)[1])
        committing = asyncio.ensure_future(put(store, "m1", content=RECORD))
        await reached.wait()
        await turns()
        assert ids(await store.list()) == ["first"]
        assert not committing.done()
        answer.set_result(None)
        await committing
        assert ids(await store.list()) == ["first", "m1"]

    run(tmp_path, scenario)


@pytest.mark.parametrize("size", [SMALL_BODY, SMALL_BODY + 1, BLOCK * 20, RECORD_BODY, RECORD_BODY + 1])
def test_bodies_of_every_size_are_read_back(tmp_path, size):
    body = random.Random(size).randbytes(size)

    async def first(store):
        message = await put(store, "m1", content=body)
        assert await content(message) == PREFIX + body
        records = sum(count for count, _ in store._bodies.segments.usage().values())
        assert records == (SMALL_BODY < size <= RECORD_BODY)
        assert len(list(tmp_path.glob("bodies/*/*"))) == (size > RECORD_BODY)

    async def second(store):
        (message,) = await claim(store, 10)
        assert await content(message) == PREFIX + body
        assert await message.body.head(10) == PREFIX[:10]
        assert await message.body.head(100) == (PREFIX + body)[:100]
        assert await message.body.head(message.body.size) == PREFIX + body

    run(tmp_path, first)
    run(tmp_path, second)


def test_tiny_pieces_of_content_are_joined(tmp_path):
    async def scenario(store):
        spool = store.spool()
        for _ in range(200_000):
            assert spool.write(b"x") is None
        assert len(spool.parts) < 10
        spool.discard()

    run(tmp_path, scenario)


def test_content_beyond_the_memory_budget_goes_to_a_file(tmp_path):
    async def main():
        budget = MemoryBudget(150_000)
        store = SqliteStore.at(tmp_path, now=lambda: NOW, reserve=0, memory=budget)
        one, other = store.spool(), store.spool()
        for spool in (one, other):
            for _ in range(4):
                if (waiter := spool.write(b"x" * 25_000)) is not None:
                    await waiter
        assert (one.file, bool(other.file)) == ("", True)
        assert budget.free == 50_000
        one.discard()
        assert budget.free == 150_000
        message = await store.commit((await new(store, "m1"))._replace(content=other))
        assert await content(message) == PREFIX + b"x" * 100_000
        await put(store, "m2", content=RECORD)
        assert budget.free == 150_000
        await store.close()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_declared_size_beyond_records_never_waits_in_memory(tmp_path):
    async def scenario(store):
        spool = store.spool(RECORD_BODY + 1)
        await spool.write(RECORD)
        assert spool.file
        spool.discard()

    run(tmp_path, scenario)


@pytest.mark.parametrize("body", [RECORD, HUGE], ids=["record", "file"])
@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_discarded_content_leaves_no_file(tmp_path, body, pieces):
    async def scenario(store):
        spool = store.spool()
        for _ in range(pieces):
            if (waiter := spool.write(body)) is not None:
                await waiter
        spool.discard()
        spool.discard()
        await settled(store)
        assert on_disk(tmp_path) == 0
        assert store._writer.execute("SELECT name FROM body_file").fetchall() == []
        assert store._bodies.memory.free == MemoryBudget().free

    run(tmp_path, scenario)


# -- a segment that fails


def test_a_failed_segment_is_sealed_and_its_bodies_are_written_again(tmp_path, monkeypatch, caplog):
    async def scenario(store):
        await put(store, "before", content=RECORD)
        real, refused = sqlite_sync.Syncer.segment, []

        def once(self, number, descriptor, *, new):
            if not refused:
                refused.append(number)
                return failing()
            return real(self, number, descriptor, new=new)

        monkeypatch.setattr(sqlite_sync.Syncer, "segment", once)
        await asyncio.gather(*[put(store, f"m{number}", content=RECORD) for number in range(3)])
        await put(store, "after", content=RECORD)
        places = {message.id: message.body.place for message in await store.list()}
        assert places.pop("before").segment == refused[0]
        assert {place.segment for place in places.values()} == {refused[0] + 1}
        assert all([await content(message) == PREFIX + RECORD for message in await store.list()])
        await settled(store)
        assert segments(tmp_path)[0].stat().st_blocks * 512 <= blocks(len(RECORD)) + SLACK

    run(tmp_path, scenario)
    assert "is sealed" in caplog.text


def test_a_body_that_cannot_be_synced_twice_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    async def scenario(store):
        with monkeypatch.context() as patch:
            patch.setattr(sqlite_sync.Syncer, "segment", lambda *_, **__: failing())
            with pytest.raises(OSError, match="could not be synced"):
                await put(store, "m1", content=RECORD)
        await settled(store)
        assert await store.list() == []
        assert on_disk(tmp_path) == 0
        await put(store, "m1", content=RECORD)

    run(tmp_path, scenario)


# -- damage


async def gather(message, seen):
    async for piece in message.body.pieces():
        seen.append(piece)


def damaged(path, offset=5000):
    """Flip one bit of a file."""
    octets = bytearray(path.read_bytes())
    octets[offset] ^= 1
    path.write_bytes(octets)


@pytest.mark.parametrize("body", [RECORD, HUGE], ids=["record", "file"])
@pytest.mark.parametrize("how", ["flipped", "short", "missing"])
def test_a_damaged_body_never_reaches_its_end(tmp_path, body, how):
    async def first(store):
        await put(store, "m1", content=body)

    async def second(store):
        (message,) = await claim(store, 10)
        seen: list[bytes] = []
        with pytest.raises(BodyDamaged):
            await gather(message, seen)
        assert sum(map(len, seen)) < message.body.size
        with pytest.raises(BodyDamaged):
            await message.body.head(message.body.size)
        assert ids(await store.list()) == ["m1"]

    run(tmp_path, first)
    (file,) = [*tmp_path.glob("segments/*"), *tmp_path.glob("bodies/*/*")]
    if how == "flipped":
        damaged(file)
    elif how == "short":
        os.truncate(file, file.stat().st_size - 1)
    else:
        file.unlink()
    run(tmp_path, second)


def test_a_damaged_row_is_detected(tmp_path):
    run(tmp_path, lambda store: put(store, "m1", content=b"Subject: x\r\n\r\nhello\r\n"))
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        changed = "CAST(replace(CAST(body AS TEXT), 'hello', 'hullo') AS BLOB)"
        connection.execute(f"UPDATE message SET body = {changed}")
    connection.close()

    async def scenario(store):
        (message,) = await claim(store, 10)
        with pytest.raises(BodyDamaged):
            await content(message)

    run(tmp_path, scenario)


def test_check_data_reads_everything_and_names_what_is_damaged(tmp_path):
    shard = tmp_path / "shards" / "00"
    shard.mkdir(parents=True)

    async def fill(store):
        for name, body in (("small", b"hello"), ("good", RECORD), ("bad", RECORD), ("file", HUGE)):
            await put(store, name, content=body)
        return (await store.get("bad")).body.place

    async def look():
        return [found async for found in verify(tmp_path)]

    place = run(shard, fill)
    assert asyncio.run(look()) == [CheckedAmount(4, 4 * len(PREFIX) + 5 + 2 * len(RECORD) + len(HUGE))]
    damaged(shard / place.name, place.start)
    (shard / "segments" / "0000000099").write_bytes(b"?")
    *damages, _ = asyncio.run(look())
    assert [(found.shard, found.message) for found in damages] == [(shard, ""), (shard, "bad")]
    assert "0000000099" in damages[0].sentence
    assert "checksum" in damages[1].sentence


# -- the database's word


@pytest.mark.parametrize("body", [RECORD, HUGE], ids=["record", "file"])
@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_f11_bodies_whose_database_is_gone_are_kept_and_the_shard_refused(tmp_path, body, how):
    run(tmp_path, lambda store: put(store, "m1", content=body))
    before = on_disk(tmp_path)
    (tmp_path / DATABASE).unlink()
    if how == "emptied":
        (tmp_path / DATABASE).touch()
    for _ in range(2):
        with pytest.raises(UnlistedBodies, match=str(tmp_path)):
            SqliteStore.at(tmp_path, reserve=0)
    assert on_disk(tmp_path) == before


def test_f11_unlisted_files_are_reported_and_kept(tmp_path, caplog):
    run(tmp_path, lambda store: put(store, "m1", content=RECORD))
    strangers = [tmp_path / "segments" / "0000000007", tmp_path / "bodies" / "ab" / "cdef"]
    for stranger in strangers:
        stranger.parent.mkdir(parents=True, exist_ok=True)
        stranger.write_bytes(b"not ours")

    async def scenario(store):
        message = await put(store, "m2", content=RECORD)
        assert message.body.place.segment == 8
        await record(store, [delivered("m2")])
        await settled(store)

    with caplog.at_level(logging.ERROR):
        run(tmp_path, scenario)
    for stranger in strangers:
        assert stranger.read_bytes() == b"not ours"
        assert str(stranger) in caplog.text


def test_f11_a_missing_segment_is_an_error_at_the_start(tmp_path, caplog):
    run(tmp_path, lambda store: put(store, "m1", content=RECORD))
    (segment,) = segments(tmp_path)
    segment.unlink()
    run(tmp_path, lambda store: store.list())
    assert [each.levelname for each in caplog.records if str(segment) in each.getMessage()] == ["ERROR"]


@pytest.mark.parametrize("body", [RECORD, HUGE], ids=["record", "file"])
def test_f11_nothing_is_removed_before_the_database_says_so(tmp_path, monkeypatch, body):
    async def scenario(store):
        await put(store, "m1", content=body)
        store._bodies.segments.seal()
        states = []
        real = sqlite_sync.Syncer.remove

        def spy(self, names):
            # A second connection sees what was committed, and what is committed here was synced before.
            rows = sqlite3.connect(f"file:{tmp_path / DATABASE}?mode=ro", uri=True)
            states.extend(rows.execute("SELECT name, state FROM body_file WHERE state = 1").fetchall())
            rows.close()
            assert store._commits.idle
            return real(self, names)

        monkeypatch.setattr(sqlite_sync.Syncer, "remove", spy)
        (file,) = [*tmp_path.glob("segments/*"), *tmp_path.glob("bodies/*/*")]
        await record(store, [delivered("m1")])
        assert file.exists()
        await settled(store)
        assert not file.exists()
        assert states == [(file.relative_to(tmp_path).as_posix(), 1)]
        assert store._writer.execute("SELECT * FROM body_file").fetchall() == []

    run(tmp_path, scenario)


def test_retired_files_of_a_crash_are_removed_at_the_next_start(tmp_path):
    run(tmp_path, lambda store: put(store, "m1", content=RECORD))
    (segment,) = segments(tmp_path)
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("DELETE FROM recipient")
        connection.execute("DELETE FROM message")
        connection.execute("UPDATE body_file SET state = 1")
    connection.close()
    run(tmp_path, lambda store: store.list())
    assert not segment.exists()


# -- space


def test_a_claim_keeps_a_record_whose_row_was_deleted(tmp_path):
    async def scenario(store):
        message = await put(store, "m1", content=RECORD)
        await put(store, "m2", content=RECORD)
        await store.drop(Selection.of("m1"))
        await settled(store)
        assert await content(message) == PREFIX + RECORD
        await record(store, [delivered("m1")])
        await settled(store)
        assert on_disk(tmp_path) <= blocks(len(RECORD)) + SLACK
        with pytest.raises(FileNotFoundError):
            await content(message)

    run(tmp_path, scenario)


def test_a_reader_without_a_claim_reads_the_row_again(tmp_path):
    async def scenario(store):
        await put(store, "m1", content=RECORD)
        await put(store, "m2", content=RECORD)
        message = await store.get("m1")
        await record(store, [delivered("m1")])
        await settled(store)
        with pytest.raises(FileNotFoundError, match="removed from the queue"):
            await content(message)

    run(tmp_path, scenario)


def test_a_reader_never_gets_the_body_of_a_later_message(tmp_path):
    """Row numbers restart when the queue was empty at a restart; a reader may have an old one."""
    readers = []

    async def before(store):
        await put(store, "m1", content=RECORD)
        readers.append(Reader.open_readonly(tmp_path))
        readers.append(await readers[0].get("m1"))
        await record(store, [delivered("m1")])

    async def after(store):
        await put(store, "m2", content=bytes(reversed(RECORD[:-1] + b"2")))
        with pytest.raises(FileNotFoundError, match="removed from the queue"):
            await content(readers[1])

    run(tmp_path, before)
    run(tmp_path, after)
    readers[0].close()


@pytest.mark.parametrize("refused", ["second body", "row"])
def test_bodies_of_messages_that_are_not_committed_are_freed(tmp_path, monkeypatch, refused):
    async def scenario(store):
        await put(store, "m1")
        reports = [await new(store, name, content=RECORD, sender="") for name in ("r1", "r2")]
        if refused == "row":
            reports[1] = reports[1]._replace(id="r1")
        else:
            write, calls = store._bodies.write, []
            monkeypatch.setattr(
                store._bodies, "write", lambda body: calls.append(body) or (failing() if calls[1:] else write(body))
            )
        with pytest.raises((OSError, ValueError)):
            await record(store, [delivered("m1")], reports)
        await settled(store)
        store.rest()
        await settled(store)
        assert ids(await store.list()) == ["m1"]
        assert on_disk(tmp_path) == 0

    run(tmp_path, scenario)


def test_a_drained_shard_keeps_no_segment(tmp_path):
    async def scenario(store):
        await put(store, "m1", content=RECORD)
        await record(store, [delivered("m1")])
        while not store.rest():
            await asyncio.sleep(0)
        assert store.drained()
        assert segments(tmp_path) == []

    run(tmp_path, scenario)


@pytest.mark.parametrize("punches", [True, False], ids=["holes", "moves"])
def test_f02_space_on_disk_is_bounded_under_a_long_random_load(tmp_path, monkeypatch, punches):
    segment = 1 << 20
    monkeypatch.setattr(bodies_store, "SEGMENT", segment)
    if not punches:
        monkeypatch.setattr(sqlite_sync.Syncer, "punch", lambda *_: failing(errno.EOPNOTSUPP))
    chance = random.Random(2 + punches)
    checksums: dict[str, int] = {}

    async def scenario(store):
        for turn in range(24):
            names = [f"m{turn}x{number}" for number in range(8)]
            bodies = {name: chance.randbytes(chance.randrange(SMALL_BODY + 1, 300_000)) for name in names}
            checksums.update((name, zlib.crc32(PREFIX + body)) for name, body in bodies.items())
            await asyncio.gather(*[put(store, name, content=body) for name, body in bodies.items()])
            await unclaim(store, names)  # what is claimed is not moved away from its reader
            leaving = chance.sample(sorted(checksums), k=min(len(checksums), chance.randrange(14)))
            for name in leaving:
                del checksums[name]
            await asyncio.gather(*[record(store, [delivered(name)]) for name in leaving])
            if turn % 6 == 5:
                await settled(store)
                live = sum(octets for _, octets in store._bodies.segments.usage().values())
                assert on_disk(tmp_path) <= 2 * live + 2 * segment
        for message in await store.list(10**6):
            assert zlib.crc32(await content(message)) == checksums[message.id]

    run(tmp_path, scenario)

    async def after(store):
        assert set(ids(await store.list(10**6))) == checksums.keys()
        await settled(store)
        await store.drop(Selection.of(*list(checksums)))
        await settled(store)
        store._bodies.segments.seal()
        await settled(store)
        assert on_disk(tmp_path) == 0

    run(tmp_path, after)


def test_gaps_left_by_a_crash_are_freed(tmp_path):
    async def first(store):
        for number in range(10):
            await put(store, f"m{number}", content=RECORD)

    run(tmp_path, first)
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("DELETE FROM recipient WHERE message IN (SELECT seq FROM message WHERE id <> 'm4')")
        connection.execute("DELETE FROM message WHERE id <> 'm4'")
    connection.close()

    async def second(store):
        await put(store, "new", content=RECORD)
        await record(store, [delivered("new")])
        await settled(store)
        assert on_disk(tmp_path) <= blocks(len(RECORD)) + SLACK
        assert await content(await store.get("m4")) == PREFIX + RECORD

    run(tmp_path, second)


def test_ranges_are_joined():
    assert merged([(8, 4), (0, 4), (4, 4), (20, 4), (10, 6)]) == [(0, 16), (20, 4)]


# -- from before


def test_bodies_of_an_earlier_version_stay_valid(tmp_path):
    name = "bodies/ab/cdef"
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(RECORD)
    script = Path(__file__).with_name("version_2.sql").read_text()
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.executescript(script)
    connection.close()

    async def scenario(store):
        (message,) = await claim(store, 10)
        assert await content(message) == PREFIX + RECORD
        await record(store, [delivered(message.id)])
        await settled(store)
        assert not (tmp_path / name).exists()

    run(tmp_path, scenario)
