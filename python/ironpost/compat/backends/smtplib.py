"""Content that smtplib sends, written by `ironpost.wire`.

Promises: the octets are those that smtplib sends: line ends of a string become CRLF, octets are sent as they are, and
a dot at the start of a line is doubled. Octets with a bare CR or LF are left to smtplib, which treats a bare LF as the
end of a line.
Standards: RFC 5321 §4.5.2 (transparency), §2.3.8 (lines).
"""

from __future__ import annotations

import smtplib

from ironpost import wire
from ironpost.compat.backends import Replacement

_stock_quote_periods = smtplib._quote_periods  # type: ignore[attr-defined]


def replacements() -> list[Replacement]:
    """See `ironpost.compat.backends.install`."""
    return [Replacement(smtplib, "_quote_periods", _quote_periods), Replacement(smtplib, "_fix_eols", _fix_eols)]


def _quote_periods(octets: bytes) -> bytes:
    if octets.endswith(b"\r"):  # the encoder would wait for the LF
        return _stock_quote_periods(octets)  # type: ignore[no-any-return]
    try:
        return wire.DataEncoder("reject").feed(octets)
    except wire.WireFault:
        return _stock_quote_periods(octets)  # type: ignore[no-any-return]


def _fix_eols(text: str) -> str:
    encoder = wire.DataEncoder("normalise")
    stuffed = encoder.feed(text.encode("utf-8", "surrogatepass")) + encoder.finish()
    octets = wire.dot_unstuff(stuffed.removesuffix(b".\r\n"))
    if not text.endswith(("\r", "\n")):
        octets = octets.removesuffix(b"\r\n")
    return octets.decode("utf-8", "surrogatepass")
