"""Parsing of replies, at once or incrementally, and their formatting.

Promises: only complete replies are returned; a fault is final, because later replies could not be matched to commands;
text may be missing; the octets that a reader buffers are bounded by its limits.

Refuses: a line that does not start with a code, lines of one reply with different codes, more lines or octets than the
limits, CR, LF or NUL inside a line. Any other octet may be in the text.

Standards: RFC 5321 §4.2 (Reply-line), §4.2.1; RFC 2034 §4 and RFC 3463 §2 (enhanced status codes).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ironpost.wire.interface import DEFAULT_LIMITS, ClientEvent, Fault, Limits, Reply, WireFault
from ironpost.wire.pure.octets import CRLF, Octets, as_limits, as_octets

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTROL: Final = re.compile(rb"[\r\n\0]")
CODE_DIGITS: Final = (b"2345", b"012345", b"0123456789")
ENHANCED: Final = re.compile(rb"([245])\.[0-9]{1,3}\.[0-9]{1,3}(?=\Z| )")


def _line_end(octets: bytes, start: int, searched: int) -> tuple[int, bool]:
    """Find the end of the line at `start`: the offset of its CRLF and True, or the next offset to search and False.

    Raises:
        WireFault: `bare-cr`, `bare-lf`, `nul`, with the offset in the line.
    """
    found = CONTROL.search(octets, searched)
    if found is None:
        return len(octets), False
    at = found.start()
    if found[0] == b"\r":
        if octets.startswith(CRLF, at):
            return at, True
        if at + 1 == len(octets):
            return at, False
        raise WireFault("bare-cr", at - start)
    raise WireFault("bare-lf" if found[0] == b"\n" else "nul", at - start)


def _read_prefix(line: bytes) -> tuple[int, bool]:
    """Return the code of a line without its CRLF, and whether it is the last line of a reply.

    Raises:
        WireFault: `reply-malformed`.
    """
    for at, digits in enumerate(CODE_DIGITS):
        if not line[at : at + 1] or line[at] not in digits:
            raise WireFault("reply-malformed", at)
    separator = line[3:4]
    if separator not in (b"", b" ", b"-"):
        raise WireFault("reply-malformed", 3)
    return int(line[:3]), separator != b"-"


def _build(lines: list[bytes]) -> Reply:
    """Create the value of a reply from its lines, which were checked and have no CRLF."""
    code = int(lines[0][:3])
    texts = [line[4:] for line in lines]
    enhanced = _enhanced_code(texts[0], code)
    if enhanced is None:
        return Reply(code, None, tuple(texts))
    return Reply(code, enhanced.decode(), tuple(_without_enhanced(text, enhanced) for text in texts))


def _enhanced_code(text: bytes, code: int) -> bytes | None:
    """Return the enhanced status code at the start of a text, if its class agrees with the code (RFC 2034 §4)."""
    found = ENHANCED.match(text)
    return found[0] if found and int(found[1]) == code // 100 else None


def _without_enhanced(text: bytes, enhanced: bytes) -> bytes:
    if text == enhanced:
        return b""
    return text.removeprefix(enhanced + b" ")


def parse_reply(octets: Octets) -> Reply:
    """Parse one complete reply, with or without the CRLF of its last line (RFC 5321 §4.2). The default limits apply.

    Raises:
        WireFault: the first fault, with its offset in the faulty line; of `reply-incomplete` and `reply-trailing` it is
            the offset in the whole reply.
    """
    data = as_octets(octets)
    limits = DEFAULT_LIMITS
    lines: list[bytes] = []
    start = 0
    while start < len(data):
        end, complete = _line_end(data, start, start)
        if not complete and end < len(data):
            raise WireFault("bare-cr", end - start)
        after = end + 2 if complete else end
        last = _take_line(lines, data[start:end])
        if last:
            if after > limits.reply_octets:
                raise WireFault("reply-too-long", 0)
            if after < len(data):
                raise WireFault("reply-trailing", after)
            return _build(lines)
        if len(lines) >= limits.reply_lines:
            raise WireFault("reply-too-many-lines", 0)
        if after >= limits.reply_octets:
            raise WireFault("reply-too-long", 0)
        start = after
    raise WireFault("reply-incomplete", len(data))


def _take_line(lines: list[bytes], line: bytes) -> bool:
    """Check a line, append it to the lines before it, and return whether it is the last one."""
    code, last = _read_prefix(line)
    if lines and int(lines[0][:3]) != code:
        raise WireFault("reply-codes-differ", 0)
    lines.append(line)
    return last


class ReplyReader:
    """Read replies as they arrive (RFC 5321 §4.2).

    Args:
        limits: `reply_lines` and `reply_octets` bound one reply.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = as_limits(limits)
        self._broken = False
        self._begin()

    def _begin(self) -> None:
        self._lines: list[bytes] = []
        self._octets = 0  # of the lines
        self._rest = bytearray()  # of the line that is not complete
        self._searched = 0

    @property
    def buffered(self) -> int:
        """Octets of the unfinished reply."""
        return self._octets + len(self._rest)

    def feed(self, data: Octets) -> list[ClientEvent]:
        """The replies that are complete by now. A `Fault` is the last event: later octets are dropped."""
        events: list[ClientEvent] = []
        octets = as_octets(data)
        at = 0
        try:
            while at < len(octets) and not self._broken:
                at += self._take(octets, at, events)
        except WireFault as error:
            events.append(Fault(error.id, error.offset))
            self._broken = True
            self._begin()
        return events

    def _take(self, octets: bytes, at: int, events: list[ClientEvent]) -> int:
        """Consume up to the end of one line; return the number of octets consumed."""
        room = self._limits.reply_octets - self._octets
        held = len(self._rest)
        # Reading up to the next LF is sufficient to check a line, and keeps the time for copying linear.
        stop = octets.find(b"\n", at) + 1 or len(octets)
        self._rest += octets[at : min(stop, at + max(room - held, 0))]
        end, complete = _line_end(bytes(self._rest[self._searched :]), -self._searched, 0)
        end += self._searched
        if not complete:
            if len(self._rest) >= room:
                raise WireFault("reply-too-long", 0)
            self._searched = end
            return stop - at
        line = bytes(self._rest[:end])
        last = _take_line(self._lines, line)
        self._octets += len(line) + 2
        if last:
            events.append(_build(self._lines))
            self._begin()
        else:
            if len(self._lines) >= self._limits.reply_lines:
                raise WireFault("reply-too-many-lines", 0)
            if self._octets >= self._limits.reply_octets:
                raise WireFault("reply-too-long", 0)
            self._rest.clear()
            self._searched = 0
        return stop - at


