"""Incoming content of a shard: in memory within a budget, else in a file.

Promises: content up to `SMALL_BODY` never touches a file. Up to `RECORD_BODY` it is held in memory until its end, as
long as the worker's budget lasts. Of other content at most `COALESCE` octets and a piece are in memory, and at most
twice `SYNC_EVERY` octets are written but not synced: `write` then returns an awaitable that waits for the sync. The
database lists a file before it is created. Files are 0600 in directories of 0700 (SECURITY R47); their names are
random, never derived from input (R42). Discarded content leaves no file.
Refuses: writing after an error, with the same error; `StoreFull` means a full disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
from typing import TYPE_CHECKING, Protocol
from zlib import crc32

from ironpost.model.body import lacks_room
from ironpost.queue.store import StoreFull
from ironpost.storage.bodies import BODIES, RECORD_BODY, SMALL_BODY

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MEMORY = 64 * 1024 * 1024
"""Default memory budget of a worker for content above `SMALL_BODY`, in octets."""
COALESCE = 128 * 1024
"""Octets collected before each write to the file."""
SYNC_EVERY = 4 * 1024 * 1024
"""Octets written to a file between syncs."""
_SMALL_PIECE = 4096
"""Pieces smaller than this, in octets, are joined, because many tiny objects take more memory than their content."""


def storage_error(error: OSError) -> OSError:
    """Return the error, or `StoreFull` in its place if the disk is full."""
    if lacks_room(error) and not isinstance(error, StoreFull):
        return StoreFull(error.errno, os.strerror(error.errno or 0), error.filename)
    return error


class MemoryBudget:
    """The memory budget that all spools of a worker share."""

    __slots__ = ("free",)

    def __init__(self, octets: int = MEMORY) -> None:
        self.free = octets
        """Number of octets that are not reserved."""

    def take(self, octets: int) -> bool:
        """Reserve octets; return False if there are too few."""
        if octets > self.free:
            return False
        self.free -= octets
        return True

    def give(self, octets: int) -> None:
        """Release octets that were reserved by `take`."""
        self.free += octets


class SpoolOwner(Protocol):
    """The part of a shard that spools use."""

    directory: Path
    memory: MemoryBudget

    def list_file(self, name: str) -> asyncio.Future[None]:
        """List a file that is about to be created, in the database."""
        ...

    def sync_file(self, name: str) -> asyncio.Future[None]:
        """Sync the file and its name."""
        ...

    def abandon(self, name: str, listed: asyncio.Future[None]) -> None:
        """Free a file that is not needed, and may not exist."""
        ...

    def take_room(self, octets: int) -> None:
        """Raise StoreFull if the disk has no room for so much new mail."""
        ...


class BodySpool:
    """Implements `model.body.Spool`. The shard takes what was written from `parts` or from `file`."""

    # fmt: off
    __slots__ = ("_descriptor", "_done", "_error", "_held", "_hint", "_listed", "_owner", "_reserved", "_size",
                 "_syncing", "_unsynced", "checksum", "file", "parts")
    # fmt: on

    def __init__(self, owner: SpoolOwner, hint: int = 0) -> None:
        """`hint` is the declared size (RFC 1870 §6), in octets; 0 if there is none."""
        self._owner = owner
        self._hint = hint
        self._held = 0
        self._size = 0
        self._reserved = 0
        self._descriptor = -1
        self._listed: asyncio.Future[None] | None = None
        self._unsynced = 0
        self._syncing: asyncio.Future[None] | None = None
        self._error: OSError | None = None
        self._done = False
        self.parts: list[bytes | bytearray] = []
        """The content in memory: all of it, unless there is a file."""
        self.checksum = 0
        """CRC-32 of everything written; kept only above `SMALL_BODY`."""
        self.file = ""
        """The file, relative to the shard's directory; empty while the content is in memory."""

    @property
    def directory(self) -> Path:
        """The shard's directory."""
        return self._owner.directory

    @property
    def size(self) -> int:
        """Octets written so far."""
        return self._size

    def write(self, piece: bytes) -> asyncio.Future[None] | None:
        """Appends; a returned future is back-pressure (`Spool.write`).

        Raises:
            StoreFull: no room.
            OSError: the file cannot be written.
        """
        if self._error is not None:
            raise self._error
        if self._done:
            raise ValueError("the spool was committed or discarded")
        if self._size > SMALL_BODY:
            self.checksum = crc32(piece, self.checksum)
        elif self._size + len(piece) > SMALL_BODY:
            for part in (*self.parts, piece):
                self.checksum = crc32(part, self.checksum)
        self._size += len(piece)
        self._held += len(piece)
        self._hold(piece)
        if self.file:
            return self._flush() if self._held >= COALESCE else None
        if self._fits():
            return None
        return self._begin_file()

    def _hold(self, piece: bytes) -> None:
        if len(piece) >= _SMALL_PIECE:
            self.parts.append(piece)
        elif self.parts and isinstance(last := self.parts[-1], bytearray) and len(last) < COALESCE:
            last += piece
        else:
            self.parts.append(bytearray(piece))

    def _fits(self) -> bool:
        """Whether the content may stay in memory."""
        if self._size <= SMALL_BODY:
            return True
        wanted = self._size - self._reserved
        if max(self._size, self._hint) > RECORD_BODY or not self._owner.memory.take(wanted):
            return False
        self._reserved += wanted
        return True

    def _begin_file(self) -> asyncio.Future[None]:
        token = secrets.token_hex(16)
        self.file = f"{BODIES}/{token[:2]}/{token[2:]}"
        self._give_memory()
        self._listed = self._owner.list_file(self.file)
        self._listed.add_done_callback(_retrieved)
        return self._listed

    def _give_memory(self) -> None:
        self._owner.memory.give(self._reserved)
        self._reserved = 0

    def _flush(self) -> asyncio.Future[None] | None:
        assert self._listed is not None
        if not self._listed.done():
            return self._listed
        try:
            _raise(self._listed)
            self._owner.take_room(self._held)
            if self._descriptor < 0:
                path = _place(self._owner.directory, self.file)
                self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            write_all(self._descriptor, self.parts)
        except OSError as error:
            raise self._failed(error) from None
        self.parts.clear()
        self._unsynced += self._held
        self._held = 0
        if self._unsynced < SYNC_EVERY:
            return None
        previous = self._syncing
        if previous is not None and not previous.done():
            return previous
        try:
            _raise(previous)
        except OSError as error:
            raise self._failed(error) from None
        self._syncing = self._owner.sync_file(self.file)
        self._syncing.add_done_callback(_retrieved)
        self._unsynced = 0
        return None

    def _failed(self, error: OSError) -> OSError:
        self._error = storage_error(error)
        return self._error

    async def durable(self) -> None:
        """Complete and sync the file. Only for content that has one.

        Raises:
            OSError: the file is not durable.
        """
        if self._error is not None:
            raise self._error
        try:
            assert self._listed is not None
            await asyncio.shield(self._listed)
            if self._held or self._descriptor < 0:
                self._flush()
            if self._syncing is not None:
                await asyncio.shield(self._syncing)
            await asyncio.shield(self._owner.sync_file(self.file))
        except OSError as error:
            raise self._failed(error) from None

    def take(self) -> list[bytes | bytearray]:
        """End the spool, and return what is in memory; the file, if there is one, is the shard's from now on.

        The memory stays reserved until `forget`.
        """
        if self._error is not None:
            raise self._error
        if self._done:
            raise ValueError("the spool was committed or discarded")
        self._done = True
        self._close()
        return self.parts

    def forget(self) -> None:
        """Drop the content in memory and its reservation."""
        self.parts = []
        self._give_memory()

    def discard(self) -> None:
        """Discard the content (`Spool.discard`)."""
        if self._done:
            return
        self._done = True
        self.forget()
        self._close()
        if self._listed is not None:
            self._owner.abandon(self.file, self._listed)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self._close()
        self._give_memory()


