"""The embedded store: SQLite with group commit. Implements `queue.store.Store`.

Promises: what `commit` and `record` acknowledged is on the disk. Everything that arrives while a sync runs shares the
next one. The event loop is never stopped by a sync (`sqlite_sync`). One server at a time per directory (`lock`).
Files are 0600, directories 0700 (SECURITY R47). All SQL is parametrised (R41).
Refuses: `StoreFull` when the disk is full or has less than the reserve left. After any error nothing is half done,
and the store goes on: one bad message does not take its batch with it.

docs/storage.md has the layout, the views for operators and the measurement behind the way of the commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import sqlite3
import time
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from ironpost.queue.store import Messages, NewMessage, QueuedMessage, QueuedRecipient, State, StoreFull, Update
from ironpost.storage.lock import DirectoryLock
from ironpost.storage.spool import BODIES, SMALL_BODY, FileBody, FileSpool, MemoryBody, storage_error
from ironpost.storage.sqlite_rows import CODES, Reader, micros, origin_text, parameters_text
from ironpost.storage.sqlite_schema import DATABASE, connect
from ironpost.storage.sqlite_sync import Syncer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path
    from typing import Self

    from ironpost.model.body import Body, Spool

logger = logging.getLogger("ironpost.storage")

HISTORY_SECONDS = 7 * 24 * 3600.0
"""How long attempts and events are kept."""
RESERVE = 64 * 1024 * 1024
"""Octets of the disk that new mail never takes: what is in the queue needs room to be recorded and to leave."""
LOOK_SECONDS = 1.0
"""How often the free space is looked at."""
MAX_BATCH = 128
"""Commits and records in one transaction: about 4 ms of the event loop."""
MAX_BATCH_OCTETS = 1024 * 1024
"""Octets of bodies after which a transaction is full, for the same reason."""
CHECKPOINT_OCTETS = 4 * 1024 * 1024
"""Octets written, about, after which the log is copied into the database."""
PRUNE_ROWS = 100
"""Expired events that go with a transaction, beyond twice those it adds."""

_INSERT_MESSAGE = "INSERT INTO message VALUES (?,?,?,?,?,?,?,?,?)"
_INSERT_RECIPIENT = "INSERT INTO recipient VALUES (?,?,?,?,?,?,?,?,?,?)"
_INSERT_EVENT = (
    "INSERT INTO event (at, kind, message, number, address, attempts, reply, remote) VALUES (?,?,?,?,?,?,?,?)"
)
_UPDATE = """UPDATE recipient SET state=?, attempts=?, due=?, changed=?, last=coalesce(?, last),
    remote=coalesce(?, remote) WHERE message=? AND number=?"""
_FINISH = (
    "DELETE FROM message WHERE seq=?1 AND NOT EXISTS (SELECT 1 FROM recipient WHERE message=?1 AND state=0)",
    "DELETE FROM recipient WHERE message=?1 AND NOT EXISTS (SELECT 1 FROM message WHERE seq=?1)",
)
_UPDATE_EVENT = """INSERT INTO event (at, kind, message, number, address, attempts, reply, remote)
    SELECT ?, ?, ?, number, address, attempts, ?, ? FROM recipient WHERE message=? AND number=?"""
_PRUNE = "DELETE FROM event WHERE seq IN (SELECT seq FROM event ORDER BY seq LIMIT ?) AND at < ?"


class _Live:
    """A message of which this process has claimed recipients."""

    __slots__ = ("claimed", "file", "id", "seq")

    def __init__(self, seq: int, identifier: str, file: str | None) -> None:
        self.seq = seq
        self.id = identifier
        self.file = file
        self.claimed: set[int] = set()


class _Job:
    """One caller's part of a transaction."""

    __slots__ = ("action", "files", "future", "messages", "reports", "result", "taken", "updates")

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future = future
        self.result: Any = None
        self.messages: list[tuple[Any, ...]] = []
        """Rows of message, recipient and event for new messages: see `_Rows`."""
        self.taken: _Live | None = None
        """The claim that a commit makes."""
        self.updates: Sequence[Update] = ()
        self.reports: list[str] = []
        self.action: Callable[[], Any] | None = None
        self.files: list[str] = []
        """Body files that nobody needs once this is durable."""


