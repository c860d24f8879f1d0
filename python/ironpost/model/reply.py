"""Replies as values (RFC 5321 §4.2, RFC 2034, RFC 3463).

Promises: a `Reply` that exists can be written on the wire and into a log line as it is; what the peer may read (`text`)
and what only the log may say (`detail`) are different fields.
Refuses: CR, LF, NUL and codes outside 200 to 599, with ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ironpost import wire

if TYPE_CHECKING:
    from typing import Self


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
        object.__setattr__(self, "octets", wire.format_reply(self.code, self.enhanced, self.text))

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


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
