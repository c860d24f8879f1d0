"""The store on disk: a fixed number of shards, each an SQLite store of its own, of which a process owns several.

Promises: new mail of one process goes into one shard, its own, so that group commit works as over a single database.
The others that it owns are drained: their mail is delivered, and one that is empty is closed. A shard that was never
used does not exist; one whose mail waits for a later day costs a connection and no process. Fewer processes than before
own more shards each, so that no mail is left behind.
Refuses: more processes than shards; to record in one call what lies in several shards, because no transaction spans
them; a layout that it does not know.

In the data directory, whose lock is the caller's (`lock.DirectoryLock`): `shards/count`, and `shards/<number>/` with
what `sqlite` keeps. docs/storage.md has it for operators.
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
from itertools import chain, islice
from typing import TYPE_CHECKING

from ironpost.storage.bodies import BODIES, SEGMENTS
from ironpost.storage.bodies.spool import MEMORY, MemoryBudget
from ironpost.storage.lock import DirectoryInUse, sync_directory
from ironpost.storage.room import RESERVE
from ironpost.storage.sqlite import SqliteStore
from ironpost.storage.sqlite_commit import end_process
from ironpost.storage.sqlite_history import HISTORY_OCTETS, HISTORY_SECONDS
from ironpost.storage.sqlite_rows import Reader, Tally
from ironpost.storage.sqlite_schema import DATABASE, SchemaError, connect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Self

    from ironpost.model.body import Spool
    from ironpost.queue.store import Messages, NewMessage, QueuedMessage, State, Update

SHARDS = 64
"""How many a new data directory gets: the most processes that can ever work on it. An unused one costs nothing."""
REST_SECONDS = 10.0
"""How long a drained shard keeps its sync process after it was last written to."""

FAULT_SECONDS = 5.0
"""How long a shard that could not be read is left alone."""

log = logging.getLogger("ironpost.storage")

_FOLDER = "shards"
_COUNT = "count"


def lay_out(data: Path) -> int:
    """Brings a data directory to this layout; how many shards it has. Hold its lock.

    What an ironpost before shards left (one database at the top) becomes a shard. A crash at any point of this is made
    good by the next call.

    Raises:
        SchemaError: another ironpost's layout, or a program holds the old database open.
        OSError: it cannot be written, or the old database is damaged.
    """
    folder = data / _FOLDER
    if not folder.exists():
        folder.mkdir(mode=0o700)
        sync_directory(data)
    record = folder / _COUNT
    if not record.exists():
        draft = folder / f"{_COUNT}.new"
        draft.unlink(missing_ok=True)  # of a start that was cut short
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
        raise SchemaError(f"{record} says {found!r}, not how many shards there are: another program wrote it.")
    count = int(found)
    if (data / DATABASE).exists():
        _take_over(data, count)
    return count


def _take_over(data: Path, count: int) -> None:
    """Makes the database at the top a shard. Its bodies go first: what counts is where the database is."""
    free = (_directory(data, number) for number in range(count))
    shard = next((directory for directory in free if not (directory / DATABASE).exists()), None)
    if shard is None:
        raise SchemaError(f"{data / DATABASE} cannot become a shard: all {count} are in use. Start what wrote it once.")
    try:
        connection = connect(data)
        try:
            # With its log in it: one file, which one rename moves.
            connection.execute("PRAGMA journal_mode=DELETE").fetchall()
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        raise SchemaError(f"{data / DATABASE} is in use ({error}): end the program that has it open.") from error
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
    return int((data / _FOLDER / _COUNT).read_text("ascii"))


def _directory(data: Path, number: int) -> Path:
    return data / _FOLDER / f"{number:02}"


def shard_directories(data: Path) -> list[Path]:
    """The directories that have a database; the top among them if it is of an earlier layout."""
    found = [path.parent for path in sorted((data / _FOLDER).glob(f"[0-9][0-9]/{DATABASE}"))]
    return [data, *found] if (data / DATABASE).exists() else found


class ShardedStore:
    """The shards of one process. Implements `queue.store.Store`. Make it with `ShardedStore.at`."""

    def __init__(self, main: SqliteStore, others: Sequence[SqliteStore], now: Callable[[], float] = time.time) -> None:
        """For `at`. New mail goes to `main`."""
        self._main = main
        self._others = list(others)
        self._now = now
        self._resting_until: dict[SqliteStore, float] = {}
        """Shards that could not be read, and when they are asked again."""
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
    ) -> Self:
        """Opens the shards of one of several processes in a data directory that `lay_out` has seen.

        Args:
            data: the data directory.
            worker: which process this is, from 0. Shard n belongs to worker n modulo `workers`.
            workers: how many there are, at most as many as shards.
            now: seconds since 1970.
            reserve: octets of the disk that new mail never takes.
            memory: octets of content on its way in that this process may hold above `SMALL_BODY` a message.
            fatal: as for `SqliteStore.at`.
            history: seconds for which each shard keeps attempts and events.
            history_size: how many octets of them each shard keeps, about.

        A shard that cannot be used (damaged, or its database and its bodies do not belong together) is reported in the
        log by name and left as it is; new mail goes into the next one.

        Raises:
            DirectoryInUse: another process owns one of them.
            SchemaError: a newer ironpost wrote one.
            OSError: none of those of this process can be created, read or written.
        """
        main: SqliteStore | None = None
        others: list[SqliteStore] = []
        refused: OSError | None = None
        numbers = range(worker, _count(data), workers)
        open_shard = partial(
            SqliteStore.at, now=now, reserve=reserve, sharers=workers, memory=MemoryBudget(memory), fatal=fatal,
            history=history, history_size=history_size,
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
                        break  # the disk refuses a new one: the next would fare no better
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
        return cls(main, others, now)

    @property
    def shards(self) -> int:
        """How many are open."""
        return 1 + len(self._others)

    def has(self, message: str) -> bool:
        """Whether that message is in one of them."""
        return any(shard.has(message) for shard in (self._main, *self._others))

    # -- what the port promises

    def spool(self, size_hint: int | None = None) -> Spool:
        """As `Store.spool`."""
        return self._main.spool(size_hint)

    def commit(self, message: NewMessage) -> Awaitable[QueuedMessage]:
        """As `Store.commit`; the awaitable is a future."""
        return self._main.commit(message)

    def record(self, updates: Sequence[Update], reports: Sequence[NewMessage] = ()) -> Awaitable[None]:
        """As `Store.record`; the awaitable is a future.

        Raises:
            ValueError: the updates concern messages in several shards.
        """
        if not self._others:
            return self._main.record(updates, reports)
        found = {self._owner(update.message) for update in updates}
        if len(found) > 1:
            raise ValueError("one record concerns messages in several shards")
        shard = found.pop() if found else self._main
        if shard is self._main:
            return shard.record(updates, reports)
        return asyncio.get_running_loop().create_task(self._record_beside(shard, updates, reports))

    def _owner(self, message: str) -> SqliteStore:
        claiming = (shard for shard in (self._main, *self._others) if shard.claims(message))
        # Nobody claims what another worker attempted while this one was started again (`service.lending`).
        having = (shard for shard in self._others if shard.has(message))
        return next(chain(claiming, having), self._main)

    async def _record_beside(
        self, shard: SqliteStore, updates: Sequence[Update], reports: Sequence[NewMessage]
    ) -> None:
        moved = [report._replace(content=await shard.adopt(report.content)) for report in reports]
        try:
            await shard.record(updates, moved)
        finally:
            self._look_after(shard)

    def steady(self) -> Awaitable[None] | None:
        """As `Store.steady`."""
        if not self._others:
            return self._main.steady()
        return next(filter(None, (shard.steady() for shard in (self._main, *self._others))), None)

    async def claim(self, now: float, limit: int) -> Messages:
        """As `Store.claim`, earliest first within each shard; each is the first to be asked in its turn.

        A shard that cannot be read is passed over for `FAULT_SECONDS`, and the others go on (SECURITY R25).
        """
        found: Messages = []
        for shard in self._in_turn():
            if len(found) < limit and self._resting_until.get(shard, now) <= now:
                with self._alone(shard, now):
                    found += await shard.claim(now, limit - len(found))
                if shard.tending:
                    self._look_after(shard)
        return found

    @contextlib.contextmanager
    def _alone(self, shard: SqliteStore, now: float) -> Iterator[None]:
        """An error of one shard, told, unless there is no other."""
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

    async def waiting(self, domains: Sequence[str], now: float, limit: int = 1000) -> Sequence[str]:
        """As `Store.waiting`, oldest first within each shard."""
        found: tuple[str, ...] = ()
        for shard in (self._main, *self._others):
            if len(found) < limit:
                with self._alone(shard, now):
                    found += tuple(await shard.waiting(domains, now, limit - len(found)))
        return found

    async def take(self, message: str, domains: Sequence[str], now: float) -> QueuedMessage | None:
        """As `Store.take`."""
        for shard in (self._main, *self._others):
            taken = await shard.take(message, domains, now)
            if taken is not None:
                return taken
        return None

    async def release(self, messages: Sequence[str]) -> None:
        """As `Store.release`."""
        for shard in (self._main, *self._others):
            await shard.release(messages)

    async def next_due(self) -> float | None:
        """As `Store.next_due`."""
        found: list[float | None] = []
        for shard in (self._main, *self._others):
            if shard not in self._resting_until:
                with self._alone(shard, self._now()):
                    found.append(await shard.next_due())
        found += self._resting_until.values()
        return min((due for due in found if due is not None), default=None)

    async def retry(self, messages: Sequence[str] | None, now: float) -> int:
        """As `Store.retry`."""
        return await self._everywhere(lambda shard: shard.retry(messages, now))

    async def hold(self, messages: Sequence[str], now: float) -> int:
        """As `Store.hold`."""
        return await self._everywhere(lambda shard: shard.hold(messages, now))

    async def resume(self, messages: Sequence[str], now: float) -> int:
        """As `Store.resume`."""
        return await self._everywhere(lambda shard: shard.resume(messages, now))

    async def drop(self, messages: Sequence[str], now: float) -> int:
        """As `Store.drop`."""
        return await self._everywhere(lambda shard: shard.drop(messages, now))

    async def _everywhere(self, change: Callable[[SqliteStore], Awaitable[int]]) -> int:
        total = await change(self._main)
        for shard in list(self._others):
            if shard in self._others:  # else it was empty and is closed since
                total += await change(shard)
                self._look_after(shard)
        return total

    async def list(self, limit: int = 1000) -> Messages:
        """As `Store.list`."""
        return _oldest([await shard.list(limit) for shard in (self._main, *self._others)], limit)

    async def get(self, message: str) -> QueuedMessage | None:
        """As `Store.get`."""
        for shard in (self._main, *self._others):
            if (found := await shard.get(message)) is not None:
                return found
        return None

    async def close(self) -> None:
        """As `Store.close`."""
        for timer, _ in self._watched.values():
            timer.cancel()
        self._watched.clear()
        await asyncio.gather(self._main.close(), *(shard.close() for shard in self._others), *self._closing)

    # -- drained shards

    def _look_after(self, shard: SqliteStore) -> None:
        """After a change: in a while it is empty, or at least at rest."""
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
    """Questions to all shards, for another process than the server: `list`, `get`, `tally`, `close`."""

    def __init__(self, readers: Sequence[Reader], faults: Sequence[str] = ()) -> None:
        """For `open_readonly`."""
        self._readers = list(readers)
        self.faults = list(faults)
        """What is wrong with shards that cannot be read: they are missing from the answers."""

    @classmethod
    def open_readonly(cls, data: Path) -> Self:
        """Beside a running server, or without one.

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
                    continue  # it became a shard just now, or is being made
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

    def close(self) -> None:
        """Lets go of the databases."""
        for reader in self._readers:
            reader.close()

    async def list(self, limit: int = 1000) -> Messages:
        """As `Store.list`."""
        found: list[Messages] = []
        for reader in self._readers:
            with self._told():
                found.append(await reader.list(limit))
        return _oldest(found, limit)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """A fault of one of several shards is kept for whoever asked, and the others are read."""
        try:
            yield
        except OSError as error:
            if len(self._readers) == 1:
                raise
            self.faults.append(str(error))

    def tally(self) -> Tally:
        """How much waits in all of them."""
        found: list[Tally] = []
        for reader in self._readers:
            with self._told():
                found.append(reader.tally())
        recipients: Counter[State] = Counter()
        for each in found:
            recipients.update(each.recipients)
        return Tally(sum(each.messages for each in found), recipients)

    async def get(self, message: str) -> QueuedMessage | None:
        """As `Store.get`."""
        for reader in self._readers:
            with self._told():
                if (found := await reader.get(message)) is not None:
                    return found
        return None


def _oldest(found: Sequence[Messages], limit: int) -> Messages:
    if len(found) == 1:
        return found[0]
    return list(islice(heapq.merge(*found, key=lambda message: message.accepted), limit))
