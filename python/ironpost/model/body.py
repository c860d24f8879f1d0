"""Ports for message content of known size, which can be read in pieces repeatedly.

Promises: content is the octets between 354 and the end of data, without transparency dots, with the line
endings that were received; a piece has at most `PIECE` octets, so memory does not grow with the size of a message.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

PIECE: int = 256 * 1024
"""Maximum octets of a piece."""

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

Pieces: TypeAlias = "AsyncIterator[bytes]"
"""Content, piece by piece."""


def lacks_room(error: BaseException) -> bool:
    """Whether an error means that the storage is full (ENOSPC, EDQUOT)."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


class BodyDamaged(OSError):
    """Stored content is not what was written: its checksum differs, it ends early, or its file is missing.

    Another attempt does not help: the message is held for an operator, and neither delivered nor deleted.
    """


class Body(Protocol):
    """Stored content."""

    @property
    def size(self) -> int:
        """Octets of content."""
        ...

    def pieces(self) -> Pieces:
        """Iterate over the content in pieces of at most `PIECE` octets. Each call starts from the beginning.

        Raises:
            BodyDamaged: the content is damaged; raised instead of the last piece, never after it.
            OSError: the content cannot be read.
        """
        ...

    async def head(self, limit: int) -> bytes:
        """Return the first octets, at most `limit`, for example to read the header section."""
        ...


class Spool(Protocol):
    """Content that is being received. It ends either with a commit, by the store that created it, or with `discard`."""

    @property
    def size(self) -> int:
        """Octets written so far."""
        ...

    def write(self, piece: bytes) -> Awaitable[None] | None:
        """Append a piece. If an awaitable is returned, the writer waits for it before the next piece (back-pressure).

        Raises:
            OSError: the storage is full (the session replies 452) or failed (451).
        """
        ...

    def discard(self) -> None:
        """Discard everything written. A second call, or a call after a commit, has no effect."""
        ...
