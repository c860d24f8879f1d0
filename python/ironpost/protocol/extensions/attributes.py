"""The attribute lists of XCLIENT and XFORWARD: `NAME=xtext` items, as Postfix's front ends send them.

Promises: values are decoded, printable, and have at most 255 characters; the values for "unknown" become an empty
string. Refuses: an attribute that the command does not define, one without a value, and a value that is invalid for its
attribute, with ValueError.

Source: Postfix's XCLIENT_README and XFORWARD_README; there is no RFC.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, ClassVar, Final

from ironpost import wire
from ironpost.model.network import unmapped
from ironpost.protocol.extensions.base import Extension, Offer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ironpost.protocol.server.settings import ServerSettings

UNKNOWN: Final = frozenset({"[UNAVAILABLE]", "[TEMPUNAVAIL]"})
"""Values for "unknown": the front end does not know the value, or not at the moment."""
_OCTETS: Final = 255
_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?", re.ASCII)


def parse(argument: bytes, kinds: Mapping[str, Callable[[str], str]]) -> dict[str, str]:
    """Parse the argument of XCLIENT or XFORWARD to a mapping from attribute to value; an empty value is unknown.

    Args:
        argument: the text after the verb.
        kinds: the parser for the value of each attribute; it returns the normalised value, or raises ValueError.

    Raises:
        ValueError: the list, an attribute or a value is invalid.
    """
    values: dict[str, str] = {}
    for item in argument.split(b" "):
        key, equals, xtext = item.partition(b"=")
        name = key.decode("ascii", "replace").upper()
        if name not in kinds or not equals or name in values:
            raise ValueError("unknown attribute, missing value, or attribute repeated")
        value = wire.xtext_decode(xtext).decode()
        if len(value) > _OCTETS or not value.isprintable():
            raise ValueError(f"{name} is too long or not printable")
        values[name] = "" if value.upper() in UNKNOWN else kinds[name](value)
    return values


def text(value: str) -> str:
    """Accept any printable text."""
    return value


def host(value: str) -> str:
    """Parse a host name."""
    if not _HOST.fullmatch(value):
        raise ValueError("not a host name")
    return value


def hello(value: str) -> str:
    """Parse a HELO name: a host name or an address literal."""
    return value if value.startswith("[") and value.endswith("]") and " " not in value else host(value)


def address(value: str) -> str:
    """Parse an IPv4 address, or an IPv6 address with the prefix `IPV6:`; an IPv4-mapped one becomes IPv4."""
    tagged = value[:5].upper() == "IPV6:"
    parsed = ip_address(value[5:] if tagged else value)
    if (parsed.version == 6) is not tagged:
        raise ValueError("expected an IPv4 address, or IPV6: and an IPv6 address")
    if "%" in value:
        raise ValueError("the address must not have a zone")
    return str(unmapped(parsed))


def port(value: str) -> str:
    """Parse a port number."""
    if not (value.isascii() and value.isdigit() and len(value) < 6 and int(value) < 65536):
        raise ValueError("not a valid port number")
    return str(int(value))


def protocol(value: str) -> str:
    """Parse the protocol: SMTP or ESMTP."""
    if value.upper() not in {"SMTP", "ESMTP"}:
        raise ValueError("expected SMTP or ESMTP")
    return value.upper()


def source(value: str) -> str:
    """Parse the source: LOCAL or REMOTE."""
    if value.upper() not in {"LOCAL", "REMOTE"}:
        raise ValueError("expected LOCAL or REMOTE")
    return value.upper()


class FrontEndExtension(Extension):
    """The base class of XCLIENT and XFORWARD, which are offered only to trusted front ends."""

    attributes: ClassVar[tuple[str, ...]]
    """The names of the attributes, in the order of the EHLO line."""

    def available(self, settings: ServerSettings) -> bool:
        return bool(settings.front_ends)

    def advertise(self, offer: Offer) -> str | None:
        return " ".join((self.keyword, *self.attributes)) if offer.peer_trusted else None
