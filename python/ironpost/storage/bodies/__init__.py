"""Bodies outside the database of a shard: records in segments of its body log, and files for the largest.

A body of at most `SMALL_BODY` octets is stored in its message's row. One of at most `RECORD_BODY` becomes a record of a
segment, which shares its append and its sync with others. A larger one gets its own file, and so does content that
exceeds the worker's memory budget. The row has the location, the length and the checksum.

Promises: what `write` returned is durable, and the row may be committed. A body is read back exactly as it was written,
or `model.body.BodyDamaged` is raised before its last piece. Nothing is removed unless the database lists it and has
durably recorded that it is not needed: a file that it does not list is reported and kept.
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
"""Maximum size of a body in its row, in octets."""
RECORD_BODY = 4 * 1024 * 1024
"""Maximum size of a record of a segment, in octets."""
SEGMENTS = "segments"
"""The directory of segments, below the shard's."""
BODIES = "bodies"
"""The directory of files that hold one body each, below the shard's."""


class BodyLocation(NamedTuple):
    """Location of a body outside the database, with its length and checksum."""

    length: int
    """Octets of content."""
    checksum: int | None
    """CRC-32 of the content; None for a body stored before there were checksums."""
    segment: int = 0
    """The number of a segment; 0 for a body in its own file."""
    start: int = 0
    """Offset in the segment, in octets."""
    file: str = ""
    """The file, relative to the shard's directory; empty for a record."""

    @property
    def name(self) -> str:
        """The file that holds it, relative to the shard's directory."""
        return self.file or segment_name(self.segment)


class BodyStore(Protocol):
    """One shard's bodies."""

    def write(self, content: BodySpool) -> Awaitable[BodyLocation]:
        """Make content larger than `SMALL_BODY` durable. After an error nothing of it remains.

        Raises (from the awaitable):
            StoreFull: the disk is full.
            OSError: the content cannot be written.
        """
        ...

    def open(self, prefix: bytes, place: BodyLocation) -> Body:
        """Return a body of `prefix` and the content at `place`, which is read on demand."""
        ...

    def retire(self, place: BodyLocation) -> None:
        """Free content that is not needed: the deletion of its row is durable, and no attempt reads it.

        The space is freed later, in batches, after the database has recorded it.
        """
        ...


class Catalogue(Protocol):
    """The database's list of body files. Each future is done when the change is durable."""

    def add(self, name: str) -> asyncio.Future[None]:
        """List a file that is about to be created."""
        ...

    def retire(self, names: Sequence[str]) -> asyncio.Future[None]:
        """Mark files of which nothing is needed any more; then they may be removed."""
        ...

    def forget(self, names: Sequence[str]) -> asyncio.Future[None]:
        """Remove entries of files that were removed."""
        ...


class Disk(Protocol):
    """Operations of the sync process (`storage.sqlite.sync.Syncer`), which never block the event loop."""

    def segment(self, number: int, descriptor: int, *, new: bool) -> asyncio.Future[None]:
        """Sync the octets written to a segment, and its name if it is `new`."""
        ...

    def forget(self, number: int) -> None:
        """Forget the segment's descriptor, before it is closed."""
        ...

    def file(self, name: str) -> asyncio.Future[None]:
        """Sync a file and its name."""
        ...

    def punch(self, name: str, ranges: Sequence[tuple[int, int]]) -> asyncio.Future[None]:
        """Return ranges (start, octets) of a file to the file system."""
        ...

    def remove(self, names: Sequence[str]) -> asyncio.Future[None]:
        """Remove files durably; missing ones are ignored."""
        ...


def segment_name(number: int) -> str:
    """The file of a segment, relative to the shard's directory."""
    return f"{SEGMENTS}/{number:010}"
