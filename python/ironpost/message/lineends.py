"""Line endings of content for final delivery.

Promises: `LineFeeds` turns each CRLF into LF, as Unix mailboxes store mail, and touches nothing else: a bare CR or LF
is unchanged, and a CRLF that is split across two pieces is converted too.
"""

from __future__ import annotations


class LineFeeds:
    """A converter for the content of one message, fed in pieces."""

    __slots__ = ("_cr",)

    def __init__(self) -> None:
        self._cr = False
        """The last piece ended in a CR that may belong to a CRLF."""

    def feed(self, piece: bytes) -> bytes:
        """Convert a piece; a CR at its end is held until the next octet is known."""
        if not piece:
            return b""
        if self._cr:
            piece = b"\r" + piece
        self._cr = piece.endswith(b"\r")
        if self._cr:
            piece = piece[:-1]
        return piece.replace(b"\r\n", b"\n")

    def finish(self) -> bytes:
        """The CR that was held, if any."""
        held, self._cr = (b"\r" if self._cr else b""), False
        return held
