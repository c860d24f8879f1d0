"""Group commit: what callers want written, gathered into transactions, each made durable before anyone is told.

Promises: everything that is submitted while a sync runs shares the next transaction, up to `MAX_BATCH` and
`MAX_BATCH_OCTETS`, in the order in which it was submitted. A job that cannot be written fails alone: its transaction is
rolled back before anything reached the log for good.
After a failed sync of the log nothing is known about the disk: no caller is answered and no transaction begins before
the log was recovered (`sqlite_recovery`). Then the callers are answered as after a good sync. If it cannot be
recovered, `fatal` ends the process: an error reply for a message that may yet be delivered is as wrong as a lost one.
Refuses: nothing by itself; an error of the database becomes `StoreFull`, `OSError` or `ValueError` for its caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import sqlite3
from functools import partial
from itertools import chain
from time import monotonic
from typing import TYPE_CHECKING, Any

from ironpost.queue.store import State, Update
from ironpost.storage import sqlite_recovery
from ironpost.storage.bodies.spool import storage_error
from ironpost.storage.sqlite_faults import store_fault
from ironpost.storage.sqlite_rows import CODES, micros, place_of
from ironpost.storage.sqlite_schema import DATABASE, PAGE, close_keeping_log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from ironpost.storage.bodies import Place
    from ironpost.storage.sqlite_history import History
    from ironpost.storage.sqlite_sync import Syncer

logger = logging.getLogger("ironpost.storage")

MAX_BATCH = 128
"""Commits and records in one transaction: about 4 ms of the event loop."""
MAX_BATCH_OCTETS = 1024 * 1024
"""Octets of bodies after which a transaction is full, for the same reason."""
GATHER_SECONDS = 0.002
"""How long a transaction waits at most for company, on a loop that is busy: what it costs to begin and to sync one is
shared by all that it carries."""
QUIET_SECONDS = 30e-6
"""A turn of the loop shorter than this found nothing to do: nobody is on the way, so waiting is in vain."""
CHECKPOINT_FRAMES = 2000
"""Pages added to the log after which it is copied into the database: 8 MiB."""
LONG_LOG_FRAMES = 16_000
"""Pages in the log beyond which somebody is told that it does not start over: 64 MiB."""
RECOVERY_SECONDS = 10.0
"""How long a log whose sync failed may take to be recovered."""
RECOVERY_PAUSE = 0.1
"""Seconds before the next try, when the sync process was lost over one."""
CLOSE_SECONDS = 20.0 + RECOVERY_SECONDS
"""How long `close` waits for what was submitted: one sync at its deadline, and a recovery."""
IO_ERROR = 74
"""The exit code of a process whose log cannot be recovered (EX_IOERR in sysexits.h)."""

_INSERT_MESSAGE = (
    "INSERT INTO message (seq, id, accepted, reverse_path, parameters, origin, size, file, body, released, segment,"
    " start, checksum) VALUES (?,?,?,?,nullif(?,''),nullif(?,''),?,nullif(?,''),?,?,nullif(?,0),?,?)"
)
_INSERT_RECIPIENT = (
    "INSERT INTO recipient (message, number, address, parameters, state, attempts, due, changed, last, remote, domain)"
    " VALUES (?,?,?,nullif(?,''),?,?,?,?,?,?,?)"
)
_INSERT_ACCEPTED = "INSERT INTO event (at, kind, message, address, remote) VALUES (?,'accepted',?,?,?)"
_INSERT_HELD = """INSERT INTO event (at, kind, message, number, address, attempts)
    SELECT ?, 'held', ?, number, address, attempts FROM recipient WHERE message=? AND state=4"""
_UPDATE = """UPDATE recipient SET state=CASE WHEN state=4 AND ?1=0 THEN 4 ELSE ?1 END, attempts=?2, due=?3, changed=?4,
    last=coalesce(?5, last), remote=coalesce(?6, remote) WHERE message=?7 AND number=?8"""
_FINISH = (
    "DELETE FROM message WHERE seq=?1 AND NOT EXISTS (SELECT 1 FROM recipient WHERE message=?1 AND state IN (0, 4))",
    "DELETE FROM recipient WHERE message=?1 AND NOT EXISTS (SELECT 1 FROM message WHERE seq=?1)",
)
_UPDATE_EVENT = """INSERT INTO event (at, kind, message, number, address, attempts, reply, remote)
    SELECT ?, ?, ?, number, address, attempts, ?, ? FROM recipient WHERE message=? AND number=?"""


def end_process(error: OSError) -> None:
    """Ends the process at once, with `IO_ERROR`: connections close without a reply, so that clients send again."""
    logger.critical("the queue's log cannot be recovered, the process ends: %s", error)
    logging.shutdown()
    os._exit(IO_ERROR)


class Job:
    """One caller's part of a transaction."""

    __slots__ = ("action", "future", "held", "messages", "on_durable", "places", "result", "retired", "updates")

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future = future
        self.result: Any = None
        self.messages: list[tuple[Any, ...]] = []
        """Rows of message, recipient and event for each new message, as a triple."""
        self.held: list[tuple[int, str, int]] = []
        """When, id and `seq` of each new message that is held from the start."""
        self.updates: Sequence[Update] = ()
        self.action: Callable[[], Any] | None = None
        self.on_durable: Callable[[], None] | None = None
        """Called when this is durable, before the caller hears of it."""
        self.places: list[Place] = []
        """Where the bodies of new messages lie: not needed if this cannot be written."""
        self.retired: list[tuple[int, Place]] = []
        """Bodies that no row names once this is durable, each with the `seq` of the row that did."""


