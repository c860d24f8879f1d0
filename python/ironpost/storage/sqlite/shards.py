"""The store on disk: a fixed number of shards, each an SQLite database, of which a process owns several.

Promises: new mail of a process goes into one of its shards, so that group commit works as over a single database. Its
other shards are drained: their mail is delivered, and an empty one is closed. A shard that was never used does not
exist; one whose mail is not due for long takes a connection but no process. With fewer processes than before, each
owns more shards, so all mail has an owner.
Refuses: more processes than shards; a layout that it does not know.
Limitations: `record` changes one shard, because no transaction spans several.

In the data directory, whose lock the caller holds (`lock.DirectoryLock`): `shards/count`, and `shards/<number>/` with
the files of `sqlite`. docs/storage.md describes it for operators.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import heapq
import logging
import os
import sqlite3
import time
from collections import Counter
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from ironpost.queue.store import SUBMISSION_SECONDS, Claimed, Tally
from ironpost.storage.bodies import BODIES, SEGMENTS
from ironpost.storage.bodies.spool import MEMORY, MemoryBudget
from ironpost.storage.directory import sync_directory
from ironpost.storage.lock import DirectoryInUse
from ironpost.storage.reserve import RESERVE
from ironpost.storage.sqlite.commit import end_process
from ironpost.storage.sqlite.history import HISTORY_OCTETS, HISTORY_SECONDS
from ironpost.storage.sqlite.query import query
from ironpost.storage.sqlite.rows import Reader, micros
from ironpost.storage.sqlite.schema import DATABASE, SchemaError, connect
from ironpost.storage.sqlite.store import SqliteStore, lease_lost
from ironpost.storage.sqlite.submissions import SharedSubmissions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from ironpost.model import Address
    from ironpost.model.body import Spool
    from ironpost.queue.selection import Selection
    from ironpost.queue.store import (
        Event,
        Lease,
        Messages,
        NewMessage,
        QueuedMessage,
        RecipientState,
        StoredQueue,
        Submission,
        Update,
    )

SHARDS = 64
"""Number of shards of a new data directory, and so the maximum number of processes. An unused shard costs nothing."""
REST_SECONDS = 10.0
"""Seconds for which a drained shard keeps its sync process after the last write."""

FAULT_SECONDS = 5.0
"""Seconds for which a shard that could not be read is skipped."""

log = logging.getLogger("ironpost.storage")

FOLDER = "shards"
"""The directory of all shards, below the data directory."""
COUNT = "count"
"""The file in it with the number of shards."""


def lay_out(data: Path) -> int:
    """Prepare a data directory for shards; return their number. The caller holds its lock.

    The database of a version before shards, at the top of the directory, becomes a shard. If a crash interrupts this,
    the next call completes it.

    Raises:
        SchemaError: another version's layout, or a program has the old database open.
        OSError: it cannot be written, or the old database is damaged.
    """
    folder = data / FOLDER
    if not folder.exists():
        folder.mkdir(mode=0o700)
        sync_directory(data)
    record = folder / COUNT
    if not record.exists():
        draft = folder / f"{COUNT}.new"
        draft.unlink(missing_ok=True)  # left by an interrupted start
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b"%d\n" % SHARDS)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        draft.rename(record)
        sync_directory(folder)
    found = record.read_text("ascii", "replace").strip()
    if not found.isdigit() or not 1 <= int(found) <= 100:
        raise SchemaError(f"{record} says {found!r}, not the number of shards: another program wrote it.")
    count = int(found)
    if (data / DATABASE).exists():
        _take_over(data, count)
    return count


def _take_over(data: Path, count: int) -> None:
    """Turn the database at the top into a shard. Its bodies are moved first: the database's place marks completion."""
    free = (_directory(data, number) for number in range(count))
    shard = next((directory for directory in free if not (directory / DATABASE).exists()), None)
    if shard is None:
        raise SchemaError(f"{data / DATABASE} cannot become a shard: all {count} are in use. Start what wrote it once.")
    try:
        connection = connect(data)
        try:
            # Copies its log into it, so that one rename moves it.
            connection.execute("PRAGMA journal_mode=DELETE").fetchall()
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        raise SchemaError(f"{data / DATABASE} is in use ({error}): stop the program that has it open.") from error
    except sqlite3.Error as error:
        raise OSError(errno.EIO, f"the queue's database cannot be opened: {error}", str(data)) from error
    shard.mkdir(mode=0o700, exist_ok=True)
    for name in (BODIES, SEGMENTS):
        with contextlib.suppress(FileNotFoundError):
            (data / name).rename(shard / name)
    sync_directory(shard)
    sync_directory(shard.parent)
    (data / DATABASE).rename(shard / DATABASE)
    sync_directory(shard)
    sync_directory(data)


