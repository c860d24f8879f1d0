"""The wire in Python: the fallback where there is no wheel, and the readable reference for tests of the Rust core.

Promises: the same values, faults and offsets as the Rust core for every input; bounded memory; no octet is read more
than a fixed number of times. Limitations: optimised for readability, not speed.
Standards: see `ironpost.wire.interface`; each module names its sections.
"""

from __future__ import annotations

from typing import Final

from ironpost.wire.interface import FAULTS
from ironpost.wire.pure.address import format_mailbox, parse_mailbox
from ironpost.wire.pure.canonical import BodyCanonicaliser, canonical_field
from ironpost.wire.pure.command import parse_command
from ironpost.wire.pure.data import DataDecoder, DataEncoder, dot_stuff, dot_unstuff
from ironpost.wire.pure.ehlo import parse_ehlo
from ironpost.wire.pure.framer import ServerFramer
from ironpost.wire.pure.header import scan_header, unfold
from ironpost.wire.pure.reply import ReplyReader, format_reply, parse_reply
from ironpost.wire.pure.xtext import (
    utf8_addr_xtext_decode,
    utf8_addr_xtext_encode,
    xtext_decode,
    xtext_encode,
)

IMPLEMENTATION: Final = "pure"

__all__ = [
    "IMPLEMENTATION",
    "BodyCanonicaliser",
    "DataDecoder",
    "DataEncoder",
    "ReplyReader",
    "ServerFramer",
    "canonical_field",
    "dot_stuff",
    "dot_unstuff",
    "faults",
    "format_mailbox",
    "format_reply",
    "parse_command",
    "parse_ehlo",
    "parse_mailbox",
    "parse_reply",
    "scan_header",
    "unfold",
    "utf8_addr_xtext_decode",
    "utf8_addr_xtext_encode",
    "xtext_decode",
    "xtext_encode",
]


def faults() -> dict[str, str]:
    """The catalogue of faults: each id with its sentence, as in `ironpost.wire.FAULTS`."""
    return dict(FAULTS)
