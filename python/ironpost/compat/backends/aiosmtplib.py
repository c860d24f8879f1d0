"""Content that aiosmtplib sends, written by `ironpost.wire`.

Promises: the octets are those that aiosmtplib sends: every line end becomes CRLF, content ends with one, and a dot at
the start of a line is doubled.
Standards: RFC 5321 §4.5.2 (transparency), §2.3.8 (lines).
"""

from __future__ import annotations

from aiosmtplib import protocol, smtp

from ironpost import wire
from ironpost.compat.backends import Replacement


def replacements() -> list[Replacement]:
    """See `ironpost.compat.backends.install`."""
    return [
        Replacement(protocol, "normalize_message_line_endings", _normalised),
        Replacement(smtp, "normalize_message_line_endings", _normalised),
        Replacement(protocol, "PERIOD_REGEX", DotStuffing()),
    ]


def _normalised(message: bytes) -> bytes:
    encoder = wire.DataEncoder("normalise")
    octets = encoder.feed(message) + encoder.finish()
    return wire.dot_unstuff(octets.removesuffix(b".\r\n")) or b"\r\n"


class DotStuffing:
    """Stands for the regular expression with which aiosmtplib doubles dots in normalised content."""

    def sub(self, _replacement: bytes, message: bytes) -> bytes:
        """Double the dot at the start of each line."""
        return wire.dot_stuff(message)
