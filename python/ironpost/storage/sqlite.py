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
import sqlite3
import time
from functools import partial
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ironpost.model.body import BodyDamaged
from ironpost.queue.store import Messages, NewMessage, QueuedMessage, QueuedRecipient, State, Update
from ironpost.storage.bodies import SMALL_BODY, Place
from ironpost.storage.bodies.reading import MemoryBody, StoredBody
from ironpost.storage.bodies.spool import BodySpool, MemoryBudget
from ironpost.storage.bodies.store import ShardBodies
from ironpost.storage.lock import DirectoryLock, sync_directory
from ironpost.storage.room import RESERVE, Room
from ironpost.storage.sqlite_catalogue import SqliteCatalogue, forget_now, known
from ironpost.storage.sqlite_commit import GroupCommit, Job, end_process
from ironpost.storage.sqlite_faults import store_faults
from ironpost.storage.sqlite_history import HISTORY_OCTETS, HISTORY_SECONDS, TEND_EVENTS, History
from ironpost.storage.sqlite_rows import (
    CODES,
    NO_MESSAGE,
    STATES,
    Reader,
    micros,
    origin_text,
    parameters_text,
    place_of,
)
from ironpost.storage.sqlite_schema import DATABASE, PAGE, connect
from ironpost.storage.sqlite_sync import Syncer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path
    from typing import Self

    from ironpost.model.body import Body, Spool
    from ironpost.storage.bodies.reading import Locate

logger = logging.getLogger("ironpost.storage")

