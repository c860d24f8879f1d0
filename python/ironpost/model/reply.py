"""Replies as values (RFC 5321 §4.2, RFC 2034, RFC 3463).

Promises: a `Reply` that exists can be written on the wire and into a log line as it is; what the peer may read (`text`)
and what only the log may say (`detail`) are different fields. Whoever wrote the text, an operator, a hook or a peer, on
the wire it is printable ASCII, because only some commands allow UTF-8 in their replies (RFC 6531 §3.7.4.2), in lines of
512 octets at most (RFC 5321 §4.5.3.1.5): other characters are escaped, long lines become several.
Refuses: CR, LF, NUL and codes outside 200 to 599, with ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from ironpost import wire

if TYPE_CHECKING:
    from typing import Self

LINE: Final = 512
"""Octets of a reply line with its CRLF (RFC 5321 §4.5.3.1.5)."""
LINES: Final = 100
"""Lines of a reply (a count); more are not written."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply, ours or a peer's."""

    code: int
    """Three digits."""
    enhanced: str | None
    """`class.subject.detail` (RFC 3463), or None where none is sent (RFC 2034 §4: greeting, EHLO, 354)."""
    text: tuple[str, ...]
    """One entry a line."""
    detail: str = field(default="", compare=False)
    """For the log only."""
    octets: bytes = field(init=False, repr=False, compare=False)
    """The reply as it is written on the wire."""

    def __post_init__(self) -> None:
        octets = wire.format_reply(self.code, self.enhanced, self.text)
        if len(octets) > LINE or not octets.isascii() or not all(map(str.isprintable, self.text)):
            room = LINE - len(wire.format_reply(self.code, self.enhanced, ()))
            lines = [part for line in self.text for part in _parts(_plain(line), room)]
            octets = wire.format_reply(self.code, self.enhanced, tuple(lines[:LINES]))
        object.__setattr__(self, "octets", octets)

    @classmethod
    def of(cls, reply: wire.Reply) -> Self:
        """A peer's reply as it was read; octets that are not UTF-8, and control characters, are shown escaped."""
        lines = tuple(_shown(line) for line in reply.lines)
        return cls(reply.code, reply.enhanced, lines)

    @property
    def positive(self) -> bool:
        """2yz or 3yz."""
        return self.code < 400

    @property
    def transient(self) -> bool:
        """4yz: the same command may succeed later (RFC 5321 §4.2.1)."""
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        """5yz."""
        return self.code >= 500

    def because(self, detail: str) -> Self:
        """The same reply with a reason for the log."""
        return replace(self, detail=detail)

    def __str__(self) -> str:
        words = " ".join(self.text)
        return f"{self.code} {self.enhanced} {words}" if self.enhanced else f"{self.code} {words}"


def _plain(text: str) -> str:
    return "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode("ascii") for c in text)


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
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
