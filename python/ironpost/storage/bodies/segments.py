"""The body log of a shard: records appended to segments; one sync serves many of them.

Promises: a `BodyLocation` is returned when its record is durable. A record starts at a multiple of `BLOCK`, so
that writing one never touches a block that holds another. A segment whose sync failed is sealed at its last synced
length: nothing is appended to it again, and the records after that length are written once more, from memory, into a
new one. A segment is created when the database has listed it, and removed when the database has recorded that it is not
needed. Space of deleted records is freed in batches: by punching holes where the file system can, else the remaining
records are moved (`relocate`). The log takes at most twice the octets of its records, plus two segments.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from typing import TYPE_CHECKING

from ironpost.storage.bodies import SEGMENTS, BodyLocation, segment_name
from ironpost.storage.bodies.spool import storage_error, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from ironpost.storage.bodies import Catalogue, Disk

SEGMENT = 64 * 1024 * 1024
"""Size after which a new segment is begun, in octets."""
BLOCK = 4096
"""Records start at a multiple of this: the unit in which file systems punch holes."""
RECLAIM_SECONDS = 0.5
"""Seconds for which free space is collected before it is returned to the file system."""
TRIES = 2
"""Number of times a record is written: after a failed sync again, into a new segment."""

_CANNOT_PUNCH = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.EINVAL})

log = logging.getLogger("ironpost.storage")


class _Segment:
    """One file."""

    __slots__ = ("dead", "descriptor", "end", "live", "name", "number", "octets", "pending", "sealed", "synced")

    def __init__(self, number: int, descriptor: int = -1, *, live: int = 0, octets: int = 0, end: int = 0) -> None:
        self.number = number
        self.name = segment_name(number)
        self.descriptor = descriptor
        self.sealed = descriptor < 0
        self.live = live
        """Number of records that have, or will have, a row."""
        self.octets = octets
        """Size of these records in whole blocks, in octets."""
        self.end = end
        self.synced = end if self.sealed else -1
        """Length known to be durable, in octets; -1 before the first sync."""
        self.pending = 0
        """Number of records written but not synced."""
        self.dead: list[tuple[int, int]] = []
        """Ranges that are not needed but still allocated."""

    @property
    def removable(self) -> bool:
        """Whether it holds nothing that is needed, and takes no new records."""
        return self.sealed and not self.live and not self.pending


class _Record:
    """A body that is being written to a segment."""

    __slots__ = ("checksum", "future", "length", "parts", "start", "tries")

    def __init__(self, parts: Sequence[bytes | bytearray], length: int, checksum: int) -> None:
        self.parts = parts
        self.length = length
        self.checksum = checksum
        self.future: asyncio.Future[BodyLocation] = asyncio.get_running_loop().create_future()
        self.start = 0
        self.tries = 0


class SegmentLog:
    """The segments of one shard."""

    def __init__(
        self,
        directory: Path,
        catalogue: Catalogue,
        disk: Disk,
        relocate: Callable[[int], Coroutine[Any, Any, None]],
        *,
        size: int = SEGMENT,
    ) -> None:
        """Create an empty log; segments are opened when needed.

        Args:
            directory: the shard's; its `segments` exists.
            catalogue: where files are listed.
            disk: syncs files, punches holes and removes files.
            relocate: moves the records of a segment, by its number, that is mostly unused and cannot be punched.
            size: octets after which a new segment is begun.
        """
        self._directory = directory
        self._catalogue = catalogue
        self._disk = disk
        self._relocate = relocate
        self._size = size
        self._segments: dict[int, _Segment] = {}
        self._next = 1
        self._current: _Segment | None = None
        self._opening: asyncio.Task[None] | None = None
        self._waiting: list[_Record] = []
        """Records that wait for a new segment."""
        self._unsynced: list[tuple[_Segment, _Record]] = []
        self._syncing = False
        self._timer: asyncio.TimerHandle | None = None
        self._reclaiming: asyncio.Task[None] | None = None
        self._punches = True
        self._closed = False

    # -- at the start

    def found(self, number: int, live: int, octets: int, size: int) -> None:
        """Register a segment of an earlier process, to which nothing is appended.

        `octets` is the size of its records in whole blocks.
        """
        self._segments[number] = _Segment(number, live=live, octets=octets, end=size)
        self._next = max(self._next, number + 1)

    def number_after(self, number: int) -> None:
        """Give new segments higher numbers than this one."""
        self._next = max(self._next, number + 1)

    def unused(self, number: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Add ranges of a segment of an earlier process that are not needed but still allocated."""
        self._segments[number].dead += ranges

    # -- writing

    def append(self, parts: Sequence[bytes | bytearray], length: int, checksum: int) -> asyncio.Future[BodyLocation]:
        """Append a record; the future has its location once it is durable. `parts` must not change until then.

        Raises (from the future):
            StoreFull: the disk is full.
            OSError: it could not be written, twice.
        """
        record = _Record(parts, length, checksum)
        self._add(record)
        return record.future

    def _add(self, record: _Record) -> None:
        current = self._current
        if current is not None and current.end and current.end + blocks(record.length) > self._size:
            self._seal(current)
            current = None
        if current is None or self._waiting:
            self._waiting.append(record)
            if self._opening is None:
                self._opening = asyncio.get_running_loop().create_task(self._open())
            return
        try:
            write_all(current.descriptor, record.parts, current.end)
        except OSError as error:
            _fail(record, storage_error(error))
            return
        record.start = current.end
        record.tries += 1
        current.end += blocks(record.length)
        current.pending += 1
        self._unsynced.append((current, record))
        if not self._syncing:
            # Not at once, so that further records of this loop iteration share the sync.
            self._syncing = True
            asyncio.get_running_loop().call_soon(self._sync)

    async def _open(self) -> None:
        """Create a segment, then write the records that wait for it."""
        try:
            number, self._next = self._next, self._next + 1
            segment = _Segment(number)
            await self._catalogue.add(segment.name)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            segment.descriptor = os.open(self._directory / segment.name, flags, 0o600)
            segment.sealed, segment.synced = False, -1
        except OSError as error:
            waiting, self._waiting = self._waiting, []
            for record in waiting:
                _fail(record, storage_error(error))
            return
        finally:
            self._opening = None
        self._segments[number] = self._current = segment
        waiting, self._waiting = self._waiting, []
        for record in waiting:
            self._add(record)

    def _sync(self) -> None:
        segment = self._unsynced[0][0]
        batch = [record for owner, record in self._unsynced if owner is segment]
        self._unsynced = self._unsynced[len(batch) :]
        end = segment.end
        done = self._disk.segment(segment.number, segment.descriptor, new=segment.synced < 0)
        done.add_done_callback(lambda future: self._synced(segment, batch, end, future))

    def _synced(self, segment: _Segment, batch: list[_Record], end: int, done: asyncio.Future[None]) -> None:
        segment.pending -= len(batch)
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        again: list[_Record] = []
        if error is None:
            segment.synced = end
            for record in batch:
                place = BodyLocation(record.length, record.checksum, segment.number, record.start)
                segment.live += 1
                segment.octets += blocks(record.length)
                if record.future.done():  # its caller was cancelled: no row will refer to it
                    self.retire(place)
                else:
                    record.future.set_result(place)
        else:
            log.error("%s was not synced and is sealed: %s", self._directory / segment.name, error)
            later = [record for owner, record in self._unsynced if owner is segment]
            self._unsynced = self._unsynced[len(later) :]
            segment.pending -= len(later)
            again = batch + later
            self._seal(segment)
            if segment.synced >= 0:
                segment.dead.append((segment.synced, segment.end - segment.synced))
            segment.end = max(segment.synced, 0)
        self._syncing = bool(self._unsynced)
        if self._syncing:
            self._sync()
        self._close_if_done(segment)
        for record in again:
            if record.future.done():
                continue
            if record.tries < TRIES and not self._closed:
                self._add(record)
            else:
                _fail(record, OSError(errno.EIO, f"a body could not be synced: {error}", str(self._directory)))

    def _seal(self, segment: _Segment) -> None:
        segment.sealed = True
        if self._current is segment:
            self._current = None
        self._close_if_done(segment)

    def _close_if_done(self, segment: _Segment) -> None:
        if segment.sealed and not segment.pending and segment.descriptor >= 0:
            self._disk.forget(segment.number)
            os.close(segment.descriptor)
            segment.descriptor = -1
            self._reclaim_soon()

    # -- freeing space

    def retire(self, place: BodyLocation) -> None:
        """As `BodyStore.retire`."""
        segment = self._segments[place.segment]
        segment.live -= 1
        segment.octets -= blocks(place.length)
        segment.dead.append((place.start, blocks(place.length)))
        self._reclaim_soon()

    def seal(self) -> None:
        """Begin a new segment with the next record, because the shard is idle."""
        if self._current is not None:
            self._seal(self._current)

    @property
    def busy(self) -> bool:
        """Whether anything is being written or freed."""
        return bool(self._waiting or self._unsynced or self._syncing or self._timer or self._reclaiming)

    def _reclaim_soon(self) -> None:
        if self._timer is None and self._reclaiming is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(RECLAIM_SECONDS, self._reclaim)

    def _reclaim(self) -> None:
        self._timer = None
        self._reclaiming = asyncio.get_running_loop().create_task(self.reclaim())
        self._reclaiming.add_done_callback(self._reclaimed)

    def _reclaimed(self, task: asyncio.Task[None]) -> None:
        self._reclaiming = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("space of unused bodies was not freed: %s", error)
        if any(segment.dead or segment.removable for segment in self._segments.values()) and error is None:
            self._reclaim_soon()

    async def reclaim(self) -> None:
        """Free space that is not needed.

        Raises:
            OSError: a file or the database cannot be changed. What was not freed is retried later.
        """
        unused = [segment for segment in self._segments.values() if segment.removable]
        if unused:
            for segment in unused:
                del self._segments[segment.number]
            try:
                await remove(self._catalogue, self._disk, [segment.name for segment in unused])
            except BaseException:
                self._segments.update((segment.number, segment) for segment in unused)
                raise
        for segment in list(self._segments.values()):
            if segment.dead and not segment.removable:
                ranges, segment.dead = merged(segment.dead), []
                if self._punches:
                    await self._punch(segment, ranges)
            if not self._punches and segment.sealed and segment.live and segment.octets * 2 < segment.end:
                await self._relocate(segment.number)

    async def _punch(self, segment: _Segment, ranges: list[tuple[int, int]]) -> None:
        try:
            await self._disk.punch(segment.name, ranges)
        except OSError as error:
            if error.errno not in _CANNOT_PUNCH:
                segment.dead += ranges
                raise
            self._punches = False
            log.info("the file system of %s cannot punch holes: records are moved instead", self._directory)

    async def close(self) -> None:
        """Free unneeded space and close the segments. No record may be in progress."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._reclaiming is not None:
            await asyncio.wait([self._reclaiming])
        if self._current is not None:
            self._seal(self._current)
        with contextlib.suppress(OSError):
            await self.reclaim()

    def abandon(self) -> None:
        """Close the segments at once."""
        self._closed = True
        for segment in self._segments.values():
            if segment.descriptor >= 0:
                os.close(segment.descriptor)
                segment.descriptor = -1

    def usage(self) -> Mapping[int, tuple[int, int]]:
        """Number and size of records by segment."""
        return {number: (segment.live, segment.octets) for number, segment in self._segments.items()}


async def remove(catalogue: Catalogue, disk: Disk, names: Sequence[str]) -> None:
    """Remove files in the one order that is safe in a crash: record in the database, remove, forget."""
    await catalogue.retire(names)
    await disk.remove(names)
    await catalogue.forget(names)


def blocks(length: int) -> int:
    """Size of a record of this length in whole blocks, in octets."""
    return -(-length // BLOCK) * BLOCK


def merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges (start, octets) in order, neighbours joined."""
    found: list[tuple[int, int]] = []
    for start, octets in sorted(ranges):
        if found and sum(found[-1]) >= start:
            found[-1] = found[-1][0], max(sum(found[-1]), start + octets) - found[-1][0]
        else:
            found.append((start, octets))
    return found


def _fail(record: _Record, error: OSError) -> None:
    if not record.future.done():
        record.future.set_exception(error)


__all__ = ["BLOCK", "RECLAIM_SECONDS", "SEGMENT", "SEGMENTS", "SegmentLog", "blocks", "merged", "remove"]
