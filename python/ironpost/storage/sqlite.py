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
from functools import partial
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ironpost.model.body import BodyDamaged
from ironpost.queue.store import Messages, NewMessage, QueuedMessage, QueuedRecipient, State, StoreFull, Update
from ironpost.storage.bodies import SMALL_BODY, Place
from ironpost.storage.bodies.reading import MemoryBody, StoredBody
from ironpost.storage.bodies.spool import BodySpool, MemoryBudget
from ironpost.storage.bodies.store import ShardBodies
from ironpost.storage.lock import DirectoryLock, sync_directory
from ironpost.storage.sqlite_catalogue import SqliteCatalogue, forget_now, known
from ironpost.storage.sqlite_commit import GroupCommit, Job, end_process, fail
from ironpost.storage.sqlite_rows import CODES, STATES, Reader, micros, origin_text, parameters_text, place_of
from ironpost.storage.sqlite_schema import DATABASE, PAGE, connect
from ironpost.storage.sqlite_sync import Syncer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path
    from typing import Self

    from ironpost.model.body import Body, Spool
    from ironpost.storage.bodies.reading import Locate

RESERVE = 64 * 1024 * 1024
"""Octets of the disk that new mail never takes: what is in the queue needs room to be recorded and to leave, and the
database's log lives there."""
LOG_ROOM = 32 * 1024 * 1024
"""Octets of the reserve that the log and its copying may need at once."""
LOOK_SECONDS = 1.0
"""How often the free space is looked at; between two looks, what is taken is counted."""
ROW_OCTETS = 8192
"""What a message takes beside its body, about."""


log = logging.getLogger("ironpost.storage")


class _Live:
    """A message of which this process has claimed recipients."""

    __slots__ = ("claimed", "id", "outside", "retired", "seq")

    def __init__(self, seq: int, identifier: str, *, outside: bool) -> None:
        self.seq = seq
        self.id = identifier
        self.outside = outside
        """Its body does not lie in its row."""
        self.claimed: set[int] = set()
        self.retired: list[Place] = []
        """Places that no row names any more, and that an attempt may still read."""