class SqliteStore:
    """The store in one data directory. Make it with `SqliteStore.at`."""

    def __init__(self, directory: Path, now: Callable[[], float], reserve: int, lock: DirectoryLock) -> None:
        """For `at`, which holds the lock."""
        self._lock = lock
        self._writer = connect(directory)
        try:
            self._reader = Reader(self._writer, directory)
            self._syncer = Syncer(directory, DATABASE)
        except BaseException:
            self._writer.close()
            raise
        self._directory = directory
        self._now = now
        self._reserve = reserve
        self._next_look = 0.0
        self._free = 0
        self._seq = self._one("SELECT coalesce(max(seq), 0) FROM message")
        self._next_prune = self._oldest_event()
        self._by_id: dict[str, _Live] = {}
        self._by_seq: dict[int, _Live] = {}
        self._unsynced: set[int] = set()
        """New messages of the batch that is being synced: nobody may claim them yet."""
        self._waiting: list[_Job] = []
        self._flying: list[_Job] = []
        self._busy = False
        self._closing = False
        self._written = 0
        self._checkpointing = False
        self._large: set[asyncio.Task[Any]] = set()
        self._idle: asyncio.Future[None] | None = None

    @classmethod
    def at(cls, directory: Path, *, now: Callable[[], float] = time.time, reserve: int = RESERVE) -> Self:
        """Opens, and creates, the store in a data directory; removes body files that no message owns.

        Args:
            directory: created with 0700 if it does not exist.
            now: seconds since 1970.
            reserve: octets of the disk that new mail never takes.

        Raises:
            DirectoryInUse: another process works there.
            SchemaError: a newer ironpost wrote it.
            OSError: it cannot be created or written.
        """
        lock = DirectoryLock(directory)
        try:
            store = cls(directory, now, reserve, lock)
        except sqlite3.Error as error:
            lock.release()
            raise OSError(errno.EIO, f"the queue's database cannot be opened: {error}", str(directory)) from error
        except BaseException:
            lock.release()
            raise
        store._remove_orphans()
        return store

    # -- content on its way in

    def spool(self, size_hint: int | None = None) -> FileSpool:
        """As `Store.spool`."""
        self._refuse_full(size_hint or 0)
        return FileSpool(self._directory, self._sync_file)

    def _sync_file(self, name: str) -> asyncio.Future[tuple[int, ...]]:
        self._syncer.attach(asyncio.get_running_loop())
        return self._syncer.file(name)

    def _refuse_full(self, octets: int) -> None:
        clock = time.monotonic()
        if clock >= self._next_look or self._free < self._reserve + octets:
            space = os.statvfs(self._directory)
            self._free = space.f_bavail * space.f_frsize
            self._next_look = clock + LOOK_SECONDS
        if self._free - octets < self._reserve:
            raise StoreFull(
                errno.ENOSPC, f"{self._free} octets are free, {self._reserve} are kept in reserve", str(self._directory)
            )

    # -- what the port promises

    def commit(self, message: NewMessage) -> Awaitable[QueuedMessage]:
        """As `Store.commit`; the awaitable is a future."""
        spool = _own(message.content)
        if spool.name is not None:
            return self._keep(self._commit_large(message, spool))
        job = self._job()
        try:
            self._refuse_full(0)
            self._add_message(job, message, spool, claim=True)
        except BaseException as error:  # noqa: BLE001 - the caller gets it from the future
            _fail(job.future, error)
            return job.future
        return self._submit(job)

    async def _commit_large(self, message: NewMessage, spool: FileSpool) -> QueuedMessage:
        try:
            self._refuse_full(0)
            await spool.durable()
        except BaseException:
            spool.discard()
            raise
        job = self._job()
        self._add_message(job, message, spool, claim=True)
        result: QueuedMessage = await self._submit(job)
        return result

    def record(self, updates: Sequence[Update], reports: Sequence[NewMessage] = ()) -> Awaitable[None]:
        """As `Store.record`; the awaitable is a future."""
        if any(_own(report.content).name is not None for report in reports):
            return self._keep(self._record_large(updates, reports))
        return self._record(updates, reports)

    def _record(self, updates: Sequence[Update], reports: Sequence[NewMessage]) -> asyncio.Future[None]:
        job = self._job()
        job.updates = updates
        try:
            for report in reports:
                self._add_message(job, report, _own(report.content), claim=False)
        except BaseException as error:  # noqa: BLE001 - the caller gets it from the future
            _fail(job.future, error)
            return job.future
        return self._submit(job)

    async def _record_large(self, updates: Sequence[Update], reports: Sequence[NewMessage]) -> None:
        for report in reports:
            await _own(report.content).durable()
        await self._record(updates, reports)

    async def claim(self, now: float, limit: int) -> Messages:
        """As `Store.claim`."""
        due_by = micros(now)
        seqs, _ = self._reader.due(due_by, self._is_claimed, limit)
        result = []
        for seq, message in zip(seqs, self._reader.by_seq(seqs), strict=True):
            live = self._by_seq.get(seq)
            if live is None:
                file = self._writer.execute("SELECT file FROM message WHERE seq = ?", (seq,)).fetchall()[0][0]
                self._by_seq[seq] = self._by_id[message.id] = live = _Live(seq, message.id, file)
            chosen = tuple(
                queued
                for queued in message.recipients
                if queued.state is State.QUEUED and micros(queued.due) <= due_by and queued.number not in live.claimed
            )
            live.claimed.update(queued.number for queued in chosen)
            result.append(replace(message, recipients=chosen))
        return result

    async def release(self, messages: Sequence[str]) -> None:
        """As `Store.release`."""
        for identifier in messages:
            live = self._by_id.pop(identifier, None)
            if live is not None:
                del self._by_seq[live.seq]

    async def next_due(self) -> float | None:
        """As `Store.next_due`."""
        _, first = self._reader.due(None, self._is_claimed, 1)
        return None if first is None else first / 1e6

    async def retry(self, messages: Sequence[str] | None, now: float) -> int:
        """As `Store.retry`."""

        def action() -> int:
            values = (micros(now), micros(self._now()))
            change = "UPDATE recipient SET due=?, changed=? WHERE state=0"
            if messages is None:
                return self._writer.execute(change, values).rowcount
            return sum(
                self._writer.execute(f"{change} AND message=?", (*values, seq)).rowcount
                for identifier in messages
                if (seq := self._seq_of(identifier)) is not None
            )

        return await self._act(action)

    async def drop(self, messages: Sequence[str], now: float) -> int:
        """As `Store.drop`."""
        job = self._job()

        def action() -> int:
            count = 0
            for identifier in messages:
                seq = self._seq_of(identifier)
                if seq is None:
                    continue
                file = self._writer.execute("SELECT file FROM message WHERE seq=?", (seq,)).fetchall()[0][0]
                self._writer.execute(
                    """INSERT INTO event (at, kind, message, number, address, attempts)
                       SELECT ?, 'dropped', ?, number, address, attempts FROM recipient WHERE message=? AND state=0""",
                    (micros(now), identifier, seq),
                )
                self._writer.execute("DELETE FROM recipient WHERE message=?", (seq,))
                self._writer.execute("DELETE FROM message WHERE seq=?", (seq,))
                if file is not None:
                    job.files.append(file)
                count += 1
            return count

        job.action = action
        result: int = await self._submit(job)
        return result

    async def _act(self, action: Callable[[], int]) -> int:
        job = self._job()
        job.action = action
        result: int = await self._submit(job)
        return result

    async def list(self, limit: int = 1000) -> Messages:
        """As `Store.list`."""
        return await self._reader.list(limit)

    async def get(self, message: str) -> QueuedMessage | None:
        """As `Store.get`."""
        return await self._reader.get(message)

    async def close(self) -> None:
        """As `Store.close`."""
        if self._closing:
            return
        while self._large:
            await asyncio.wait(self._large)
        self._closing = True
        if self._busy or self._checkpointing:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle
        self._syncer.close()
        self._writer.close()
        self._lock.release()

    # -- claims

    def _is_claimed(self, seq: int, number: int) -> bool:
        if seq in self._unsynced:
            return True
        live = self._by_seq.get(seq)
        return live is not None and number in live.claimed

    def _seq_of(self, identifier: str) -> int | None:
        live = self._by_id.get(identifier)
        if live is not None:
            return live.seq
        rows = self._writer.execute("SELECT seq FROM message WHERE id=?", (identifier,)).fetchall()
        return rows[0][0] if rows else None

    def _unclaim(self, updates: Sequence[Update]) -> None:
        for update in updates:
            live = self._by_id.get(update.message)
            if live is not None:
                live.claimed.discard(update.number)
                if not live.claimed:
                    del self._by_id[live.id], self._by_seq[live.seq]

    # -- gathering

    def _job(self) -> _Job:
        if self._closing:
            raise OSError(errno.ESHUTDOWN, "the store is closed", str(self._directory))
        loop = asyncio.get_running_loop()
        self._syncer.attach(loop)
        return _Job(loop.create_future())

    def _keep(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._large.add(task)
        task.add_done_callback(self._large.discard)
        return task

    def _submit(self, job: _Job) -> asyncio.Future[Any]:
        self._waiting.append(job)
        if not self._busy:
            self._busy = True
            # Not at once: what else this turn of the loop brings goes with it.
            asyncio.get_running_loop().call_soon(self._start)
        return job.future

    def _add_message(self, job: _Job, message: NewMessage, spool: FileSpool, *, claim: bool) -> None:
        size = len(message.prefix) + spool.size
        content = message.prefix if spool.name is not None else message.prefix + spool.take()
        if spool.name is not None:
            spool.take()
        self._seq += 1
        seq, envelope, accepted = self._seq, message.envelope, micros(message.accepted)
        sender = str(envelope.reverse_path)
        recipients = [
            (seq, number, str(to.address), parameters_text(to.parameters), 0, 0, accepted, accepted, "", "")
            for number, to in enumerate(envelope.recipients)
        ]
        job.messages.append(
            (
                (
                    seq,
                    message.id,
                    accepted,
                    sender,
                    parameters_text(envelope.parameters),
                    origin_text(envelope.origin),
                    size,
                    spool.name,
                    content,
                ),
                recipients,
                (accepted, "accepted", message.id, None, sender, None, None, envelope.origin.ip),
            )
        )
        if claim:
            job.taken = _Live(seq, message.id, spool.name)
            job.taken.claimed.update(range(len(recipients)))
            due = accepted / 1e6
            body: Body = MemoryBody(content)
            if spool.name is not None:
                body = FileBody(content, self._directory / spool.name, size)
            job.result = QueuedMessage(
                message.id,
                envelope,
                due,
                body,
                tuple(
                    QueuedRecipient(number, to, State.QUEUED, 0, due, "", "", due)
                    for number, to in enumerate(envelope.recipients)
                ),
            )

    # -- the transaction

    def _start(self) -> None:
        count = octets = 0
        for job in self._waiting[:MAX_BATCH]:
            count += 1
            octets += sum(len(message[8]) for message, _, _ in job.messages)
            if octets >= MAX_BATCH_OCTETS:
                break
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        self._flying = self._written_jobs(batch)
        if not self._flying:
            self._next()
            return
        self._unsynced = {message[0] for job in self._flying for message, _, _ in job.messages}
        self._syncer.sync().add_done_callback(self._synced)

    def _written_jobs(self, batch: list[_Job]) -> list[_Job]:
        try:
            self._transact(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is handed to whom it concerns
            if len(batch) == 1:
                self._refuse(batch[0], error)
                return []
            # One of them is the cause: each gets a transaction of its own, so that only that one fails.
            return [job for single in batch for job in self._written_jobs([single])]
        return batch

    def _transact(self, jobs: list[_Job]) -> None:
        db = self._writer
        db.execute("BEGIN IMMEDIATE")
        try:
            new = [message for job in jobs for message in job.messages]
            if new:
                db.executemany(_INSERT_MESSAGE, [message for message, _, _ in new])
                db.executemany(_INSERT_RECIPIENT, chain.from_iterable(recipients for _, recipients, _ in new))
                db.executemany(_INSERT_EVENT, [event for _, _, event in new])
                self._written += sum(len(message[8]) + 1024 for message, _, _ in new)
            self._apply(jobs)
            for job in jobs:
                if job.action is not None:
                    job.files.clear()
                    job.result = job.action()
            self._prune(2 * len(new))
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
            raise

    def _apply(self, jobs: list[_Job]) -> None:
        at = micros(self._now())
        rows, events, final = [], [], {}
        for job in jobs:
            for update in job.updates:
                seq = self._seq_of(update.message)
                if seq is None:
                    continue  # dropped by an operator while the attempt ran
                reply = remote = None
                kind = update.state.value if update.state is not State.QUEUED else "deferred"
                if update.outcome is not None:
                    reply, remote = str(update.outcome.reply), update.outcome.remote
                rows.append(
                    (CODES[update.state], update.attempts, micros(update.due), at, reply, remote, seq, update.number)
                )
                events.append((at, kind, update.message, reply, remote, seq, update.number))
                if update.state is not State.QUEUED:
                    final[seq] = job
        if not rows:
            return
        db = self._writer
        db.executemany(_UPDATE, rows)
        db.executemany(_UPDATE_EVENT, events)
        self._written += 1024 * len(rows)
        for seq, job in final.items():
            live = self._by_seq.get(seq)
            if live is None or live.file is not None:
                job.files += [name for (name,) in db.execute("SELECT file FROM message WHERE seq=?", (seq,)) if name]
        for statement in _FINISH:
            db.executemany(statement, [(seq,) for seq in final])

    def _refuse(self, job: _Job, error: BaseException) -> None:
        for message, _, _ in job.messages:
            if message[7] is not None:
                self._unlink(message[7])
        if isinstance(error, sqlite3.IntegrityError):
            error = ValueError(f"the message cannot be stored: {error}")
        elif isinstance(error, sqlite3.Error):
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_FULL:
                error = StoreFull(errno.ENOSPC, "the disk is full", str(self._directory))
            else:
                error = OSError(errno.EIO, f"the queue's database: {error}", str(self._directory))
        elif isinstance(error, OSError):
            error = storage_error(error)
        _fail(job.future, error)

    def _synced(self, done: asyncio.Future[None]) -> None:
        batch, self._flying = self._flying, []
        self._unsynced.clear()
        error = done.exception()
        if error is not None:
            self._undo(batch, error)
        else:
            for job in batch:
                self._acknowledge(job)
        self._next()

    def _acknowledge(self, job: _Job) -> None:
        if job.updates:
            self._unclaim(job.updates)
        for name in job.files:
            if not self._writer.execute("SELECT 1 FROM message WHERE file=?", (name,)).fetchall():
                self._unlink(name)
        # A caller that was cancelled knows of nothing: its message is there to be claimed.
        if job.taken is not None and not job.future.cancelled():
            self._by_id[job.taken.id] = self._by_seq[job.taken.seq] = job.taken
        if not job.future.done():
            job.future.set_result(job.result)

    def _undo(self, batch: list[_Job], error: BaseException) -> None:
        """The log did not reach the disk: messages that were not acknowledged are taken out again.

        Updates stay: their callers hear of the error, and record them again.
        """
        logger.error("the queue's log was not synced: %s", error)
        new = [message for job in batch for message, _, _ in job.messages]
        seqs = [(message[0],) for message in new]
        with contextlib.suppress(sqlite3.Error):
            self._writer.execute("BEGIN IMMEDIATE")
            self._writer.executemany("DELETE FROM recipient WHERE message=?", seqs)
            self._writer.executemany("DELETE FROM message WHERE seq=?", seqs)
            self._writer.executemany("DELETE FROM event WHERE message=?", [(message[1],) for message in new])
            self._writer.execute("COMMIT")
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")
        for job in batch:
            self._refuse(job, error)

    def _next(self) -> None:
        if self._written >= CHECKPOINT_OCTETS and not self._checkpointing:
            self._written = 0
            self._checkpointing = True
            self._syncer.checkpoint().add_done_callback(self._checkpointed)
        self._busy = bool(self._waiting)
        if self._busy:
            asyncio.get_running_loop().call_soon(self._start)
        else:
            self._wake_closer()

    def _checkpointed(self, done: asyncio.Future[tuple[int, ...]]) -> None:
        self._checkpointing = False
        if (error := done.exception()) is not None:
            logger.warning("the queue's log was not copied into the database: %s", error)
        self._wake_closer()

    def _wake_closer(self) -> None:
        if self._idle is not None and not self._idle.done() and not (self._busy or self._checkpointing):
            self._idle.set_result(None)

    # -- housekeeping

    def _one(self, query: str) -> int:
        return int(self._writer.execute(query).fetchall()[0][0])

    def _oldest_event(self) -> float:
        rows = self._writer.execute("SELECT at FROM event ORDER BY seq LIMIT 1").fetchall()
        return (rows[0][0] / 1e6 if rows else self._now()) + HISTORY_SECONDS

    def _prune(self, added: int) -> None:
        now = self._now()
        if now >= self._next_prune:
            self._writer.execute(_PRUNE, (added + PRUNE_ROWS, micros(now - HISTORY_SECONDS)))
            self._next_prune = self._oldest_event()

    def _unlink(self, name: str) -> None:
        try:
            (self._directory / name).unlink(missing_ok=True)
        except OSError as error:
            logger.warning("a body file was not removed: %s", error)

    def _remove_orphans(self) -> None:
        """Files of contents whose commit never came (a crash), or whose removal did not."""
        owned = {name for (name,) in self._writer.execute("SELECT file FROM message WHERE file IS NOT NULL").fetchall()}
        for path in (self._directory / BODIES).glob("*/*"):
            if path.relative_to(self._directory).as_posix() not in owned:
                self._unlink(path.relative_to(self._directory).as_posix())


def _own(content: Spool) -> FileSpool:
    if not isinstance(content, FileSpool):
        raise TypeError("the content must come from this store's spool()")
    return content


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def open_readonly(directory: Path) -> Reader:
    """List and get without the lock, beside a running server or without one (`Reader.open_readonly`)."""
    return Reader.open_readonly(directory)


__all__ = ["RESERVE", "SMALL_BODY", "SqliteStore", "open_readonly"]
