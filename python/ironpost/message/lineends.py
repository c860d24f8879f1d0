"""Line endings of content from programs on this system, and for final delivery.

Promises: `NetworkLines` turns each LF, CR and CRLF into CRLF, and ends the last line. `LineFeeds` turns
each CRLF into LF, as Unix mailboxes store mail, and touches nothing else: a bare CR or LF is unchanged. A CRLF that is
split across two pieces is converted too.
"""

from __future__ import annotations

import re
from typing import Final

_LINE_END: Final = re.compile(rb"\r\n|\r|\n")


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


class NetworkLines:
    """A converter of LF, and of a bare CR, to CRLF, for the content of one message, fed in pieces."""

    __slots__ = ("_cr", "_ended")

    def __init__(self) -> None:
        self._cr = False
        """The last piece ended in a CR that may belong to a CRLF."""
        self._ended = True
        """What was returned so far is empty or ends in CRLF."""

    def feed(self, piece: bytes) -> bytes:
        """Convert a piece; a CR at its end is held until the next octet is known."""
        if self._cr:
            piece = b"\r" + piece
        self._cr = piece.endswith(b"\r")
        if self._cr:
            piece = piece[:-1]
        if piece:
            self._ended = piece.endswith(b"\n")
        return _LINE_END.sub(b"\r\n", piece)

    def finish(self) -> bytes:
        """The end of the last line, if it is missing."""
        missing, self._cr, self._ended = self._cr or not self._ended, False, True
        return b"\r\n" if missing else b""
