"""Keys of submissions: a message that a client submits again under the same key is stored once.

Promises: a key is written in the transaction of its message, in the shard that has it, so after a crash at any moment
the store has both or neither. While a process stores a message it holds a lock on the key, which the kernel releases
when the process ends, for any reason; another process refuses the key meanwhile (`SubmissionPending`), the same one
waits. A key that is not in a shard of this process is looked for in the others, read-only. The number of processes may
change: all shards are asked.
Limitations: the processes share one file system, with POSIX locks. While a shard cannot be read, a key that is not
found in another one is refused with OSError. A process that finds a key in another's shard does not sync that shard: if
its owner was killed before it did, and the power fails before the owner's successor opens the shard, the repetition was
acknowledged and is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from ironpost.queue.store import StoreUnusable, Submission, SubmissionPending, SubmittedBefore
from ironpost.storage.ownership import open_private
from ironpost.storage.sqlite.faults import store_faults
from ironpost.storage.sqlite.rows import micros
from ironpost.storage.sqlite.schema import connect_readonly

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from ironpost.queue.store import NewMessage

PRUNED: Final = 500
"""Number of keys that one transaction removes."""
LOCKS: Final = "submissions.lock"
"""The file with the locks, in the directory of the shards. It is empty, and its existence means nothing."""

_FIND: Final = "SELECT message, digest FROM submission WHERE tenant = ? AND key = ? AND at > ?"
_ADD: Final = "INSERT OR REPLACE INTO submission (tenant, key, at, message, digest) VALUES (?,?,?,?,?)"
_OVERDUE: Final = "SELECT 1 FROM submission WHERE at <= ? LIMIT 1"
_PRUNE: Final = """DELETE FROM submission WHERE (tenant, key) IN (
    SELECT tenant, key FROM submission WHERE at <= ? LIMIT ?)"""


def _refuse_known(connection: sqlite3.Connection, tenant: str, submission: Submission, since: int) -> None:
    """Raise SubmittedBefore if the key was submitted after a time in microseconds since 1970."""
    for message, digest in connection.execute(_FIND, (tenant, submission.key, since)).fetchall():
        raise SubmittedBefore(message, same=digest == submission.digest)


class KeyTurns:
    """Submissions with the same key, one at a time within this process."""

    def __init__(self) -> None:
        self._busy: dict[tuple[str, str], asyncio.Future[None]] = {}

    @contextlib.asynccontextmanager
    async def turn(self, tenant: str, key: str) -> AsyncIterator[None]:
        """Wait until no other context for this key is open."""
        which = tenant, key
        while (other := self._busy.get(which)) is not None:
            await asyncio.wait([other])
        mine = self._busy[which] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._busy[which]
            mine.set_result(None)


class ShardSubmissions:
    """The keys of one shard. Methods that write are called inside a transaction."""

    def __init__(self, db: sqlite3.Connection, directory: Path, now: Callable[[], float], seconds: float) -> None:
        """Keep the keys of a database.

        Args:
            db: the writing connection.
            directory: the shard's.
            now: seconds since 1970.
            seconds: for which keys are kept.
        """
        self._db = db
        self._directory = directory
        self._now = now
        self._seconds = seconds
        self.turns = KeyTurns()

    @property
    def _since(self) -> int:
        return micros(self._now() - self._seconds)

    def refuse_known(self, tenant: str, submission: Submission) -> None:
        """Raise SubmittedBefore if the key is in this shard.

        Raises:
            OSError: the database cannot be read.
        """
        with store_faults(self._directory):
            _refuse_known(self._db, tenant, submission, self._since)

    def add(self, message: NewMessage, submission: Submission) -> None:
        """Write the key of a message."""
        tenant, at = message.envelope.origin.tenant, micros(message.accepted)
        self._db.execute(_ADD, (tenant, submission.key, at, message.id, submission.digest))

    def overdue(self) -> bool:
        """Whether there are keys to remove."""
        return bool(self._db.execute(_OVERDUE, (self._since,)).fetchall())

    def prune(self) -> int:
        """Remove some keys that are overdue; return how many."""
        return self._db.execute(_PRUNE, (self._since, PRUNED)).rowcount


class SharedSubmissions:
    """The keys in the shards of other processes, and the locks that all processes share."""

    def __init__(self, folder: Path, now: Callable[[], float], seconds: float) -> None:
        """Prepare; the file with the locks is created with the first key.

        Args:
            folder: the directory of the shards.
            now: seconds since 1970.
            seconds: for which keys are kept.
        """
        self._path = folder / LOCKS
        self._now = now
        self._seconds = seconds
        self._turns = KeyTurns()
        self._descriptor = -1

    @contextlib.asynccontextmanager
    async def turn(self, tenant: str, key: str) -> AsyncIterator[None]:
        """Wait until no other context for this key is open in this process, and lock the key against the others.

        Raises:
            SubmissionPending: another process has locked it.
            OSError: the locks cannot be used.
        """
        async with self._turns.turn(tenant, key):
            with self._lock(tenant, key):
                yield

    @contextlib.contextmanager
    def _lock(self, tenant: str, key: str) -> Iterator[None]:
        """Lock one octet of the file, by the hash of the key. The octet need not exist."""
        if self._descriptor < 0:
            # Opened once: to close another descriptor of the file would release the locks of this process.
            self._descriptor = open_private(self._path, os.O_RDWR | os.O_CREAT)
        octet = int.from_bytes(sha256(f"{tenant}\0{key}".encode()).digest()[:7])
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, octet)
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EACCES}:
                raise
            raise SubmissionPending(key) from None
        try:
            yield
        finally:
            if self._descriptor >= 0:  # `close` has released it otherwise
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, octet)

    async def refuse_known(self, tenant: str, submission: Submission, shards: Sequence[Path]) -> None:
        """Raise SubmittedBefore if the key is in one of these shards, which other processes have open or none.

        Raises:
            OSError: one of them cannot be read.
        """
        if shards:
            since = micros(self._now() - self._seconds)
            await asyncio.to_thread(partial(_refuse_known_in, shards, tenant, submission, since))

    def close(self) -> None:
        """Release all locks."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _refuse_known_in(shards: Sequence[Path], tenant: str, submission: Submission, since: int) -> None:
    fault: OSError | None = None
    for directory in shards:
        try:
            with store_faults(directory), contextlib.closing(connect_readonly(directory)) as connection:
                _refuse_known(connection, tenant, submission, since)
        except FileNotFoundError:
            continue  # it is being created
        except StoreUnusable as error:  # another process has not migrated it yet
            fault = OSError(errno.EAGAIN, str(error), str(directory))
        except OSError as error:
            fault = error
    if fault is not None:
        raise fault
