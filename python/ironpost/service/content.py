"""Content on its way from a session into the store, and what policy wants to know of it.

Promises: policy sees the first 64 KiB and the number of Received fields without asking the store; nothing else is held.
Content that users submit passes through `message.submission` on its way.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ironpost.message.submission import SubmittedHeader
from ironpost.message.trace import Hops

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.model.body import Spool

_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
HEAD: Final = 64 * 1024
"""Octets from the start of the content that policy may look at."""


class Content:
    """A `model.body.Spool` over the store's."""

    __slots__ = ("_head", "_hops", "_room", "spool")

    fault = ""
    """Why the content as such is refused, a sentence for the client; empty if nothing is wrong with it."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self._head: list[bytes] = []
        self._room = HEAD
        self._hops: Hops | None = None
        """Only for content that is longer than the head."""

    @property
    def size(self) -> int:
        """Octets written so far."""
        return self.spool.size

    @property
    def head(self) -> bytes:
        """The first octets, `HEAD` at most."""
        return self._head[0] if len(self._head) == 1 else b"".join(self._head)

    @property
    def hops(self) -> int:
        """Received fields in the whole header section."""
        return (self._hops or _counted(self.head)).count

    def write(self, piece: bytes) -> Awaitable[None] | None:
        """Appends; a returned awaitable is back-pressure (`Spool.write`)."""
        room = self._room
        if len(piece) <= room:
            self._head.append(piece)
            self._room = room - len(piece)
        else:
            if self._hops is None:
                self._hops = _counted(self.head)
            self._hops.feed(piece)
            if room:
                self._head.append(piece[:room])
                self._room = 0
        return self.spool.write(piece)

    def bare_in_header(self) -> str:
        """Why content in which bare CR or LF are accepted is refused; empty if it is not.

        They leave as CRLF, and what stands behind one in the header section leaves as a field that nobody looked at:
        so they may stand in the body alone.
        """
        head = self.head
        end = 0 if head.startswith(b"\r\n") else head.find(b"\r\n\r\n")
        unseen = end < 0 and self.size > len(head)  # the section is longer than the head
        if unseen or _BARE.search(head[: end if end >= 0 else len(head)]) is not None:
            return "Header section holds a bare CR or LF (RFC 5322 section 2.2)"
        return ""

    def finish(self) -> None:
        """The true end was reached."""

    def additions(self, *, now: float, id: str, host: str) -> bytes:  # noqa: ARG002, A002 - for those that need it
        """Header fields that stand between the trace and the content."""
        return b""

    def discard(self) -> None:
        """Forgets everything."""
        self._head.clear()
        self.spool.discard()


class SubmittedContent(Content):
    """Content that a user's program sends: its header section is mended on the way (RFC 6409 §8)."""

    __slots__ = ("_header",)

    def __init__(self, spool: Spool) -> None:
        super().__init__(spool)
        self._header = SubmittedHeader()

    @property
    def fault(self) -> str:  # type: ignore[override] # computed here
        """Why the header section is refused."""
        return self._header.fault

    def write(self, piece: bytes) -> Awaitable[None] | None:
        """Appends what of the piece is not held back."""
        ready = self._header.feed(piece)
        return super().write(ready) if ready else None

    def finish(self) -> None:
        """Stores a header section without a body."""
        rest = self._header.finish()
        if rest:
            super().write(rest)  # at most a header section: nothing to wait for

    def additions(self, *, now: float, id: str, host: str) -> bytes:  # noqa: A002 - see `SubmittedHeader`
        """Date and Message-ID where they lack."""
        return self._header.additions(now=now, id=id, host=host)


def _counted(head: bytes) -> Hops:
    hops = Hops()
    hops.feed(head)
    return hops
