"""Recovery of SQLite's log after a failed sync, and of a log that an earlier process left.

After a failed write-back the kernel may drop the pages that it could not write and later read stale ones from the disk,
while SQLite continues appending after them: its recovery stops at the first bad frame, and everything after it is lost.
SQLite does not verify checksums when it copies the log. So the log is verified, copied whole into the database, and
verified again: a page that became stale does not recover by itself, so the copy between two successful verifications
is correct. Then the database is synced, and the log is emptied and synced.

Promises: when `Recovery.run` returns, everything committed so far is durable in the database and the log is empty.
Failures: `OSError`: EBADMSG, a frame is damaged; EBUSY, another program reads the database and the log cannot be
emptied; otherwise the error of the disk. EBADMSG and a failed sync of the copied database are final; other errors are
retried until the timeout.

This module imports nothing of the package: the sync process loads it. The formats are SQLite's, documented at
sqlite.org in "WAL-mode File Format", sections 1 and 2.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import struct
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

FINAL = frozenset({errno.EBADMSG, errno.ENOTRECOVERABLE})
"""Errors after which a retry is pointless."""
RETRY_SECONDS = 0.05
"""Pause between two attempts."""
BUSY_SECONDS = 0.25
"""Seconds that SQLite waits for a reader in one attempt."""

FRAME_HEADER = 24
"""Octets before the page in a frame."""

_HEADER = 32
_INDEX_HEADER = 48
_MAGIC = 0x377F0682
"""Its lowest bit is set if checksums add big-endian words."""
_PAGES = 64
"""Frames read at a time."""


class LogIndex(NamedTuple):
    """The header of the wal-index (the `-shm` file), which contains the end of the log."""

    frames: int
    page: int
    """Size of a page in octets."""
    salts: bytes
    checksum: tuple[int, int]
    """Cumulative checksum of the last frame."""

    @classmethod
    def read(cls, descriptor: int) -> LogIndex:
        """Read it from an open `-shm` file.

        Raises:
            OSError: EAGAIN, a writer is changing it; EBADMSG, it has no valid header.
        """
        first, second = (os.pread(descriptor, _INDEX_HEADER, at) for at in (0, _INDEX_HEADER))
        if first != second:
            raise OSError(errno.EAGAIN, "the log's index is being written")
        if len(first) < _INDEX_HEADER or not first[12]:
            raise OSError(errno.EBADMSG, "the log's index has no header")
        page, frames = struct.unpack_from("=HI", first, 14)
        # 65536 does not fit: SQLite stores it as 1.
        return cls(frames, (page & 0xFE00) | (page & 1) << 16, first[32:40], struct.unpack_from("=II", first, 24))


class LogExtent(NamedTuple):
    """The end of the log at a point in time."""

    frames: int
    """Number of frames in use."""
    salts: bytes
    """Salts that the log got when it was last restarted."""


def extent(descriptor: int) -> LogExtent:
    """Read the end of the log from its index: cheap enough for every transaction. The caller is the only writer.

    Args:
        descriptor: of the `-shm` file. Closing it drops this process's SQLite locks: close the database first.
    """
    data = os.pread(descriptor, 24, 16)
    return LogExtent(int.from_bytes(data[:4], sys.byteorder), data[16:])


def end_of(extent: LogExtent, page: int) -> int:
    """Return the offset of the next frame in the log, for this page size in octets."""
    return _HEADER + extent.frames * (FRAME_HEADER + page)


def verify(log: int, index: LogIndex, good: LogExtent | None = None) -> None:
    """Read the log and compare every frame with its checksum.

    Args:
        log: the log's descriptor.
        index: its end.
        good: the end of the part that was synced successfully and need not be read.

    Raises:
        OSError: EBADMSG, a frame is damaged; otherwise the log cannot be read.
    """
    if not index.frames:
        return
    header = os.pread(log, _HEADER, 0)
    if len(header) < _HEADER:
        raise _damaged("its header is missing")
    magic, _, page, _ = struct.unpack_from(">4I", header)
    if magic & ~1 != _MAGIC or page != index.page or header[16:24] != index.salts:
        raise _damaged("its header differs from the index")
    words = struct.Struct(f"{'>' if magic & 1 else '<'}{page // 4}I")
    prefix = struct.Struct(words.format[:1] + "2I")
    start = struct.Struct(words.format[:1] + "6I")
    total = _add((0, 0), start.unpack_from(header))
    if total != struct.unpack_from(">2I", header, 24):
        raise _damaged("its header has the wrong checksum")
    size = FRAME_HEADER + page
    known = 0
    if good is not None and good.salts == index.salts and 0 < good.frames <= index.frames:
        known = good.frames
        total = struct.unpack(">2I", os.pread(log, 8, _HEADER + (known - 1) * size + 16))
    for first in range(known, index.frames, _PAGES):
        count = min(_PAGES, index.frames - first)
        data = os.pread(log, count * size, _HEADER + first * size)
        if len(data) < count * size:
            raise _damaged(f"it ends before frame {first + len(data) // size + 1} of {index.frames}")
        for at in range(0, count * size, size):
            total = _add(total, prefix.unpack_from(data, at))
            total = _add(total, words.unpack_from(data, at + FRAME_HEADER))
            if data[at + 8 : at + 16] != index.salts or total != struct.unpack_from(">2I", data, at + 16):
                raise _damaged(f"frame {first + at // size + 1} of {index.frames} has the wrong checksum")
    if total != index.checksum:
        raise _damaged("its last frame is not the last one written")


def _add(total: tuple[int, int], words: Iterable[int]) -> tuple[int, int]:
    first, second = total
    pairs = iter(words)
    for even, odd in zip(pairs, pairs, strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second


def _damaged(what: str) -> OSError:
    return OSError(errno.EBADMSG, f"the queue's log is damaged: {what}")


class Recovery:
    """Recovery of one database, in the sync process.

    Its descriptors of the database and the index are never closed: closing one would drop the locks that SQLite's
    connections in this process hold on the same file (fcntl(2), "Record locking").
    """

    def __init__(self, database: str, log: int) -> None:
        """Open nothing yet.

        Args:
            database: the path of the database.
            log: its log, through the open file description that all sync processes of the store share.
        """
        self._path = database
        self._log = log
        self._database = -1
        self._index = -1

    def run(self, seconds: float, good: LogExtent | None = None) -> None:
        """Make everything that was committed durable, and empty the log. No transaction may be in progress.

        Args:
            seconds: time for which failures are retried.
            good: as for `verify`.

        Raises:
            OSError: as the module says.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._attempt(good)
            except OSError as error:
                if error.errno in FINAL or time.monotonic() >= deadline:
                    raise
            except sqlite3.Error as error:
                if time.monotonic() >= deadline:
                    busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
                    raise OSError(errno.EBUSY if busy else errno.EIO, str(error)) from error
            else:
                return
            time.sleep(RETRY_SECONDS)

    def _attempt(self, good: LogExtent | None) -> None:
        self._open()
        with contextlib.suppress(OSError):  # an earlier error, after which SQLite wrote the pages again
            durable(self._database)
        index = LogIndex.read(self._index)
        verify(self._log, index, good)
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            for statement in ("synchronous=FULL", "checkpoint_fullfsync=1", "schema_version"):
                # The last one reads: before its first read a connection knows of no log and copies nothing.
                connection.execute(f"PRAGMA {statement}").fetchall()
            copied = _checkpoint(connection, "FULL")
            if copied != index.frames or LogIndex.read(self._index) != index:
                raise OSError(errno.EAGAIN, "the log changed while it was copied")
            verify(self._log, index, good)
            try:
                durable(self._database)
            except OSError as error:
                # SQLite counts the frames as copied and would not write them again.
                raise OSError(errno.ENOTRECOVERABLE, f"the queue's database was not synced: {error}") from error
            _checkpoint(connection, "TRUNCATE")
            durable(self._log)
        finally:
            connection.close()

    def _open(self) -> None:
        if self._database < 0:
            self._database = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        if self._index < 0:
            self._index = os.open(f"{self._path}-shm", os.O_RDWR | os.O_CLOEXEC)


def _checkpoint(connection: sqlite3.Connection, mode: str) -> int:
    """Copy the whole log or raise; return the number of its frames."""
    busy, found, copied = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()[0]
    if busy or found != copied:
        raise OSError(errno.EBUSY, "another program reads the queue's database, so that its log cannot be emptied")
    if found < 0:
        raise OSError(errno.EIO, "the queue's database has no log")
    return int(found)


def durable(descriptor: int) -> None:
    """Sync the content and the size of a file.

    Raises:
        OSError: the sync failed.
    """
    try:
        import fcntl

        # macOS: fsync leaves the octets in the drive's cache.
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # type: ignore[attr-defined,unused-ignore]
    except (AttributeError, ImportError):
        getattr(os, "fdatasync", os.fsync)(descriptor)


def sync_directory(path: str) -> None:
    """Sync the names in a directory.

    Raises:
        OSError: the sync failed.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
