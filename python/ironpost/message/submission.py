"""Repairs to the header section of submitted messages (RFC 6409 §8).

Promises: only the header section is inspected, and held in memory until it is complete, at most 1 MiB and 1,000 fields
(SECURITY R23); the body is unchanged. A missing Date or Message-ID is added, an invalid Message-ID is replaced
(RFC 6409 §8.2, §8.3). Bcc and Resent-Bcc are removed: the envelope has these recipients, and the others must not see
them (RFC 5322 §3.6.3). On request the field Idempotency-Key is read and removed. Nothing else is changed: no Sender is
added (RFC 6409 §8.1 allows it, §8 warns of it), and addresses are rewritten later (`routing.rewriting`).
Refuses: a malformed or over-large header section, a message without exactly one From (RFC 5322 §3.6), and an invalid
Idempotency-Key, with the text of the reply in `fault`.
"""

from __future__ import annotations

import re
from typing import Final

from ironpost import wire
from ironpost.message.dates import date_time
from ironpost.message.header import field
from ironpost.message.section import EMPTY, Header, HeaderReader

KEY_FIELD: Final = "Idempotency-Key"
"""The field by which a client marks a message that it may submit again (the name is that of an HTTP draft)."""
_KEY: Final = re.compile(rb"[ -~]{1,255}")
_BLIND: Final = frozenset({"bcc", "resent-bcc"})
_MESSAGE_ID: Final = re.compile(rb"<[^\s<>@]+@[^\s<>@]+>")
"""RFC 5322 §3.6.4, without the comments and white space of its obsolete syntax, and with any octet in a word."""


class SubmittedHeader:
    """The header section of one submitted message, fed in pieces."""

    __slots__ = ("_keyed", "_missing", "_reader", "fault", "header", "key")

    def __init__(self, limits: wire.Limits = wire.DEFAULT_LIMITS, *, keyed: bool = False) -> None:
        """`keyed`: read and remove Idempotency-Key; otherwise it is a field like others."""
        self._reader = HeaderReader(limits)
        self._keyed = keyed
        self.key = ""
        """The value of Idempotency-Key, 1 to 255 printable ASCII octets; empty if there is none, or it is not read."""
        self._missing: tuple[str, ...] = ()
        self.fault = ""
        """Reason to refuse the message, for the reply; set once the section is complete, empty if there is none."""
        self.header = EMPTY
        """The repaired section, once it is complete; empty if it is refused."""

    def feed(self, piece: bytes) -> bytes:
        """The octets that can be stored now; empty while the section is incomplete."""
        if self._reader.header is not None:
            return b"" if self.fault else piece
        body = self._reader.feed(piece)
        header = self._reader.header
        if header is None:
            return b""
        repaired = self._repaired(header)
        return b"" if self.fault else repaired + piece[body:]

    def finish(self) -> bytes:
        """The remaining octets, at the end of the content."""
        return b"" if self._reader.header is not None else self._repaired(self._reader.finish())

    def _repaired(self, header: Header) -> bytes:
        section = header.section
        if header.fault:
            self.fault = header.fault
            return b""
        names = [entry.name.lower() for entry in section.fields]
        senders = names.count("from")
        if senders != 1:
            self.fault = f"Message has {'several From fields' if senders else 'no From field'} (RFC 5322 section 3.6)"
            return b""
        removed = _BLIND
        if self._keyed and KEY_FIELD.lower() in names:
            keys = header.values(KEY_FIELD)
            if len(keys) != 1 or _KEY.fullmatch(keys[0]) is None:
                self.fault = f"{KEY_FIELD} must be one field of 1 to 255 printable ASCII octets"
                return b""
            self.key = keys[0].decode("ascii")
            removed |= {KEY_FIELD.lower()}
        if not all(_MESSAGE_ID.fullmatch(value) for value in header.values("Message-ID")):
            removed |= {"message-id"}
        self._missing = tuple(name for name in ("Date", "Message-ID") if name.lower() not in {*names} - removed)
        self.header = header if removed.isdisjoint(names) else Header(header.without(*removed))
        return self.header.octets

    def additions(self, *, now: float, id: str, host: str) -> bytes:  # noqa: A002 - the term of RFC 5322
        """The missing fields, each with its CRLF, to put in front of the others.

        Args:
            now: seconds since 1970-01-01 UTC.
            id: letters and digits, never reused at `host`: the queue id.
            host: our own name, a domain or an address literal.
        """
        fields = b""
        if "Date" in self._missing:
            fields += field("Date", (date_time(now),))
        if "Message-ID" in self._missing:
            fields += field("Message-ID", (f"<{id}@{host}>",))
        return fields
