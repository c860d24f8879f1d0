"""Splitting of a stream of octets into command lines.

Promises: a line ends only at CRLF; the first invalid octet is reported as soon as it is known, and the rest of its line
is discarded up to and including CRLF; no more octets than the limit are buffered.

Refuses: bare CR, bare LF, NUL, and lines longer than the limit.

Standards: RFC 5321 §2.3.8 (line ends), §4.5.3.1.4 (length), §4.1.1.4 (LF alone does not end a line).
"""

from __future__ import annotations

import re
from typing import Final

from ironpost.wire.interface import Fault
from ironpost.wire.pure.octets import CR, CRLF, LF

SPECIAL: Final = re.compile(rb"[\r\n\0]")


class LineReader:
    """Reads one line at a time, without its CRLF."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._dropping = False
        self._after_cr = False

    @property
    def dropping(self) -> bool:
        """Whether the rest of a faulty line is being discarded."""
        return self._dropping

    def take(self, data: bytes, at: int, limit: int) -> tuple[int, bytes | Fault | None]:
        """Read from `data[at:]` until a line is complete, a fault is found, or all octets are consumed.

        Args:
            data: the octets to read.
            at: the offset to start from.
            limit: maximum octets of a line, including CRLF.

        Returns:
            The offset after the consumed octets; and the line, the fault, or None.
        """
        if self._dropping:
            return self._drop(data, at), None
        while at < len(data):
            if self._after_cr:
                if data[at] != LF:
                    return at, self._fault("bare-cr", len(self._line) - 1)
                self._after_cr = False
                line = bytes(self._line[:-1])
                self._line.clear()
                return at + 1, line
            stop = min(len(data), at + max(limit - len(self._line), 1))
            found = SPECIAL.search(data, at, stop)
            end = found.start() if found else stop
            self._line += data[at:end]
            at = end
            if found:
                at += 1
                if found[0] == b"\n":
                    return at, self._fault("bare-lf", len(self._line))
                if found[0] == b"\0":
                    return at, self._fault("nul", len(self._line))
                self._line.append(CR)
                self._after_cr = True
            if len(self._line) >= limit:
                return at, self._fault("line-too-long", limit, after_cr=self._after_cr)
        return at, None

    def _fault(self, name: str, offset: int, *, after_cr: bool = False) -> Fault:
        self._line.clear()
        self._dropping = True
        self._after_cr = after_cr
        return Fault(name, offset)

    def _drop(self, data: bytes, at: int) -> int:
        """Discard up to and including the CRLF that ends a faulty line; return the offset after it."""
        if at == len(data):
            return at
        end = data.find(CRLF, at)
        after = at + 1 if self._after_cr and data[at] == LF else end + 2 if end >= 0 else 0
        self._dropping = after == 0
        self._after_cr = self._dropping and data.endswith(b"\r")
        return len(data) if self._dropping else after
