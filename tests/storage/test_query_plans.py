"""Every statement that the store executes has an index: whatever is in the queue, none of them walks it.

What is executed is recorded, not listed: a scenario uses every method of the store and of its readers, and the plan of
each statement that SQLite was given is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
import sqlite3

import pytest
from store_kit import NOW, Clock, content, deferred, delivered, failed, new, opened, put

from ironpost.queue.store import Store
from ironpost.storage import sqlite_history
from ironpost.storage.sqlite import SqliteStore, open_readonly
from ironpost.storage.sqlite_rows import Reader
from ironpost.storage.sqlite_schema import DATABASE

LARGE = b"x" * 200_000

WALKS = {
    "SELECT seq FROM message ORDER BY seq LIMIT ?": "in the order of the table, up to the limit",
    "SELECT 1 FROM message LIMIT 1": "the first row answers it",
    "SELECT count(*) FROM message": "for metrics, in the process that asks; over an index",
    "SELECT count(*) FROM recipient WHERE state = 0": "as before; over the index of due times",
    "SELECT count(*) FROM recipient WHERE state = 4": "as before; over the index of what is held",
    "SELECT file FROM message WHERE file IS NOT NULL": "at start, over the index of those that have a file",
    "SELECT name, state FROM body_file": "at start, one for each 64 MiB of bodies and one for each large body",
    "SELECT 1 FROM sqlite_sequence WHERE name = 'event'": "it has one row",
    "SELECT at FROM event ORDER BY seq LIMIT 1": "the first row answers it",
    sqlite_history.PRUNE_BY_AGE: "the inner one goes in the order of the table, up to its limit",
    sqlite_history.PRUNE_BY_SIZE: "as before",
    sqlite_history.SAMPLE: "both inner ones go in the order of the table, up to their limits",
}
"""Statements that may walk a table or an index, and why that is short, or harms nobody."""


def flat(sql):
    return " ".join(sql.split())


class Recorded:
    """Every statement, as it was written and with the values of one execution of it."""

    def __init__(self, monkeypatch):
        self.statements = {}
        self.traced = set()
        real = sqlite3.connect
        statements = self.statements

        def keep(sql, values):
            if re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|REPLACE)\b", sql, re.IGNORECASE):
                statements.setdefault(flat(sql), values)

        class Cursor(sqlite3.Cursor):
            def execute(self, sql, values=()):
                keep(sql, values)
                return super().execute(sql, values)

            def executemany(self, sql, rows):
                rows = list(rows)
                if rows:
                    keep(sql, rows[0])
                return super().executemany(sql, rows)

        class Connection(sqlite3.Connection):
            def cursor(self, factory=Cursor):
                return super().cursor(factory)

            def execute(self, sql, values=()):
                return self.cursor().execute(sql, values)

            def executemany(self, sql, rows):
                return self.cursor().executemany(sql, rows)

        def connect(*arguments, **options):
            connection = real(*arguments, factory=Connection, **options)
            connection.set_trace_callback(self.traced.add)
            return connection

        monkeypatch.setattr(sqlite3, "connect", connect)

    def clear(self):
        self.statements.clear()
        self.traced.clear()

    def count_untold(self):
        """Statements that reached SQLite some other way than through `execute`."""
        told = {sql.split("(")[0][:25] for sql in self.statements}
        data = {flat(sql) for sql in self.traced if re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b", sql)}
        return [sql for sql in data if not any(sql.startswith(start) for start in told)]


def faults(database, statements):
    """Steps of plans that walk a table, or sort, by the statement."""
    found = {}
    connection = sqlite3.connect(database)
    try:
        for sql, values in statements.items():
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
            bad = [step for step in plan if (re.match(r"SCAN (?!(\d+ )?CONSTANT ROW)", step) or "TEMP B-TREE" in step)]
            if bad:
                found[sql] = bad
    finally:
        connection.close()
    return found


async def everything(store, directory, clock):
    """Uses every method of a store and of a reader."""
    for number in range(4):
        await put(store, f"m{number}", "a@one.example", "b@two.example")
        await put(store, f"large{number}", content=LARGE)
    await put(store, "held", held=True)
    await put(store, "later", due=NOW + 3600)
    first, *_ = await store.list()
    assert await content(first)
    assert await first.body.head(10)
    large = await store.get("large0")
    assert await large.body.head(100_000)
    await store.record([delivered("m0", 0), delivered("m0", 1)])
    await store.record([failed("m1", 0)], [await new(store, "report")])
    await store.record([failed("large1", 0)], [await new(store, "large report", content=LARGE)])
    await store.record([deferred("m1", 1)])
    await store.record([delivered("large0")])
    await store.release([f"m{number}" for number in range(4)])
    assert await store.claim(NOW, 10)
    assert await store.waiting(["one.example", "two.example", "none.example"], NOW)
    await store.release(["m2"])
    assert await store.take("m2", ["one.example"], NOW)
    await store.next_due()
    await store.retry(["m3"], NOW)
    await store.retry(None, NOW)
    await store.hold(["m3"], NOW)
    await store.resume(["m3"], NOW)
    await store.drop(["m3", "large2"], NOW)
    assert store.has("m2")
    assert not store.claims("nothing")
    store.rest()
    await store.adopt(store.spool())
    assert await store.get("nothing") is None
    assert store.steady() is None
    await store._relocate(1)
    reader = open_readonly(directory)
    await reader.list()
    reader.faults()
    reader.unlisted("segments/*")
    reader.seqs_after(0, 10)
    await reader.get("m2")
    reader.tally()
    reader.close()
    # A message that cannot be read, and one whose row is gone.
    store._writer.execute("UPDATE message SET reverse_path='broken' WHERE id='m2'")
    store._writer.execute("DELETE FROM message WHERE id='report'")
    await store.release(["m2", "report"])
    await store.claim(NOW + 10_000, 10)
    assert (await store.get("m2")).fault
    # History that is too old, or too much.
    clock.time += 8 * 86400
    await put(store, "n0", at=clock.time)
    assert store.untidy()
    await store.tend()


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """What a start with a queue, the scenario and the end of it give to SQLite."""
    recorded = Recorded(monkeypatch)
    clock = Clock()

    async def create():
        async with opened("sqlite", tmp_path) as store:
            assert store.drained() != bool(await store.list())

    async def use():
        async with opened("sqlite", tmp_path, clock=clock, history_size=1000) as store:
            await asyncio.wait_for(everything(store, tmp_path, clock), 60)

    monkeypatch.setattr(sqlite_history, "LOOK_EVENTS", 1)
    asyncio.run(create())
    recorded.clear()  # migrations are run once
    asyncio.run(use())
    asyncio.run(create())
    monkeypatch.undo()
    return recorded


def test_f03_every_statement_has_an_index(recorded, tmp_path):
    assert recorded.count_untold() == []
    assert len(recorded.statements) > 40
    found = faults(tmp_path / DATABASE, recorded.statements)
    allowed = {flat(sql) for sql in WALKS}
    assert {sql: plan for sql, plan in found.items() if sql not in allowed} == {}
    assert allowed - set(recorded.statements) == set(), "these are executed no more: take them off the list"


def test_f03_the_scenario_uses_every_method():
    source = inspect.getsource(everything)
    elsewhere = {"commit", "close", "drained", "abandon", "unclaim"}  # by the fixture, by `put`, or without SQL
    for kind in (Store, SqliteStore):
        for name, value in vars(kind).items():
            if inspect.isfunction(value) and not name.startswith("_"):
                assert f".{name}(" in source or name in elsewhere, name
    for name, value in vars(Reader).items():
        if inspect.isfunction(value) and not name.startswith("_"):
            assert f".{name}(" in source or name in {"due", "by_seq"}, name


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT id FROM message WHERE reverse_path = ?",
        "SELECT number FROM recipient WHERE address LIKE ?",
        "SELECT seq FROM event WHERE message = ?",
        "SELECT seq FROM message WHERE size > ? LIMIT 1",
        "SELECT id FROM message WHERE seq < ? ORDER BY accepted",
        "DELETE FROM recipient WHERE domain = ?",
        "SELECT name FROM body_file WHERE state = ?",
    ],
)
def test_f03_a_statement_without_an_index_is_found_out(recorded, tmp_path, monkeypatch, statement):
    later = Recorded(monkeypatch)

    async def use():
        async with opened("sqlite", tmp_path) as store:
            with contextlib.suppress(sqlite3.Error):
                store._writer.execute(statement, ("1",)).fetchall()

    asyncio.run(use())
    monkeypatch.undo()
    assert flat(statement) in faults(tmp_path / DATABASE, later.statements)
