"""Measures durable commits into SQLite, saturated, by who runs the statements and who runs COMMIT.

    python benches/commit.py [--seconds 3] [--work 40] [--directory DIR]

Each producer is a coroutine in a closed loop: it makes a message of 1 KB with one recipient, burns `--work`
microseconds of Python (what a session costs: a thread has to win the interpreter lock from it), awaits the commit, and
starts again. Everything that arrived while the last commit ran shares the next. Ways:

    loop           statements and COMMIT on the event loop's thread
    thread         everything in a writer thread, one step a row (executemany)
    split          executemany on the loop, COMMIT alone in a thread
    split-multi    as split, with statements of many rows
    thread-multi   everything in a thread, with statements of many rows: a handful of steps a batch
    process        statements and COMMIT on the loop, and the log's fsync in another process
    store          the same in the product: `SqliteStore.spool`, `write` and `commit`
    store-record   and `record` as delivered after each commit: everything the store does for a message

For the first five, COMMIT syncs the log itself (PRAGMA synchronous=FULL) and copies it now and then.

`stall` is the time by which a timer on the loop was late (99th percentile). CPU is that of the process and its sync
process (user + system) less the burnt work. The result is checked: as many rows as acknowledgements.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import queue
import resource
import secrets
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ironpost.queue.store import NewMessage, RecipientState, Update
from ironpost.storage.sqlite import schema
from ironpost.storage.sqlite.store import SqliteStore
from ironpost.storage.sqlite.sync import Syncer

if TYPE_CHECKING:
    from collections.abc import Callable

Row = tuple[tuple, tuple, tuple]
BODY = b"From: a@example.org\r\nTo: b@example.net\r\nSubject: x\r\n\r\n" + (b"0123456789" * 7 + b"\r\n") * 13

TABLES = (("message", 9), ("recipient", 10), ("event (at, kind, message, number, address, attempts, reply, remote)", 8))
CHUNKS = (64, 16, 4, 1)


def one(table: str, columns: int, rows: int = 1) -> str:
    row = "(" + ",".join("?" * columns) + ")"
    return f"INSERT INTO {table} VALUES " + ",".join([row] * rows)


MANY = [{n: one(t, c, n) for n in CHUNKS} for t, c in TABLES]


def by_row(db, batch: list[Row]) -> None:
    db.execute("BEGIN IMMEDIATE")
    for i in range(3):
        db.executemany(MANY[i][1], [row[i] for row in batch])


def by_chunk(db, batch: list[Row]) -> None:
    db.execute("BEGIN IMMEDIATE")
    for i in range(3):
        at = 0
        for n in CHUNKS:
            while len(batch) - at >= n:
                db.execute(MANY[i][n], [v for row in batch[at : at + n] for v in row[i]])
                at += n


def commit(db) -> None:
    db.execute("COMMIT")


class Group:
    """Gathers while the last batch runs."""

    def __init__(self, directory: Path, way: str) -> None:
        self.db = schema.connect(directory)
        self.syncer = Syncer(directory, schema.DATABASE) if way == "process" else None
        if self.syncer:
            self.syncer.attach(asyncio.get_running_loop())
        else:
            self.db.execute("PRAGMA synchronous=FULL")
            self.db.execute("PRAGMA wal_autocheckpoint=4000")
        self.loop = asyncio.get_running_loop()
        self.waiting: list[tuple[Row, asyncio.Future]] = []
        self.busy = False
        self.batches = 0
        write = by_chunk if way.endswith("multi") else by_row
        self.on_loop: Callable = write if way.startswith(("loop", "split", "process")) else lambda db, b: None
        self.in_thread: list[Callable] = {"loop": [], "process": [], "split": [lambda b: commit(self.db)]}.get(
            way.split("-")[0], [lambda b: write(self.db, b), lambda b: commit(self.db)]
        )
        self.jobs: queue.SimpleQueue = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def put(self, row: Row) -> asyncio.Future:
        future = self.loop.create_future()
        self.waiting.append((row, future))
        if not self.busy:
            self.busy = True
            self.loop.call_soon(self.start)
        return future

    def start(self) -> None:
        batch, self.waiting = self.waiting, []
        self.batches += 1
        rows = [row for row, _ in batch]
        self.on_loop(self.db, rows)
        if self.syncer:
            commit(self.db)
            self.syncer.sync().add_done_callback(lambda _: self.done(batch))
            if self.batches % 50 == 0:
                self.syncer.checkpoint()
        elif self.in_thread:
            self.jobs.put((rows, batch))
        else:
            commit(self.db)
            self.done(batch)

    def work(self) -> None:
        while (job := self.jobs.get()) is not None:
            for step in self.in_thread:
                step(job[0])
            self.loop.call_soon_threadsafe(self.done, job[1])

    def done(self, batch: list[tuple[Row, asyncio.Future]]) -> None:
        for _, future in batch:
            future.set_result(None)
        self.busy = bool(self.waiting)
        if self.busy:
            self.loop.call_soon(self.start)

    async def close(self) -> None:
        self.jobs.put(None)
        self.thread.join()
        if self.syncer:
            self.syncer.close()
        self.db.close()


def burn(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def cpu() -> float:
    """Of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Product:
    """The store as it is used."""

    def __init__(self, directory: Path, way: str) -> None:
        from ironpost.model import Address, Envelope, Outcome, Recipient, Reply

        self.store = SqliteStore.at(directory)
        self.db = self.store._writer
        self.record = way == "store-record"
        self.batches = 0
        self.envelope = Envelope(Address.parse("a@example.org"), (Recipient(Address.parse("b@example.net")),))
        self.outcome = Outcome.of(Reply(250, "2.0.0", ("Taken",)), "mx.example")

    async def put(self, row: Row) -> None:
        token, now = row[0][1], time.time()
        spool = self.store.spool()
        spool.write(BODY)
        message = await self.store.commit(NewMessage(token, self.envelope, now, b"", spool))
        assert message.body.size == len(BODY)
        if self.record:
            await self.store.record(message.lease, [Update(token, 0, RecipientState.DELIVERED, 1, now, self.outcome)])

    async def close(self) -> None:
        self.batches = self.store._commits.transactions
        await self.store.close()


