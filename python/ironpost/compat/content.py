"""Content as the clients send it by DATA.

Promises: each line end becomes CRLF, and content ends with one (SECURITY R3); leading dots are doubled. Content is
encoded once, whether or not its size is declared; twice by a client whose class overrides `data`, which takes bytes.

Standards: RFC 5321 §4.5.2 (transparency), §4.1.1.4 (the end); RFC 1870 §6.1 (the size).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from ironpost import wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    RawMessage: TypeAlias = str | bytes | bytearray | memoryview | Iterable[bytes]
    """Text in ASCII, octets, or a file or iterable of octets."""

END: Final = b".\r\n"
"""The end of content."""
PIECE: Final = 256 * 1024
"""Octets that are read from a file, or sent, at a time."""


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
        return self.given_size + len(self.end) - len(END)

    @property
    def given_size(self) -> int:
        """The same without a CRLF that was missing at the end, which smtplib does not count."""
        return len(wire.dot_unstuff(self.lines))

    @property
    def normalised(self) -> bytes:
        """The content without doubled dots and without its end, for a `data` that encodes it."""
        return wire.dot_unstuff(self.lines) + self.end.removesuffix(END)


def content_of(message: Content | RawMessage) -> Content | Iterable[bytes]:
    """Return text and octets encoded, and a file or an iterable as it is.

    Raises:
        UnicodeEncodeError: the text is not ASCII.
    """
    if isinstance(message, str):
        message = message.encode("ascii")
    return Content(bytes(message)) if isinstance(message, bytes | bytearray | memoryview) else message


def encoded_pieces(content: Iterable[bytes]) -> Iterator[bytes]:
    """Encode a file or an iterable, of which one piece is in memory; the last piece has the end."""
    encoder = wire.DataEncoder("normalise")
    waiting = b""  # so that content in one piece is sent with its final dot
    for piece in _read(content):
        if waiting:
            yield waiting
        waiting = encoder.feed(piece)
    yield waiting + encoder.finish()


def _read(content: Iterable[bytes]) -> Iterator[bytes]:
    if (read := getattr(content, "read", None)) is not None:
        while piece := read(PIECE):
            yield piece
    else:
        yield from content
