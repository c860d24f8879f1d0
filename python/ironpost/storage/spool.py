"""Content on its way into a store, and bodies at rest: in memory while small, in a file beside the database beyond.

Promises: content up to `SMALL_BODY` never touches a file; of larger content at most `COALESCE` octets and a piece are
held in memory and at most twice `SYNC_EVERY` lie unsynced in the page cache, whatever the size: `write` then returns
an awaitable that ends when the disk has caught up. Body files are 0600 in directories of 0700 (SECURITY R47), named by
chance, never by anything a peer said (R42).
Refuses: writing after an error, with the same error; `StoreFull` is the one for a full disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
from typing import TYPE_CHECKING

from ironpost.model.body import PIECE
from ironpost.queue.store import StoreFull

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

SMALL_BODY = 64 * 1024
"""Octets of content up to which a body lives in the database."""
COALESCE = 128 * 1024
"""Octets gathered before they are written to the file."""
SYNC_EVERY = 4 * 1024 * 1024
"""Octets written to a file before the disk is asked to catch up."""
BODIES = "bodies"
"""The directory of body files, below the data directory."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


def storage_error(error: OSError) -> OSError:
    """`StoreFull` if that is what it means, else the error itself."""
    if error.errno in _FULL and not isinstance(error, StoreFull):
        return StoreFull(error.errno, os.strerror(error.errno or 0), error.filename)
    return error


class FileSpool:
    """Implements `model.body.Spool`; the store takes what was written with `take`."""

    # fmt: off
    __slots__ = ("_descriptor", "_directory", "_done", "_error", "_held", "_parts", "_room", "_size", "_sync",
                 "_syncing", "_unsynced", "name")
    # fmt: on

    def __init__(
        self, directory: Path, sync: Callable[[str], asyncio.Future[None]], room: Callable[[int], None]
    ) -> None:
        """Nothing is created before the content outgrows `SMALL_BODY`.

        Args:
            directory: the store's.
            sync: makes a file, named relative to it, durable together with its directory.
            room: asked before octets are written to a file; raises StoreFull if they may not be.
        """
        self._directory = directory
        self._sync = sync
        self._room = room
        self._parts: list[bytes] = []
        self._held = 0
        self._size = 0
        self._descriptor = -1
        self._unsynced = 0
        self._syncing: asyncio.Future[None] | None = None
        self._error: OSError | None = None
        self._done = False
        self.name: str | None = None
        """The file, relative to the data directory; None while the content is in memory."""

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
        self._parts.append(piece)
        self._size += len(piece)
        self._held += len(piece)
        if self.name is None:
            if self._size <= SMALL_BODY:
                return None
        elif self._held < COALESCE:
            return None
        return self._flush()

    def _flush(self) -> asyncio.Future[None] | None:
        try:
            self._room(self._held)
            if self.name is None:
                self._create()
            data = memoryview(b"".join(self._parts))
            self._parts.clear()
            self._held = 0
            self._unsynced += len(data)
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            self._error = storage_error(error)
            raise self._error from None
        if self._unsynced < SYNC_EVERY:
            return None
        assert self.name is not None
        behind = self._syncing
        if behind is None or behind.done():
            if behind is not None and (failure := behind.exception()) is not None:
                self._error = storage_error(failure) if isinstance(failure, OSError) else OSError(str(failure))
                raise self._error
            self._syncing = self._sync(self.name)
            self._syncing.add_done_callback(_looked_at)
            self._unsynced = 0
            return None
        return behind

    def _create(self) -> None:
        token = secrets.token_hex(16)
        name = f"{BODIES}/{token[:2]}/{token[2:]}"
        path = _place(self._directory, name)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.name = name

    async def move(
        self, directory: Path, sync: Callable[[str], asyncio.Future[None]], room: Callable[[int], None]
    ) -> None:
        """Goes on in another directory of the same file system; the arguments are those of a new spool.

        Raises:
            OSError: it cannot.
        """
        if self.name is not None:
            if self._syncing is not None:
                await asyncio.wait([self._syncing])  # by its name; `durable` looks at how it ended
            (self._directory / self.name).rename(_place(directory, self.name))
        self._directory, self._sync, self._room = directory, sync, room

    async def durable(self) -> None:
        """The file, if there is one, is complete and on the disk.

        Raises:
            OSError: it is not.
        """
        if self.name is None:
            return
        try:
            if self._held:
                self._flush()
            if self._syncing is not None:
                await asyncio.shield(self._syncing)
            await asyncio.shield(self._sync(self.name))
        except OSError as error:
            self._error = storage_error(error)
            raise self._error from None

    def take(self) -> bytes:
        """Ends the spool for its store: what is in memory; the file, if there is one, is the store's from here."""
        if self._error is not None:
            raise self._error
        if self._done:
            raise ValueError("the spool was committed or discarded")
        self._done = True
        self._close()
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def discard(self) -> None:
        """Forgets everything (`Spool.discard`)."""
        if self._done:
            return
        self._done = True
        self._parts.clear()
        self._close()
        if self.name is not None:
            with contextlib.suppress(OSError):
                (self._directory / self.name).unlink()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self._close()