async def run(directory: Path, way: str, producers: int, seconds: float, work: float, busy: bool) -> dict[str, float]:
    before = cpu()
    group = Product(directory, way) if way.startswith("store") else Group(directory, way)
    startup = cpu() - before
    latencies: list[float] = []
    late: list[float] = []
    serial = iter(range(1, 1 << 60))
    stop = time.perf_counter() + seconds

    async def produce() -> None:
        while time.perf_counter() < stop:
            burn(work)
            seq, now = next(serial), int(time.time() * 1e6)
            token = f"{now // 1000:012x}{secrets.token_hex(8)}"
            sent = time.perf_counter()
            await group.put(
                (
                    (seq, token, now, "a@example.org", None, None, len(BODY), None, BODY),
                    (seq, 0, "b@example.net", None, 0, 0, now, now, "", ""),
                    (now, "accepted", token, None, "a@example.org", None, None, None),
                )
            )
            latencies.append(time.perf_counter() - sent)

    async def watch() -> None:
        while time.perf_counter() < stop:
            began = time.perf_counter()
            await asyncio.sleep(0.002)
            late.append(time.perf_counter() - began - 0.002)

    async def others() -> None:
        while busy and time.perf_counter() < stop:
            burn(50e-6)
            burnt.append(50e-6)
            await asyncio.sleep(0)

    burnt: list[float] = []
    began = time.perf_counter()
    await asyncio.gather(watch(), others(), *(produce() for _ in range(producers)))
    elapsed = time.perf_counter() - began
    counted = (
        "SELECT count(*) FROM event WHERE kind = 'delivered'"
        if way == "store-record"
        else "SELECT count(*) FROM message"
    )
    kept = group.db.execute(counted).fetchone()[0]
    assert kept == len(latencies), (kept, len(latencies))
    await group.close()
    spent = cpu() - before - startup
    latencies.sort()
    late.sort()
    n = len(latencies)
    return {
        "rate": n / elapsed,
        "p50": latencies[n // 2] * 1e3,
        "p99": latencies[n * 99 // 100] * 1e3,
        "stall": late[len(late) * 99 // 100] * 1e3,
        "cpu": (spent - sum(burnt)) / n * 1e6 - work * 1e6,
        "batch": n / group.batches,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--work", type=float, default=40.0, help="microseconds of Python per message")
    parser.add_argument("--directory", type=Path, default=None, help="where the database goes (a real disk)")
    parser.add_argument("--switch", type=float, default=None, help="the interpreter's switch interval, milliseconds")
    parser.add_argument("--busy", action="store_true", help="other sessions keep the loop busy without a pause")
    parser.add_argument("--ways", default="loop,thread,split,split-multi,thread-multi,process,store,store-record")
    options = parser.parse_args()
    if options.switch:
        sys.setswitchinterval(options.switch / 1e3)
    print(f"SQLite {schema.sqlite3.sqlite_version}, {os.cpu_count()} CPUs, {options.work:.0f} us of work a message")
    print("| way | producers | messages/s | p50 ms | p99 ms | stall p99 ms | CPU us/message | batch |")
    print("|---|---|---|---|---|---|---|---|")
    for producers in (20, 200):
        for way in options.ways.split(","):
            directory = Path(tempfile.mkdtemp(prefix="commit-", dir=options.directory))
            try:
                r = asyncio.run(run(directory, way, producers, options.seconds, options.work / 1e6, options.busy))
            finally:
                shutil.rmtree(directory)
            print(
                f"| {way} | {producers} | {r['rate']:,.0f} | {r['p50']:.1f} | {r['p99']:.1f} | {r['stall']:.1f}"
                f" | {r['cpu']:.0f} | {r['batch']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