TEND_SECONDS = 60.0
"""How often a store looks whether there is history to remove, or room to give back."""
ROW_OCTETS = 8192
"""What a message takes beside its body, about."""
STEP_RECIPIENTS = 250
"""Recipients after which an operator's change goes on in another transaction: a few milliseconds of the event loop."""
STEP_MESSAGES = 100
"""The same of messages, which count even where none of their recipients changes."""


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
        history: float,
        history_size: int,
    ) -> None:
        """For `at`, which holds the lock."""
        self._lock = lock
        self._room = Room(directory, reserve, sharers, self._free_pages)
        self._writer = connect(directory)
        try:
            self._reader = Reader(self._writer, directory)
            self._history = History(self._writer, now, history, history_size)
            syncer = Syncer(directory, DATABASE, resting=resting)
            try:
                self._commits = GroupCommit(
                    self._writer, syncer, directory, now, self._find, self._retire, self._history, fatal
                )
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
        self._seq = int(self._writer.execute("SELECT coalesce(max(seq), 0) FROM message").fetchall()[0][0])
        self._by_id: dict[str, _Live] = {}
        self._by_seq: dict[int, _Live] = {}
        self._bodies = ShardBodies(
            directory,
            SqliteCatalogue(self._writer, self._commits),
            syncer,
            memory=memory,
            take_room=self._room.take,
            relocate=self._relocate,
        )
        self._next_tending = 0.0
        self._tending = False
        self._broken: set[int] = set()
        """Messages (`seq`) that cannot be read, until that is recorded."""
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
        history: float = HISTORY_SECONDS,
        history_size: int = HISTORY_OCTETS,
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
            history: seconds for which attempts and events are kept.
            history_size: how many octets of them are kept, about.

        Raises:
            DirectoryInUse: another process works there.
            SchemaError: a newer ironpost wrote it.
            UnlistedBodies: its bodies do not belong to its database.
            OSError: it cannot be created or written, or a log that is left over cannot be emptied.
        """
        lock = DirectoryLock(directory)
        try:
            store = cls(
                directory, now, reserve, lock, sharers, resting=resting, memory=memory or MemoryBudget(), fatal=fatal,
                history=history, history_size=history_size,
            )  # fmt: skip
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
        self._room.check(hint, inside=hint <= SMALL_BODY)
        return self._bodies.spool(hint)

    def _free_pages(self) -> int:
        """Octets that the database can take without growing."""
        with store_faults(self._directory):
            return PAGE * int(self._writer.execute("PRAGMA freelist_count").fetchall()[0][0])

    # -- what the port promises

    def commit(self, message: NewMessage) -> Awaitable[QueuedMessage]:
        """As `Store.commit`; the awaitable is a future."""
        spool = _own(message.content)
        if spool.size > SMALL_BODY:
            return self._keep(self._commit_outside(message, spool))
        job = self._commits.job()
        try:
            self._room.take(ROW_OCTETS + 2 * spool.size, inside=True)  # in the log, then in the database
        except OSError as error:
            self._commits.refuse(job, error)
            return job.future
        return self._submit(job, [(message, None)], claim=True)

    async def _commit_outside(self, message: NewMessage, spool: BodySpool) -> QueuedMessage:
        job = self._commits.job()
        place = await self._written(job, spool)
        result: QueuedMessage = await self._submit(job, [(message, place)], claim=True)
        return result

    async def _written(self, job: Job, spool: BodySpool) -> Place:
        try:
            self._room.take(ROW_OCTETS, inside=True)
            place = await self._bodies.write(spool)
        except BaseException:
            spool.discard()
            raise
        job.places.append(place)
        return place

    def _submit(
        self, job: Job, messages: Sequence[tuple[NewMessage, Place | None]], *, claim: bool
    ) -> asyncio.Future[Any]:
        try:
            for message, place in messages:
                self._add_message(job, message, _own(message.content), place, claim=claim)
        except BaseException as error:  # noqa: BLE001 - the caller gets it from the future
            self._commits.refuse(job, error)
            return job.future
        return self._commits.submit(job)

    def record(self, updates: Sequence[Update], reports: Sequence[NewMessage] = ()) -> Awaitable[None]:
        """As `Store.record`; the awaitable is a future."""
        if any(_own(report.content).size > SMALL_BODY for report in reports):
            return self._keep(self._record_outside(updates, reports))
        return self._submit(self._record_job(updates), [(report, None) for report in reports], claim=False)

    async def _record_outside(self, updates: Sequence[Update], reports: Sequence[NewMessage]) -> None:
        job = self._record_job(updates)
        placed: list[tuple[NewMessage, Place | None]] = []
        try:
            for report in reports:
                spool = _own(report.content)
                placed.append((report, await self._written(job, spool) if spool.size > SMALL_BODY else None))
        except BaseException:
            self._commits.retire_bodies(job)
            raise
        await self._submit(job, placed, claim=False)

    def _record_job(self, updates: Sequence[Update]) -> Job:
        job = self._commits.job()
        job.updates = updates
        job.on_durable = partial(self._unclaim, updates)
        return job

    async def claim(self, now: float, limit: int) -> Messages:
        """As `Store.claim`."""
        await self._steady()
        self._tend_in_time()
        due_by = micros(now)
        seqs, _ = self._reader.due(due_by, self._is_claimed, limit)
        found = self._reader.by_seq(seqs)
        result, broken = [], []
        for seq, message in found:
            if message.fault:
                broken.append((seq, message))
                continue
            live = self._live(seq, message)
            chosen = tuple(
                queued
                for queued in message.recipients
                if queued.state is State.QUEUED and micros(queued.due) <= due_by and queued.number not in live.claimed
            )
            live.claimed.update(queued.number for queued in chosen)
            result.append(message._replace(recipients=chosen))
        if len(found) < len(seqs):
            there = {seq for seq, _ in found}
            broken += [(seq, NO_MESSAGE) for seq in seqs if seq not in there]
        if broken:
            await self._set_aside(broken)
        return result

    async def waiting(self, domains: Sequence[str], now: float, limit: int = 1000) -> Sequence[str]:
        """As `Store.waiting`."""
        return self._reader.waiting(domains, micros(now), limit)

    async def take(self, message: str, domains: Sequence[str], now: float) -> QueuedMessage | None:
        """As `Store.take`."""
        await self._steady()
        whole, found = await self.get(message), self._find(message)
        if whole is None or found is None or whole.released > max(whole.accepted, micros(now) / 1e6):
            return None
        seq = found[0]
        if whole.fault:
            await self._set_aside([(seq, whole)])
            return None
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

    async def _set_aside(self, broken: Sequence[tuple[int, QueuedMessage]]) -> None:
        """Holds messages that cannot be read (SECURITY R25).

        If that cannot be written, they are passed over for as long as this process lives.
        """
        self._broken.update(seq for seq, _ in broken)
        for seq, message in broken:
            fields = {"id": message.id, "seq": seq, "detail": message.fault, "directory": str(self._directory)}
            text = "message %s (%d) cannot be read, and is held: %s"
            extra = {"event": "unreadable", "fields": fields}
            logger.error(text, message.id, seq, message.fault, extra=extra)
            try:
                moved = await self._act(partial(self._hold_unread, seq, message))
            except OSError as error:
                logger.error("message %s (%d), which cannot be read, cannot be held: %s", message.id, seq, error)
            else:
                if moved:
                    self._broken.discard(seq)

    def _hold_unread(self, seq: int, message: QueuedMessage) -> int:
        at, write = micros(self._now()), self._writer.execute
        write(
            """INSERT INTO event (at, kind, message, number, reply)
               SELECT ?, 'unreadable', ?, number, ? FROM recipient WHERE message=? AND state=0""",
            (at, message.id, message.fault, seq),
        )
        change = "UPDATE recipient SET state=4, changed=?, last=? WHERE message=? AND state=0"
        return write(change, (at, message.fault, seq)).rowcount

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
        values = (micros(now), micros(self._now()))
        if messages is not None:
            return await self._stepwise(messages, partial(self._retry_one, values))
        total = after = 0
        while True:
            job = self._commits.job()
            job.action = partial(self._retry_some, values, after)
            step: tuple[int, int] = await self._commits.submit(job)
            after = step[0]
            total += step[1]
            if not after:
                return total

    def _retry_one(self, values: tuple[int, int], seq: int, identifier: str) -> tuple[int, int]:
        del identifier
        query = "UPDATE recipient SET due=?, changed=? WHERE state=0 AND message=?"
        changed = self._writer.execute(query, (*values, seq)).rowcount
        return changed, changed

    def _retry_some(self, values: tuple[int, int], after: int) -> tuple[int, int]:
        """One step, from message `after` on: the last that it reached (0: the end), and how many recipients changed."""
        query = "SELECT message FROM recipient WHERE message > ? ORDER BY message, number LIMIT 1 OFFSET ?"
        last = self._writer.execute(query, (after, STEP_RECIPIENTS - 1)).fetchall()
        changed = self._writer.execute(
            """UPDATE recipient SET due=?1, changed=?2 WHERE state=0 AND message > ?3 AND message <= ?4
               AND EXISTS (SELECT 1 FROM message WHERE seq=recipient.message
                           AND (released <= ?1 OR released <= accepted))""",
            (*values, after, last[0][0] if last else 1 << 62),
        ).rowcount
        return (last[0][0] if last else 0), changed

    async def hold(self, messages: Sequence[str], now: float) -> int:
        """As `Store.hold`."""
        return await self._stepwise(messages, partial(self._move, now, State.QUEUED, State.HELD, "held"))

    async def resume(self, messages: Sequence[str], now: float) -> int:
        """As `Store.resume`."""
        return await self._stepwise(messages, partial(self._move, now, State.HELD, State.QUEUED, "released"))

    def _move(self, now: float, old: State, new: State, kind: str, seq: int, identifier: str) -> tuple[int, int]:
        at, write = micros(now), self._writer.execute
        write(
            """INSERT INTO event (at, kind, message, number, address, attempts)
               SELECT ?, ?, ?, number, address, attempts FROM recipient WHERE message=? AND state=?""",
            (at, kind, identifier, seq, CODES[old]),
        )
        moved = write(
            "UPDATE recipient SET state=?, changed=? WHERE message=? AND state=?",
            (CODES[new], micros(self._now()), seq, CODES[old]),
        ).rowcount
        if moved and new is State.QUEUED:
            write("UPDATE message SET released=max(released, ?) WHERE seq=?", (at, seq))
        return moved, moved

    async def drop(self, messages: Sequence[str], now: float) -> int:
        """As `Store.drop`."""

        def drop(seq: int, identifier: str, job: Job) -> tuple[int, int]:
            place = place_of(self._writer, seq)
            self._writer.execute(
                """INSERT INTO event (at, kind, message, number, address, attempts)
                   SELECT ?, 'dropped', ?, number, address, attempts FROM recipient
                   WHERE message=? AND state IN (0, 4)""",
                (micros(now), identifier, seq),
            )
            recipients = self._writer.execute("DELETE FROM recipient WHERE message=?", (seq,)).rowcount
            self._writer.execute("DELETE FROM message WHERE seq=?", (seq,))
            if place is not None:
                job.retired.append((seq, place))
            return 1, recipients

        return await self._stepwise(messages, drop, removes=True)

    async def _stepwise(
        self, messages: Sequence[str], change: Callable[..., tuple[int, int]], *, removes: bool = False
    ) -> int:
        """Changes messages in as many transactions as it takes for none to hold the event loop for long.

        Args:
            messages: their ids; those that are not here are passed over.
            change: changes one, by `seq` and id, and returns what counts of it and how many recipients it touched.
            removes: `change` takes the job as well, which gets the bodies that nobody needs any more.
        """
        rest, total = list(dict.fromkeys(messages)), 0
        while rest:
            job = self._commits.job()

            def action(job: Job = job, rest: list[str] = rest) -> tuple[int, int]:
                count = touched = done = 0
                for identifier in rest[:STEP_MESSAGES]:
                    done += 1
                    found = self._find(identifier)
                    if found is not None:
                        added, recipients = change(found[0], identifier, *([job] if removes else ()))
                        count += added
                        touched += recipients
                    if touched >= STEP_RECIPIENTS:
                        break
                return count, done

            job.action = action
            count, done = await self._commits.submit(job)
            total += count
            rest = rest[done:]
        return total

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
        with store_faults(self._directory):
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
        if self._by_id or self._large or self._bodies.busy or not self._commits.idle:
            return False
        with store_faults(self._directory):
            return not self._writer.execute("SELECT 1 FROM message LIMIT 1").fetchall()

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
        if seq in self._commits.unsynced or seq in self._broken:
            return True
        live = self._by_seq.get(seq)
        return live is not None and number in live.claimed

    def _find(self, identifier: str) -> tuple[int, bool] | None:
        live = self._by_id.get(identifier)
        if live is not None:
            return live.seq, live.outside
        query = "SELECT seq, file IS NOT NULL OR segment IS NOT NULL FROM message WHERE id=?"
        with store_faults(self._directory):
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
                logger.error("a body cannot be moved: %s", error)
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

    async def tend(self) -> None:
        """Removes overdue history and gives free pages back to the disk, in small transactions, to the end of it.

        Raises:
            OSError: it cannot be written.
        """
        while not self._closing and self._history.overdue():
            await self._act(partial(self._history.prune, TEND_EVENTS))
        while not self._closing and self._history.spare_pages():
            await self._act(self._history.give_back)

    def untidy(self) -> bool:
        """There is something for `tend` to do."""
        with store_faults(self._directory):
            return self._history.overdue() or self._history.spare_pages() > 0

    def _tend_in_time(self) -> None:
        # A store that nobody writes to is asked for due mail from time to time all the same.
        clock = time.monotonic()
        if clock >= self._next_tending and not self._tending and not self._closing:
            self._next_tending = clock + TEND_SECONDS
            if self.untidy():
                self._tending = True
                self._keep(self._tended())

    async def _tended(self) -> None:
        try:
            await self.tend()
        except OSError as error:
            logger.warning("history was not removed, or free room not given back: %s", error)
        finally:
            self._tending = False

    @property
    def tending(self) -> bool:
        """Housekeeping is under way."""
        return self._tending


def _own(content: Spool) -> BodySpool:
    if not isinstance(content, BodySpool):
        raise TypeError("the content must come from this store's spool()")
    return content


def open_readonly(directory: Path) -> Reader:
    """List and get without the lock, beside a running server or without one (`Reader.open_readonly`)."""
    return Reader.open_readonly(directory)


__all__ = ["SMALL_BODY", "SqliteStore", "open_readonly"]
