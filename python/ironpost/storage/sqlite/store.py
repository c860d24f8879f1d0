"""The embedded store: SQLite with group commit. Implements `queue.store.Store`.

Promises: what `commit` and `record` acknowledge is durable. Everything that arrives during a sync shares the next one.
The event loop never waits for a sync (`sqlite.sync`). One server at a time uses a directory (`lock`).
Files are 0600, directories 0700 (SECURITY R47). All SQL is parametrised (R41).
Refuses: new mail with `StoreFull` if the disk is full or has less free space than the reserve. After an error nothing
is half done and the store continues; one invalid message does not fail its batch.

docs/storage.md has the layout, the views for operators and the measurements of the group commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import secrets
import sqlite3
import time
from functools import partial
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ironpost.model.body import BodyDamaged
from ironpost.model.memory import MemoryBody
from ironpost.queue.codec import encode_origin, encode_parameters
from ironpost.queue.store import (
    SUBMISSION_SECONDS,
    UNCLAIMED,
    Claimed,
    Lease,
    LeaseLost,
    Messages,
    NewMessage,
    QueuedMessage,
    QueuedRecipient,
    RecipientState,
    StoredQueue,
    Tally,
    Update,
    deadline_of,
)
from ironpost.storage.bodies import SMALL_BODY, BodyLocation
from ironpost.storage.bodies.reading import StoredBody
from ironpost.storage.bodies.spool import BodySpool, MemoryBudget
from ironpost.storage.bodies.store import ShardBodies
from ironpost.storage.directory import sync_directory
from ironpost.storage.lock import DirectoryLock
from ironpost.storage.reserve import RESERVE
from ironpost.storage.sqlite.catalogue import SqliteCatalogue, forget_now, known
from ironpost.storage.sqlite.changes import OperatorChanges
from ironpost.storage.sqlite.claims import ClaimedMessage, Claims
from ironpost.storage.sqlite.commit import GroupCommit, Job, end_process
from ironpost.storage.sqlite.faults import store_faults
from ironpost.storage.sqlite.history import HISTORY_OCTETS, HISTORY_SECONDS, History
from ironpost.storage.sqlite.room import Room
from ironpost.storage.sqlite.rows import (
    CODES,
    NO_MESSAGE,
    STATES,
    Place,
    Reader,
    micros,
    place_of,
)
from ironpost.storage.sqlite.schema import DATABASE, PAGE, connect
from ironpost.storage.sqlite.selecting import selected
from ironpost.storage.sqlite.submissions import ShardSubmissions
from ironpost.storage.sqlite.sync import Syncer
from ironpost.storage.sqlite.upkeep import Upkeep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from ironpost.model import Address
    from ironpost.model.body import Body, Spool
    from ironpost.queue.selection import Selection
    from ironpost.queue.store import Submission
    from ironpost.storage.bodies.reading import Locate
    from ironpost.storage.sqlite.rows import StoredKey

logger = logging.getLogger("ironpost.storage")

QUEUES_STEP = 50
"""Number of queues after which `queues` lets the event loop serve sessions."""
ROW_OCTETS = 8192
"""Estimated size of a message without its body, in octets."""


class SqliteStore:
    """The store in one directory: one shard of a server (`shards`). Create it with `SqliteStore.at`."""

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
        submissions: float,
    ) -> None:
        """Called by `at`, which holds the lock."""
        self._lock = lock
        self.lease = Lease(directory.name, secrets.randbits(62))
        """The lock on the directory is the lease: it lasts until `close`, so nothing renews it."""
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
        self._changes = OperatorChanges(self._writer, self._commits, directory, now)
        self.submissions = ShardSubmissions(self._writer, directory, now, submissions)
        """The keys of submissions in this shard."""
        self._upkeep = Upkeep(self._history, self.submissions, self._commits)
        self._bodies = ShardBodies(
            directory,
            SqliteCatalogue(self._writer, self._commits),
            syncer,
            memory=memory,
            take_room=self._room.take,
            relocate=self._relocate,
        )
        self._claims = Claims(self._bodies.retire)
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
        submissions: float = SUBMISSION_SECONDS,
    ) -> Self:
        """Open the store in a directory, which is created if necessary; removes body files that are not needed.

        Args:
            directory: created with 0700 if it does not exist.
            now: seconds since 1970.
            reserve: octets of the disk that new mail never takes.
            sharers: number of processes that store new mail on this disk, including this one.
            resting: start the sync process only when something is written, or an old log must be emptied.
            memory: the budget for incoming content, shared with other shards; None for the default.
            fatal: called when the log cannot be recovered after a failed sync; by default the process ends.
            history: seconds for which attempts and events are kept.
            history_size: approximate maximum size of them, in octets.
            submissions: seconds for which keys of submissions are kept.

        Raises:
            DirectoryInUse: another process uses it.
            SchemaError: a newer ironpost wrote it.
            UnlistedBodies: its bodies do not belong to its database.
            OSError: it cannot be created or written, or an old log cannot be emptied.
        """
        lock = DirectoryLock(directory)
        try:
            store = cls(
                directory, now, reserve, lock, sharers, resting=resting, memory=memory or MemoryBudget(), fatal=fatal,
                history=history, history_size=history_size, submissions=submissions,
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

    # -- incoming content

    def spool(self, size_hint: int | None = None) -> BodySpool:
        """As `Store.spool`."""
        hint = size_hint or 0
        self._room.check(hint, inside=hint <= SMALL_BODY)
        return self._bodies.spool(hint)

    def _free_pages(self) -> int:
        """Return how many octets the database can take without growing."""
        with store_faults(self._directory):
            return PAGE * int(self._writer.execute("PRAGMA freelist_count").fetchall()[0][0])

    # -- the port

    def commit(self, message: NewMessage) -> Awaitable[QueuedMessage]:
        """As `Store.commit`; the awaitable is a future."""
        if message.submission is not None:
            return self._keep(self._commit_once(message, message.submission))
        return self._commit(message)

    async def _commit_once(self, message: NewMessage, submission: Submission) -> QueuedMessage:
        async with self.submissions.turns.turn(message.envelope.origin.tenant, submission.key):
            return await self.commit_in_turn(message, submission)

    async def commit_in_turn(self, message: NewMessage, submission: Submission) -> QueuedMessage:
        """As `Store.commit`, for a caller that lets no other message with the same key be committed meanwhile."""
        self.submissions.refuse_known(message.envelope.origin.tenant, submission)
        return await self._commit(message)

    def _commit(self, message: NewMessage) -> Awaitable[QueuedMessage]:
        spool = _own(message.content)
        if spool.size > SMALL_BODY:
            return self._keep(self._commit_outside(message, spool))
        job = self._commits.job()
        try:
            self._room.take(ROW_OCTETS + 2 * spool.size, inside=True)  # once in the log, and once in the database
        except OSError as error:
            self._commits.refuse(job, error)
            return job.future
        return self._submit(job, [(message, None)], claim=True)

    async def _commit_outside(self, message: NewMessage, spool: BodySpool) -> QueuedMessage:
        job = self._commits.job()
        place = await self._written(job, spool)
        result: QueuedMessage = await self._submit(job, [(message, place)], claim=True)
        return result

    async def _written(self, job: Job, spool: BodySpool) -> BodyLocation:
        try:
            self._room.take(ROW_OCTETS, inside=True)
            place = await self._bodies.write(spool)
        except BaseException:
            spool.discard()
            raise
        job.places.append(place)
        return place

    def _submit(
        self, job: Job, messages: Sequence[tuple[NewMessage, BodyLocation | None]], *, claim: bool
    ) -> asyncio.Future[Any]:
        try:
            for message, place in messages:
                self._add_message(job, message, _own(message.content), place, claim=claim)
        except BaseException as error:  # noqa: BLE001 - the caller gets it from the future
            self._commits.refuse(job, error)
            return job.future
        return self._commits.submit(job)

    def record(self, lease: Lease, updates: Sequence[Update], reports: Sequence[NewMessage] = ()) -> Awaitable[None]:
        """As `Store.record`; the awaitable is a future."""
        if lease != self.lease:
            job = self._commits.job()
            self._commits.refuse(job, lease_lost(lease))
            return job.future
        if any(_own(report.content).size > SMALL_BODY for report in reports):
            return self._keep(self._record_outside(updates, reports))
        return self._submit(self._record_job(updates), [(report, None) for report in reports], claim=False)

    async def _record_outside(self, updates: Sequence[Update], reports: Sequence[NewMessage]) -> None:
        job = self._record_job(updates)
        placed: list[tuple[NewMessage, BodyLocation | None]] = []
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
        job.on_durable = partial(self._recorded, updates)
        return job

    async def queues(self) -> AsyncIterator[StoredQueue]:
        """As `Store.queues`, each once."""
        count = 0
        queue: StoredKey | None = None
        while (queue := self._reader.queue_after(queue)) is not None:
            if [type(part) for part in queue] != [str, str, int]:
                await self._claim_from(queue, QUEUES_STEP, None)  # they cannot be read, and are held
                continue
            _, due = self._reader.due(queue, 0, self._is_claimed, 0)
            if due is not None:
                yield StoredQueue(*queue, due / 1e6)
            count += 1
            if count % QUEUES_STEP == 0:
                await asyncio.sleep(0)

    async def claim(
        self, domain: str, tenant: str, priority: int, limit: int, together: Callable[[Address], bool] | None = None
    ) -> Claimed:
        """As `Store.claim`."""
        await self._steady()
        return await self._claim_from((domain, tenant, priority), limit, together)

    async def _claim_from(self, queue: StoredKey, limit: int, together: Callable[[Address], bool] | None) -> Claimed:
        now = micros(self._now())
        found, left = self._reader.due(queue, now, self._is_claimed, limit)

        def chosen(seq: int, queued: QueuedRecipient) -> bool:
            if queued.number in found[seq]:
                return True
            return together is not None and micros(queued.due) <= now and together(queued.recipient.address)

        return Claimed(await self._claim_messages(list(found), chosen), None if left is None else left / 1e6)

    async def claim_old(
        self, before: float, *, after: float | None = None, unwarned: bool = False
    ) -> AsyncIterator[Messages]:
        """As `Store.claim_old`."""
        place: Place | None = Place(-1 if after is None else micros(after))
        while place is not None:
            await asyncio.sleep(0)
            await self._steady()
            seqs, place = self._reader.old(micros(before), place, self._has_unclaimed, unwarned=unwarned)
            messages = await self._claim_messages(seqs, lambda _seq, queued: not (unwarned and queued.warned))
            if messages:
                yield messages

    async def claim_late(self, limit: int) -> Claimed:
        """As `Store.claim_late`."""
        await self._steady()
        while True:
            found, following = self._reader.late(micros(self._now()), self._is_claimed, limit)
            messages = await self._claim_late(found)
            if messages or not found:  # otherwise none could be read, and the next are claimed
                return Claimed(messages, None if following is None else following / 1e6)

    async def _claim_late(self, found: Mapping[int, Sequence[int]]) -> Messages:
        return await self._claim_messages(list(found), lambda seq, queued: queued.number in found[seq])

    async def claim_selected(self, selection: Selection) -> AsyncIterator[Messages]:
        """As `Store.claim_selected`."""
        await self._steady()
        async for found in selected(self._writer, self._directory, selection, micros(self._now())):
            claimed: Messages = []
            numbers: dict[int, set[int]] = {}
            for seq, number in found:
                if not self._is_claimed(seq, number):
                    numbers.setdefault(seq, set()).add(number)
            for seq, message in self._reader.by_seq(list(numbers)):
                if not message.fault:
                    free = tuple(queued for queued in message.recipients if queued.number in numbers[seq])
                    self._claim(seq, message, free)
                    claimed.append(message._replace(recipients=free, lease=self.lease))
            if claimed:
                yield claimed

    async def redirect(self, message: QueuedMessage, address: Address) -> None:
        """As `Store.redirect`."""
        if message.lease != self.lease:
            raise lease_lost(message.lease)
        await self._changes.redirect(message, address)
        self._claims.end(message.id, [queued.number for queued in message.recipients])

    def _has_unclaimed(self, seq: int) -> bool:
        """Whether `claim_old` can claim recipients of this message."""
        if not self._claims.touches(seq):
            return True
        query = "SELECT number FROM recipient WHERE message=? AND state=0"
        return any(not self._is_claimed(seq, number) for (number,) in self._writer.execute(query, (seq,)).fetchall())

    async def _claim_messages(self, seqs: Sequence[int], chosen: Callable[[int, QueuedRecipient], bool]) -> Messages:
        """Claim the chosen recipients of these messages; those that cannot be read are held."""
        found = self._reader.by_seq(seqs)
        result, broken = [], []
        for seq, message in found:
            if message.fault:
                broken.append((seq, message))
                continue
            recipients = tuple(
                queued
                for queued in message.recipients
                if queued.state is RecipientState.QUEUED
                and chosen(seq, queued)
                and not self._claims.covers(seq, queued.number)
            )
            self._claim(seq, message, recipients)
            result.append(message._replace(recipients=recipients, lease=self.lease))
        if len(found) < len(seqs):
            there = {seq for seq, _ in found}
            broken += [(seq, NO_MESSAGE) for seq in seqs if seq not in there]
        if broken:
            await self._set_aside(broken)
        return result

    async def waiting(self, domains: Sequence[str], limit: int = 1000) -> Sequence[str]:
        """As `Store.waiting`."""
        return self._reader.waiting(domains, micros(self._now()), limit)

    async def take(self, message: str, domains: Sequence[str]) -> QueuedMessage | None:
        """As `Store.take`."""
        await self._steady()
        whole, found = await self.get(message), self._find(message)
        if whole is None or found is None or whole.not_before > max(whole.accepted, micros(self._now()) / 1e6):
            return None
        seq = found[0]
        if whole.fault:
            await self._set_aside([(seq, whole)])
            return None
        chosen = tuple(
            queued
            for queued in whole.recipients
            if queued.state is RecipientState.QUEUED
            and queued.recipient.address.key in domains
            and not self._is_claimed(seq, queued.number)
        )
        if not chosen:
            return None
        self._claim(seq, whole, chosen)
        return whole._replace(recipients=chosen, lease=self.lease)

    def steady(self) -> Awaitable[None] | None:
        """As `Store.steady`."""
        return self._commits.steady()

    async def _steady(self) -> None:
        while (recovered := self._commits.steady()) is not None:
            await recovered

    async def _set_aside(self, broken: Sequence[tuple[int, QueuedMessage]]) -> None:
        """Hold messages that cannot be read (SECURITY R25).

        If that cannot be written, they are skipped until the process ends.
        """
        self._claims.broken.update(seq for seq, _ in broken)
        for seq, message in broken:
            fields = {"id": message.id, "seq": seq, "detail": message.fault, "directory": str(self._directory)}
            text = "message %s (%d) cannot be read, and is held: %s"
            extra = {"event": "unreadable", "fields": fields}
            logger.error(text, message.id, seq, message.fault, extra=extra)
            try:
                moved = await self._changes.hold_unreadable(seq, message)
            except OSError as error:
                logger.error("message %s (%d), which cannot be read, cannot be held: %s", message.id, seq, error)
            else:
                if moved:
                    self._claims.broken.discard(seq)

    def _claim(self, seq: int, message: QueuedMessage, recipients: Sequence[QueuedRecipient]) -> None:
        numbers = [queued.number for queued in recipients]
        self._claims.claim(seq, message.id, numbers, outside=isinstance(message.body, StoredBody))

    async def unclaim(self, messages: Sequence[QueuedMessage]) -> None:
        """As `Store.unclaim`."""
        for message in messages:
            if message.lease == self.lease:
                self._claims.end(message.id, [queued.number for queued in message.recipients])

    async def retry(self, selection: Selection) -> int:
        """As `Store.retry`."""
        return await self._changes.retry(selection)

    async def hold(self, selection: Selection) -> int:
        """As `Store.hold`."""
        return await self._changes.hold(selection)

    async def release(self, selection: Selection) -> int:
        """As `Store.release`."""
        return await self._changes.release(selection)

    async def drop(self, selection: Selection) -> int:
        """As `Store.drop`."""
        return await self._changes.drop(selection)

    async def list(self, limit: int = 1000) -> Messages:
        """As `QueueReader.list`."""
        return await self._reader.list(limit)

    async def select(self, selection: Selection, limit: int = 1000) -> Messages:
        """As `QueueReader.select`."""
        return await self._reader.select(selection, micros(self._now()), limit)

    async def get(self, message: str) -> QueuedMessage | None:
        """As `QueueReader.get`."""
        return await self._reader.get(message)

    async def find(self, messages: Sequence[str]) -> Sequence[str]:
        """As `QueueReader.find`."""
        return await self._reader.find(messages)

    async def tally(self) -> Tally:
        """As `QueueReader.tally`."""
        return await self._reader.tally()

    async def shape(self) -> Mapping[str, Sequence[int]]:
        """As `QueueReader.shape`."""
        return await self._reader.shape(micros(self._now()))

    async def adopt(self, content: Spool) -> BodySpool:
        """Copy another shard's content, to be committed here, and discard the original."""
        original, copy = _own(content), self._bodies.spool(content.size)
        parts: list[bytes] = [bytes(part) for part in original.parts]
        try:
            if original.file:
                await original.durable()
                place = BodyLocation(original.size, original.checksum, file=original.file)
                parts = [piece async for piece in StoredBody(original.directory, b"", place).pieces()]
            for part in parts:
                if (waiter := copy.write(part)) is not None:
                    await waiter
        except BaseException:
            copy.discard()
            raise
        original.discard()
        return copy

    # -- for `shards` and `forwarding`

    def has(self, message: str) -> bool:
        """Whether this message is in the queue."""
        with store_faults(self._directory):
            return bool(self._writer.execute("SELECT 1 FROM message WHERE id=?", (message,)).fetchall())

    def claims(self, message: str) -> bool:
        """Whether this process has claimed recipients of this message."""
        return self._claims.by_id(message) is not None

    @property
    def directory(self) -> Path:
        """Directory of the shard."""
        return self._directory

    @property
    def transactions(self) -> int:
        """Number of transactions since it was opened."""
        return self._commits.transactions

    def rest(self) -> bool:
        """Stop the sync process until it is needed again; return False if it is in use."""
        self._bodies.segments.seal()
        if self._large or self._bodies.busy or not self._commits.idle:
            return False
        self._commits.rest()
        return True

    def drained(self) -> bool:
        """Whether the queue is empty and nothing is in progress."""
        if self._claims or self._large or self._bodies.busy or not self._commits.idle:
            return False
        with store_faults(self._directory):
            return not self._writer.execute("SELECT 1 FROM message LIMIT 1").fetchall()

    def abandon(self) -> None:
        """Close a store that has not been used yet."""
        self._closing = self._upkeep.stopped = True
        self._commits.abandon()
        self._lock.release()

    async def close(self) -> None:
        """As `Store.close`."""
        if self._closing:
            return
        self._closing = self._upkeep.stopped = True
        while self._large:
            await asyncio.wait(self._large)
        try:
            await self._bodies.close()
        finally:
            await self._commits.close()
            self._lock.release()

    # -- claims

    def _is_claimed(self, seq: int, number: int) -> bool:
        return seq in self._commits.unsynced or self._claims.covers(seq, number)

    def _find(self, identifier: str) -> tuple[int, bool] | None:
        live = self._claims.by_id(identifier)
        if live is not None:
            return live.seq, live.outside
        query = "SELECT seq, file IS NOT NULL OR segment IS NOT NULL FROM message WHERE id=?"
        with store_faults(self._directory):
            rows = self._writer.execute(query, (identifier,)).fetchall()
        return (rows[0][0], bool(rows[0][1])) if rows else None

    def _take(self, job: Job, live: ClaimedMessage) -> None:
        # A caller that was cancelled does not use its message, so that it can be claimed.
        if not job.future.cancelled():
            self._claims.add(live)

    def _recorded(self, updates: Sequence[Update]) -> None:
        for update in updates:
            self._claims.end(update.message, (update.number,))

    def end_claims(self, message: str, numbers: Sequence[int]) -> None:
        """End the claims on these recipients of a message."""
        self._claims.end(message, numbers)

    # -- bodies without a row

    def _retire(self, seq: int, place: BodyLocation) -> None:
        self._claims.retire(seq, place)

    async def _relocate(self, segment: int) -> None:
        """Move the records of a segment to the end of the body log."""
        rows = self._writer.execute("SELECT seq FROM message WHERE segment=? ORDER BY start", (segment,)).fetchall()
        for (seq,) in rows:
            old = place_of(self._writer, seq)
            if old is None or old.segment != segment:
                continue  # removed meanwhile
            try:
                parts = [piece async for piece in self._bodies.open(b"", old).pieces()]
            except BodyDamaged as error:
                logger.error("a body cannot be moved: %s", error)
                continue
            new = await self._bodies.segments.append(parts, old.length, old.checksum or 0)
            job = self._commits.job()
            job.action = partial(self._move_record, job, seq, old, new)
            await self._commits.submit(job)

    def _move_record(self, job: Job, seq: int, old: BodyLocation, new: BodyLocation) -> None:
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
        self, job: Job, message: NewMessage, spool: BodySpool, place: BodyLocation | None = None, *, claim: bool
    ) -> None:
        """Add the rows of a new message to a job.

        Args:
            job: the job.
            message: the message.
            spool: its content.
            place: durable location of the content; None for content that goes into the row.
            claim: whether its recipients are claimed for the caller.
        """
        prefix = message.prefix
        content = prefix if place is not None else b"".join([prefix, *spool.take()])
        checksum = crc32(content) if place is None else place.checksum
        size = len(prefix) + spool.size
        self._seq += 1
        seq, envelope, accepted = self._seq, message.envelope, micros(message.accepted)
        not_before = accepted if message.due is None else max(accepted, micros(message.due))
        state = CODES[RecipientState.HELD] if message.held is not None else 0
        sender, tenant, priority = str(envelope.reverse_path), envelope.origin.tenant, envelope.priority
        late = deadline_of(envelope, accepted / 1e6)
        deadline = None if late is None else micros(late)
        recipients = [
            (
                seq,
                number,
                str(to.address),
                encode_parameters(to.parameters),
                state,
                0,
                not_before,
                accepted,
                message.held or "",
                "",
                to.address.key,
                "" if to.original is None else str(to.original),
                tenant,
                priority,
                deadline,
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
                    encode_parameters(envelope.parameters),
                    encode_origin(envelope.origin),
                    size,
                    "" if place is None else place.file,
                    content,
                    not_before,
                    0 if place is None else place.segment,
                    0 if place is None else place.start,
                    checksum,
                ),
                recipients,
                (accepted, message.id, sender, envelope.origin.ip, message.message_id, message.findings),
            )
        )
        if message.held is not None:
            job.held.append((accepted, message.id, seq))
        if message.submission is not None:
            job.action = partial(self._add_submission, job, message, message.submission)
        if claim:
            claimed = not_before == accepted and message.held is None
            if claimed:
                live = ClaimedMessage(seq, message.id, outside=place is not None)
                live.claimed.update(range(len(recipients)))
                job.on_durable = partial(self._take, job, live)
            at, due = accepted / 1e6, not_before / 1e6
            body: Body = MemoryBody(content) if place is None else self._bodies.open(prefix, place, self._locate(seq))
            job.result = QueuedMessage(
                message.id,
                envelope,
                at,
                body,
                tuple(
                    QueuedRecipient(number, to, STATES[state], 0, due, message.held or "", "", at, False, late)
                    for number, to in enumerate(envelope.recipients)
                ),
                due,
                lease=self.lease if claimed else UNCLAIMED,
            )

    def _add_submission(self, job: Job, message: NewMessage, submission: Submission) -> Any:
        self.submissions.add(message, submission)
        return job.result

    # -- housekeeping

    def _locate(self, seq: int) -> Locate:
        return partial(place_of, self._writer, seq)

    def _load_bodies(self) -> None:
        """Load the bodies of earlier processes; remove files that are not needed, then their entries."""
        unneeded = self._bodies.load(known(self._writer))
        for name in unneeded:
            (self._directory / name).unlink(missing_ok=True)
        for directory in {(self._directory / name).parent for name in unneeded}:
            with contextlib.suppress(FileNotFoundError):
                sync_directory(directory)
        if unneeded:
            forget_now(self._writer, unneeded)

    async def tend(self) -> None:
        """As `Upkeep.tend`."""
        await self._upkeep.tend()

    def untidy(self) -> bool:
        """Whether there is something for `tend` to do."""
        with store_faults(self._directory):
            return self._upkeep.due()


def _own(content: Spool) -> BodySpool:
    if not isinstance(content, BodySpool):
        raise TypeError("the content must come from this store's spool()")
    return content


def lease_lost(lease: Lease) -> LeaseLost:
    """The error for a lease whose token is not current."""
    return LeaseLost(errno.ESTALE, f"the lease on shard {lease.shard!r} has ended")
