"""Trace fields: the limit of Received fields, and Return-Path, Delivered-To and X-Original-To at final delivery.

Promises: a delivered message starts with one Return-Path, which names the envelope's reverse-path, and one
Delivered-To, which names the recipient, below an alias with an X-Original-To, which names the alias; existing ones
among the fields that are scanned (the first 1,000, in the first MiB) are removed; everything else is unchanged. Memory
is bounded by the limit of the header section.
Standards: RFC 5321 §4.4 (Return-Path), §6.3 (loop detection), RFC 9228 (Delivered-To).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.message.header import field, path, shown
from ironpost.message.section import Header, HeaderReader

if TYPE_CHECKING:
    from ironpost.model import Address, Recipient

MAX_RECEIVED: Final = 100
"""Received fields (a count) from which a message counts as looping (RFC 5321 §6.3: at least 100)."""


_OURS: Final = ("Return-Path", "Delivered-To", "X-Original-To")


def return_path(reverse_path: Address) -> bytes:
    """The Return-Path field with its CRLF (RFC 5321 §4.4); UTF-8 if the address is (RFC 6531 §3.7.3)."""
    return field("Return-Path", (path(reverse_path),), utf8=True)


def delivered_to(recipient: Address, host: str) -> bytes:
    """The Delivered-To field with its CRLF (RFC 9228 §4); `<postmaster>` without a domain gets `host`."""
    return field("Delivered-To", (_full(recipient, host),), utf8=True)


def original_to(alias: Address, host: str) -> bytes:
    """The X-Original-To field with its CRLF, as Postfix writes it: the recipient before an alias replaced it."""
    return field("X-Original-To", (_full(alias, host),), utf8=True)


def delivery_fields(reverse_path: Address, recipient: Recipient, host: str) -> bytes:
    """The fields of a message that is delivered to one recipient; X-Original-To only if an alias was used."""
    fields = return_path(reverse_path) + delivered_to(recipient.address, host)
    return fields if recipient.original is None else fields + original_to(recipient.original, host)


def delivery_key(recipient: Address, host: str) -> str:
    """The recipient as `FinalContent.earlier` has it, if the message was delivered to it before."""
    return _full(recipient, host).lower()


def _full(address: Address, host: str) -> str:
    text = shown(str(address), utf8=True)
    return text if address.domain else f"{text}@{host}"


def above(fields: bytes, header: Header) -> bytes:
    """Our fields, to put in front of content that others wrote and that starts with `header`.

    If the content does not start with a header field, there is no header section, and an empty line is appended to our
    fields. Without it, white space at the start of the content would continue our last field (RFC 5322 §2.2.3), which
    could inject text into it, and other text would appear among our fields.
    """
    return fields if header.starts_with_field else fields + b"\r\n"


class FinalContent:
    """Rewrites content for final delivery, piece by piece: puts new delivery fields first and removes old ones."""

    __slots__ = ("_fields", "_reader", "_removed", "earlier")

    def __init__(self, fields: bytes, *, without: tuple[str, ...] = ()) -> None:
        """Prepare the rewriting of one message.

        Args:
            fields: what `delivery_fields` returns.
            without: names of further fields that are removed.
        """
        self.earlier: frozenset[str] = frozenset()
        """The addresses in lower case of the Delivered-To fields that were removed."""
        self._fields = fields
        self._removed = (*_OURS, *without)
        self._reader = HeaderReader()

    def feed(self, piece: bytes) -> bytes:
        """The octets that can be written now; empty while the header section is incomplete."""
        if self._reader.header is not None:
            return piece
        body = self._reader.feed(piece)
        header = self._reader.header
        return b"" if header is None else self._rewritten(header) + piece[body:]

    def finish(self) -> bytes:
        """The remaining octets, at the end of the content."""
        return b"" if self._reader.header is not None else self._rewritten(self._reader.finish())

    def _rewritten(self, header: Header) -> bytes:
        # RFC 9228 §4 keeps the Delivered-To of earlier deliveries. Here only ours remains, so readers can trust it.
        rest = header.without(*self._removed)
        if rest is not header.octets:
            self.earlier = frozenset(value.decode(errors="replace").lower() for value in header.values("Delivered-To"))
        return above(self._fields, header if rest is header.octets else Header(rest)) + rest
