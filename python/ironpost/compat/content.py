"""Content as the clients send it by DATA.

Promises: each line end becomes CRLF, and content ends with one (SECURITY R3); leading dots are doubled. Content is
encoded once, whether or not its size is declared; twice by a subclass of `compat.smtplib.SMTP` that overrides a
command, because its `data` takes bytes.

Standards: RFC 5321 §4.5.2 (transparency), §4.1.1.4 (the end); RFC 1870 §6.1 (the size).
"""

from __future__ import annotations

from typing import Final

from ironpost import wire

END: Final = b".\r\n"
"""The end of content."""


class Content:
    """Encoded content."""

    def __init__(self, octets: bytes) -> None:
        encoder = wire.DataEncoder("normalise")
        self.lines = encoder.feed(octets)
        """All of it but its end."""
        self.end = encoder.finish()
        """The final dot, after a CRLF if that was missing."""

    @property
    def size(self) -> int:
        """The octets of content that the server will count."""
        return len(wire.dot_unstuff(self.lines)) + len(self.end) - len(END)

    @property
    def normalised(self) -> bytes:
        """The content without doubled dots and without its end, for a `data` that encodes it."""
        return wire.dot_unstuff(self.lines) + self.end.removesuffix(END)