def write_all(descriptor: int, parts: Iterable[bytes | bytearray], offset: int | None = None) -> None:
    """Write all parts at an offset, or at the file position, in as many calls as it takes.

    Raises:
        OSError: they cannot be written, or only some of them.
    """
    waiting: list[memoryview] = [memoryview(part) for part in parts if part]
    while waiting:
        some = waiting[:_VECTORS]
        count = os.writev(descriptor, some) if offset is None else os.pwritev(descriptor, some, offset)
        if offset is not None:
            offset += count
        done = 0
        while done < len(some) and count >= len(some[done]):
            count -= len(some[done])
            done += 1
        del waiting[:done]
        if count:
            waiting[0] = waiting[0][count:]


_VECTORS = 1024
"""Maximum number of buffers in one call (IOV_MAX)."""


def _place(directory: Path, name: str) -> Path:
    """Return the path of a body file; create the directories above it."""
    path = directory / name
    for above in (path.parent.parent, path.parent):  # `parents=True` would give the first a wider mode
        with contextlib.suppress(FileExistsError):
            above.mkdir(mode=0o700)
    return path


def _raise(future: asyncio.Future[None] | None) -> None:
    """Raise the exception of a future, if it is done and has one."""
    if future is not None and (error := future.exception()) is not None:
        raise error if isinstance(error, OSError) else OSError(errno.EIO, str(error))


def _retrieved(future: asyncio.Future[None]) -> None:
    """Mark the exception as retrieved, for asyncio; the next write raises it."""
    if not future.cancelled():
        future.exception()