class GroupCommit:
    """Owns everything that is written."""

    def __init__(
        self,
        db: sqlite3.Connection,
        syncer: Syncer,
        directory: Path,
        now: Callable[[], float],
        find: Callable[[str], tuple[int, bool] | None],
        retire: Callable[[int, Place], None],
        history: History,
        fatal: Callable[[OSError], object] = end_process,
    ) -> None:
        """Takes over `db` and `syncer`, and closes them. Empties the log if an earlier process left one.

        Args:
            db: the writing connection.
            syncer: of the same database.
            directory: the store's.
            now: seconds since 1970.
            find: a message's `seq`, and whether its body lies outside its row, by its id; None if it is not queued.
            retire: takes places that no row names (any more), with the `seq` of the row that did; 0 if none did.
            history: what is kept of mail that is gone.
            fatal: called when the log cannot be recovered; it should not return.

        Raises:
            OSError: a log that was left behind cannot be emptied.
        """
        self._db = db
        self._syncer = syncer
        self._directory = directory
        self._now = now
        self._find = find
        self._retire = retire
        self._history = history
        self._fatal = fatal
        self._recovered: asyncio.Future[None] | None = None
        """While the log is poisoned: done when it is recovered."""
        self._recover_until = 0.0
        self._empty_log()
        self._copied_frames = 0
        """Pages that the log had when it was last copied."""
        self._synced = sqlite_recovery.Extent(0, b"")
        """How far the log went when it was last synced."""
        self._long_log = False
        """Somebody was told that the log is long."""
        self._waiting: list[Job] = []
        self._flying: list[Job] = []
        self._busy = False
        self._closing = False
        self._checkpointing = False
        self._tail = False
        self.transactions = 0
        """Written so far."""
        self._idle: asyncio.Future[None] | None = None
        self._gathering = self._turn = 0.0
        """When the transaction to come began to gather, and when the loop last came by."""
        self.unsynced: set[int] = set()
        """New messages (`seq`) of the transaction that is being synced: nobody may claim them yet."""
        # Closing it would drop SQLite's locks on the same file: it is closed after the database.
        self._index = os.open(directory / f"{DATABASE}-shm", os.O_RDONLY | os.O_CLOEXEC)

    def job(self) -> Job:
        """An empty one, for this event loop.

        Raises:
            OSError: the store is closed.
        """
        if self._closing:
            raise OSError(errno.ESHUTDOWN, "the store is closed", str(self._directory))
        loop = asyncio.get_running_loop()
        self._syncer.attach(loop)
        return Job(loop.create_future())

    def submit(self, job: Job) -> asyncio.Future[Any]:
        """The job's future: done when it is durable, or cannot be."""
        self._waiting.append(job)
        if not self._busy:
            self._busy = True
            self._gather_from_now()
        return job.future

    def refuse(self, job: Job, error: BaseException) -> None:
        """Fails a job of which no row is written; its caller gets the error."""
        job.on_durable = None
        self.retire_bodies(job)
        if isinstance(error, sqlite3.IntegrityError):
            error = ValueError(f"the message cannot be stored: {error}")
        elif isinstance(error, sqlite3.Error):
            error = store_fault(error, self._directory)
        elif isinstance(error, OSError):
            error = storage_error(error)
        fail(job.future, error)

    def retire_bodies(self, job: Job) -> None:
        """Gives up the bodies of a job of which no row is written."""
        for place in job.places:
            self._retire(0, place)

    @property
    def idle(self) -> bool:
        """Nothing is being written, and nothing waits to be."""
        return not (self._busy or self._checkpointing)

    def rest(self) -> None:
        """Ends the sync process until the next job. Only while `idle`."""
        self._syncer.rest()

    def steady(self) -> Awaitable[None] | None:
        """None while the log is as it should be; else something that ends when it is recovered."""
        return None if self._recovered is None else asyncio.shield(self._recovered)

    async def close(self) -> None:
        """Finishes what was submitted, within `CLOSE_SECONDS`, then closes the database."""
        self._closing = True
        if not self.idle:
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._idle], timeout=CLOSE_SECONDS)
            if self._busy:
                self._fatal(OSError(errno.ETIMEDOUT, "the store cannot be closed in time", str(self._directory)))
        self.abandon()

    def abandon(self) -> None:
        """Closes the database at once. What was submitted and is not written yet is given up."""
        self._closing = True
        self._syncer.close()
        if self._recovered is None:
            self._db.close()
        else:
            close_keeping_log(self._db, self._directory)
        if self._index >= 0:
            os.close(self._index)
            self._index = -1

    # -- the transaction

    def _gather_from_now(self) -> None:
        # Not at once: what else this turn of the loop brings goes with it.
        self._gathering = self._turn = monotonic()
        asyncio.get_running_loop().call_soon(self._gather)

    def _gather(self) -> None:
        """Begins the transaction, unless the loop is busy and more may come."""
        now = monotonic()
        quiet = now - self._turn < QUIET_SECONDS
        self._turn = now
        if quiet or now - self._gathering >= GATHER_SECONDS or len(self._waiting) >= MAX_BATCH:
            self._start()
        else:
            asyncio.get_running_loop().call_soon(self._gather)

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
        self.unsynced = {message[0] for job in self._flying for message, _, _ in job.messages}
        try:
            self._syncer.sync().add_done_callback(self._answered)
        except Exception as error:  # noqa: BLE001 - whatever it is, the log was not synced
            self._poison(error)

    def _written_jobs(self, batch: list[Job]) -> list[Job]:
        try:
            self._transact(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is handed to whom it concerns
            if len(batch) == 1:
                self.refuse(batch[0], error)
                return []
            # One of them is the cause: each gets a transaction of its own, so that only that one fails.
            return [job for single in batch for job in self._written_jobs([single])]
        return batch

    def _transact(self, jobs: list[Job]) -> None:
        db = self._db
        for job in jobs:
            job.retired.clear()  # of a transaction that was rolled back
        db.execute("BEGIN IMMEDIATE")
        try:
            new = [message for job in jobs for message in job.messages]
            if new:
                db.executemany(_INSERT_MESSAGE, [message for message, _, _ in new])
                db.executemany(_INSERT_RECIPIENT, chain.from_iterable(recipients for _, recipients, _ in new))
                db.executemany(_INSERT_ACCEPTED, [event for _, _, event in new])
                if any(job.held for job in jobs):
                    db.executemany(_INSERT_HELD, [row for job in jobs for row in job.held])
            self._apply(jobs)
            for job in jobs:
                if job.action is not None:
                    job.result = job.action()
            self._history.added(2 * len(new) + sum(len(job.updates) for job in jobs))
            db.execute("COMMIT")
            self.transactions += 1
        except BaseException:
            if db.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
            self._void_remains()
            raise

    def _void_remains(self) -> None:
        """Makes frames that a failed COMMIT wrote invalid.

        If it failed after the last frame (the index could not grow), the log holds a whole transaction that was
        refused, and SQLite's recovery would find it after a kill.
        """
        end = sqlite_recovery.end_of(sqlite_recovery.extent(self._index), PAGE)
        with contextlib.suppress(OSError):  # if nothing can be written there, nothing was
            if os.fstat(self._syncer.log).st_size > end:
                os.pwrite(self._syncer.log, bytes(sqlite_recovery.FRAME_HEADER), end)

    def _apply(self, jobs: list[Job]) -> None:
        at = micros(self._now())
        rows: list[tuple[Any, ...]] = []
        events: list[tuple[Any, ...]] = []
        final: dict[int, tuple[Job, Place] | None] = {}
        for job in jobs:
            for update in job.updates:
                found = self._find(update.message)
                if found is None:
                    continue  # dropped by an operator while the attempt ran
                seq, outside = found
                reply = remote = None
                kind = update.state.value if update.state is not State.QUEUED else "deferred"
                if update.outcome is not None:
                    reply, remote = str(update.outcome.reply), update.outcome.remote
                rows.append(
                    (CODES[update.state], update.attempts, micros(update.due), at, reply, remote, seq, update.number)
                )
                events.append((at, kind, update.message, reply, remote, seq, update.number))
                if update.state is not State.QUEUED:
                    place = place_of(self._db, seq) if outside else None
                    final[seq] = (job, place) if place is not None else None
        if not rows:
            return
        db = self._db
        db.executemany(_UPDATE, rows)
        db.executemany(_UPDATE_EVENT, events)
        for statement in _FINISH:
            db.executemany(statement, [(seq,) for seq in final])
        for seq, outside_row in final.items():
            if outside_row is not None and not db.execute("SELECT 1 FROM message WHERE seq=?", (seq,)).fetchall():
                job, place = outside_row
                job.retired.append((seq, place))

    def _answered(self, done: asyncio.Future[None]) -> None:
        if (error := done.exception()) is not None:
            self._poison(error)
        else:
            self._acknowledge()

    def _acknowledge(self) -> None:
        """What was in the transaction is durable: everybody concerned hears of it, and the next one begins."""
        batch, self._flying = self._flying, []
        self.unsynced.clear()
        self._synced = sqlite_recovery.extent(self._index)
        for job in batch:
            try:
                self._release(job)
            except Exception:
                # It costs this job its housekeeping; its caller, the other jobs and the store carry on.
                logger.exception("what follows a commit failed")
            if not job.future.done():
                job.future.set_result(job.result)
        self._next()

    def _release(self, job: Job) -> None:
        on_durable, job.on_durable = job.on_durable, None  # it holds the job: nothing is left to the garbage collector
        if on_durable is not None:
            on_durable()
        for seq, place in job.retired:
            self._retire(seq, place)

    # -- a failed sync

    def _empty_log(self) -> None:
        """A log that is left over may have a hole that only the page cache hides: nothing is appended to it."""
        if not os.fstat(self._syncer.log).st_size:
            return
        try:
            self._syncer.recover_now(RECOVERY_SECONDS)
        except OSError as error:
            close_keeping_log(self._db, self._directory)
            raise recovery_error(error, self._directory) from error

    def _poison(self, error: BaseException) -> None:
        """The log may not have reached the disk. The flying jobs wait, and everything else behind them."""
        logger.error("the queue's log was not synced, it is being recovered: %s", error)
        self._recovered = asyncio.get_running_loop().create_future()
        self._recover_until = monotonic() + RECOVERY_SECONDS
        self._recover()

    def _recover(self) -> None:
        left = max(0.0, self._recover_until - monotonic())
        self._syncer.recover(left, self._synced).add_done_callback(self._tried)

    def _tried(self, done: asyncio.Future[None]) -> None:
        error = done.exception()
        recovered = self._recovered
        assert recovered is not None
        if error is None:
            logger.warning("the queue's log is recovered: nothing was lost")
            self._recovered = None
            recovered.set_result(None)
            self._copied_frames = 0
            self._acknowledge()
        elif isinstance(error, OSError) and error.errno in sqlite_recovery.FINAL:
            self._fatal(recovery_error(error, self._directory))
        elif monotonic() < self._recover_until:
            asyncio.get_running_loop().call_later(RECOVERY_PAUSE, self._recover)
        else:
            self._fatal(recovery_error(error, self._directory))

    # -- the log into the database

    def _next(self) -> None:
        if self._tail:
            # What was written while the log was copied. Nothing is written meanwhile, so that the next transaction
            # finds an empty log and starts it over: else it would grow for as long as there is no pause.
            self._tail = False
            self._checkpoint(self._tail_copied)
            return
        if not self._checkpointing and self._log_has_grown():
            self._checkpoint(partial(self._copied, self.transactions))
        self._busy = bool(self._waiting)
        if self._busy:
            self._gather_from_now()
        else:
            self._wake_closer()

    def _log_has_grown(self) -> bool:
        """By so much since it was last copied, or started over, that it should be copied."""
        frames = sqlite_recovery.extent(self._index).frames
        if frames < self._copied_frames:
            self._copied_frames = 0
            self._long_log = False
        if frames >= LONG_LOG_FRAMES and not self._long_log:
            self._long_log = True
            logger.warning(
                "the queue's log has grown to %d MiB: does another program read the database for long?",
                frames * PAGE >> 20,
            )
        if frames - self._copied_frames < CHECKPOINT_FRAMES:
            return False
        self._copied_frames = frames
        return True

    def _checkpoint(self, then: Callable[[asyncio.Future[None]], None]) -> None:
        self._checkpointing = True
        self._syncer.checkpoint().add_done_callback(then)

    def _copied(self, before: int, done: asyncio.Future[None]) -> None:
        self._checkpointing = False
        if (error := done.exception()) is not None:
            logger.warning("the queue's log was not copied into the database: %s", error)
        # A checkpoint does not see what is written while it runs.
        self._tail = error is None and self.transactions != before
        if self._tail and not self._busy:
            self._busy = True
            self._next()
        self._wake_closer()

    def _tail_copied(self, done: asyncio.Future[None]) -> None:
        self._checkpointing = False
        if (error := done.exception()) is not None:
            logger.warning("the queue's log was not copied into the database: %s", error)
        self._copied_frames = sqlite_recovery.extent(self._index).frames
        self._next()

    def _wake_closer(self) -> None:
        if self._idle is not None and not self._idle.done() and self.idle:
            self._idle.set_result(None)


def recovery_error(error: BaseException, directory: Path) -> OSError:
    """What kept the log from being recovered, as a sentence."""
    code = (error.errno if isinstance(error, OSError) else None) or errno.EIO
    if code == errno.EBUSY:
        words = "another program reads the queue's database, so that its log cannot be emptied: end that program"
    elif code == errno.EBADMSG:
        words = "the queue's log does not hold what was written to it: the disk is faulty"
    elif code == errno.ENOTRECOVERABLE:
        words = "the queue's database cannot be synced: the disk is faulty"
    else:
        words = f"the queue's log cannot be synced: {error}"
    return OSError(code, words, str(directory))


def fail(future: asyncio.Future[Any], error: BaseException) -> None:
    """Hands an error to a caller who may have gone."""
    if not future.done():
        future.set_exception(error)
