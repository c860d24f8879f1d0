"""The TXT record `_smtp._tls.DOMAIN`, with which a domain asks for reports.

Promises: destinations are distinct, in the order of the record, and at most `MAX_DESTINATIONS`.
Refuses: any record that RFC 8460 §3 does not allow, and several records, with `RecordError`. A URI that cannot be used
does not make the others unusable.
Standards: RFC 8460 §3, RFC 6068 §2 (mailto).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from ironpost.model import Address

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION: Final = b"v=TLSRPTv1;"
MAX_DESTINATIONS: Final = 5
"""Maximum number of destinations of one domain."""
MAX_URI: Final = 2000
"""Octets of one URI."""

_FIELD: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})=([!-:<-~ \t]+)")
_URI: Final = re.compile(r"[A-Za-z0-9._~:/?#\[\]@$&'()*+=%-]+")
"""The characters of a URI without comma, exclamation mark and semicolon, which must be encoded here."""
_DISCARDED: Final = "no record starts with v=TLSRPTv1;"


class RecordError(ValueError):
    """The domain publishes no valid record. The text says why."""


class Destination(NamedTuple):
    """Where reports are sent."""

    uri: str
    """As published."""
    address: Address | None
    """The address of a `mailto` URI; None for an `https` URI."""


class UnusableUri(NamedTuple):
    """A URI that was published, and why it cannot be used."""

    uri: str
    why: str


class ReportingPolicy(NamedTuple):
    """A valid record."""

    text: str
    destinations: tuple[Destination, ...]
    """May be empty: then nothing can be sent."""
    unusable: tuple[UnusableUri, ...] = ()


def name_of(domain: str) -> str:
    """Return the name of the record of a domain."""
    return f"_smtp._tls.{domain}"


def select(records: Sequence[bytes]) -> ReportingPolicy:
    """Parse the TXT records of `name_of(domain)`.

    Raises:
        RecordError: not exactly one starts with `VERSION`, or it is invalid.
    """
    found = [each for each in records if each.startswith(VERSION)]
    if len(found) != 1:
        raise RecordError(f"{len(found)} records start with v=TLSRPTv1;" if found else _DISCARDED)
    return parse(found[0])


def parse(record: bytes) -> ReportingPolicy:
    """Parse one record.

    Raises:
        RecordError: it is invalid.
    """
    if not record.startswith(VERSION):
        raise RecordError(_DISCARDED)
    if not record.isascii():
        raise RecordError("it contains an octet that is not ASCII")
    text = record.decode("ascii")
    uris: str | None = None
    fields = [each.strip(" \t") for each in text[len(VERSION) :].split(";")]
    for number, each in enumerate(fields, 1):
        if not each and number == len(fields) > 1:  # the record may end with a delimiter
            continue
        match = _FIELD.fullmatch(each)
        if match is None or (match[1] != "rua" and not set(" \t=").isdisjoint(match[2])):
            raise RecordError(f"field {number} is not a name and a value")
        if match[1] == "rua":
            if uris is not None:
                raise RecordError("it has more than one rua")
            uris = match[2]
    if uris is None:
        raise RecordError("it has no rua")
    destinations: dict[str, Destination] = {}
    unusable: list[UnusableUri] = []
    for uri in (each.strip(" \t") for each in uris.split(",")):
        try:
            found = destination(uri)
        except ValueError as error:
            unusable.append(UnusableUri(uri, str(error)))
            continue
        if len(destinations) < MAX_DESTINATIONS:
            destinations.setdefault(uri, found)
        else:
            unusable.append(UnusableUri(uri, f"only the first {MAX_DESTINATIONS} are used"))
    return ReportingPolicy(text, tuple(destinations.values()), tuple(unusable))


def destination(uri: str) -> Destination:
    """Parse one URI of `rua`.

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
    parts = urlsplit(uri)
    if not parts.hostname:
        raise ValueError("it names no host")
    if parts.username is not None:
        raise ValueError("it contains a user name")
    if parts.port == 0:  # raises for other invalid ports
        raise ValueError("invalid port")
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
