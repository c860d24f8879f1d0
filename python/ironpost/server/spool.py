"""Content in memory, for handlers that want it as one `bytes`."""

from __future__ import annotations

import errno

MEMORY_LIMIT = 32 * 1024 * 1024
"""Octets that one `MemorySpool` holds by default."""


class MemorySpool:
    """A `model.body.Spool` that keeps what is written, up to a limit.

    Beyond the limit `write` raises OSError (ENOSPC), which the session answers with 452 4.3.1 behind the true end. Give
    it the server's `Settings.max_size` and the client reads 552 5.3.4 instead.
    """

    __slots__ = ("_pieces", "limit", "size")

    def __init__(self, limit: int = MEMORY_LIMIT) -> None:
        self.limit = limit
        self.size = 0
        """Octets written so far."""
        self._pieces: list[bytes] = []

    def write(self, piece: bytes) -> None:
        """Appends.

        Raises:
            OSError: the content is larger than the limit.
        """
        self.size += len(piece)
        if self.size > self.limit:
            self.discard()
            raise OSError(errno.ENOSPC, f"the content is larger than the {self.limit} octets of this MemorySpool")
        self._pieces.append(piece)

    def discard(self) -> None:
        """Forgets everything."""
        self._pieces.clear()

    @property
    def content(self) -> bytes:
        """Everything written: un-stuffed, line ends as they came."""
        if len(self._pieces) != 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0]
