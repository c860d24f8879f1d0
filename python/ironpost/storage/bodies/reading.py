"""Reading stored bodies, in pieces.

Promises: a body with a checksum is verified while it is read: if it differs from what was written, `BodyDamaged` is
raised instead of yielding the last piece, so no peer gets the end of it. Cached pages are read on the event loop,
others in a thread. A partial `head` is not verified.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, TypeAlias
from zlib import crc32

from ironpost.model.body import PIECE, BodyDamaged
from ironpost.model.text import counted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from ironpost.storage.bodies import BodyLocation

Locate: TypeAlias = "Callable[[], BodyLocation | None]"
"""Looks up the current location of a body in the database; returns None if the message is gone."""


class StoredBody:
    """A prefix, then a record of a segment or a file."""

    __slots__ = ("_directory", "_locate", "_place", "_prefix")

    def __init__(self, directory: Path, prefix: bytes, place: BodyLocation, locate: Locate | None = None) -> None:
        """`directory` is the shard's. `locate` distinguishes a moved or removed body from a damaged one."""
        self._directory = directory
        self._prefix = prefix
        self._place = place
        self._locate = locate

    @property
    def size(self) -> int:
        """Octets."""
        return len(self._prefix) + self._place.length

    @property
    def place(self) -> BodyLocation:
        """The location of the content."""
        return self._place

    async def pieces(self) -> AsyncIterator[bytes]:
        """The content in pieces of at most `PIECE` octets.

        Raises:
            BodyDamaged: it differs from what was written; the last piece was not yielded.
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
                        fault = f"the body ends {counted(left, 'octet')} early"
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

    def _moved(self, place: BodyLocation, error: OSError) -> BodyLocation:
        """Return the current location of the content; raise `error` if it was not moved."""
        now = self._locate() if self._locate is not None else place
        # A moved body has the same length and checksum: anything else belongs to a later message with that number.
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
    # Shielded: a cancelled caller closes the file only after the thread has finished with it.
    reading = asyncio.ensure_future(asyncio.to_thread(os.pread, descriptor, size, offset))
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        await asyncio.wait([reading])
        raise
