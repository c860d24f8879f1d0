"""Reverse- and forward-paths: the part of MAIL and RCPT in angle brackets.

Promises: a source route is checked and dropped (RFC 5321 appendix C). Where several things are wrong the order is:
closing bracket, length, null path, then the leftmost octet.

Refuses: white space inside the brackets, a path without brackets, the null path in RCPT.

Standards: RFC 5321 §4.1.2, §4.5.3.1.3 (length), §4.1.1.3 and §4.5.1 (`<postmaster>`); RFC 6531 §3.3.
"""

from __future__ import annotations

from typing import Final

from ironpost.wire.interface import Mailbox, WireFault
from ironpost.wire.pure.address import AT, QUOTE, Text, read_domain, read_mailbox

PATH_OCTETS: Final = 256
OPEN: Final = ord("<")
CLOSE: Final = ord(">")
COLON: Final = ord(":")
COMMA: Final = ord(",")


def read_path(text: Text, start: int, *, forward: bool) -> tuple[Mailbox, int]:
    """The path whose `<` stands at `start`, and the offset behind its `>`.

    Args:
        text: the command line.
        start: the offset of `<`.
        forward: a forward-path, which cannot be null and may be `<postmaster>`.

    Raises:
        WireFault: what is wrong with it.
    """
    close = _closing(text.octets, start)
    if close - start >= PATH_OCTETS:
        raise WireFault("path-too-long", start + PATH_OCTETS)
    if close == start + 1:
        if forward:
            raise WireFault("path-null", start)
        return Mailbox("", ""), close + 1
    content = text.octets[start + 1 : close]
    if forward and content.lower() == b"postmaster":
        return Mailbox(content.decode(), ""), close + 1
    first = _skip_route(text, start + 1) if text.get(start + 1) == AT else start + 1
    mailbox, close = read_mailbox(text, first, CLOSE)
    return mailbox, close + 1


def _closing(octets: bytes, start: int) -> int:
    """The offset of the first `>` behind `start` that is not inside a quoted local part."""
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
    """The offset behind the source route `A-d-l ":"` at `start`."""
    at = start
    while True:
        if text.get(at) != AT:
            raise WireFault("route-malformed", at)
        behind = read_domain(text, at + 1)
        octet = text.get(behind)
        if octet == CLOSE:
            raise WireFault("route-malformed", behind)
        if octet not in (COLON, COMMA):
            raise WireFault("domain-malformed", behind)
        if behind == at + 1:
            raise WireFault("domain-empty", behind)
        if octet == COLON:
            return behind + 1
        at = behind + 1
