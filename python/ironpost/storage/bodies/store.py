"""One shard's bodies. Implements `storage.bodies.BodyStore` over segments and files.

Promises: as the port. At the start it compares what the database lists with what is on the disk: what is listed and not
needed is removed, what is needed and missing is reported, and what is not listed is reported and never touched.
Refuses: a shard whose database lists nothing at all while there are bodies: it was deleted or replaced by an empty one.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import TYPE_CHECKING, NamedTuple

from ironpost.storage.bodies import BODIES, SEGMENTS, Catalogue, Disk, Place, segment_name
from ironpost.storage.bodies.reading import Locate, StoredBody
from ironpost.storage.bodies.segments import SEGMENT, SegmentLog, blocks, remove
from ironpost.storage.bodies.spool import BodySpool, MemoryBudget
from ironpost.storage.lock import sync_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

RETIRED = 1
"""A file's state in the database's list: nothing in it is needed. 0 is in use."""
_SPARSE = 64 * 1024
"""Octets that a segment found at the start may take beyond its records before the gaps are punched again."""

log = logging.getLogger("ironpost.storage")


class UnlistedBodies(OSError):
    """The database lists no bodies, but there are some: it is not the database that they belong to."""


class Known(NamedTuple):
    """What the database says at the start."""

    listed: Mapping[str, int]
    """Every file with its state."""
    files: Iterable[str]
    """Files that rows name."""
    records: Mapping[int, Sequence[tuple[int, int]]]
    """Start and length of the records that rows name, by segment, in order."""
    empty: bool
    """It has never held a message."""


class ShardBodies:
    """Segments, files, and content on its way in."""

    def __init__(
        self,
        directory: Path,
        catalogue: Catalogue,
        disk: Disk,
        *,
        memory: MemoryBudget,
        take_room: Callable[[int], None],
        relocate: Callable[[int], Coroutine[Any, Any, None]],
    ) -> None:
        """Creates the directory of segments.

        Args:
            directory: the shard's.
            catalogue: the database's list of files.
            disk: who syncs, punches and removes.
            memory: what all spools of this worker may hold.
            take_room: raises StoreFull if the disk has no room for so many octets of new mail.
            relocate: moves the records of a segment (`SegmentLog`).
        """
        self.directory = directory
        self.memory = memory
        self.take_room = take_room
        self.sync_file = disk.file
        self.list_file = catalogue.add
        self._catalogue = catalogue
        self._disk = disk
        self.segments = SegmentLog(directory, catalogue, disk, relocate, size=SEGMENT)
        self._unneeded: list[str] = []
        self._abandoned: set[asyncio.Future[None]] = set()
        """Listings, on their way, of files that nobody needs."""
        self._removing: asyncio.Task[None] | None = None
        if not (directory / SEGMENTS).exists():
            (directory / SEGMENTS).mkdir(mode=0o700)
            sync_directory(directory)

    def load(self, known: Known) -> list[str]:
        """Takes over what an earlier process left; the listed files that nothing needs, to be removed and forgotten.

        Raises:
            UnlistedBodies: none of the bodies belongs to this database.
        """
        here = {
            path.relative_to(self.directory).as_posix(): path.stat()
            for pattern in (f"{BODIES}/*/*", f"{SEGMENTS}/*")
            for path in self.directory.glob(pattern)
        }
        unlisted = sorted(here.keys() - known.listed.keys())
        if unlisted and known.empty and not known.listed:
            raise UnlistedBodies(
                errno.EUCLEAN,
                f"the database lists no bodies, but there are {len(unlisted)}, such as {unlisted[0]}: it was deleted or"
                " replaced. Restore it, or move the bodies away",
                str(self.directory),
            )
        for name in unlisted:
            log.error("%s is not listed in the database of its shard and is left alone", self.directory / name)
        for name in here.keys() | known.listed.keys():
            if name.startswith(SEGMENTS) and (digits := name.rpartition("/")[2]).isdigit():
                self.segments.number_after(int(digits))
        needed = {*known.files, *map(segment_name, known.records)}
        for name in sorted(needed - here.keys()):
            log.error("%s is missing: messages in the queue need it", self.directory / name)
        for number, records in known.records.items():
            status = here.get(segment_name(number))
            octets = sum(blocks(length) for _, length in records)
            size = status.st_size if status is not None else 0
            self.segments.found(number, len(records), octets, size)
            if status is not None and status.st_blocks * 512 > octets + _SPARSE:
                self.segments.unused(number, list(_gaps(records, size)))
        return sorted(known.listed.keys() - needed)

    # -- what the port promises

    def spool(self, hint: int = 0) -> BodySpool:
        """Content on its way in; `hint` is its declared size in octets."""
        return BodySpool(self, hint)

    async def write(self, content: BodySpool) -> Place:
        """As `BodyStore.write`."""
        if content.file:
            await content.durable()
            content.take()
            content.forget()
            return Place(content.size, content.checksum, file=content.file)
        self.take_room(content.size)
        try:
            return await self.segments.append(content.take(), content.size, content.checksum)
        finally:
            content.forget()

    def open(self, prefix: bytes, place: Place, locate: Locate | None = None) -> StoredBody:
        """As `BodyStore.open`; `locate` is asked if the content is not there (`StoredBody`)."""
        return StoredBody(self.directory, prefix, place, locate)

    def retire(self, place: Place) -> None:
        """As `BodyStore.retire`."""
        if place.file:
            self._remove(place.file)
        else:
            self.segments.retire(place)

    # -- files

    def abandon(self, name: str, listed: asyncio.Future[None]) -> None:
        """As `spool.Owner.abandon`."""
        self._abandoned.add(listed)
        listed.add_done_callback(lambda _: self._remove(name))
        listed.add_done_callback(self._abandoned.discard)

    def _remove(self, name: str) -> None:
        self._unneeded.append(name)
        if self._removing is None:
            self._removing = asyncio.get_running_loop().create_task(self._remove_files())

    async def _remove_files(self) -> None:
        try:
            while self._unneeded:
                names, self._unneeded = self._unneeded, []
                await remove(self._catalogue, self._disk, names)
        except OSError as error:
            # The list still has them: the next start removes them.
            log.warning("files of bodies that are not needed were not removed: %s", error)
        finally:
            self._removing = None

    # -- the shard's life

    @property
    def busy(self) -> bool:
        """Something is being written or given back."""
        return bool(self._abandoned or self._removing or self.segments.busy)

    async def close(self) -> None:
        """Gives back what it can. Nothing may be being written."""
        await self.segments.close()
        while pending := [*self._abandoned, *([self._removing] if self._removing is not None else [])]:
            await asyncio.wait(pending)


def _gaps(records: Sequence[tuple[int, int]], size: int) -> Iterable[tuple[int, int]]:
    """What of a segment its records do not take."""
    end = 0
    for start, length in records:
        if start > end:
            yield end, start - end
        end = start + blocks(length)
    if size > end:
        yield end, size - end
