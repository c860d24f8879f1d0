"""Work that a store does in small steps: pruning history, returning free pages, changes of many messages."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from itertools import pairwise

import pytest
from store_kit import NOW, Clock, at, delivered, opened, put, record, unclaim

from ironpost.queue.selection import EVERYTHING, Selection
from ironpost.queue.store import StoreFull
from ironpost.storage.sqlite import changes
from ironpost.storage.sqlite import history as sqlite_history
from ironpost.storage.sqlite import schema as sqlite_schema
from ironpost.storage.sqlite.schema import DATABASE


def run(path, scenario, **options):
    async def main():
        async with opened("sqlite", path, **options) as store:
            return await asyncio.wait_for(scenario(store), 60)

    return asyncio.run(main())


def test_f13_history_is_pruned_by_size_oldest_first(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_history, "LOOK_EVENTS", 100)

    async def scenario(store):
        for number in range(600):
            await put(store, f"m{number}")
            await record(store, [delivered(f"m{number}")])
        events = store._writer.execute("SELECT count(*), max(message) FROM event WHERE message='m599'").fetchall()
        assert events == [(2, "m599")]
        count, octets = store._writer.execute(
            "SELECT count(*), sum(length(kind || message || address || coalesce(reply, '') || remote)) FROM event"
        ).fetchone()
        assert 200 < count < 700
        assert octets + sqlite_history.ROW_OCTETS * count < 60_000

    run(tmp_path, scenario, history_size=50_000)


def test_f13_history_is_pruned_without_new_mail(tmp_path):
    clock = Clock()

    async def scenario(store):
        for number in range(700):
            await put(store, f"m{number}")
        await at(store, NOW).drop(Selection.of(*(f"m{number}" for number in range(700))))
        assert store._writer.execute("SELECT count(*) FROM event").fetchone()[0] == 1400
        clock.time = NOW + 101
        before = store.transactions
        assert store.untidy()
        await store.tend()
        assert store._writer.execute("SELECT count(*) FROM event").fetchone()[0] == 0
        assert store.transactions - before == 3, "no transaction has more than TEND_EVENTS to remove"
        assert not store.untidy()

    run(tmp_path, scenario, clock=clock, history=100)


def test_f13_a_shard_without_mail_is_opened_for_its_old_history(tmp_path):
    clock = Clock()

    async def fill():
        directory = tmp_path / "shards" / "01"
        directory.mkdir(parents=True)
        async with opened("sqlite", directory) as store:
            await put(store, "m1")
            await record(store, [delivered("m1")])

    async def look(time):
        clock.time = time
        async with opened("shards", tmp_path, clock=clock) as store:
            found = store.shards
            assert await store.prune_history() == found - 1
            return found

    asyncio.run(fill())
    assert asyncio.run(look(NOW + 1)) == 1
    assert asyncio.run(look(NOW + sqlite_history.HISTORY_SECONDS + 1)) == 2
    assert asyncio.run(look(NOW + sqlite_history.HISTORY_SECONDS + 2)) == 1


def test_f13_an_empty_queue_returns_its_space(tmp_path, monkeypatch):
    disk = 24_000_000
    monkeypatch.setattr(sqlite_history, "FREE_PAGES", 256)

    async def scenario(store):
        def pages_used():
            return store._writer.execute("PRAGMA page_count").fetchone()[0]

        def statvfs(_):  # of a disk on which the log is always copied
            return os.statvfs_result((4096, 4096, 0, 0, disk // 4096 - pages_used(), 0, 0, 0, 0, 255))

        monkeypatch.setattr(os, "statvfs", statvfs)
        pages = []
        for number in range(300):
            await put(store, f"m{number}", content=b"x" * 60_000)
        store._room.look_again()
        with pytest.raises(StoreFull):
            store.spool(10_000_000)
        await store.drop(Selection.of(*(f"m{number}" for number in range(300))))
        give_back = store._history.give_back
        monkeypatch.setattr(
            store._history, "give_back", lambda: pages.append(store._history.spare_pages()) or give_back()
        )
        await store.tend()
        assert max(a - b for a, b in pairwise(pages)) <= sqlite_history.VACUUM_PAGES
        assert store._history.spare_pages() == 0
        assert pages_used() < 500
        store._room.look_again()
        store.spool(10_000_000).discard()

    run(tmp_path, scenario)


def test_f13_an_older_database_works_and_can_be_converted(tmp_path):
    path = tmp_path / DATABASE
    connection = sqlite3.connect(path)
    for statement in sqlite_schema._statements(sqlite_schema.MIGRATIONS[0]):
        connection.execute(statement)
    connection.execute("PRAGMA user_version=1")
    connection.close()

    async def use(store):
        for number in range(20):
            await put(store, f"m{number}", content=b"x" * 60_000)
        await store.drop(Selection.of(*(f"m{number}" for number in range(20))))
        await store.tend()
        return store._history.spare_pages(), store._history._shrinks

    run(tmp_path, use)
    assert sqlite3.connect(path).execute("PRAGMA auto_vacuum").fetchone() == (0,)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    connection.execute("VACUUM")
    connection.close()
    assert run(tmp_path, use)[1]


# -- what an operator changes goes in steps


@pytest.mark.parametrize("what", ["retry all", "retry", "hold", "release", "drop"])
def test_f16_a_change_of_many_recipients_takes_several_transactions(tmp_path, monkeypatch, what):
    monkeypatch.setattr(changes, "STEP_RECIPIENTS", 10)
    many = [f"m{number}" for number in range(30)]

    async def scenario(store):
        for each in many:
            await put(
                store,
                each,
                *(f"r{number}@rcpt.example" for number in range(4)),
                held="odd" if what == "release" else None,
            )
        await unclaim(store, many)
        before = store.transactions
        changes = {
            "retry all": lambda: at(store, NOW + 5).retry(EVERYTHING),
            "retry": lambda: at(store, NOW + 5).retry(Selection.of(*many)),
            "hold": lambda: at(store, NOW).hold(Selection.of(*many)),
            "release": lambda: at(store, NOW).release(Selection.of(*many)),
            "drop": lambda: at(store, NOW).drop(Selection.of(*many)),
        }
        assert await changes[what]() == 120
        assert store.transactions - before >= 10
        if what.startswith("retry"):
            assert store._writer.execute("SELECT DISTINCT due FROM recipient").fetchall() == [((NOW + 5) * 1e6,)]

    run(tmp_path, scenario)
