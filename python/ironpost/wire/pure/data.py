"""DATA transparency: dot-stuffing both ways, streaming and whole.

Promises: only CRLF.CRLF ends DATA (the first CRLF may be the one of the DATA command itself); a dot is stuffed or
un-stuffed only at the start of a line, and only CRLF starts a line; what comes out does not depend on how the input was
cut. Nothing is held back but a leading `.` or `.CR` whose meaning the next octet decides and, where newlines are
normalised, a CR.

Refuses: to let a bare CR or bare LF out through `DataEncoder`; to read behind the end of DATA.

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

# Where the decoder stands. A line starts at the start of DATA and behind each CRLF.
LINE_START: Final = 0
LEADING: Final = 1
"""Behind a dot that starts a line."""
LEADING_CR: Final = 2
"""Behind `.CR` at the start of a line."""
INSIDE: Final = 3
INSIDE_CR: Final = 4
"""Behind a CR inside a line."""


def dot_stuff(data: Octets) -> bytes:
    """A body with each leading dot doubled; no terminator is added (RFC 5321 §4.5.2)."""
    octets = as_octets(data)
    return b"." * octets.startswith(b".") + octets.replace(b"\r\n.", b"\r\n..")


def dot_unstuff(data: Octets) -> bytes:
    """A body, without terminator, with each leading dot removed (RFC 5321 §4.5.2)."""
    return as_octets(data).removeprefix(b".").replace(b"\r\n.", b"\r\n")


def as_newline_policy(newline: str) -> NewlinePolicy:
    """One of the three policies.

    Raises:
        ValueError: if it is none.
    """
    if newline not in get_args(NewlinePolicy):
        raise ValueError(f"newline must be 'reject', 'normalise' or 'accept', not {newline!r}")
    return newline  # type: ignore[return-value]  # mypy does not narrow str by membership


class Newlines:
    """Turns each bare CR and bare LF into CRLF, over any cut of the input. Holds back a CR at the end of a piece."""

    def __init__(self) -> None:
        self.bare_cr = False
        self.bare_lf = False
        self.held = b""

    def feed(self, octets: bytes) -> bytes:
        """The octets with every line end a CRLF."""
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
        """What was held back, now known to be bare."""
        if not self.held:
            return b""
        self.held = b""
        self.bare_cr = True
        return CRLF


class Facts:
    """What a body holds, gathered while it passes. The same for DATA and for the chunks of BDAT."""

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
        """Count the next octets of the body."""
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
        """The body is complete: a CR at its end is bare."""
        if self._after_cr:
            self._after_cr = False
            self.bare_cr = True

    def _look_for_bare(self, octets: bytes) -> None:
        self.bare_cr = self.bare_cr or CR in octets
        self.bare_lf = self.bare_lf or LF in octets

    def _end_line(self, end: int) -> None:
        """A line ends at the offset `end` with CRLF."""
        if self.header_size < 0 and end == self._line_start:
            self.header_size = end
        self._longest = max(self._longest, end - self._line_start)
        self._line_start = end + 2


class DataDecoder:
    """The receiving side of DATA: un-stuffs, finds the true end, gathers facts on the way.

    The facts describe the body as it is returned (un-stuffed, and normalised if that is the policy), except `bare_cr`
    and `bare_lf`, which tell what was received.

    Args:
        limits: `Limits.content` bounds what `feed` returns; the rest is counted and checked.
        newline: what happens to bare CR and bare LF.
    """

    def __init__(self, limits: Limits | None = None, newline: NewlinePolicy = "reject") -> None:
        self._room = as_limits(limits).content
        self._newlines = Newlines() if as_newline_policy(newline) == "normalise" else None
        self._facts = Facts()
        self._state = LINE_START
        self._finished = False

    def feed(self, data: Octets) -> tuple[bytes, int, bool]:
        """Body octets known by now, octets of `data` consumed, whether the true end was reached.

        Raises:
            ValueError: behind the end.
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
                    self._state = INSIDE  # the dot is dropped: other characters follow it
            elif self._state == LEADING_CR:
                if octets[at] == LF:
                    self._finished = True
                    return pieces, at + 1
                pieces.append(b"\r")  # a bare CR behind a dot that is dropped
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
        """An octet above 127 was seen."""
        return self._facts.eight_bit

    @property
    def nul(self) -> bool:
        """A NUL octet was seen."""
        return self._facts.nul

    @property
    def bare_cr(self) -> bool:
        """A CR without LF was seen."""
        return self._facts.bare_cr or (self._newlines is not None and self._newlines.bare_cr)

    @property
    def bare_lf(self) -> bool:
        """An LF without CR was seen."""
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
    """The sending side of DATA: stuffs, and adds the terminator.

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
        self._tail = CRLF  # the last two octets given out; the start of the body is the start of a line
        self._ended = False

    def feed(self, chunk: Octets) -> bytes:
        """The next octets for the wire.

        Raises:
            WireFault: under `reject`, if the body holds a bare CR or LF; the encoder is of no use behind it.
            ValueError: behind the end or a fault.
        """
        self._require_open()
        octets = as_octets(chunk)
        if self._strict:
            self._look_for_bare(octets)
        self._fed += len(octets)
        return self._stuff(self._newlines.feed(octets))

    def finish(self) -> bytes:
        """The end: CRLF if the body lacks it, then `.CRLF`.

        Raises:
            WireFault: under `reject`, if the body ends with a CR.
            ValueError: behind the end or a fault.
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
        # Octets come out of Newlines, so no piece starts with the LF of a CRLF that the last piece began.
        if not octets:
            return b""
        stuffed = dot_stuff(octets) if self._tail == CRLF else dot_stuff(b" " + octets)[1:]
        self._tail = octets[-2:]
        return stuffed
