"""Group commit: the writes of many callers share a transaction and a sync; each caller is answered after both.

Promises: everything that is submitted while a sync runs shares the next transaction, up to `MAX_BATCH` and
`MAX_BATCH_OCTETS`, in the order in which it was submitted. A job that cannot be written fails alone: its transaction is
rolled back, and nothing of it remains in the log.
After a failed sync of the log the state of the disk is unknown: no caller is answered and no transaction begins until
the log is recovered (`sqlite.recovery`). Then the callers are answered as after a successful sync. If it cannot be
recovered, `fatal` ends the process: an error reply for a message that may still be delivered would be wrong.
Errors: an error of the database becomes `StoreFull`, `OSError` or `ValueError` for its caller.
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

from ironpost.queue.store import RecipientState, Update
from ironpost.storage.bodies.spool import storage_error
from ironpost.storage.sqlite import recovery as sqlite_recovery
from ironpost.storage.sqlite.faults import store_fault
from ironpost.storage.sqlite.rows import CODES, micros, place_of
from ironpost.storage.sqlite.schema import DATABASE, PAGE, close_keeping_log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from ironpost.storage.bodies import BodyLocation
    from ironpost.storage.sqlite.history import History
    from ironpost.storage.sqlite.sync import Syncer

logger = logging.getLogger("ironpost.storage")

MAX_BATCH = 128
"""Maximum number of commits and records in one transaction: about 4 ms of the event loop."""
MAX_BATCH_OCTETS = 1024 * 1024
"""Size of bodies after which a transaction is full, in octets, for the same reason."""
GATHER_SECONDS = 0.002
"""Maximum wait of a transaction for more jobs, in seconds, on a busy loop: all its jobs share the cost of beginning and
syncing."""
QUIET_SECONDS = 30e-6
"""After a loop iteration shorter than this the loop is idle: commit at once instead of waiting for more jobs."""
CHECKPOINT_FRAMES = 2000
"""Pages added to the log after which it is copied into the database: 8 MiB."""
LONG_LOG_FRAMES = 16_000
"""Pages in the log above which a warning says that it does not shrink: 64 MiB."""
RECOVERY_SECONDS = 10.0
"""Timeout of a recovery of the log, in seconds."""
RECOVERY_PAUSE = 0.1
"""Pause in seconds before the next attempt if the sync process died during one."""
CLOSE_SECONDS = 20.0 + RECOVERY_SECONDS
"""Seconds for which `close` waits for submitted jobs: the timeout of a sync plus that of a recovery."""
IO_ERROR = 74
"""The exit code of a process whose log cannot be recovered (EX_IOERR in sysexits.h)."""

_INSERT_MESSAGE = (
    "INSERT INTO message (seq, id, accepted, reverse_path, parameters, origin, size, file, body, released, segment,"
    " start, checksum) VALUES (?,?,?,?,nullif(?,''),nullif(?,''),?,nullif(?,''),?,?,nullif(?,0),?,?)"
)
_INSERT_RECIPIENT = (
    "INSERT INTO recipient (message, number, address, parameters, state, attempts, due, changed, last, remote, domain,"
    " original, tenant, priority, deadline) VALUES (?,?,?,nullif(?,''),?,?,?,?,?,?,?,nullif(?,''),?,?,?)"
)
_INSERT_ACCEPTED = (
    "INSERT INTO event (at, kind, message, address, remote, message_id, reply)"
    " VALUES (?,'accepted',?,?,?,nullif(?,''),nullif(?,''))"
)
_INSERT_HELD = """INSERT INTO event (at, kind, message, number, address, attempts, reply)
    SELECT ?, 'held', ?, number, address, attempts, last FROM recipient WHERE message=? AND state=4"""
_UPDATE = """UPDATE recipient SET state=CASE WHEN state=4 AND ?1=0 THEN 4 ELSE ?1 END, attempts=?2, due=?3, changed=?4,
    last=coalesce(?5, last), remote=coalesce(?6, remote), warned=max(warned, ?9),
    deadline=CASE WHEN ?10 THEN NULL WHEN ?11 THEN ?11 ELSE deadline END
    WHERE message=?7 AND number=?8 AND state<>3"""
_FINISH = (
    "DELETE FROM message WHERE seq=?1 AND NOT EXISTS (SELECT 1 FROM recipient WHERE message=?1 AND state IN (0, 4))",
    "DELETE FROM recipient WHERE message=?1 AND NOT EXISTS (SELECT 1 FROM message WHERE seq=?1)",
)
_UPDATE_EVENT = """INSERT INTO event (at, kind, message, number, address, attempts, reply, remote)
    SELECT ?, ?, ?, number, address, attempts, ?, ? FROM recipient WHERE message=? AND number=?"""


def end_process(error: OSError) -> None:
    """End the process at once with `IO_ERROR`: connections close without a reply, so clients retry."""
    logger.critical("the queue's log cannot be recovered, the process ends: %s", error)
    logging.shutdown()
    os._exit(IO_ERROR)


class Job:
    """The changes of one caller in a transaction."""

    __slots__ = ("action", "future", "held", "messages", "on_durable", "places", "result", "retired", "updates")

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future = future
        self.result: Any = None
        self.messages: list[tuple[Any, ...]] = []
        """Rows of message, recipient and event for each new message, as a triple."""
        self.held: list[tuple[int, str, int]] = []
        """Time, id and `seq` of each new message that is held from the start."""
        self.updates: Sequence[Update] = ()
        self.action: Callable[[], Any] | None = None
        self.on_durable: Callable[[], None] | None = None
        """Called when the job is durable, before its future is done."""
        self.places: list[BodyLocation] = []
        """Body locations of new messages, to be freed if the job cannot be written."""
        self.retired: list[tuple[int, BodyLocation]] = []
        """Bodies without a row once the job is durable, each with the `seq` of the row that had it."""


class GroupCommit:
    """The writer of one database: forms transactions from jobs, and syncs them."""

    def __init__(
        self,
        db: sqlite3.Connection,
        syncer: Syncer,
        directory: Path,
        now: Callable[[], float],
        find: Callable[[str], tuple[int, bool] | None],
        retire: Callable[[int, BodyLocation], None],
        history: History,
        fatal: Callable[[OSError], object] = end_process,
    ) -> None:
        """Own `db` and `syncer`, which `close` closes. Empty the log if an earlier process left one.

        Args:
            db: the writing connection.
            syncer: of the same database.
            directory: the store's.
            now: seconds since 1970.
            find: returns the `seq` of a message id and whether its body is outside its row; None if it is not queued.
            retire: frees body locations without a row, given the `seq` of the row that had them; 0 if none had.
            history: attempts and events of messages that left the queue.
            fatal: called when the log cannot be recovered; it should not return.

        Raises:
            OSError: an old log cannot be emptied.
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
        """Set while the log must be recovered; done when it is."""
        self._recover_until = 0.0
        self._empty_log()
        self._copied_frames = 0
        """Number of pages in the log when it was last copied."""
        self._synced = sqlite_recovery.LogExtent(0, b"")
        """The end of the log at its last sync."""
        self._long_log = False
        """Whether the warning about a long log was written."""
        self._waiting: list[Job] = []
        self._flying: list[Job] = []
        self._busy = False
        self._closing = False
        self._checkpointing = False
        self._tail = False
        self.transactions = 0
        """Number of transactions so far."""
        self._idle: asyncio.Future[None] | None = None
        self._gathering = self._turn = 0.0
        """Time when the next transaction got its first job, and when the loop last checked it."""
        self.unsynced: set[int] = set()
        """New messages (`seq`) of the transaction that is being synced; they cannot be claimed yet."""
        # Closing it would drop SQLite's locks on the same file: it is closed after the database.
        self._index = os.open(directory / f"{DATABASE}-shm", os.O_RDONLY | os.O_CLOEXEC)

    def job(self) -> Job:
        """Return an empty job for this event loop.

        Raises:
            OSError: the store is closed.
        """
        if self._closing:
            raise OSError(errno.ESHUTDOWN, "the store is closed", str(self._directory))
        loop = asyncio.get_running_loop()
        self._syncer.attach(loop)
        return Job(loop.create_future())

    def submit(self, job: Job) -> asyncio.Future[Any]:
        """Submit a job; return its future, which is done when the job is durable or has failed."""
        self._waiting.append(job)
        if not self._busy:
            self._busy = True
            self._gather_from_now()
        return job.future

    def refuse(self, job: Job, error: BaseException) -> None:
        """Fail a job before any of its rows is written."""
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
        """Free the bodies of a job of which no row is written."""
        for place in job.places:
            self._retire(0, place)

    @property
    def idle(self) -> bool:
        """Whether no job is waiting or being written."""
        return not (self._busy or self._checkpointing)

    def rest(self) -> None:
        """Stop the sync process until the next job. Only while `idle`."""
        self._syncer.rest()

    def steady(self) -> Awaitable[None] | None:
        """As `Store.steady`."""
        return None if self._recovered is None else asyncio.shield(self._recovered)

    async def close(self) -> None:
        """Finish the submitted jobs, within `CLOSE_SECONDS`, then close the database."""
        self._closing = True
        if not self.idle:
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._idle], timeout=CLOSE_SECONDS)
            if self._busy:
                self._fatal(OSError(errno.ETIMEDOUT, "the store cannot be closed in time", str(self._directory)))
        self.abandon()

    def abandon(self) -> None:
        """Close the database at once. Submitted jobs that are not written are abandoned."""
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
        # Not at once, so that further jobs of this loop iteration share the transaction.
        self._gathering = self._turn = monotonic()
        asyncio.get_running_loop().call_soon(self._gather)

    def _gather(self) -> None:
        """Begin the transaction, unless the loop is busy and more jobs may come."""
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
        except Exception as error:  # noqa: BLE001 - after any error the log was not synced
            self._poison(error)

    def _written_jobs(self, batch: list[Job]) -> list[Job]:
        try:
            self._transact(batch)
        except Exception as error:  # noqa: BLE001 - the jobs get any error
            if len(batch) == 1:
                self.refuse(batch[0], error)
                return []
            # One of them is the cause: each gets its own transaction, so that only that one fails.
            return [job for single in batch for job in self._written_jobs([single])]
        return batch

    def _transact(self, jobs: list[Job]) -> None:
        db = self._db
        for job in jobs:
            job.retired.clear()  # from a transaction that was rolled back
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
        """Invalidate frames that a failed COMMIT wrote.

        If it failed after the last frame (the index could not grow), the log holds a whole transaction that was
        refused, and SQLite's recovery would find it after a kill.
        """
        end = sqlite_recovery.end_of(sqlite_recovery.extent(self._index), PAGE)
        with contextlib.suppress(OSError):  # if the log cannot be written, no frame was
            if os.fstat(self._syncer.log).st_size > end:
                os.pwrite(self._syncer.log, bytes(sqlite_recovery.FRAME_HEADER), end)

    def _apply(self, jobs: list[Job]) -> None:
        at = micros(self._now())
        rows: list[tuple[Any, ...]] = []
        events: list[tuple[Any, ...]] = []
        final: dict[int, Job] = {}
        bodies: set[int] = set()
        for job in jobs:
            for update in job.updates:
                found = self._find(update.message)
                if found is None:
                    continue  # dropped by an operator while the attempt ran
                seq, outside = found
                reply = remote = None
                kind = update.state.value if update.state is not RecipientState.QUEUED else "deferred"
                if update.outcome is not None:
                    reply, remote = update.outcome.recorded, update.outcome.remote
                rows.append(
                    (
                        CODES[update.state],
                        update.attempts,
                        micros(update.due),
                        at,
                        reply,
                        remote,
                        seq,
                        update.number,
                        int(update.warned),
                        int(update.late),
                        micros(update.put_off),
                    )
                )
                events.append((at, kind, update.message, reply, remote, seq, update.number))
                if update.state is not RecipientState.QUEUED:
                    final[seq] = job
                    if outside:
                        bodies.add(seq)
        if not rows:
            return
        db = self._db
        db.executemany(_UPDATE, rows)
        db.executemany(_UPDATE_EVENT, events)
        finish(db, final, bodies)

    def _answered(self, done: asyncio.Future[None]) -> None:
        if (error := done.exception()) is not None:
            self._poison(error)
        else:
            self._acknowledge()

    def _acknowledge(self) -> None:
        """Answer the callers of a transaction that is durable, and begin the next one."""
        batch, self._flying = self._flying, []
        self.unsynced.clear()
        self._synced = sqlite_recovery.extent(self._index)
        for job in batch:
            try:
                self._release(job)
            except Exception:
                # Only the housekeeping of this job is lost; its caller and the other jobs are not affected.
                logger.exception("an action after a commit failed")
            if not job.future.done():
                job.future.set_result(job.result)
        self._next()

    def _release(self, job: Job) -> None:
        on_durable, job.on_durable = job.on_durable, None  # breaks a reference cycle
        if on_durable is not None:
            on_durable()
        for seq, place in job.retired:
            self._retire(seq, place)

    # -- a failed sync

    def _empty_log(self) -> None:
        """Empty an old log before anything is appended: its data may be in the page cache and not on the disk."""
        if not os.fstat(self._syncer.log).st_size:
            return
        try:
            self._syncer.recover_now(RECOVERY_SECONDS)
        except OSError as error:
            close_keeping_log(self._db, self._directory)
            raise recovery_error(error, self._directory) from error

    def _poison(self, error: BaseException) -> None:
        """Recover the log after a failed sync. Jobs in progress and all later ones wait."""
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

    # -- copying the log into the database

    def _next(self) -> None:
        if self._tail:
            # Copies what was written during the first copy. Nothing is written meanwhile, so that the next transaction
            # finds an empty log and restarts it: otherwise it would grow as long as there is no pause.
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
        """Whether the log has grown enough to be copied since it was last copied or restarted."""
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


def finish(db: sqlite3.Connection, messages: Mapping[int, Job], bodies: Collection[int]) -> None:
    """Remove those of the messages (`seq`) whose recipients are all final.

    Args:
        db: inside a transaction.
        messages: each with the job that changed it, which frees its body.
        bodies: those that may have a body outside the row.
    """
    places = {seq: place for seq in bodies if (place := place_of(db, seq)) is not None}
    for statement in _FINISH:
        db.executemany(statement, [(seq,) for seq in messages])
    for seq, place in places.items():
        if not db.execute("SELECT 1 FROM message WHERE seq=?", (seq,)).fetchall():
            messages[seq].retired.append((seq, place))


def recovery_error(error: BaseException, directory: Path) -> OSError:
    """Return an error that says why the log could not be recovered."""
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
    """Set the exception of a future that may have been cancelled."""
    if not future.done():
        future.set_exception(error)
