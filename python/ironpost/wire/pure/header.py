"""Scanning of a header section for the offsets of its fields.

Promises: one pass, bounded by `Limits`; fields are returned as offsets, and only their names are copied.
Refuses: a line that is neither field nor continuation, with a fault that ends the section.
Tolerates: white space between a name and its colon (RFC 5322 §4.5); any octets in a field body.
Standards: RFC 5322 §2.2 (fields), §2.2.3 (folding).
"""

from __future__ import annotations

import re
from typing import Final

from ironpost.wire.interface import Fault, HeaderField, HeaderSection, Limits
from ironpost.wire.pure.octets import CRLF, Octets, as_limits, as_octets

FIELD_START: Final = re.compile(rb"([!-9;-~]+)[ \t]*:")
FOLD: Final = re.compile(rb"\r\n(?=[ \t])")


def unfold(value: Octets) -> bytes:
    """Remove each CRLF that white space follows from a field body (RFC 5322 §2.2.3)."""
    return FOLD.sub(b"", as_octets(value))


def scan_header(data: Octets, limits: Limits | None = None) -> HeaderSection:
    """Find the fields of the header section at the start of `data` (RFC 5322 §2.2). Content never raises.

    Args:
        data: a message, or the start of one; the section ends at the first empty line or at the end of `data`.
        limits: `header_octets` and `header_fields` bound what is read.

    Returns:
        The fields, the end of the section, how many fields are named Received, and the fault that ended it early.
    """
    octets = as_octets(data)
    bounds = as_limits(limits)
    fields: list[HeaderField] = []
    fault: Fault | None = None
    at = 0
    while at < len(octets) and not octets.startswith(CRLF, at):
        found = FIELD_START.match(octets, at)
        if found is None:
            fault = Fault("header-field-malformed", at)
            break
        end = _end_of_field(octets, found.end(), bounds.header_octets)
        if end > bounds.header_octets:
            fault = Fault("header-too-large", bounds.header_octets)
            break
        if len(fields) == bounds.header_fields:
            fault = Fault("header-too-many-fields", at)
            break
        fields.append(HeaderField(found[1].decode(), at, found.end(), end))
        at = end
    received = sum(field.name.lower() == "received" for field in fields)
    return HeaderSection(fields, at, received, fault)


def _end_of_field(octets: bytes, at: int, limit: int) -> int:
    """Return the offset after a field and its continuation lines; any offset above `limit` if it ends beyond that."""
    while True:
        at = octets.find(CRLF, at, limit) + 2
        if at < 2:
            return len(octets) if len(octets) <= limit else limit + 1
        if octets[at : at + 1] not in (b" ", b"\t"):
            return at
