"""Removal of mbox separators: the `From ` line that old programs leave in front of the content they send.

Promises: such lines are removed from the start of the content, with any number of `>` before them; everything else
is unchanged. At most one line of the maximum length of RFC 5322 §2.1.1 is held in memory.
Refuses: nothing. `From : jo@example.org` is a header field (RFC 5322 §4.5.2) and stays.
Sources: mbox(5); sendmail removes the line too, Postfix converts it to a field.
"""

from __future__ import annotations

import re
from typing import Final

from ironpost.message.header import LINE_LIMIT

_SEPARATOR: Final = rb">*From (?![ \t]*:)[^\r\n]*"
_LINE: Final = re.compile(_SEPARATOR + rb"\r\n")
_LINE_HERE: Final = re.compile(_SEPARATOR + rb"\r?\n")
"""The form in files, with line endings of LF or CRLF."""
_BEGUN: Final = re.compile(rb">*(?:F(?:r(?:o(?:m(?: (?![ \t]*:)[^\r\n]*\r?)?)?)?)?)?")
"""A prefix of such a line."""


class SeparatorLines:
    """Removes separator lines from the start of content that is fed in pieces."""

    __slots__ = ("_held", "_line", "removed")

    def __init__(self, *, bare_lf: bool = False) -> None:
        """`bare_lf`: a line may end in LF alone."""
        self.removed = 0
        """Number of lines removed so far."""
        self._held: bytes | None = b""
        """The incomplete line received so far; None once the separators are over."""
        self._line = _LINE_HERE if bare_lf else _LINE

    def feed(self, piece: bytes) -> bytes:
        """The octets that can be passed on now."""
        held = self._held
        if held is None:
            return piece
        text = held + piece
        at = 0
        while (line := self._line.match(text, at)) is not None and line.end() - at <= LINE_LIMIT + 2:
            at = line.end()
            self.removed += 1
        rest = text[at:]
        if len(rest) < LINE_LIMIT + 2 and _BEGUN.fullmatch(rest) is not None:
            self._held = rest
            return b""
        self._held = None
        return rest

    def finish(self) -> bytes:
        """The incomplete last line, at the end of the content."""
        held, self._held = self._held, None
        return held or b""