def _count(data: Path) -> int:
    return int((data / FOLDER / COUNT).read_text("ascii"))


def _directory(data: Path, number: int) -> Path:
    return data / FOLDER / f"{number:02}"


def shard_directories(data: Path) -> list[Path]:
    """Return the directories that have a database, including the top if it has an earlier layout."""
    found = [path.parent for path in sorted((data / FOLDER).glob(f"[0-9][0-9]/{DATABASE}"))]
    return [data, *found] if (data / DATABASE).exists() else found


class ShardedStore:
    """The shards of one process. Implements `queue.store.Store`. Create it with `ShardedStore.at`."""

    def __init__(
        self,
        data: Path,
        main: SqliteStore,
        others: Sequence[SqliteStore],
        now: Callable[[], float],
        submissions: SharedSubmissions,
    ) -> None:
        """Called by `at`. New mail goes to `main`."""
        self._data = data
        self._submissions = submissions
        self._main = main
        self._others = list(others)
        self._now = now
        self._resting_until: dict[SqliteStore, float] = {}
        """Shards that could not be read, with the time of the next attempt."""
        self._turn = 0
        self._watched: dict[SqliteStore, tuple[asyncio.TimerHandle, int]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @classmethod
    def at(
        cls,
        data: Path,
        *,
        worker: int = 0,
        workers: int = 1,
        now: Callable[[], float] = time.time,
        reserve: int = RESERVE,
        memory: int = MEMORY,
        fatal: Callable[[OSError], object] = end_process,
        history: float = HISTORY_SECONDS,
        history_size: int = HISTORY_OCTETS,
        submissions: float = SUBMISSION_SECONDS,
    ) -> Self:
        """Open the shards of one process in a data directory that `lay_out` prepared.

        Args:
            data: the data directory.
            worker: number of the process, from 0. Shard n belongs to worker n modulo `workers`.
            workers: number of processes, at most that of shards.
            now: seconds since 1970.
            reserve: octets of the disk that new mail never takes.
            memory: budget of this process for incoming content above `SMALL_BODY`, in octets.
            fatal: as for `SqliteStore.at`.
            history: seconds for which each shard keeps attempts and events.
            history_size: approximate maximum size of them in each shard, in octets.
            submissions: seconds for which keys of submissions are kept.

        A shard that cannot be used (damaged, or its bodies do not belong to its database) is logged by name and not
        changed; new mail goes into the next one.

        Raises:
            DirectoryInUse: another process owns one of them.
            SchemaError: a newer ironpost wrote one.
            OSError: no shard of this process can be created, read or written.
        """
        main: SqliteStore | None = None
        others: list[SqliteStore] = []
        refused: OSError | None = None
        numbers = range(worker, _count(data), workers)
        open_shard = partial(
            SqliteStore.at, now=now, reserve=reserve, sharers=workers, memory=MemoryBudget(memory), fatal=fatal,
            history=history, history_size=history_size, submissions=submissions,
        )  # fmt: skip
        used = {_directory(data, number) for number in numbers} & set(shard_directories(data))
        try:
            for directory in (_directory(data, number) for number in numbers):
                if main is not None and directory not in used:
                    continue
                try:
                    store = open_shard(directory, resting=main is not None)
                except DirectoryInUse:
                    raise
                except OSError as error:
                    log.error("the shard %s cannot be used and is left as it is: %s", directory, error)
                    refused = error
                    if directory not in used:
                        break  # the disk refuses a new one: so it would the next
                    continue
                if main is None:
                    main = store
                elif store.drained() and not store.untidy():
                    store.abandon()
                else:
                    others.append(store)
            if main is None:
                assert refused is not None, "every worker has a shard"
                raise refused
        except BaseException:
            for opened in (main, *others):
                if opened is not None:
                    opened.abandon()
            raise
        return cls(data, main, others, now, SharedSubmissions(data / FOLDER, now, submissions))

    @property
    def shards(self) -> int:
        """Number of open shards."""
        return 1 + len(self._others)

    # -- the port

    def spool(self, size_hint: int | None = None) -> Spool:
        """As `Store.spool`."""
        return self._main.spool(size_hint)

    def commit(self, message: NewMessage) -> Awaitable[QueuedMessage]:
        """As `Store.commit`; the awaitable is a future."""
        if message.submission is not None:
            return asyncio.get_running_loop().create_task(self._commit_once(message, message.submission))
        return self._main.commit(message)

    async def _commit_once(self, message: NewMessage, submission: Submission) -> QueuedMessage:
        tenant = message.envelope.origin.tenant
        async with self._submissions.turn(tenant, submission.key):
            for shard in self._others:
                shard.submissions.refuse_known(tenant, submission)
            own = {shard.directory for shard in (self._main, *self._others)}
            elsewhere = [directory for directory in shard_directories(self._data) if directory not in own]
            await self._submissions.refuse_known(tenant, submission, elsewhere)
            return await self._main.commit_in_turn(message, submission)

    def record(self, lease: Lease, updates: Sequence[Update], reports: Sequence[NewMessage] = ()) -> Awaitable[None]:
        """As `Store.record`; the awaitable is a future."""
        shard = self._main if lease == self._main.lease else self._by_lease().get(lease, self._main)
        if shard is self._main:
            return shard.record(lease, updates, reports)
        return asyncio.get_running_loop().create_task(self._record_beside(shard, lease, updates, reports))

    def _by_lease(self) -> dict[Lease, SqliteStore]:
        return {shard.lease: shard for shard in (self._main, *self._others)}

    async def _record_beside(
        self, shard: SqliteStore, lease: Lease, updates: Sequence[Update], reports: Sequence[NewMessage]
    ) -> None:
        moved = [report._replace(content=await shard.adopt(report.content)) for report in reports]
        try:
            await shard.record(lease, updates, moved)
        finally:
            self._look_after(shard)

    def steady(self) -> Awaitable[None] | None:
        """As `Store.steady`."""
        if not self._others:
            return self._main.steady()
        return next(filter(None, (shard.steady() for shard in (self._main, *self._others))), None)

    async def queues(self) -> AsyncIterator[StoredQueue]:
        """As `Store.queues`."""
        failed: OSError | None = None
        for shard in self._in_turn():
            try:
                async for queue in shard.queues():
                    yield queue
            except OSError as error:
                failed = error
        if failed is not None:
            raise failed

    async def claim(
        self, domain: str, tenant: str, priority: int, limit: int, together: Callable[[Address], bool] | None = None
    ) -> Claimed:
        """As `Store.claim`, earliest first within each shard; each is the first to be asked in its turn.

        A shard that cannot be read is skipped for `FAULT_SECONDS`; the others continue (SECURITY R25).
        """
        found: Messages = []
        due: list[float] = []
        now = self._now()
        for shard in self._in_turn():
            until = self._resting_until.get(shard, now)
            if until > now:
                due.append(until)
                continue
            with self._alone(shard, now):
                messages, left = await shard.claim(domain, tenant, priority, limit - len(found), together)
                found += messages
                due += [] if left is None else [left]
                continue
            due.append(now + FAULT_SECONDS)
        return Claimed(found, min(due, default=None))

    async def claim_old(
        self, before: float, *, after: float | None = None, unwarned: bool = False
    ) -> AsyncIterator[Messages]:
        """As `Store.claim_old`, oldest first within each shard.

        Raises:
            OSError: at the end, if a shard was skipped because it cannot be read.
        """
        now = self._now()
        skipped: list[str] = []
        for shard in self._in_turn():
            if self._resting_until.get(shard, now) <= now:
                with self._alone(shard, now):
                    async for messages in shard.claim_old(before, after=after, unwarned=unwarned):
                        yield messages
                    continue
            skipped.append(str(shard.directory))
        if skipped:
            raise OSError(errno.EIO, f"old mail was not searched for in {', '.join(skipped)}")

    async def claim_late(self, limit: int) -> Claimed:
        """As `Store.claim_late`, the earliest first within each shard; one that is skipped may have mail later."""
        found: Messages = []
        following: list[float] = []
        now = self._now()
        for shard in self._in_turn():
            until = self._resting_until.get(shard, now)
            if until > now:
                following.append(until)
                continue
            with self._alone(shard, now):
                messages, deadline = await shard.claim_late(limit - len(found))
                found += messages
                following += [] if deadline is None else [deadline]
                continue
            following.append(now + FAULT_SECONDS)
        return Claimed(found, min(following, default=None))

    async def claim_selected(self, selection: Selection) -> AsyncIterator[Messages]:
        """As `Store.claim_selected`."""
        for shard in (self._main, *self._others):
            async for messages in shard.claim_selected(selection):
                yield messages

    async def redirect(self, message: QueuedMessage, address: Address) -> None:
        """As `Store.redirect`."""
        shard = self._by_lease().get(message.lease)
        if shard is None:
            raise lease_lost(message.lease)
        await shard.redirect(message, address)

    @contextlib.contextmanager
    def _alone(self, shard: SqliteStore, now: float) -> Iterator[None]:
        """Log an error of one shard and continue, unless it is the only one."""
        try:
            yield
        except OSError as error:
            if not self._others:
                raise
            self._resting_until[shard] = now + FAULT_SECONDS
            fields = {"detail": str(error), "directory": str(shard.directory)}
            log.error("a shard cannot be read: %s", error, extra={"event": "store-fault", "fields": fields})
        else:
            self._resting_until.pop(shard, None)

    def _in_turn(self) -> list[SqliteStore]:
        shards = [self._main, *self._others]
        self._turn = (self._turn + 1) % len(shards)
        return shards[self._turn :] + shards[: self._turn]

    async def waiting(self, domains: Sequence[str], limit: int = 1000) -> Sequence[str]:
        """As `Store.waiting`, oldest first within each shard."""
        found: tuple[str, ...] = ()
        for shard in (self._main, *self._others):
            if len(found) < limit:
                with self._alone(shard, self._now()):
                    found += tuple(await shard.waiting(domains, limit - len(found)))
        return found

    async def take(self, message: str, domains: Sequence[str]) -> QueuedMessage | None:
        """As `Store.take`."""
        for shard in (self._main, *self._others):
            taken = await shard.take(message, domains)
            if taken is not None:
                return taken
        return None

    async def unclaim(self, messages: Sequence[QueuedMessage]) -> None:
        """As `Store.unclaim`."""
        shards = self._by_lease()
        for message in messages:
            if (shard := shards.get(message.lease)) is not None:
                await shard.unclaim([message])

    async def retry(self, selection: Selection) -> int:
        """As `Store.retry`."""
        return await self._everywhere(lambda shard: shard.retry(selection))

    async def hold(self, selection: Selection) -> int:
        """As `Store.hold`."""
        return await self._everywhere(lambda shard: shard.hold(selection))

    async def release(self, selection: Selection) -> int:
        """As `Store.release`."""
        return await self._everywhere(lambda shard: shard.release(selection))

    async def drop(self, selection: Selection) -> int:
        """As `Store.drop`."""
        return await self._everywhere(lambda shard: shard.drop(selection))

    async def _everywhere(self, change: Callable[[SqliteStore], Awaitable[int]]) -> int:
        total = await change(self._main)
        for shard in list(self._others):
            if shard in self._others:  # otherwise it has been closed because it was empty
                total += await change(shard)
                self._look_after(shard)
        return total

    async def list(self, limit: int = 1000) -> Messages:
        """As `QueueReader.list`."""
        return _oldest([await shard.list(limit) for shard in (self._main, *self._others)], limit)

    async def select(self, selection: Selection, limit: int = 1000) -> Messages:
        """As `QueueReader.select`."""
        found = [await shard.select(selection, limit) for shard in (self._main, *self._others)]
        return _oldest(found, limit)

    async def get(self, message: str) -> QueuedMessage | None:
        """As `QueueReader.get`."""
        for shard in (self._main, *self._others):
            if (found := await shard.get(message)) is not None:
                return found
        return None

    async def find(self, messages: Sequence[str]) -> Sequence[str]:
        """As `QueueReader.find`."""
        found: set[str] = set()
        for shard in (self._main, *self._others):
            found.update(await shard.find(messages))
        return [each for each in messages if each in found]

    async def tally(self) -> Tally:
        """As `QueueReader.tally`."""
        return _sum([await shard.tally() for shard in (self._main, *self._others)])

    async def shape(self) -> Mapping[str, Sequence[int]]:
        """As `QueueReader.shape`."""
        return _sum_shapes([await shard.shape() for shard in (self._main, *self._others)])

    async def prune_history(self) -> int:
        """Remove overdue history and return free pages to the file system, shard by shard.

        Returns:
            The number of shards that had any.

        Raises:
            OSError: a shard cannot be read or written; the others were pruned.
        """
        pruned = 0
        fault: OSError | None = None
        for shard in (self._main, *self._others):
            try:
                if shard.untidy():
                    await shard.tend()
                    pruned += 1
                    self._look_after(shard)
            except OSError as error:
                fault = error
        if fault is not None:
            raise fault
        return pruned

    async def close(self) -> None:
        """As `Store.close`. A shard that cannot be closed does not keep the others from writing what was submitted."""
        for timer, _ in self._watched.values():
            timer.cancel()
        self._watched.clear()
        closing = (self._main.close(), *(shard.close() for shard in self._others), *self._closing)
        done = await asyncio.gather(*closing, return_exceptions=True)
        self._submissions.close()
        if faults := [each for each in done if each is not None]:
            raise faults[0]

    # -- drained shards

    def _look_after(self, shard: SqliteStore) -> None:
        """Close a shard that is empty some time after a change, or stop its sync process if it is idle."""
        if shard not in self._watched and shard in self._others:
            timer = asyncio.get_running_loop().call_later(REST_SECONDS, self._look, shard)
            self._watched[shard] = timer, shard.transactions

    def _look(self, shard: SqliteStore) -> None:
        _, before = self._watched.pop(shard)
        if shard.drained():
            self._others.remove(shard)
            self._resting_until.pop(shard, None)
            task = asyncio.get_running_loop().create_task(shard.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        elif shard.transactions != before or not shard.rest():
            self._look_after(shard)


class ShardsReader:
    """Queries of all shards. Implements `queue.store.StandaloneReader`."""

    def __init__(self, readers: Sequence[Reader], faults: Sequence[str] = ()) -> None:
        """Called by `open_readonly`."""
        self._readers = list(readers)
        self.faults = list(faults)
        """As `StandaloneReader.faults`."""

    @classmethod
    def open_readonly(cls, data: Path) -> Self:
        """Open the shards for reading, beside a running server or without one.

        Raises:
            FileNotFoundError: there is no queue in this directory.
            SchemaError: another version of ironpost wrote it.
            OSError: no shard can be read.
        """
        readers: list[Reader] = []
        faults: list[OSError] = []
        try:
            for directory in shard_directories(data):
                try:
                    readers.append(Reader.open_readonly(directory))
                except FileNotFoundError:
                    continue  # it became a shard just now, or is being created
                except OSError as error:
                    faults.append(error)
            if not readers and faults:
                raise faults[0]
            if not readers:
                raise FileNotFoundError(f"There is no queue in {data}: it has no shard.")
        except BaseException:
            for reader in readers:
                reader.close()
            raise
        return cls(readers, [str(error) for error in faults])

    async def trace(self, what: str, limit: int) -> Sequence[Event]:
        """As `StandaloneReader.trace`."""
        found: list[Event] = []
        for reader in self._readers:
            with self._keep_fault():
                found += await reader.trace(what, limit)
        return sorted(found, key=lambda event: event.at)

    def query(self, statement: str, limit: int) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """As `StandaloneReader.query`."""
        return query([reader.directory for reader in self._readers], statement, limit)

    def close(self) -> None:
        """Close the databases."""
        for reader in self._readers:
            reader.close()

    async def list(self, limit: int = 1000) -> Messages:
        """As `QueueReader.list`."""
        found: list[Messages] = []
        for reader in self._readers:
            with self._keep_fault():
                found.append(await reader.list(limit))
        return _oldest(found, limit)

    async def select(self, selection: Selection, limit: int = 1000) -> Messages:
        """As `QueueReader.select`."""
        found: list[Messages] = []
        for reader in self._readers:
            with self._keep_fault():
                found.append(await reader.select(selection, micros(time.time()), limit))
        return _oldest(found, limit)

    @contextlib.contextmanager
    def _keep_fault(self) -> Iterator[None]:
        """Record a fault of one of several shards for `faults`, and continue with the others."""
        try:
            yield
        except OSError as error:
            if len(self._readers) == 1:
                raise
            self.faults.append(str(error))

    async def find(self, messages: Sequence[str]) -> Sequence[str]:
        """As `QueueReader.find`."""
        found: set[str] = set()
        for reader in self._readers:
            with self._keep_fault():
                found.update(await reader.find(messages))
        return [each for each in messages if each in found]

    async def tally(self) -> Tally:
        """As `QueueReader.tally`."""
        found: list[Tally] = []
        for reader in self._readers:
            with self._keep_fault():
                found.append(await reader.tally())
        return _sum(found)

    async def shape(self) -> Mapping[str, Sequence[int]]:
        """As `QueueReader.shape`."""
        found: list[Mapping[str, Sequence[int]]] = []
        for reader in self._readers:
            with self._keep_fault():
                found.append(await reader.shape(micros(time.time())))
        return _sum_shapes(found)

    async def get(self, message: str) -> QueuedMessage | None:
        """As `QueueReader.get`."""
        for reader in self._readers:
            with self._keep_fault():
                if (found := await reader.get(message)) is not None:
                    return found
        return None


def _sum(tallies: Sequence[Tally]) -> Tally:
    recipients: Counter[RecipientState] = Counter()
    for tally in tallies:
        recipients.update(tally.recipients)
    return Tally(sum(tally.messages for tally in tallies), recipients)


def _sum_shapes(shapes: Sequence[Mapping[str, Sequence[int]]]) -> Mapping[str, Sequence[int]]:
    total: dict[str, list[int]] = {}
    for shape in shapes:
        for domain, counts in shape.items():
            old = total.get(domain, [0] * len(counts))
            total[domain] = [one + other for one, other in zip(old, counts, strict=True)]
    return total


def _oldest(found: Sequence[Messages], limit: int) -> Messages:
    if len(found) == 1:
        return found[0]
    return list(islice(heapq.merge(*found, key=lambda message: message.accepted), limit))
