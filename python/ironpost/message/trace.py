"""Trace at the two ends of a message's way: loops refused on the way in, delivery fields written at final delivery.

Promises: a delivered message starts with one Return-Path, which names the envelope's reverse-path, and one
Delivered-To, which names the recipient; any other of the two among the fields that are scanned (the first 1,000, in the
first MiB) is gone; everything else passes octet for octet. Memory is bounded by the limit of the header section.
Standards: RFC 5321 §4.4 (Return-Path), §6.3 (loop detection), RFC 9228 (Delivered-To).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost import wire
from ironpost.message import header

if TYPE_CHECKING:
    from ironpost.model import Address

MAX_RECEIVED: Final = 100
"""A message that already carries as many Received fields goes in circles (RFC 5321 §6.3: at least 100)."""

_EMPTY_LINE: Final = b"\r\n\r\n"
_RECEIVED: Final = b"\nreceived:"


def return_path(reverse_path: Address) -> bytes:
    """The Return-Path field with its CRLF (RFC 5321 §4.4); UTF-8 where the address is (RFC 6531 §3.7.3)."""
    return header.field("Return-Path", (header.path(reverse_path),), utf8=True)


def delivered_to(recipient: Address, host: str) -> bytes:
    """The Delivered-To field with its CRLF (RFC 9228 §4); `<postmaster>` without a domain is that of `host`."""
    text = header.shown(str(recipient), utf8=True)
    return header.field("Delivered-To", (text if recipient.domain else f"{text}@{host}",), utf8=True)


class Hops:
    """Counts the Received fields of a header section that is fed in pieces; keeps nothing but the count."""

    __slots__ = ("_tail", "count", "ended")

    def __init__(self) -> None:
        self.count = 0
        self.ended = False
        """The empty line was seen: there is no more to count."""
        self._tail = b"\r\n"  # the start of the content is the start of a line

    def feed(self, piece: bytes) -> None:
        """Counts in the next octets of the content; free once `ended`."""
        if self.ended:
            return
        across = (self._tail[-3:] + piece[:3]).find(_EMPTY_LINE)
        if across >= 0:
            self.ended = True
            return
        end = piece.find(_EMPTY_LINE)
        self.ended = end >= 0
        text = (self._tail + (piece[:end] if end >= 0 else piece)).lower()
        self.count += text.count(_RECEIVED)
        self._tail = text[1 - len(_RECEIVED) :]


class FinalContent:
    """Rewrites content for final delivery, piece by piece: the new delivery fields first, old ones removed."""

    __slots__ = ("_fields", "_head")

    def __init__(self, fields: bytes) -> None:
        """`fields`: what `return_path` and `delivered_to` gave."""
        self._fields = fields
        self._head: bytearray | None = bytearray()
        """What came of the header section so far; None once it was passed on."""

    def feed(self, piece: bytes) -> bytes:
        """What can be written now; empty while the header section is incomplete."""
        head = self._head
        if head is None:
            return piece
        start = max(0, len(head) - 3)
        head += piece
        complete = head.startswith(b"\r\n") or head.find(_EMPTY_LINE, start) >= 0
        if not complete and len(head) < wire.DEFAULT_LIMITS.header_octets:
            return b""
        return self.finish()

    def finish(self) -> bytes:
        """What is left at the end of the content."""
        head, self._head = self._head, None
        if head is None:
            return b""
        # RFC 9228 §4 keeps the Delivered-To of earlier deliveries. Here a reader may trust each one that it finds.
        rest = header.Header(bytes(head)).without("Return-Path", "Delivered-To")
        return header.above(self._fields, rest) + rest
