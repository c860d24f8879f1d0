"""One shard's bodies. Implements `storage.bodies.BodyStore` over segments and files.

Promises: as the port. At the start it compares the files that the database lists with those on the disk: listed files
that are not needed are removed, missing ones reported, and unlisted ones reported and never changed.
Refuses: a shard whose database lists no file although there are some: it was deleted or replaced by an empty one.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import TYPE_CHECKING, NamedTuple

from ironpost.storage.bodies import BODIES, SEGMENTS, BodyLocation, Catalogue, Disk, segment_name
from ironpost.storage.bodies.reading import Locate, StoredBody
from ironpost.storage.bodies.segments import SEGMENT, SegmentLog, blocks, remove
from ironpost.storage.bodies.spool import BodySpool, MemoryBudget
from ironpost.storage.directory import sync_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

RETIRED = 1
"""A file's state in the database's list: nothing in it is needed. 0 is in use."""
_SPARSE = 64 * 1024
"""Unused octets in a segment at start beyond which its gaps are punched again."""

log = logging.getLogger("ironpost.storage")


class UnlistedBodies(OSError):
    """The database lists no body files, but some exist: it is not the database that they belong to."""


class KnownBodies(NamedTuple):
    """The bodies that the database has at the start."""

    listed: Mapping[str, int]
    """Every file with its state."""
    files: Iterable[str]
    """Files that rows refer to."""
    records: Mapping[int, Sequence[tuple[int, int]]]
    """Offset and length of the records that rows refer to, by segment, in order."""
    empty: bool
    """Whether the database has never held a message."""


class ShardBodies:
    """Segments, files and incoming content of one shard."""

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
        """Create the directory of segments.

        Args:
            directory: the shard's.
            catalogue: the database's list of files.
            disk: syncs files, punches holes and removes files.
            memory: the budget that all spools of this worker share.
            take_room: raises StoreFull if the disk has no room for this many octets of new mail.
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
        """Pending changes of the list for files that are not needed."""
        self._removing: asyncio.Task[None] | None = None
        if not (directory / SEGMENTS).exists():
            (directory / SEGMENTS).mkdir(mode=0o700)
            sync_directory(directory)

    def load(self, known: KnownBodies) -> list[str]:
        """Load the bodies of earlier processes; return the listed files that are not needed, for removal.

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

    # -- the port

    def spool(self, hint: int = 0) -> BodySpool:
        """Return a spool for incoming content; `hint` is its declared size in octets."""
        return BodySpool(self, hint)

    async def write(self, content: BodySpool) -> BodyLocation:
        """As `BodyStore.write`."""
        if content.file:
            await content.durable()
            content.take()
            content.forget()
            return BodyLocation(content.size, content.checksum, file=content.file)
        self.take_room(content.size)
        try:
            return await self.segments.append(content.take(), content.size, content.checksum)
        finally:
            content.forget()

    def open(self, prefix: bytes, place: BodyLocation, locate: Locate | None = None) -> StoredBody:
        """As `BodyStore.open`; `locate` is called if the content was moved (`StoredBody`)."""
        return StoredBody(self.directory, prefix, place, locate)

    def retire(self, place: BodyLocation) -> None:
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
            log.warning("files of unused bodies were not removed: %s", error)
        finally:
            self._removing = None

    # -- lifecycle

    @property
    def busy(self) -> bool:
        """Whether anything is being written or freed."""
        return bool(self._abandoned or self._removing or self.segments.busy)

    async def close(self) -> None:
        """Free unneeded space and close the segments. No body may be in progress."""
        await self.segments.close()
        while pending := [*self._abandoned, *([self._removing] if self._removing is not None else [])]:
            await asyncio.wait(pending)


def _gaps(records: Sequence[tuple[int, int]], size: int) -> Iterable[tuple[int, int]]:
    """The ranges of a segment without records."""
    end = 0
    for start, length in records:
        if start > end:
            yield end, start - end
        end = start + blocks(length)
    if size > end:
        yield end, size - end
