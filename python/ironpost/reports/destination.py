"""Where a domain wants reports: one URI of a tag `rua`.

Refuses: a URI that cannot be used, with `ValueError`.
Standards: RFC 8460 §3, RFC 9990 §3.5, RFC 6068 §2 (mailto).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import unquote

from ironpost.model import Address
from ironpost.model.url import https_parts

MAX_URI: Final = 2000
"""Octets of one URI."""
MAX_DESTINATIONS: Final = 5
"""Destinations of one domain that are used."""

_URI: Final = re.compile(r"[A-Za-z0-9._~:/?#\[\]@$&'()*+=%-]+")
"""The characters of a URI without comma, exclamation mark and semicolon, which must be encoded in a record."""


class Destination(NamedTuple):
    """Where reports are sent."""

    uri: str
    """As published."""
    address: Address | None
    """The address of a `mailto` URI; None for an `https` URI."""


def destination(uri: str) -> Destination:
    """Parse one URI.

    Raises:
        ValueError: it cannot be used; the text says why.
    """
    if len(uri) > MAX_URI:
        raise ValueError(f"longer than {MAX_URI} octets")
    if _URI.fullmatch(uri) is None:
        raise ValueError("not a URI" if uri else "empty")
    scheme, _, rest = uri.partition(":")
    if scheme.lower() == "mailto":
        return Destination(uri, _mailbox(rest))
    if scheme.lower() != "https":
        raise ValueError("neither mailto nor https")
    https_parts(uri)
    return Destination(uri, None)


def _mailbox(rest: str) -> Address:
    """The address of a `mailto` URI, whose header fields are ignored."""
    text = unquote(rest.partition("?")[0], errors="strict")
    if "," in text:
        raise ValueError("more than one address")
    address = Address.parse(text)
    if not address.domain:
        raise ValueError("no address")
    return address
