"""Message content as a port: something of known size that can be read in pieces more than once.

Promises: content is the octets between 354 and the true end, un-stuffed, line ends as they came; a piece is never
larger than a window, so that size costs no memory.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

PIECE: int = 256 * 1024
"""Octets in the largest piece."""

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Error numbers (`OSError.errno`) that mean a lack of room. All others are faults of another kind."""

Pieces: TypeAlias = "AsyncIterator[bytes]"


class BodyDamaged(OSError):
    """Stored content is not what was written: its checksum differs, it ends early, or its file is missing.

    Another attempt does not help: the message is held for an operator, and neither delivered nor deleted.
    """


class Body(Protocol):
    """Content at rest."""

    @property
    def size(self) -> int:
        """Octets."""
        ...

    def pieces(self) -> Pieces:
        """The content from its start, in pieces of at most `PIECE` octets. Each call starts anew.

        Raises:
            BodyDamaged: in the place of the last piece; never after it.
            OSError: it cannot be read.
        """
        ...

    async def head(self, limit: int) -> bytes:
        """Its first octets, at most `limit`: enough to read the header section."""
        ...


class Spool(Protocol):
    """Content on its way in. Exactly one of commit (by the store it came from) and `discard` ends it."""

    @property
    def size(self) -> int:
        """Octets written so far."""
        ...

    def write(self, piece: bytes) -> Awaitable[None] | None:
        """Appends. A returned awaitable asks the writer to wait for it before the next piece (back-pressure).

        Raises:
            OSError: the storage refuses (full, gone): the transaction gets 452, the server lives.
        """
        ...

    def discard(self) -> None:
        """Forgets everything written. Harmless if called twice or after a commit."""
        ...
