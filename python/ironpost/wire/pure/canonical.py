"""The canonical forms that DKIM signs: the body as a stream, and one header field.

Promises: the canonical body does not depend on how the body was split; time is linear in the body. Of a body, at most a
space, a CR and the number of the last empty lines are held back, and empty lines are returned in pieces of at most
64 KiB, which share their octets.

Refuses: to treat anything but CRLF as a line end (RFC 5321 §2.3.8); to relax a field without a colon.

Standards: RFC 6376 §3.4.
"""

from __future__ import annotations

import re
from typing import Final

from ironpost.wire.interface import WireFault
from ironpost.wire.pure.header import unfold
from ironpost.wire.pure.octets import CRLF, Octets, as_octets

BLANKS: Final = re.compile(rb"[ \t]+")
BLOCK: Final = CRLF * (1 << 15)
"""Empty lines, as many as one piece may have."""


def canonical_field(field: Octets, relaxed: bool) -> bytes:
    """The form of one header field that DKIM signs (RFC 6376 §3.4.1, §3.4.2).

    Args:
        field: the field as received, with its folds and its last CRLF; without that CRLF the form has none either.
        relaxed: the relaxed form; otherwise the simple one, which is the field unchanged.

    Raises:
        WireFault: `header-field-malformed`, if a field has no colon and is to be relaxed.
    """
    octets = as_octets(field)
    if not relaxed:
        return octets
    name, colon, value = unfold(octets).partition(b":")
    if not colon:
        raise WireFault("header-field-malformed", 0)
    return name.rstrip(b" \t").lower() + colon + reduce(value).strip(b" ")


def reduce(octets: bytes) -> bytes:
    """Each run of white space as one space, and none before CRLF."""
    return BLANKS.sub(b" ", octets).replace(b" \r\n", CRLF)


class BodyCanonicaliser:
    """Bring one body into the form that DKIM signs, however it is split (RFC 6376 §3.4.3, §3.4.4).

    Args:
        relaxed: the relaxed form; otherwise the simple one.
    """

    def __init__(self, relaxed: bool) -> None:
        self._relaxed = relaxed
        self._held = b""
        """The end of the last piece, whose meaning depends on the next octet: a space for white space, and a CR."""
        self._empty_lines = 0
        """Empty lines that were held back."""
        self._open = not relaxed
        """The last line needs a CRLF. The simple form of an empty body is a line too."""
        self._ended = False

    def feed(self, piece: Octets) -> list[bytes]:
        """The octets of the canonical form that are certain now, in pieces, none of them empty.

        Raises:
            ValueError: after the end.
        """
        self._require_open()
        octets = self._held + as_octets(piece)
        text = octets.removesuffix(b"\r")
        self._held = octets[len(text) :]
        if self._relaxed:
            certain = text.rstrip(b" \t")
            if len(certain) < len(text):
                self._held = b" " + self._held
            text = reduce(certain)
        return self._without_last_empty_lines(text)

    def finish(self) -> list[bytes]:
        """The rest of the canonical form, in pieces.

        Raises:
            ValueError: after the end.
        """
        self._require_open()
        self._ended = True
        pieces = self._without_last_empty_lines(self._held if self._held.endswith(b"\r") else b"")
        return [*pieces, CRLF] if self._open else pieces

    def _require_open(self) -> None:
        if self._ended:
            raise ValueError("the body has ended; a BodyCanonicaliser reads one body")

    def _without_last_empty_lines(self, octets: bytes) -> list[bytes]:
        """Hold back the empty lines at the end of `octets`, which do not end between CR and LF."""
        end = len(octets)
        while octets.endswith(CRLF, 0, end):
            end -= 2
        pairs = (len(octets) - end) // 2
        blocks, rest = 0, 0
        if end:
            blocks, rest = divmod(self._empty_lines, len(BLOCK) // 2)
            self._empty_lines = 0
            self._open = True
        ended = self._open and pairs > 0  # the first of these CRLFs ends the last line
        self._open = self._open and not ended
        self._empty_lines += pairs - ended
        pieces = [BLOCK] * blocks + [CRLF * rest, octets[: end + 2 * ended]]
        return [piece for piece in pieces if piece]
