"""The separators of mbox files: the `From ` lines that old programs leave in front of the content they send, and ours.

Promises: `SeparatorLines` removes such lines from the start of the content, with any number of `>` before them;
everything else is unchanged, and at most one line of the maximum length of RFC 5322 §2.1.1 is held in memory.
`MboxContent` makes content safe to append (mboxrd): lines that start with `From `, after any number of `>`, get another
`>`, which readers of mboxrd remove, and the content ends with an empty line.
Refuses: nothing. `From : jo@example.org` is a header field (RFC 5322 §4.5.2) and stays.
Sources: mbox(5); sendmail removes the line too, Postfix converts it to a field.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from ironpost.message.header import LINE_LIMIT

if TYPE_CHECKING:
    from ironpost.model import Address

STATUS_FIELDS: Final = ("Content-Length", "Status", "X-IMAP", "X-IMAPbase", "X-Keywords", "X-Status", "X-UID")
"""Fields in which readers of an mbox keep its state; a message that brings one could forge that."""

_SEPARATOR: Final = rb">*From (?![ \t]*:)[^\r\n]*"
_LINE: Final = re.compile(_SEPARATOR + rb"\r\n")
_LINE_HERE: Final = re.compile(_SEPARATOR + rb"\r?\n")
"""The form in files, with line endings of LF or CRLF."""
_BEGUN: Final = re.compile(rb">*(?:F(?:r(?:o(?:m(?: (?![ \t]*:)[^\r\n]*\r?)?)?)?)?)?")
"""A prefix of such a line."""
_TO_QUOTE: Final = re.compile(rb"^>*(?=From )", re.MULTILINE)
_TO_QUOTE_LATER: Final = re.compile(rb"(?<=\n)>*(?=From )")
"""The same, if the text starts within a line."""
_FROM_BEGUN: Final = re.compile(rb"F(?:r(?:om?)?)?\Z")


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


def separator(reverse_path: Address, now: float) -> bytes:
    """The line before a message, with its LF; `now` is the time of delivery in seconds since 1970."""
    sender = "-".join(str(reverse_path).split()) or "MAILER-DAEMON"
    return f"From {sender} {datetime.fromtimestamp(int(now), UTC).ctime()}\n".encode()


class MboxContent:
    """A converter for the content of one message with LF line endings, fed in pieces."""

    __slots__ = ("_ended", "_held", "_open")

    def __init__(self) -> None:
        self._held = b""
        """The end of the last piece, if `From ` may begin there."""
        self._open = True
        """The current line has nothing but `>` so far."""
        self._ended = True
        """What was returned so far is empty or ends in LF."""

    def feed(self, piece: bytes) -> bytes:
        """The octets that can be written now."""
        text = self._held + piece
        begun = _FROM_BEGUN.search(text, max(0, len(text) - 4))
        self._held = b"" if begun is None else begun[0]
        if begun is not None:
            text = text[: begun.start()]
        if not text:
            return b""
        quoted = (_TO_QUOTE if self._open else _TO_QUOTE_LATER).sub(rb"\g<0>>", text)
        line = text[text.rfind(b"\n") + 1 :]
        self._open = (self._open or len(line) < len(text)) and not line.strip(b">")
        self._ended = not line
        return quoted

    def finish(self) -> bytes:
        """The remaining octets and the empty line, at the end of the content."""
        held, self._held = self._held, b""
        return held + (b"\n" if self._ended and not held else b"\n\n")
