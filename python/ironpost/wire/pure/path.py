"""Parsing of reverse-paths and forward-paths: the part of MAIL and RCPT in angle brackets.

Promises: a source route is checked and removed (RFC 5321 appendix C). Of several faults the first of these is reported:
closing bracket, length, null path, then the leftmost octet.

Refuses: white space inside the brackets, a path without brackets, the null path in RCPT.

Tolerates with `lenient`: the deviations in `interface.TOLERATED`, in the mailbox but not in a source route.

Standards: RFC 5321 §4.1.2, §4.5.3.1.3 (length), §4.1.1.3 and §4.5.1 (`<postmaster>`); RFC 6531 §3.3.
"""

from __future__ import annotations

from typing import Final

from ironpost.wire.interface import Mailbox, WireFault
from ironpost.wire.pure.address import AT, QUOTE, Text, read_domain, read_mailbox, tolerated

PATH_OCTETS: Final = 256
QUOTES: Final = 2
"""Octets that quotes add to a local part."""
OPEN: Final = ord("<")
CLOSE: Final = ord(">")
COLON: Final = ord(":")
COMMA: Final = ord(",")


def read_path(text: Text, start: int, *, forward: bool, lenient: bool) -> tuple[Mailbox, int, tuple[str, ...]]:
    """Read the path at `start`.

    Args:
        text: the command line.
        start: the offset of `<`.
        forward: a forward-path, which cannot be null and may be `<postmaster>`.
        lenient: accept the deviations in `TOLERATED`.

    Returns:
        The path, the offset after its `>`, and its deviations in the order of `TOLERATED`.

    Raises:
        WireFault: the first fault.
    """
    close = _closing(text.octets, start)
    if close - start >= PATH_OCTETS:
        raise WireFault("path-too-long", start + PATH_OCTETS)
    if close == start + 1:
        if forward:
            raise WireFault("path-null", start)
        return Mailbox("", ""), close + 1, ()
    content = text.octets[start + 1 : close]
    if forward and content.lower() == b"postmaster":
        return Mailbox(content.decode(), ""), close + 1, ()
    first = _skip_route(text, start + 1) if text.get(start + 1) == AT else start + 1
    mailbox, close = read_mailbox(text, first, CLOSE, lenient=lenient)
    used = tolerated(text, first, mailbox) if lenient else ()
    if "stray_dots" in used and close - start + QUOTES >= PATH_OCTETS:  # it will be written with quotes
        raise WireFault("path-too-long", start + PATH_OCTETS - QUOTES)
    return mailbox, close + 1, used


def _closing(octets: bytes, start: int) -> int:
    """Find the first `>` after `start` that is not inside a quoted local part; return its offset."""
    at = start + 1
    end = octets.find(CLOSE, at)
    if octets[at : at + 1] == b"@":
        colon = octets.find(COLON, at, end if end >= 0 else len(octets))
        at = colon + 1 if colon >= 0 else at
    if octets[at : at + 1] == b'"':
        at += 1
        while at < len(octets) and octets[at] != QUOTE:
            at += 2 if octets[at : at + 1] == b"\\" else 1
        if at >= len(octets):
            raise WireFault("quoted-string-unclosed", len(octets))
    end = octets.find(CLOSE, at)
    if end < 0:
        raise WireFault("path-unclosed", len(octets))
    return end


def _skip_route(text: Text, start: int) -> int:
    """Return the offset after the source route `A-d-l ":"` at `start`."""
    at = start
    while True:
        if text.get(at) != AT:
            raise WireFault("route-malformed", at)
        after = read_domain(text, at + 1)
        octet = text.get(after)
        if octet == CLOSE:
            raise WireFault("route-malformed", after)
        if octet not in (COLON, COMMA):
            raise WireFault("domain-malformed", after)
        if after == at + 1:
            raise WireFault("domain-empty", after)
        if octet == COLON:
            return after + 1
        at = after + 1
