"""Bodies at rest, read in pieces.

Promises: a body with a checksum is verified on the way: if what is read differs from what was written, `BodyDamaged`
comes in the place of the last piece, so that no peer ever sees the end of it. Reads go through the page cache on the
spot and into a thread when the disk must be asked. A partial `head` is not verified.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, TypeAlias
from zlib import crc32

from ironpost.model.body import PIECE, BodyDamaged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from ironpost.storage.bodies import Place

Locate: TypeAlias = "Callable[[], Place | None]"
"""Asks the database again where a body lies; None if the message is gone."""


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


class StoredBody:
    """A prefix, then a record of a segment or a file."""

    __slots__ = ("_directory", "_locate", "_place", "_prefix")

    def __init__(self, directory: Path, prefix: bytes, place: Place, locate: Locate | None = None) -> None:
        """`directory` is the shard's. `locate` tells a body that was moved or removed meanwhile from a damaged one."""
        self._directory = directory
        self._prefix = prefix
        self._place = place
        self._locate = locate

    @property
    def size(self) -> int:
        """Octets."""
        return len(self._prefix) + self._place.length

    @property
    def place(self) -> Place:
        """Where the content lies."""
        return self._place

    async def pieces(self) -> AsyncIterator[bytes]:
        """The content in pieces of at most `PIECE` octets.

        Raises:
            BodyDamaged: it is not what was written. The last piece was not yielded.
            FileNotFoundError: the message was removed meanwhile.
            OSError: it cannot be read.
        """
        if self._prefix:
            yield self._prefix
        begun = False
        while True:
            place = self._place
            try:
                file = (self._directory / place.name).open("rb", buffering=0)
            except FileNotFoundError as error:
                self._place = self._moved(place, error)
                continue
            with file:
                left, offset, checksum, fault = place.length, place.start, 0, ""
                while left:
                    piece = await _read(file.fileno(), min(PIECE, left), offset)
                    offset += len(piece)
                    left -= len(piece)
                    if place.checksum is not None:
                        checksum = crc32(piece, checksum)
                    if not piece:
                        fault = f"the body ends {left} octets early"
                    elif not left and place.checksum not in {None, checksum}:
                        fault = f"the body at octet {place.start} has another checksum"
                    if fault:
                        break
                    begun = True
                    yield piece
                else:
                    return
            self._place = self._moved(place, BodyDamaged(errno.EIO, fault, str(self._directory / place.name)))
            if begun:
                raise BlockingIOError(errno.EAGAIN, "the body was moved while it was read; read it again")

    async def head(self, limit: int) -> bytes:
        """At most `limit` octets from the start; verified if that is all of it."""
        if limit <= len(self._prefix):
            return self._prefix[:limit]
        if limit >= self.size:
            return b"".join([piece async for piece in self.pieces()])
        try:
            file = (self._directory / self._place.name).open("rb", buffering=0)
        except FileNotFoundError as error:
            self._place = self._moved(self._place, error)
            return await self.head(limit)
        with file:
            return self._prefix + await _read(file.fileno(), limit - len(self._prefix), self._place.start)

    def _moved(self, place: Place, error: OSError) -> Place:
        """Where the content is now. Raises what `error` means if it was not moved."""
        now = self._locate() if self._locate is not None else place
        # A body that was moved is the same body: anything else lies in the row of a later message with that number.
        if now is None or (now.length, now.checksum) != (place.length, place.checksum):
            raise FileNotFoundError(errno.ENOENT, "the message was removed from the queue") from error
        if now == place:
            if isinstance(error, BodyDamaged):
                raise error
            raise BodyDamaged(
                errno.EIO, "the file of the body is missing", str(self._directory / place.name)
            ) from error
        return now


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
