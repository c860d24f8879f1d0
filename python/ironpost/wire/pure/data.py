"""DATA transparency: adding and removing leading dots, incrementally or at once.

Promises: only CRLF.CRLF ends DATA (the first CRLF may be that of the DATA command itself); a dot is added or removed
only at the start of a line, and only CRLF starts a line; the result does not depend on how the input was split. At most
a leading `.` or `.CR`, whose meaning depends on the next octet, is held back, and a CR if newlines are normalised.

Refuses: to output a bare CR or bare LF from `DataEncoder`; to read beyond the end of DATA.

Standards: RFC 5321 §4.1.1.4 (end of data), §4.5.2 (transparency), §2.3.8 (line ends).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, get_args

from ironpost.wire.interface import Limits, NewlinePolicy, WireFault
from ironpost.wire.pure.octets import CR, CRLF, DOT, LF, Octets, as_limits, as_octets

if TYPE_CHECKING:
    from typing import Literal

BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")

# States of the decoder. A line starts at the start of DATA and after each CRLF.
LINE_START: Final = 0
LEADING: Final = 1
"""State after a dot that starts a line."""
LEADING_CR: Final = 2
"""State after `.CR` at the start of a line."""
INSIDE: Final = 3
INSIDE_CR: Final = 4
"""State after a CR inside a line."""


def dot_stuff(data: Octets) -> bytes:
    """Double each leading dot of a body; no terminator is added (RFC 5321 §4.5.2)."""
    octets = as_octets(data)
    return b"." * octets.startswith(b".") + octets.replace(b"\r\n.", b"\r\n..")


def dot_unstuff(data: Octets) -> bytes:
    """Remove one leading dot from each line of a body without terminator (RFC 5321 §4.5.2)."""
    return as_octets(data).removeprefix(b".").replace(b"\r\n.", b"\r\n")


def as_newline_policy(newline: str) -> NewlinePolicy:
    """Check the name of a policy.

    Raises:
        ValueError: there is no such policy.
    """
    if newline not in get_args(NewlinePolicy):
        raise ValueError(f"newline must be 'reject', 'normalise' or 'accept', not {newline!r}")
    return newline  # type: ignore[return-value]  # mypy does not narrow str by membership


class Newlines:
    """Converts each bare CR and bare LF to CRLF, however the input is split. A CR at the end of a piece is buffered."""

    def __init__(self) -> None:
        self.bare_cr = False
        self.bare_lf = False
        self.held = b""

    def feed(self, octets: bytes) -> bytes:
        """Convert the next octets; return them with CRLF line ends."""
        octets = self.held + octets
        self.held = b"\r" if octets.endswith(b"\r") else b""
        if self.held:
            octets = octets[:-1]
        pairs = octets.count(CRLF)
        bare_cr, bare_lf = octets.count(b"\r") > pairs, octets.count(b"\n") > pairs
        self.bare_cr = self.bare_cr or bare_cr
        self.bare_lf = self.bare_lf or bare_lf
        if bare_cr or bare_lf:
            octets = octets.replace(CRLF, b"\n").replace(b"\r", b"\n").replace(b"\n", CRLF)
        return octets

    def finish(self) -> bytes:
        """End the input; return CRLF for a CR that was held back, which is bare."""
        if not self.held:
            return b""
        self.held = b""
        self.bare_cr = True
        return CRLF


class Facts:
    """Collects the facts about content while it is read, for DATA and for the chunks of BDAT."""

    def __init__(self) -> None:
        self.size = 0
        self.eight_bit = False
        self.nul = False
        self.bare_cr = False
        self.bare_lf = False
        self.header_size = -1
        self._longest = 0
        self._line_start = 0
        self._after_cr = False

    @property
    def longest_line(self) -> int:
        """Octets of the longest line without CRLF, the unfinished one included (without a CR that may start a CRLF)."""
        return max(self._longest, self.size - self._line_start - self._after_cr)

    def observe(self, octets: bytes) -> None:
        """Examine the next octets of the content."""
        if not octets:
            return
        self.eight_bit = self.eight_bit or not octets.isascii()
        self.nul = self.nul or 0 in octets
        start = 0
        if self._after_cr:
            self._after_cr = False
            if octets[0] == LF:
                self._end_line(self.size - 1)
                start = 1
            else:
                self.bare_cr = True
        while (end := octets.find(CRLF, start)) >= 0:
            self._look_for_bare(octets[start:end])
            self._end_line(self.size + end)
            start = end + 2
        rest = octets[start:]
        self._after_cr = rest.endswith(b"\r")
        self._look_for_bare(rest[:-1] if self._after_cr else rest)
        self.size += len(octets)

    def finish(self) -> None:
        """End the content: a CR at its end is bare."""
        if self._after_cr:
            self._after_cr = False
            self.bare_cr = True

    def _look_for_bare(self, octets: bytes) -> None:
        self.bare_cr = self.bare_cr or CR in octets
        self.bare_lf = self.bare_lf or LF in octets

    def _end_line(self, end: int) -> None:
        """Record that a line ends with CRLF at the offset `end`."""
        if self.header_size < 0 and end == self._line_start:
            self.header_size = end
        self._longest = max(self._longest, end - self._line_start)
        self._line_start = end + 2


class DataDecoder:
    """Decode the octets after DATA: remove stuffed dots, find the true end, gather facts (RFC 5321 §4.5.2).

    The facts describe the body as it is returned (without stuffed dots, and normalised under that policy), except
    `bare_cr` and `bare_lf`, which describe what was received.

    Args:
        limits: `Limits.content` bounds what `feed` returns; the rest is counted and checked.
        newline: the policy for a bare CR or bare LF.
    """

    def __init__(self, limits: Limits | None = None, newline: NewlinePolicy = "reject") -> None:
        self._room = as_limits(limits).content
        self._newlines = Newlines() if as_newline_policy(newline) == "normalise" else None
        self._facts = Facts()
        self._state = LINE_START
        self._finished = False

    def feed(self, data: Octets) -> tuple[bytes, int, bool]:
        """The body octets known by now, how many octets of `data` were consumed, whether the true end was reached.

        Raises:
            ValueError: after the end.
        """
        if self._finished:
            raise ValueError("the end of DATA was reached; a DataDecoder reads one body")
        octets = as_octets(data)
        pieces, consumed = self._unstuff(octets)
        body = b"".join(pieces)
        if self._newlines is not None:
            body = self._newlines.feed(body)
        self._facts.observe(body)
        body = body[: self._room]
        self._room -= len(body)
        return body, consumed, self._finished

    def _unstuff(self, octets: bytes) -> tuple[list[bytes], int]:
        pieces: list[bytes] = []
        at = 0
        while at < len(octets):
            if self._state == LINE_START:
                if octets[at] == DOT:
                    self._state = LEADING
                    at += 1
                else:
                    self._state = INSIDE
            elif self._state == LEADING:
                if octets[at] == CR:
                    self._state = LEADING_CR
                    at += 1
                else:
                    self._state = INSIDE  # the dot is removed, because other characters follow it
            elif self._state == LEADING_CR:
                if octets[at] == LF:
                    self._finished = True
                    return pieces, at + 1
                pieces.append(b"\r")  # a bare CR, after a dot that is removed
                self._state = INSIDE
            elif self._state == INSIDE_CR:
                if octets[at] == LF:
                    pieces.append(b"\n")
                    self._state = LINE_START
                    at += 1
                else:
                    self._state = INSIDE
            else:
                end = octets.find(CRLF, at)
                if end >= 0:
                    pieces.append(octets[at : end + 2])
                    self._state = LINE_START
                    at = end + 2
                else:
                    pieces.append(octets[at:])
                    self._state = INSIDE_CR if octets.endswith(b"\r") else INSIDE
                    at = len(octets)
        return pieces, at

    @property
    def size(self) -> int:
        """Octets of content so far, returned or not."""
        return self._facts.size

    @property
    def eight_bit(self) -> bool:
        """Whether an octet above 127 was seen."""
        return self._facts.eight_bit

    @property
    def nul(self) -> bool:
        """Whether a NUL octet was seen."""
        return self._facts.nul

    @property
    def bare_cr(self) -> bool:
        """Whether a CR without LF was seen."""
        return self._facts.bare_cr or (self._newlines is not None and self._newlines.bare_cr)

    @property
    def bare_lf(self) -> bool:
        """Whether an LF without CR was seen."""
        return self._facts.bare_lf or (self._newlines is not None and self._newlines.bare_lf)

    @property
    def longest_line(self) -> int:
        """Octets of the longest line so far, without CRLF."""
        return self._facts.longest_line

    @property
    def header_size(self) -> int:
        """Octets before the first empty line; -1 while none was seen."""
        return self._facts.header_size


class DataEncoder:
    """Encode content for DATA: stuff leading dots and add the terminator (RFC 5321 §4.5.2).

    Args:
        newline: `normalise` turns a bare CR or LF into CRLF; `reject` raises `WireFault` (`bare-cr`, `bare-lf`) with
            the offset in the body.
    """

    def __init__(self, newline: Literal["normalise", "reject"] = "normalise") -> None:
        if newline not in ("normalise", "reject"):
            raise ValueError(f"newline must be 'normalise' or 'reject', not {newline!r}")
        self._strict = newline == "reject"
        self._newlines = Newlines()
        self._fed = 0
        self._tail = CRLF  # the last two octets returned; the content starts at the start of a line
        self._ended = False

    def feed(self, chunk: Octets) -> bytes:
        """The next octets for the wire.

        Raises:
            WireFault: under `reject`, if the body holds a bare CR or LF; the encoder cannot be used any more.
            ValueError: after the end or a fault.
        """
        self._require_open()
        octets = as_octets(chunk)
        if self._strict:
            self._look_for_bare(octets)
        self._fed += len(octets)
        return self._stuff(self._newlines.feed(octets))

    def finish(self) -> bytes:
        """The last octets: CRLF if the body does not end with it, then `.CRLF`.

        Raises:
            WireFault: under `reject`, if the body ends with a CR.
            ValueError: after the end or a fault.
        """
        self._require_open()
        self._ended = True
        if self._strict and self._newlines.held:
            raise WireFault("bare-cr", self._fed - 1)
        rest = self._stuff(self._newlines.finish())
        return rest + (b".\r\n" if self._tail == CRLF else b"\r\n.\r\n")

    def _require_open(self) -> None:
        if self._ended:
            raise ValueError("the body has ended; a DataEncoder writes one body")

    def _look_for_bare(self, octets: bytes) -> None:
        held = self._newlines.held
        found = BARE.search(held + octets)
        if found is None:
            return
        if found[0] == b"\r" and found.end() == len(held + octets):
            return  # a CR at the end may be the first half of CRLF
        self._ended = True
        offset = self._fed - len(held) + found.start()
        raise WireFault("bare-cr" if found[0] == b"\r" else "bare-lf", offset)

    def _stuff(self, octets: bytes) -> bytes:
        # Newlines never splits a CRLF, so no piece starts with the LF of one.
        if not octets:
            return b""
        stuffed = dot_stuff(octets) if self._tail == CRLF else dot_stuff(b" " + octets)[1:]
        self._tail = octets[-2:]
        return stuffed
