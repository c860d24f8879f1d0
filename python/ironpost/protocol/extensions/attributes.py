"""The attribute lists of XCLIENT and XFORWARD: `NAME=xtext` items, as Postfix's front ends send them.

Promises: values are decoded, printable, and at most 255 characters; what stands for "not known" becomes an empty text.
Refuses: an attribute that the command does not have, one without a value, and a value that is not what its name says,
with ValueError and a sentence.

No standard: the protocol is described in Postfix's XCLIENT_README and XFORWARD_README.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, ClassVar, Final

from ironpost import wire
from ironpost.protocol.extensions.base import Extension, Offer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ironpost.protocol.settings import Settings

UNKNOWN: Final = frozenset({"[UNAVAILABLE]", "[TEMPUNAVAIL]"})
"""The front end does not know, or does not know now."""
_OCTETS: Final = 255
_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?", re.ASCII)


def parse(argument: bytes, kinds: Mapping[str, Callable[[str], str]]) -> dict[str, str]:
    """Attribute to value; an empty value is not known.

    Args:
        argument: what stands behind the verb.
        kinds: what each attribute's value must be; each returns the value in its final form, or raises ValueError.

    Raises:
        ValueError: see the module.
    """
    found: dict[str, str] = {}
    for item in argument.split(b" "):
        key, equals, xtext = item.partition(b"=")
        name = key.decode("ascii", "replace").upper()
        if name not in kinds or not equals or name in found:
            raise ValueError("an attribute is unknown, without a value, or given twice")
        value = wire.xtext_decode(xtext).decode()
        if len(value) > _OCTETS or not value.isprintable():
            raise ValueError(f"{name} is too long or not printable")
        found[name] = "" if value.upper() in UNKNOWN else kinds[name](value)
    return found


def text(value: str) -> str:
    """Anything that can be read."""
    return value


def host(value: str) -> str:
    """A host name."""
    if not _HOST.fullmatch(value):
        raise ValueError("not a host name")
    return value


def hello(value: str) -> str:
    """What a client calls itself: a host name or an address literal."""
    return value if value.startswith("[") and value.endswith("]") and " " not in value else host(value)


def address(value: str) -> str:
    """An IPv4 address, or an IPv6 address with `IPV6:` in front."""
    tagged = value[:5].upper() == "IPV6:"
    parsed = ip_address(value[5:] if tagged else value)
    if (parsed.version == 6) is not tagged:
        raise ValueError("IPv6 addresses, and only they, have IPV6: in front")
    if "%" in value:
        raise ValueError("an address of another host has no zone here")
    return str(parsed)


def port(value: str) -> str:
    """A port number."""
    if not (value.isascii() and value.isdigit() and len(value) < 6 and int(value) < 65536):
        raise ValueError("not a port")
    return str(int(value))


def protocol(value: str) -> str:
    """SMTP or ESMTP."""
    if value.upper() not in {"SMTP", "ESMTP"}:
        raise ValueError("neither SMTP nor ESMTP")
    return value.upper()


def source(value: str) -> str:
    """LOCAL or REMOTE."""
    if value.upper() not in {"LOCAL", "REMOTE"}:
        raise ValueError("neither LOCAL nor REMOTE")
    return value.upper()


class FrontEndExtension(Extension):
    """What XCLIENT and XFORWARD have in common: they are offered to front ends of our own, with their attributes."""

    attributes: ClassVar[tuple[str, ...]]
    """Names, in the order in which they are shown."""

    def available(self, settings: Settings) -> bool:
        return bool(settings.xclient)

    def advertise(self, offer: Offer) -> str | None:
        return " ".join((self.keyword, *self.attributes)) if offer.peer_trusted else None
