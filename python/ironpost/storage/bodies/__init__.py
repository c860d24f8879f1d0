"""Bodies outside the database of a shard: records in segments of its body log, and files for the largest.

A body of at most `SMALL_BODY` octets lies in its message's row. One of at most `RECORD_BODY` becomes a record of a
segment: an append and a sync that it shares with its neighbours. A larger one has a file of its own, and so has content
that finds no room in the memory of its worker. The row names the place, the length and the checksum.

Promises: what `write` returned is durable, and the row may be committed. A body is read back exactly as it was written,
or `model.body.BodyDamaged` is raised before its last piece. Nothing is removed unless the database lists it and has
recorded, durably, that it is not needed: a file that it does not list is reported and stays.
Cost: two syncs for each batch of messages (segment, then the database's log), whatever the size of the bodies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Sequence

    from ironpost.model.body import Body
    from ironpost.storage.bodies.spool import BodySpool

SMALL_BODY = 64 * 1024
"""Octets of content up to which a body lies in its row."""
RECORD_BODY = 4 * 1024 * 1024
"""Octets of content up to which a body becomes a record of a segment."""
SEGMENTS = "segments"
"""The directory of segments, below the shard's."""
BODIES = "bodies"
"""The directory of files that hold one body each, below the shard's."""


class Place(NamedTuple):
    """Where a body lies outside the database, and how to know it again."""

    length: int
    """Octets of content."""
    checksum: int | None
    """CRC-32 of the content; None for a body stored before there were checksums."""
    segment: int = 0
    """The number of a segment; 0 for a body with a file of its own."""
    start: int = 0
    """Octets into the segment."""
    file: str = ""
    """The file, relative to the shard's directory; empty for a record."""

    @property
    def name(self) -> str:
        """The file that holds it, relative to the shard's directory."""
        return self.file or segment_name(self.segment)


class BodyStore(Protocol):
    """One shard's bodies."""

    def write(self, content: BodySpool) -> Awaitable[Place]:
        """Makes content that is larger than `SMALL_BODY` durable. On an error nothing is left behind.

        Raises (from the awaitable):
            StoreFull: the disk is full.
            OSError: the disk refused.
        """
        ...

    def open(self, prefix: bytes, place: Place) -> Body:
        """A body: `prefix`, then the content at `place`. It is read when asked for."""
        ...

    def retire(self, place: Place) -> None:
        """Nobody needs the content any more: its row's deletion is durable, and no reader with a claim is left.

        The space is given back later, in batches, and not before the database has recorded it.
        """
        ...


class Catalogue(Protocol):
    """The database's list of the files that it answers for. Each future is done when the change is durable."""

    def add(self, name: str) -> asyncio.Future[None]:
        """A file that is about to be created."""
        ...

    def retire(self, names: Sequence[str]) -> asyncio.Future[None]:
        """Files in which nothing is needed any more: they may be removed from now on."""
        ...

    def forget(self, names: Sequence[str]) -> asyncio.Future[None]:
        """Files that were removed."""
        ...


class Disk(Protocol):
    """What is asked of the sync process (`storage.sqlite_sync.Syncer`), so that the event loop never waits."""

    def segment(self, number: int, descriptor: int, *, new: bool) -> asyncio.Future[None]:
        """The octets written to a segment reach the disk; its name as well if it is `new`."""
        ...

    def forget(self, number: int) -> None:
        """The segment's descriptor is about to be closed."""
        ...

    def file(self, name: str) -> asyncio.Future[None]:
        """A file and its name reach the disk."""
        ...

    def punch(self, name: str, ranges: Sequence[tuple[int, int]]) -> asyncio.Future[None]:
        """Gives ranges (start, octets) of a file back to the file system."""
        ...

    def remove(self, names: Sequence[str]) -> asyncio.Future[None]:
        """Removes files, durably; one that does not exist is no error."""
        ...


def segment_name(number: int) -> str:
    """The file of a segment, relative to the shard's directory."""
    return f"{SEGMENTS}/{number:010}"
