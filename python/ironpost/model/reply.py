"""Replies as values (RFC 5321 §4.2, RFC 2034, RFC 3463).

Promises: a `Reply` that exists can be written to the wire and to a log line unchanged; the text for the peer
(`text`) and the details for the log (`detail`) are different fields. Text of any source (operator, hook, peer) becomes
printable ASCII on the wire, because only some commands allow UTF-8 in their replies (RFC 6531 §3.7.4.2), in lines of at
most 512 octets (RFC 5321 §4.5.3.1.5): other characters are escaped, long lines are split.
A `RawReply` is written as it is; it cannot split the reply stream either.
Refuses: CR, LF, NUL and, in a `Reply`, codes outside 200 to 599, with ValueError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from ironpost import wire
from ironpost.model.text import escape

if TYPE_CHECKING:
    from typing import Self

LINE: Final = 512
"""Octets of a reply line with its CRLF (RFC 5321 §4.5.3.1.5)."""
LINES: Final = 100
"""Maximum lines of a reply (a count); the rest is not written."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of this server or of a peer."""

    code: int
    """The reply code, three digits."""
    enhanced: str | None
    """The enhanced status code `class.subject.detail` (RFC 3463); None for replies without one, such as the greeting,
    the reply to EHLO and 354 (RFC 2034 §4)."""
    text: tuple[str, ...]
    """The text of each line."""
    detail: str = field(default="", compare=False)
    """The reason, for the log only."""
    octets: bytes = field(init=False, repr=False, compare=False)
    """The reply as it is written on the wire."""

    def __post_init__(self) -> None:
        octets = wire.format_reply(self.code, self.enhanced, self.text)
        if len(octets) > LINE or not octets.isascii() or not all(map(str.isprintable, self.text)):
            room = LINE - len(wire.format_reply(self.code, self.enhanced, ()))
            lines = [part for line in self.text for part in _parts(escape(line, ascii_only=True), room)]
            octets = wire.format_reply(self.code, self.enhanced, tuple(lines[:LINES]))
        object.__setattr__(self, "octets", octets)

    @classmethod
    def of(cls, reply: wire.Reply) -> Self:
        """Convert the reply of a peer; octets that are not UTF-8, and control characters, are escaped."""
        lines = tuple(_shown(line) for line in reply.lines)
        return cls(reply.code, reply.enhanced, lines)

    @property
    def positive(self) -> bool:
        """2yz or 3yz: the command was accepted (RFC 5321 §4.2.1)."""
        return self.code < 400

    @property
    def transient(self) -> bool:
        """4yz: the same command may succeed later (RFC 5321 §4.2.1)."""
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        """5yz: the same command will fail again (RFC 5321 §4.2.1)."""
        return self.code >= 500

    def because(self, detail: str) -> Self:
        """Return a copy with a reason for the log."""
        return replace(self, detail=detail)

    def __str__(self) -> str:
        words = " ".join(self.text)
        return f"{self.code} {self.enhanced} {words}" if self.enhanced else f"{self.code} {words}"


class RawReply(Reply):
    """A reply that is given as complete lines, with any three digits and any text, and written unchanged.

        RawReply("999 Whatever")        RawReply("250-first", b"250 second")

    It is for programs that were written for another server. Its first digit determines its class: below 4 it is
    positive, 4 is transient, 5 and above are permanent. The program must make sure that clients understand codes
    outside RFC 5321 §4.2.1, and lines longer than §4.5.3.1.5 allows.
    """

    __slots__ = ()

    def __init__(self, *lines: str | bytes, detail: str = "") -> None:
        """
        Args:
            lines: at least one line without CRLF. All have the same code, followed by a hyphen in all but the last
                (RFC 5321 §4.2.1); a str is encoded as UTF-8.
            detail: the reason, for the log only.

        Raises:
            ValueError: the lines do not form one reply (RFC 5321 §4.2), or contain CR, LF or NUL.
        """
        encoded = [line.encode() if isinstance(line, str) else line for line in lines]
        code = encoded[-1][:3] if encoded else b""
        for position, line in enumerate(encoded, 1):
            last = position == len(encoded)
            if not _RAW_LINE.fullmatch(line) or not line.startswith(code) or last == (line[3:4] == b"-"):
                raise ValueError(f"not line {position} of a {len(encoded)}-line reply: {line!r:.100}")
        if not encoded:
            raise ValueError("a reply has at least one line")
        object.__setattr__(self, "code", int(code))
        object.__setattr__(self, "enhanced", None)
        object.__setattr__(self, "text", tuple(_shown(line[4:]) for line in encoded))
        object.__setattr__(self, "detail", detail)
        object.__setattr__(self, "octets", b"".join(line + b"\r\n" for line in encoded))

    def because(self, detail: str) -> Self:
        """Return a copy with a reason for the log."""
        return type(self)(*self.octets.split(b"\r\n")[:-1], detail=detail)

    def __str__(self) -> str:
        return f"{self.code:03} {' '.join(self.text)}".rstrip()


_RAW_LINE: Final = re.compile(rb"[0-9]{3}(?:[ -][^\r\n\0]*)?")


def _parts(line: str, room: int) -> list[str]:
    parts = []
    while len(line) > room:
        cut = line.rfind(" ", 1, room + 1)
        cut = room if cut < 1 else cut
        parts.append(line[:cut])
        line = line[cut:].removeprefix(" ")
    return [*parts, line]


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "backslashreplace")
    return escape(text)
