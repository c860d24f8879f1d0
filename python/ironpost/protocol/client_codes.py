"""Reply codes that the grammar does not have, such as 571, read by their first digit (RFC 5321 §4.3.2: a MUST).

Promises: the second digit is all that is forgiven; 571 is read as 550, and 260 as 250, on each line of a reply, however
the octets were cut. Everything else is judged by `wire.ReplyReader`, as it came.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ironpost import wire

if TYPE_CHECKING:
    from collections.abc import Callable

_UNKNOWN: Final = re.compile(rb"(?<=\n)([2-5])[6-9][0-9]")
_BEGUN: Final = re.compile(rb"[2-5][6-9]?")


class CodeReader:
    """A `wire.ReplyReader` that is fed codes it knows in place of those it does not."""

    __slots__ = ("_begun", "_fresh", "_reader", "_tolerated")

    def __init__(self, tolerated: Callable[[], bool]) -> None:
        """Starts at the start of a line.

        Args:
            tolerated: asked for each piece with such a code.
        """
        self._reader = wire.ReplyReader()
        self._tolerated = tolerated
        self._begun = b""
        """The start of a line that may become such a code."""
        self._fresh = True
        """What comes next starts a line."""

    @property
    def buffered(self) -> int:
        """Octets of an unfinished reply."""
        return self._reader.buffered + len(self._begun)

    def feed(self, data: bytes) -> list[wire.ClientEvent]:
        """See `wire.ReplyReader.feed`."""
        data, self._begun = self._begun + data, b""
        start = data.rfind(b"\n") + 1
        if (start or self._fresh) and _BEGUN.fullmatch(data, start):
            data, self._begun = data[:start], data[start:]
        if not data:
            return []
        # The LF in front makes every line alike.
        line = b"\n" + data if self._fresh else data
        if _UNKNOWN.search(line) and self._tolerated():
            line = _UNKNOWN.sub(rb"\g<1>50", line)
        data, self._fresh = line[1:] if self._fresh else line, data.endswith(b"\n")
        return self._reader.feed(data)
