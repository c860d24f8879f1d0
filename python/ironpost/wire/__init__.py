"""The SMTP wire: parses bytes to plain values and serialises plain values to bytes, without session, socket or policy.

Promises: one interface (`ironpost.wire.interface`) with two implementations, one in Rust (`native`) and one in Python
(`pure`). `IMPLEMENTATION` names the one in use. The environment variable `IRONPOST_WIRE` selects it: with `native` or
`pure` that implementation is loaded, or the import fails; if unset, native is used, falling back to pure if it cannot
be loaded. Importing this package loads no other part of ironpost, and no event loop.

Refuses: another value of `IRONPOST_WIRE`, with ImportError.

Standards: see `ironpost.wire.interface`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ironpost.wire.interface import (
    DEFAULT_LIMITS,
    FAULTS,
    HOLD_VERBS,
    MODE_CLOSED,
    MODE_COMMAND,
    MODE_DATA,
    MODE_LINE,
    RESET_VERBS,
    TOLERATED,
    BodyEnd,
    Chunk,
    ClientEvent,
    Command,
    Ehlo,
    Fault,
    HeaderField,
    HeaderSection,
    Limits,
    Line,
    Mailbox,
    NewlinePolicy,
    Reply,
    ServerEvent,
    WireFault,
)

_WANTED = os.environ.get("IRONPOST_WIRE")
if _WANTED not in (None, "native", "pure"):
    raise ImportError(f"IRONPOST_WIRE must be 'native', 'pure' or unset, not {_WANTED!r}")

if TYPE_CHECKING:
    import ironpost.wire._native as _backend
elif _WANTED == "pure":
    import ironpost.wire.pure as _backend
else:
    try:
        import ironpost.wire._native as _backend
    except ImportError as error:
        if _WANTED == "native":
            raise ImportError(f"IRONPOST_WIRE is 'native', but the native wire cannot be loaded: {error}") from error
        import ironpost.wire.pure as _backend

IMPLEMENTATION = _backend.IMPLEMENTATION
BodyCanonicaliser = _backend.BodyCanonicaliser
DataDecoder = _backend.DataDecoder
DataEncoder = _backend.DataEncoder
ReplyReader = _backend.ReplyReader
ServerFramer = _backend.ServerFramer
canonical_field = _backend.canonical_field
dot_stuff = _backend.dot_stuff
dot_unstuff = _backend.dot_unstuff
faults = _backend.faults
format_mailbox = _backend.format_mailbox
format_reply = _backend.format_reply
parse_command = _backend.parse_command
parse_ehlo = _backend.parse_ehlo
parse_mailbox = _backend.parse_mailbox
parse_reply = _backend.parse_reply
scan_header = _backend.scan_header
unfold = _backend.unfold
utf8_addr_xtext_decode = _backend.utf8_addr_xtext_decode
utf8_addr_xtext_encode = _backend.utf8_addr_xtext_encode
xtext_decode = _backend.xtext_decode
xtext_encode = _backend.xtext_encode

__all__ = [
    "DEFAULT_LIMITS",
    "FAULTS",
    "HOLD_VERBS",
    "IMPLEMENTATION",
    "MODE_CLOSED",
    "MODE_COMMAND",
    "MODE_DATA",
    "MODE_LINE",
    "RESET_VERBS",
    "TOLERATED",
    "BodyCanonicaliser",
    "BodyEnd",
    "Chunk",
    "ClientEvent",
    "Command",
    "DataDecoder",
    "DataEncoder",
    "Ehlo",
    "Fault",
    "HeaderField",
    "HeaderSection",
    "Limits",
    "Line",
    "Mailbox",
    "NewlinePolicy",
    "Reply",
    "ReplyReader",
    "ServerEvent",
    "ServerFramer",
    "WireFault",
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
