"""The addresses and the octets of a message.

Promises: an address that is returned cannot end its command or add a parameter to it.
Refuses: addresses that could, with ValueError.
"""

from __future__ import annotations

import re
from copy import copy
from email import policy
from email.generator import BytesGenerator
from email.header import Header, decode_header
from email.headerregistry import Address, AddressHeader
from email.message import EmailMessage, Message
from email.utils import getaddresses, parseaddr
from io import BytesIO
from typing import Any, Final

from ironpost.compat.envelope import is_plain

__all__ = ("extract_recipients", "extract_sender", "flatten_message", "parse_address", "quote_address")

QUOTED: Final = re.compile(r'"(?:[^"\\\r\n]|\\[^\r\n])*"')
"""A quoted local part, which may contain what ends a command's argument."""
ENDS: Final = re.compile(r'[\s<>"]')
"""What would end the address in its command."""

AFTER: Final = re.compile(r"\s*[>)]?\s*(?:\(.*\))?\s*")
"""What may follow an address: its closing bracket, and a comment."""


def parse_address(address: str) -> str:
    """Return the address without its display name.

    Raises:
        ValueError: it has white space, angle brackets or quotes where they would end it.
    """
    if is_plain(address):
        return address
    parsed = parseaddr(address)[1] or address.strip()
    if not parsed:
        return parsed
    quoted = QUOTED.match(parsed)
    before, found, after = address.rpartition(parsed)  # parseaddr leaves out what it does not understand
    rest = AFTER.fullmatch(after) and (">" not in after or "<" in before)
    if not found or not rest or ENDS.search(parsed, quoted.end() if quoted else 0):
        raise ValueError(f"Address {address!r} contains characters not permitted in an SMTP mailbox")
    return parsed


def quote_address(address: str) -> str:
    """Return the address in angle brackets.

    Raises:
        ValueError: as `parse_address`.
    """
    return f"<{parse_address(address)}>"


def flatten_message(
    message: EmailMessage | Message[Any, Any], /, *, utf8: bool = False, cte_type: str = "8bit"
) -> bytes:
    """Return the octets of a message without its Bcc fields."""
    sent = copy(message)
    del sent["Bcc"]
    del sent["Resent-Bcc"]
    octets = BytesIO()
    if isinstance(sent, EmailMessage):
        modern = policy.SMTPUTF8 if utf8 else policy.SMTP
        BytesGenerator(octets, policy=modern.clone(cte_type=cte_type)).flatten(sent)
    else:  # compat32 cannot write header fields in UTF-8
        BytesGenerator(octets, policy=policy.compat32.clone(cte_type=cte_type)).flatten(sent)
    return octets.getvalue()


def extract_addresses(header: str | AddressHeader | Header, /) -> list[str]:
    """Return the addresses of a header field."""
    if isinstance(header, AddressHeader):
        return [each.addr_spec if isinstance(each, Address) else parse_address(each) for each in header.addresses]
    if isinstance(header, Header):
        return [parse_address(str(octets, charset or "ascii")) for octets, charset in decode_header(header)]
    return [address for _, address in getaddresses([header])]


def extract_sender(message: EmailMessage | Message[Any, Any], /) -> str | None:
    """Return the first address of Sender, or else of From (RFC 5322 §3.6.2); of a resent message, of Resent-Sender.

    Raises:
        ValueError: the message was resent more than once.
    """
    prefix = _prefix(message)
    field = message[f"{prefix}Sender"]
    if field is None:
        field = message[f"{prefix}From"]
    return next(iter(extract_addresses(field)), None) if field is not None else None


def extract_recipients(message: EmailMessage | Message[Any, Any], /) -> list[str]:
    """Return the addresses of To, Cc and Bcc; of a resent message, of Resent-To and so on.

    Raises:
        ValueError: the message was resent more than once.
    """
    prefix = _prefix(message)
    fields = [field for name in ("To", "Cc", "Bcc") for field in message.get_all(prefix + name, [])]
    return [address for field in fields for address in extract_addresses(field)]


def _prefix(message: EmailMessage | Message[Any, Any]) -> str:
    """What the names of the fields of the last sender start with (RFC 5322 §3.6.6)."""
    dates = message.get_all("Resent-Date", [])
    if len(dates) > 1:
        raise ValueError("Message has more than one 'Resent-' header block")
    return "Resent-" if dates else ""