class SqliteStore:
    """The store in one directory: one shard of a server's (`shards`). Make it with `SqliteStore.at`."""

    def __init__(
        self,
        directory: Path,
        now: Callable[[], float],
        reserve: int,
        lock: DirectoryLock,
        sharers: int,
        *,
        resting: bool,
        memory: MemoryBudget,
        fatal: Callable[[OSError], object],
    ) -> None:
        """For `at`, which holds the lock."""
        self._lock = lock
        self._sharers = sharers
        self._writer = connect(directory)
        try:
            self._reader = Reader(self._writer, directory)
            syncer = Syncer(directory, DATABASE, resting=resting)
            try:
                self._commits = GroupCommit(self._writer, syncer, directory, now, self._find, self._retire, fatal)
                if resting:
                    syncer.rest()  # it may have emptied a log
            except BaseException:
                syncer.close()
                raise
        except BaseException:
            self._writer.close()
            raise
        self._directory = directory
        self._now = now
        self._syncer = syncer
        self._reserve = reserve
        self._next_look = 0.0
        self._free = 0
        self._seq = int(self._writer.execute("SELECT coalesce(max(seq), 0) FROM message").fetchall()[0][0])
        self._by_id: dict[str, _Live] = {}
        self._by_seq: dict[int, _Live] = {}
        self._bodies = ShardBodies(
            directory,
            SqliteCatalogue(self._writer, self._commits),
            syncer,
            memory=memory,
            take_room=self._take_room,
            relocate=self._relocate,
        )
        self._closing = False
        self._large: set[asyncio.Task[Any]] = set()

    @classmethod
    def at(
        cls,
        directory: Path,
        *,
        now: Callable[[], float] = time.time,
        reserve: int = RESERVE,
        sharers: int = 1,
        resting: bool = False,
        memory: MemoryBudget | None = None,
        fatal: Callable[[OSError], object] = end_process,
    ) -> Self:
        """Opens, and creates, the store in a directory; removes body files that the database no longer needs.

        Args:
            directory: created with 0700 if it does not exist.
            now: seconds since 1970.
            reserve: octets of the disk that new mail never takes.
            sharers: processes that take new mail onto this disk, this one among them.
            resting: the sync process starts only when something is written, or a log is left to be emptied.
            memory: what the content on its way into this and other shards may hold; a default of its own if None.
            fatal: called when the log cannot be recovered after a failed sync; by default the process ends.

        Raises:
            DirectoryInUse: another process works there.
            SchemaError: a newer ironpost wrote it.
            UnlistedBodies: its bodies do not belong to its database.
            OSError: it cannot be created or written, or a log that is left over cannot be emptied.
        """
        lock = DirectoryLock(directory)
        try:
            store = cls(
                directory, now, reserve, lock, sharers, resting=resting, memory=memory or MemoryBudget(), fatal=fatal
            )
            try:
                store._load_bodies()
            except BaseException:
                store._commits.abandon()
                raise
        except sqlite3.Error as error:
            lock.release()
            raise OSError(errno.EIO, f"the queue's database cannot be opened: {error}", str(directory)) from error
        except BaseException:
            lock.release()
            raise
        return store

    # -- content on its way in

    def spool(self, size_hint: int | None = None) -> BodySpool:
        """As `Store.spool`."""
        hint = size_hint or 0
        self._refuse_full(hint, inside=hint <= SMALL_BODY)
        return self._bodies.spool(hint)

    def _refuse_full(self, octets: int, *, inside: bool) -> None:
        """The disk has room for so much new mail, and the reserve.

        Args:
            octets: of new mail.
            inside: they go into the database, so that its free pages (it never shrinks) are room, too.

        Raises:
            StoreFull: it has not.
        """
        clock = time.monotonic()
        if clock >= self._next_look or self._free - octets < self._reserve:
            space = os.statvfs(self._directory)
            # The log's file stays when its content has been copied: it lies in the reserve, and must not count against
            # new mail for ever. Not all of it: what is not copied yet needs as much again in the database.
            log = self._directory / f"{DATABASE}-wal"
            taken = min(log.stat().st_size, max(0, self._reserve - LOG_ROOM)) if log.exists() else 0
            free = space.f_bavail * space.f_frsize + taken
            # What the others take until the next look is not seen here: of the room each counts on its part only.
            self._free = self._reserve + (free - self._reserve) // self._sharers if free > self._reserve else free
            self._next_look = clock + LOOK_SECONDS
        else:
            free = self._free
        if free - octets >= self._reserve:
            return
        if inside:
            free += PAGE * self._writer.execute("PRAGMA freelist_count").fetchall()[0][0]
        if free - octets < self._reserve:
            raise StoreFull(
                errno.ENOSPC, f"{free} octets are free, {self._reserve} are kept in reserve", str(self._directory)
            )

    def _take_room(self, octets: int, *, inside: bool = False) -> None:
        """As `_refuse_full`, and the room counts as taken until the next look."""
        self._refuse_full(octets, inside=inside)
        self._free -= octets

    # -- what the port promises

    def commit(self, message: NewMessage) -> Awaitable[QueuedMessage]:
        """As `Store.commit`; the awaitable is a future."""
        spool = _own(message.content)
        if spool.size > SMALL_BODY:
            return self._keep(self._commit_outside(message, spool))
        job = self._commits.job()
        try:
            self._take_room(ROW_OCTETS + 2 * spool.size, inside=True)  # in the log, then in the database
            self._add_message(job, message, spool, claim=True)
        except BaseException as error:  # noqa: BLE001 - the caller gets it from the future
            fail(job.future, error)
            return job.future
        return self._commits.submit(job)

    async def _commit_outside(self, message: NewMessage, spool: BodySpool) -> QueuedMessage:
        place = await self._written(spool)
        job = self._commits.job()
        self._add_message(job, message, spool, place, claim=True)
        result: QueuedMessage = await self._commits.submit(job)
        return result

    async def _written(self, spool: BodySpool) -> Place:
        try:
            self._take_room(ROW_OCTETS, inside=True)
            return await self._bodies.write(spool)
        except BaseException:
            spool.discard()
            raise

    def record(self, updates: Sequence[Update], reports: Sequence[NewMessage] = ()) -> Awaitable[None]:
        """As `Store.record`; the awaitable is a future."""
        if any(_own(report.content).size > SMALL_BODY for report in reports):
            return self._keep(self._record_outside(updates, reports))
        return self._record(updates, [(report, None) for report in reports])

    def _record(
        self, updates: Sequence[Update], reports: Sequence[tuple[NewMessage, Place | None]]
    ) -> asyncio.Future[None]:
        job = self._commits.job()
        job.updates = updates
        job.on_durable = partial(self._unclaim, updates)
        try:
            for report, place in reports:
                self._add_message(job, report, _own(report.content), place, claim=False)
        except BaseException as error:  # noqa: BLE001 - the caller gets it from the future
            fail(job.future, error)
            return job.future
        return self._commits.submit(job)

    async def _record_outside(self, updates: Sequence[Update], reports: Sequence[NewMessage]) -> None:
        placed: list[tuple[NewMessage, Place | None]] = []
        for report in reports:
            spool = _own(report.content)
            placed.append((report, await self._written(spool) if spool.size > SMALL_BODY else None))
        await self._record(updates, placed)

    async def claim(self, now: float, limit: int) -> Messages:
        """As `Store.claim`."""
        await self._steady()
        due_by = micros(now)
        seqs, _ = self._reader.due(due_by, self._is_claimed, limit)
        result = []
        for seq, message in zip(seqs, self._reader.by_seq(seqs), strict=True):
            live = self._live(seq, message)
            chosen = tuple(
                queued
                for queued in message.recipients
                if queued.state is State.QUEUED and micros(queued.due) <= due_by and queued.number not in live.claimed
            )
            live.claimed.update(queued.number for queued in chosen)
            result.append(message._replace(recipients=chosen))
        return result

    async def waiting(self, domains: Sequence[str], now: float, limit: int = 1000) -> Sequence[str]:
        """As `Store.waiting`."""
        return self._reader.waiting(domains, micros(now), limit)

    async def take(self, message: str, domains: Sequence[str], now: float) -> QueuedMessage | None:
        """As `Store.take`."""
        await self._steady()
        whole, found = await self.get(message), self._find(message)
        if whole is None or found is None or micros(whole.released) > micros(now):
            return None
        seq = found[0]
        chosen = tuple(
            queued
            for queued in whole.recipients
            if queued.state is State.QUEUED
            and queued.recipient.address.key in domains
            and not self._is_claimed(seq, queued.number)
        )
        if not chosen:
            return None
        self._live(seq, whole).claimed.update(queued.number for queued in chosen)
        return whole._replace(recipients=chosen)

    def steady(self) -> Awaitable[None] | None:
        """As `Store.steady`."""
        return self._commits.steady()

    async def _steady(self) -> None:
        while (recovered := self._commits.steady()) is not None:
            await recovered

    def _live(self, seq: int, message: QueuedMessage) -> _Live:
        live = self._by_seq.get(seq)
        if live is None:
            outside = isinstance(message.body, StoredBody)
            self._by_seq[seq] = self._by_id[message.id] = live = _Live(seq, message.id, outside=outside)
        return live

    async def release(self, messages: Sequence[str]) -> None:
        """As `Store.release`."""
        for identifier in messages:
            live = self._by_id.get(identifier)
            if live is not None:
                self._forget(live)

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
                released = " AND message IN (SELECT seq FROM message WHERE released <= ?)"
                return self._writer.execute(change + released, (*values, micros(now))).rowcount
            return sum(
                self._writer.execute(f"{change} AND message=?", (*values, found[0])).rowcount
                for identifier in dict.fromkeys(messages)
                if (found := self._find(identifier)) is not None
            )

        return await self._act(action)

    async def hold(self, messages: Sequence[str], now: float) -> int:
        """As `Store.hold`."""
        return await self._act(partial(self._move, messages, now, State.QUEUED, State.HELD, "held"))

    async def resume(self, messages: Sequence[str], now: float) -> int:
        """As `Store.resume`."""
        return await self._act(partial(self._move, messages, now, State.HELD, State.QUEUED, "released"))

    def _move(self, messages: Sequence[str], now: float, old: State, new: State, kind: str) -> int:
        count, at, write = 0, micros(now), self._writer.execute
        for identifier in dict.fromkeys(messages):
            found = self._find(identifier)
            if found is None:
                continue
            write(
                """INSERT INTO event (at, kind, message, number, address, attempts)
                   SELECT ?, ?, ?, number, address, attempts FROM recipient WHERE message=? AND state=?""",
                (at, kind, identifier, found[0], CODES[old]),
            )
            moved = write(
                "UPDATE recipient SET state=?, changed=? WHERE message=? AND state=?",
                (CODES[new], micros(self._now()), found[0], CODES[old]),
            ).rowcount
            if moved and new is State.QUEUED:
                write("UPDATE message SET released=max(released, ?) WHERE seq=?", (at, found[0]))
            count += moved
        return count

    async def drop(self, messages: Sequence[str], now: float) -> int:
        """As `Store.drop`."""
        job = self._commits.job()

        def action() -> int:
            count = 0
            for identifier in messages:
                found = self._find(identifier)
                if found is None:
                    continue
                seq = found[0]
                place = place_of(self._writer, seq)
                self._writer.execute(
                    """INSERT INTO event (at, kind, message, number, address, attempts)
                       SELECT ?, 'dropped', ?, number, address, attempts FROM recipient
                       WHERE message=? AND state IN (0, 4)""",
                    (micros(now), identifier, seq),
                )
                self._writer.execute("DELETE FROM recipient WHERE message=?", (seq,))
                self._writer.execute("DELETE FROM message WHERE seq=?", (seq,))
                if place is not None:
                    job.retired.append((seq, place))
                count += 1
            return count

        job.action = action
        result: int = await self._commits.submit(job)
        return result

    async def _act(self, action: Callable[[], int]) -> int:
        job = self._commits.job()
        job.action = action
        result: int = await self._commits.submit(job)
        return result

    async def list(self, limit: int = 1000) -> Messages:
        """As `Store.list`."""
        return await self._reader.list(limit)

    async def get(self, message: str) -> QueuedMessage | None:
        """As `Store.get`."""
        return await self._reader.get(message)

    async def adopt(self, content: Spool) -> BodySpool:
        """A copy of another shard's content, to be committed here; the original is discarded."""
        original, copy = _own(content), self._bodies.spool(content.size)
        parts: list[bytes] = [bytes(part) for part in original.parts]
        try:
            if original.file:
                await original.durable()
                place = Place(original.size, original.checksum, file=original.file)
                parts = [piece async for piece in StoredBody(original.directory, b"", place).pieces()]
            for part in parts:
                if (behind := copy.write(part)) is not None:
                    await behind
        except BaseException:
            copy.discard()
            raise
        original.discard()
        return copy

    # -- for `shards`, which closes what is drained

    def has(self, message: str) -> bool:
        """Whether that message is in the queue."""
        return bool(self._writer.execute("SELECT 1 FROM message WHERE id=?", (message,)).fetchall())

    def claims(self, message: str) -> bool:
        """Whether this process has claimed recipients of that message here."""
        return message in self._by_id

    @property
    def directory(self) -> Path:
        """Where it is."""
        return self._directory

    @property
    def transactions(self) -> int:
        """Written since it was opened."""
        return self._commits.transactions

    def rest(self) -> bool:
        """Ends the sync process until it is needed again; False if it is in use."""
        self._bodies.segments.seal()
        if self._large or self._bodies.busy or not self._commits.idle:
            return False
        self._commits.rest()
        return True

    def drained(self) -> bool:
        """No mail is left, and nobody is at work on any."""
        busy = self._by_id or self._large or self._bodies.busy or not self._commits.idle
        return not busy and not self._writer.execute("SELECT 1 FROM message LIMIT 1").fetchall()

    def abandon(self) -> None:
        """Closes a store that nobody has used yet."""
        self._closing = True
        self._commits.abandon()
        self._lock.release()

    async def close(self) -> None:
        """As `Store.close`."""
        if self._closing:
            return
        self._closing = True
        while self._large:
            await asyncio.wait(self._large)
        await self._bodies.close()
        await self._commits.close()
        self._lock.release()

    # -- claims

    def _is_claimed(self, seq: int, number: int) -> bool:
        if seq in self._commits.unsynced:
            return True
        live = self._by_seq.get(seq)
        return live is not None and number in live.claimed

    def _find(self, identifier: str) -> tuple[int, bool] | None:
        live = self._by_id.get(identifier)
        if live is not None:
            return live.seq, live.outside
        query = "SELECT seq, file IS NOT NULL OR segment IS NOT NULL FROM message WHERE id=?"
        rows = self._writer.execute(query, (identifier,)).fetchall()
        return (rows[0][0], bool(rows[0][1])) if rows else None

    def _take(self, job: Job, live: _Live) -> None:
        # A caller that was cancelled knows of nothing: its message is there to be claimed.
        if not job.future.cancelled():
            self._by_id[live.id] = self._by_seq[live.seq] = live

    def _unclaim(self, updates: Sequence[Update]) -> None:
        for update in updates:
            self.unclaim(update.message, update.number)

    def unclaim(self, message: str, number: int) -> None:
        """Gives back one recipient of a message; `release` gives back all."""
        live = self._by_id.get(message)
        if live is not None:
            live.claimed.discard(number)
            if not live.claimed:
                self._forget(live)

    def _forget(self, live: _Live) -> None:
        del self._by_id[live.id], self._by_seq[live.seq]
        for place in live.retired:
            self._bodies.retire(place)

    # -- bodies that no row names any more

    def _retire(self, seq: int, place: Place) -> None:
        """The row is durably gone, or names another place. Who has claimed the message may still read this one."""
        live = self._by_seq.get(seq)
        if live is not None:
            live.retired.append(place)
        else:
            self._bodies.retire(place)

    async def _relocate(self, segment: int) -> None:
        """Moves the records of a segment to the end of the body log."""
        rows = self._writer.execute("SELECT seq FROM message WHERE segment=? ORDER BY start", (segment,)).fetchall()
        for (seq,) in rows:
            old = place_of(self._writer, seq)
            if old is None or old.segment != segment:
                continue  # gone meanwhile
            try:
                parts = [piece async for piece in self._bodies.open(b"", old).pieces()]
            except BodyDamaged as error:
                log.error("a body cannot be moved: %s", error)
                continue
            new = await self._bodies.segments.append(parts, old.length, old.checksum or 0)
            job = self._commits.job()
            job.action = partial(self._move_record, job, seq, old, new)
            await self._commits.submit(job)

    def _move_record(self, job: Job, seq: int, old: Place, new: Place) -> None:
        moved = self._writer.execute(
            "UPDATE message SET segment=?, start=? WHERE seq=? AND segment=? AND start=?",
            (new.segment, new.start, seq, old.segment, old.start),
        ).rowcount
        job.retired.append((seq, old if moved else new))

    # -- gathering

    def _keep(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._large.add(task)
        task.add_done_callback(self._large.discard)
        return task

    def _add_message(
        self, job: Job, message: NewMessage, spool: BodySpool, place: Place | None = None, *, claim: bool
    ) -> None:
        """`place` is where the content lies, durably; None for content that goes into the row."""
        prefix = message.prefix
        content = prefix if place is not None else b"".join([prefix, *spool.take()])
        checksum = crc32(content) if place is None else place.checksum
        size = len(prefix) + spool.size
        if place is not None:
            job.places.append(place)
        self._seq += 1
        seq, envelope, accepted = self._seq, message.envelope, micros(message.accepted)
        released = accepted if message.due is None else max(accepted, micros(message.due))
        state = CODES[State.HELD] if message.held else 0
        sender = str(envelope.reverse_path)
        recipients = [
            (
                seq,
                number,
                str(to.address),
                parameters_text(to.parameters),
                state,
                0,
                released,
                accepted,
                "",
                "",
                to.address.key,
            )
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
                    "" if place is None else place.file,
                    content,
                    released,
                    0 if place is None else place.segment,
                    0 if place is None else place.start,
                    checksum,
                ),
                recipients,
                (accepted, message.id, sender, envelope.origin.ip),
            )
        )
        if message.held:
            job.held.append((accepted, message.id, seq))
        if claim:
            if released == accepted and not message.held:
                live = _Live(seq, message.id, outside=place is not None)
                live.claimed.update(range(len(recipients)))
                job.on_durable = partial(self._take, job, live)
            at, due = accepted / 1e6, released / 1e6
            body: Body = MemoryBody(content) if place is None else self._bodies.open(prefix, place, self._locate(seq))
            job.result = QueuedMessage(
                message.id,
                envelope,
                at,
                body,
                tuple(
                    QueuedRecipient(number, to, STATES[state], 0, due, "", "", at)
                    for number, to in enumerate(envelope.recipients)
                ),
                due,
            )

    # -- housekeeping

    def _locate(self, seq: int) -> Locate:
        return partial(place_of, self._writer, seq)

    def _load_bodies(self) -> None:
        """What an earlier process left of bodies: files that nothing needs are removed, and then forgotten."""
        unneeded = self._bodies.load(known(self._writer))
        for name in unneeded:
            (self._directory / name).unlink(missing_ok=True)
        for directory in {(self._directory / name).parent for name in unneeded}:
            with contextlib.suppress(FileNotFoundError):
                sync_directory(directory)
        if unneeded:
            forget_now(self._writer, unneeded)


def _own(content: Spool) -> BodySpool:
    if not isinstance(content, BodySpool):
        raise TypeError("the content must come from this store's spool()")
    return content


def open_readonly(directory: Path) -> Reader:
    """List and get without the lock, beside a running server or without one (`Reader.open_readonly`)."""
    return Reader.open_readonly(directory)


__all__ = ["RESERVE", "SMALL_BODY", "SqliteStore", "open_readonly"]
