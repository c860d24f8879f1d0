"""Content in memory: a spool that receives content into one `bytes`, and a body over such content."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ironpost.model.body import PIECE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MEMORY_LIMIT = 32 * 1024 * 1024
"""Default limit of a `MemorySpool`, in octets."""


class MemorySpool:
    """A `model.body.Spool` in memory, with a limit.

    Beyond the limit `write` raises OSError (ENOSPC), for which the session replies 452 4.3.1 after the true end. With
    `ServerSettings.max_size` as the limit this does not happen: the session itself refuses larger content (552 5.3.4).
    """

    __slots__ = ("_pieces", "limit", "size")

    def __init__(self, limit: int = MEMORY_LIMIT) -> None:
        self.limit = limit
        self.size = 0
        """Octets written so far."""
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> None:
        """Append a piece.

        Raises:
            OSError: the content is larger than the limit.
        """
        self.size += len(piece)
        if self.size > self.limit:
            self.discard()
            raise OSError(errno.ENOSPC, f"the content is larger than the {self.limit} octets of this MemorySpool")
        self._pieces.append(piece)

    def discard(self) -> None:
        """Discard everything written."""
        self._pieces.clear()

    @property
    def content(self) -> bytes:
        """Everything written: without transparency dots, with the line endings that were received."""
        if len(self._pieces) != 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0]


class MemoryBody:
    """A `model.body.Body` in memory."""

    __slots__ = ("_content",)

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def size(self) -> int:
        """Octets of content."""
        return len(self._content)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Iterate over the content in pieces of at most `PIECE` octets."""
        for start in range(0, len(self._content), PIECE):
            yield self._content[start : start + PIECE]

    async def head(self, limit: int) -> bytes:
        """Return the first octets, at most `limit`."""
        return self._content[:limit]
