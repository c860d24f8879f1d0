"""The TXT record `_smtp._tls.DOMAIN`, with which a domain asks for reports.

Promises: destinations are distinct, in the order of the record, and at most `MAX_DESTINATIONS`.
Refuses: any record that RFC 8460 §3 does not allow, and several records, with `RecordError`. A URI that cannot be used
does not make the others unusable.
Standards: RFC 8460 §3.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.reports.destination import MAX_DESTINATIONS, Destination, destination

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION: Final = b"v=TLSRPTv1;"
_FIELD: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})=([!-:<-~ \t]+)")
_DISCARDED: Final = "no record starts with v=TLSRPTv1;"


class RecordError(ValueError):
    """The domain publishes no valid record. The text says why."""


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
