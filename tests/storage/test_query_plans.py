"""Every statement that the store executes has an index: none of them scans the queue.

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
from store_kit import (
    NOW,
    Clock,
    at,
    claim,
    content,
    deferred,
    delivered,
    failed,
    new,
    opened,
    put,
    record,
    unclaim,
)

from ironpost.model import Address
from ironpost.model.patterns import AddressPattern
from ironpost.queue.selection import EVERYTHING, Selection
from ironpost.queue.store import Store, Submission
from ironpost.storage.sqlite import history as sqlite_history
from ironpost.storage.sqlite import rows as sqlite_rows
from ironpost.storage.sqlite.rows import Reader
from ironpost.storage.sqlite.schema import DATABASE
from ironpost.storage.sqlite.store import SqliteStore

LARGE = b"x" * 200_000
PATTERN = AddressPattern("one.example")
SELECTIONS = (
    EVERYTHING,
    Selection(domain=PATTERN),
    Selection(sender=PATTERN, recipient=AddressPattern("a@one.example"), older_than=1.0),
    Selection(sender=AddressPattern("a@one.example"), recipient=AddressPattern("*.example"), null_sender=True),
    Selection(("m1",), sender=AddressPattern("*"), domain=AddressPattern("*")),
)

WALKS = {
    "SELECT seq FROM message ORDER BY seq LIMIT ?": "in the order of the table, up to the limit",
    "SELECT 1 FROM message LIMIT 1": "the first row answers it",
    sqlite_rows._FIRST_QUEUE: "as before",
    "SELECT count(*) FROM message": "for metrics, in the process that asks; over an index",
    "SELECT count(*) FROM recipient WHERE state = 0": "as before; over the index of due times",
    "SELECT count(*) FROM recipient WHERE state = 4": "as before; over the index of what is held",
    sqlite_rows._SHAPE_QUEUED: "for `queue shape`, in the process that asks; each count reads what it counts",
    sqlite_rows._SHAPE_HELD: "as before",
    sqlite_rows.TRACE: "for `trace`, in the process that asks: indexes would make every event more expensive",
    "SELECT file FROM message WHERE file IS NOT NULL": "at start, over the index of those that have a file",
    "SELECT name, state FROM body_file": "at start, one for each 64 MiB of bodies and one for each large body",
    "SELECT 1 FROM sqlite_sequence WHERE name = 'event'": "it has one row",
    "SELECT at FROM event ORDER BY seq LIMIT 1": "the first row answers it",
    sqlite_history.PRUNE_BY_AGE: "the inner one goes in the order of the table, up to its limit",
    sqlite_history.PRUNE_BY_SIZE: "as before",
    sqlite_history.SAMPLE: "both inner ones go in the order of the table, up to their limits",
}
"""Statements that may scan a table or an index, with the reason."""


def flat(sql):
    return " ".join(sql.split())


class Recorded:
    """Every statement, as written and with the values of one execution."""

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
    """Steps of plans that scan a table or sort, by statement."""
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
    keyed = await new(store, "keyed")
    await store.commit(keyed._replace(submission=Submission("key", b"digest")))
    await put(store, "held", held="odd")
    await put(store, "later", due=NOW + 3600)
    first, *_ = await store.list()
    assert await content(first)
    assert await first.body.head(10)
    large = await store.get("large0")
    assert await large.body.head(100_000)
    await record(store, [delivered("m0", 0), delivered("m0", 1)])
    await record(store, [failed("m1", 0)], [await new(store, "report")])
    await record(store, [failed("large1", 0)], [await new(store, "large report", content=LARGE)])
    await record(store, [deferred("m1", 1)])
    await record(store, [delivered("large0")])
    await unclaim(store, [f"m{number}" for number in range(4)])
    assert await claim(at(store, NOW), 10)
    assert await at(store, NOW).waiting(["one.example", "two.example", "none.example"])
    await unclaim(store, ["m2"])
    assert await at(store, NOW).take("m2", ["one.example"])
    assert [queue async for queue in store.queues()]
    assert await store.claim("two.example", "", -3, 1) is not None
    assert [messages async for messages in store.claim_old(NOW + 9000)]
    assert await store.claim_late(1)
    await at(store, NOW).retry(Selection.of("m3"))
    await at(store, NOW).retry(EVERYTHING)
    await at(store, NOW).hold(Selection.of("m3"))
    await at(store, NOW).release(Selection.of("m3"))
    await at(store, NOW).drop(Selection.of("m3", "large2"))
    for selection in SELECTIONS:
        await store.select(selection)
    await unclaim(store, ["large3"])
    for (message,) in [found async for found in store.claim_selected(Selection(("large3",)))]:
        await store.redirect(message, Address.parse("new@three.example"))
    assert store.has("m2")
    assert not store.claims("nothing")
    store.rest()
    await store.adopt(store.spool())
    assert await store.get("nothing") is None
    assert store.steady() is None
    await store._relocate(1)
    reader = Reader.open_readonly(directory)
    await reader.list()
    await reader.select(EVERYTHING, 0, 10)
    reader.faults()
    reader.unlisted("segments/*")
    reader.seqs_after(0, 10)
    await reader.get("m2")
    await reader.tally()
    await reader.shape(0)
    await reader.trace("m1", 10)
    await reader.find(["m2"])
    await store.tally()
    await store.shape()
    await store.find(["m2"])
    store.end_claims("m2", (0,))
    reader.close()
    # A message that cannot be read, and one whose row is gone.
    store._writer.execute("UPDATE message SET reverse_path='broken' WHERE id='m2'")
    store._writer.execute("DELETE FROM message WHERE id='report'")
    await unclaim(store, ["m2", "report"])
    await claim(at(store, NOW + 10_000), 10)
    assert (await store.get("m2")).fault
    # History that is too old, or too much.
    clock.time += 8 * 86400
    await put(store, "n0", at=clock.time)
    assert store.untidy()
    await store.tend()


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """The statements of a start with a queue, the scenario, and closing."""
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
    # By the fixture, by `put`, `record` and `unclaim` of the kit, by `commit`, or without SQL.
    elsewhere = {"commit", "commit_in_turn", "close", "drained", "abandon", "record", "unclaim"}
    for kind in (Store, SqliteStore):
        for name, value in vars(kind).items():
            if inspect.isfunction(value) and not name.startswith("_"):
                assert f".{name}(" in source or name in elsewhere, name
    for name, value in vars(Reader).items():
        if inspect.isfunction(value) and not name.startswith("_"):
            assert f".{name}(" in source or name in {"due", "by_seq", "queue_after", "old", "late"}, name


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
def test_f03_a_statement_without_an_index_is_detected(recorded, tmp_path, monkeypatch, statement):
    later = Recorded(monkeypatch)

    async def use():
        async with opened("sqlite", tmp_path) as store:
            with contextlib.suppress(sqlite3.Error):
                store._writer.execute(statement, ("1",)).fetchall()

    asyncio.run(use())
    monkeypatch.undo()
    assert flat(statement) in faults(tmp_path / DATABASE, later.statements)
