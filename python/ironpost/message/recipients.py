"""The recipients that a header section names, for a program that submits a message without an envelope.

Promises: addresses of To, Cc and Bcc, or of the newest Resent- block if there is one (RFC 5322 §3.6.6), in order and
without duplicates; groups are opened (RFC 5322 §3.4), comments and display names left out.
Refuses: an address list that is not valid, with ValueError.
"""

from __future__ import annotations

from email.headerregistry import AddressHeader, HeaderRegistry
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ironpost.message.section import Header

_FIELDS: Final = ("to", "cc", "bcc")
_PARSED: Final = HeaderRegistry()


def recipients(header: Header) -> tuple[str, ...]:
    """Return the addresses, with or without a domain.

    Raises:
        ValueError: a field is not an address list; the text names it.
    """
    newest: set[str] = set()
    for entry in header.section.fields:
        name = entry.name.lower()
        if name.startswith("resent-"):
            if name in newest:
                break  # the fields of an earlier block follow
            newest.add(name)
    names = tuple(f"resent-{name}" for name in _FIELDS if f"resent-{name}" in newest)
    found: dict[str, None] = {}
    for name in names or _FIELDS:
        values = header.values(name)
        for value in values[:1] if names else values:
            found |= dict.fromkeys(_addresses(name, value.decode("utf-8", "surrogateescape")))
    return tuple(found)


def _addresses(name: str, text: str) -> list[str]:
    parsed = _PARSED(name, text)
    assert isinstance(parsed, AddressHeader)  # what the registry has for these fields
    addresses = parsed.addresses
    if any(not each.username for each in addresses):
        raise ValueError(f"the field {name.title()} is not a valid list of addresses")
    return [each.addr_spec for each in addresses]