def _place(directory: Path, name: str) -> Path:
    """The path of a body file; the directories above it are there."""
    path = directory / name
    for above in (path.parent.parent, path.parent):  # `parents=True` would give the first a wider mode
        above.mkdir(mode=0o700, exist_ok=True)
    return path


def _looked_at(future: asyncio.Future[None]) -> None:
    """An error is raised by the next write; asyncio need not complain that nobody looked."""
    if not future.cancelled():
        future.exception()


class MemoryBody:
    """A body in memory."""

    __slots__ = ("_content",)

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def size(self) -> int:
        """Octets."""
        return len(self._content)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The content in pieces of at most `PIECE` octets."""
        for start in range(0, len(self._content), PIECE):
            yield self._content[start : start + PIECE]

    async def head(self, limit: int) -> bytes:
        """At most `limit` octets from the start."""
        return self._content[:limit]


class FileBody:
    """A prefix, then a file. Read from the page cache on the spot, else in a thread."""

    __slots__ = ("_path", "_prefix", "_size")

    def __init__(self, prefix: bytes, path: Path, size: int) -> None:
        """`size` counts prefix and file, in octets."""
        self._prefix = prefix
        self._path = path
        self._size = size

    @property
    def size(self) -> int:
        """Octets."""
        return self._size

    async def pieces(self) -> AsyncIterator[bytes]:
        """The content in pieces of at most `PIECE` octets.

        Raises:
            OSError: the file cannot be read, or ends early.
        """
        if self._prefix:
            yield self._prefix
        left = self._size - len(self._prefix)
        with self._path.open("rb", buffering=0) as file:
            offset = 0
            while left:
                piece = await _read(file.fileno(), min(PIECE, left), offset)
                if not piece:
                    raise OSError(errno.EIO, f"the body file ends {left} octets early", str(self._path))
                offset += len(piece)
                left -= len(piece)
                yield piece

    async def head(self, limit: int) -> bytes:
        """At most `limit` octets from the start."""
        if limit <= len(self._prefix):
            return self._prefix[:limit]
        with self._path.open("rb", buffering=0) as file:
            return self._prefix + await _read(file.fileno(), limit - len(self._prefix), 0)


async def _read(descriptor: int, size: int, offset: int) -> bytes:
    if hasattr(os, "RWF_NOWAIT"):
        buffer = bytearray(size)
        try:
            found = os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT)
        except OSError:
            found = 0  # not in the page cache, or the file system does not know
        if found:
            return bytes(memoryview(buffer)[:found])
    # Shielded: a cancelled caller closes the file only when the thread is through with it.
    reading = asyncio.ensure_future(asyncio.to_thread(os.pread, descriptor, size, offset))
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        await asyncio.wait([reading])
        raise
