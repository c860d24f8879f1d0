"""Interpretation of reply codes outside the grammar, such as 571, by their first digit, as RFC 5321 §4.3.2 requires.

Promises: only an invalid second digit is tolerated: 571 is read as 550, and 260 as 250, on each line of a reply,
however the input is split. All other input is passed to `wire.ReplyReader` unchanged.
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
    """A `wire.ReplyReader` that replaces codes outside the grammar by valid ones."""

    __slots__ = ("_at_line_start", "_begun", "_reader", "_tolerated")

    def __init__(self, tolerated: Callable[[], bool]) -> None:
        """Start at the beginning of a line.

        Args:
            tolerated: whether such codes are replaced; called for each piece of input that contains one.
        """
        self._reader = wire.ReplyReader()
        self._tolerated = tolerated
        self._begun = b""
        """The beginning of a line that may turn out to be such a code."""
        self._at_line_start = True
        """The next octet starts a line."""

    @property
    def buffered(self) -> int:
        """Octets of an unfinished reply."""
        return self._reader.buffered + len(self._begun)

    def feed(self, data: bytes) -> list[wire.ClientEvent]:
        """See `wire.ReplyReader.feed`."""
        data, self._begun = self._begun + data, b""
        start = data.rfind(b"\n") + 1
        if (start or self._at_line_start) and _BEGUN.fullmatch(data, start):
            data, self._begun = data[:start], data[start:]
        if not data:
            return []
        # With an LF before it, the first line is treated like the others.
        line = b"\n" + data if self._at_line_start else data
        if _UNKNOWN.search(line) and self._tolerated():
            line = _UNKNOWN.sub(rb"\g<1>50", line)
        data, self._at_line_start = line[1:] if self._at_line_start else line, data.endswith(b"\n")
        return self._reader.feed(data)
