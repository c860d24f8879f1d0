"""What submission mends in a message that a user's program sends (RFC 6409 §8), and what it refuses.

Promises: only the header section is looked at, and held in memory while it comes, 1 MiB and 1,000 fields at most
(SECURITY R23); the body passes untouched. A Date or a Message-ID that lacks is added, a Message-ID that is none is
replaced (RFC 6409 §8.2, §8.3). Bcc and Resent-Bcc go: the envelope has these recipients, and the others must not read
them (RFC 5322 §3.6.3). Nothing else is changed: no Sender, no rewritten address (RFC 6409 §8.1 and §8.8 allow it, and
warn of it in §8).
Refuses: a header section with a line that is no field, or that is too large, and a message without exactly one From
(RFC 5322 §3.6), with a sentence in `fault`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ironpost import wire
from ironpost.message import header
from ironpost.message.dates import date_time

if TYPE_CHECKING:
    from ironpost.wire.interface import HeaderField

_EMPTY_LINE: Final = b"\r\n\r\n"
_BLIND: Final = frozenset({"bcc", "resent-bcc"})
_MESSAGE_ID: Final = re.compile(rb"<[^\s<>@]+@[^\s<>@]+>")
"""As RFC 5322 §3.6.4 has it, without the comments and blanks of its obsolete syntax, and with any octet in a word."""


class SubmittedHeader:
    """The header section of one submitted message, fed in pieces."""

    __slots__ = ("_head", "_limits", "_missing", "fault")

    def __init__(self, limits: wire.Limits = wire.DEFAULT_LIMITS) -> None:
        self._head: bytearray | None = bytearray()
        """What came of the header section so far; None once it was passed on."""
        self._limits = limits
        self._missing: tuple[str, ...] = ()
        self.fault = ""
        """Why the message is refused, a sentence for the client; known once the section has ended."""

    def feed(self, piece: bytes) -> bytes:
        """What can be stored now; nothing while the section is incomplete."""
        head = self._head
        if head is None:
            return b"" if self.fault else piece
        start = max(0, len(head) - 3)
        head += piece
        complete = head.startswith(b"\r\n") or head.find(_EMPTY_LINE, start) >= 0
        if not complete and len(head) < self._limits.header_octets + 2:  # the empty line's CRLF may be in two pieces
            return b""
        return self.finish()

    def finish(self) -> bytes:
        """What is left at the end of the content."""
        head, self._head = self._head, None
        if head is None:
            return b""
        octets = bytes(head)
        section = wire.scan_header(octets, self._limits)
        if section.fault is not None:
            self.fault = _fault(section.fault.id, len(section.fields))
            return b""
        return self._mended(octets, section.fields)

    def _mended(self, octets: bytes, fields: list[HeaderField]) -> bytes:
        names = [field.name.lower() for field in fields]
        senders = names.count("from")
        if senders != 1:
            self.fault = f"Message has {'several From fields' if senders else 'no From field'} (RFC 5322 section 3.6)"
            return b""
        gone = _BLIND
        identifiers = [octets[field.value : field.end] for field in fields if field.name.lower() == "message-id"]
        if not all(map(_is_message_id, identifiers)):
            gone |= {"message-id"}
        self._missing = tuple(name for name in ("Date", "Message-ID") if name.lower() not in {*names} - gone)
        if gone.isdisjoint(names):
            return octets
        kept: list[bytes] = []
        at = 0
        for name, field in zip(names, fields, strict=True):
            if name in gone:
                kept.append(octets[at : field.start])
                at = field.end
        kept.append(octets[at:])
        return b"".join(kept)

    def additions(self, *, now: float, id: str, host: str) -> bytes:  # noqa: A002 - the field's word
        """The fields that lack, to stand above those that came, each with its CRLF.

        Args:
            now: seconds since 1970-01-01 UTC.
            id: letters and digits, unique at `host` for ever: the queue id.
            host: our own name, a domain or an address literal.
        """
        fields = b""
        if "Date" in self._missing:
            fields += header.field("Date", (date_time(now),))
        if "Message-ID" in self._missing:
            fields += header.field("Message-ID", (f"<{id}@{host}>",))
        return fields


def _is_message_id(value: bytes) -> bool:
    return _MESSAGE_ID.fullmatch(wire.unfold(value).strip()) is not None


def _fault(identifier: str, fields: int) -> str:
    if identifier == "header-field-malformed":
        return f"Line behind header field {fields} is neither a field nor an empty line (RFC 5322 section 2.2)"
    return (
        "Header section has too many fields"
        if identifier == "header-too-many-fields"
        else "Header section is too large"
    )