def format_reply(code: int, enhanced: str | None, lines: Sequence[str | bytes]) -> bytes:
    """Write a reply (RFC 5321 §4.2), with the enhanced code on every line (RFC 2034 §4).

    Args:
        code: 200 to 559, as Reply-code allows.
        enhanced: an enhanced status code whose class agrees with the code, or None.
        lines: the text of each line, `str` as UTF-8. An empty sequence gives one line without text.

    Raises:
        ValueError: if a code is invalid, the enhanced code disagrees with the code, or a line holds CR, LF or NUL.
        TypeError: if `lines` is one text instead of a sequence of them.
    """
    digits = str(code).encode()
    if not 200 <= code <= 599 or digits[1] not in CODE_DIGITS[1]:
        raise ValueError(f"{code} is not a valid reply code (RFC 5321 §4.2)")
    if enhanced is not None and _enhanced_code(enhanced.encode(), code) != enhanced.encode():
        raise ValueError(f"{enhanced!r} is not a valid enhanced status code for a {code} reply (RFC 2034 §4)")
    if isinstance(lines, str | bytes):
        raise TypeError("lines must be a sequence of lines, not one line")
    texts = [line.encode() if isinstance(line, str) else as_octets(line) for line in lines] or [b""]
    prefix = enhanced.encode() if enhanced else b""
    pieces: list[bytes] = []
    for index, text in enumerate(texts):
        if CONTROL.search(text):
            raise ValueError(f"line {index} of the reply holds CR, LF or NUL")
        words = b" ".join(part for part in (prefix, text) if part)
        pieces.append(digits + (b" " if index == len(texts) - 1 else b"-") + words + CRLF)
    return b"".join(pieces)
