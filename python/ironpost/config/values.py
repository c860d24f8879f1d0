"""The types of a configuration's values, as pydantic takes them: each reads text that a person wrote.

Promises: a value that is none is refused with a sentence that shows a right one. A secret is never in the
configuration itself: it names the file that holds it, so a configuration can be shown and hashed.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator

from ironpost.config.quantities import (
    SECONDS,
    Endpoint,
    Where,
    duration,
    endpoint,
    listening,
    mode,
    quota,
    rate,
    size,
    size_rate,
)
from ironpost.model import Address
from ironpost.policy import settings as policy
from ironpost.wire import WireFault

if TYPE_CHECKING:
    from collections.abc import Callable


class Section(BaseModel):
    """A table: frozen, and closed to keys that it does not name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _secret_file(value: object) -> Path:
    """The file that holds a secret: the configuration names it, and never holds one itself."""
    path = value.removeprefix("file:") if isinstance(value, str) and value.startswith("file:") else ""
    if not path or "\0" in path:
        raise ValueError('a secret is named by its file, like "file:secrets/key.pem"')
    return Path(path)


def _domain(value: object) -> str:
    """A domain in lower case, or `ValueError`."""
    if not isinstance(value, str) or not value:
        raise ValueError('a domain is a name like "mail.example"')
    try:
        return Address("x", value).key
    except ValueError as fault:
        raise ValueError(f'"{value}" is no domain: {_why(fault)}') from None


def _why(fault: ValueError) -> str:
    """What is wrong with a word in a configuration, where nobody counts octets."""
    if isinstance(fault, WireFault):
        return DOMAIN_FORM if fault.id == "domain-malformed" else fault.sentence
    return str(fault)


DOMAIN_FORM = "it needs labels of letters, digits and inner hyphens, with one dot between two of them"


def _hostname(value: object) -> str:
    """A domain that a greeting may hold."""
    name = _domain(value)
    if not name.isascii():  # RFC 6531 §3.7.1
        raise ValueError(f'"{value}" is not ASCII: write its A-label, which starts with xn--')
    return name


def _pattern(value: object) -> str:
    """A domain, `*.domain` for the names below it, or `*` for all."""
    if value == "*":
        return "*"
    if isinstance(value, str) and value.startswith("*."):
        return "*." + _domain(value[2:])
    return _domain(value)


def _recipient(value: object) -> str:
    """An address in lower case, or `*@` and a domain pattern."""
    if isinstance(value, str) and value.startswith("*@"):
        return "*@" + _pattern(value[2:])
    try:
        address = Address.parse(value) if isinstance(value, str) else None
    except ValueError as fault:
        raise ValueError(f'"{value}" is no address: {_why(fault)}') from None
    if address is None or not address.domain:
        raise ValueError('an address is like "jo@mail.example", or "*@mail.example" for every one of a domain')
    return f"{address.local_part.lower()}@{address.key}"


def _hop(value: object) -> Endpoint:
    """A next hop: an endpoint with a real port."""
    found = endpoint(value)
    if not found.port:
        raise ValueError(f'"{value}": port 0 is no port to connect to')
    return found


def _network(value: object) -> IPv4Network | IPv6Network:
    if not isinstance(value, str):
        raise ValueError('a network is an address with a prefix length, like "192.0.2.0/24" or "2001:db8::/32"')
    try:
        return ip_network(value)
    except ValueError as fault:
        raise ValueError(f'a network is an address with a prefix length, like "192.0.2.0/24": {fault}') from None


def _sender_pattern(value: object) -> policy.Pattern:
    if not isinstance(value, str):
        raise ValueError('a sender is an address, a domain, "*.domain" or "*"')
    try:
        return policy.Pattern(value)
    except ValueError as fault:
        raise ValueError(f'"{value}" is neither an address, a domain, "*.domain" nor "*": {_why(fault)}') from None


def _quota_text(value: policy.Quota) -> str:
    return f"{value.many}/{next(unit for unit, seconds in SECONDS.items() if seconds == value.seconds)}"


def least(read: Callable[[object], float], text: str) -> AfterValidator:
    """Refuses a quantity below the one that `text` means to `read`."""

    def check(value: float) -> float:
        if value < read(text):
            raise ValueError(f"the least is {text}")
        return value

    return AfterValidator(check)


def some(values: tuple[object, ...]) -> tuple[object, ...]:
    """Refuses an empty list."""
    if not values:
        raise ValueError("the list is empty; at least one entry is needed")
    return values


Duration = Annotated[float, BeforeValidator(duration)]
Timeout = Annotated[float, BeforeValidator(duration), least(duration, "1s")]
Size = Annotated[int, BeforeValidator(size)]
Rate = Annotated[float, BeforeValidator(rate)]
Quota = Annotated[policy.Quota, PlainValidator(lambda value: policy.Quota(*quota(value))), PlainSerializer(_quota_text)]
SenderPattern = Annotated[policy.Pattern, PlainValidator(_sender_pattern), PlainSerializer(lambda value: value.text)]
SizeRate = Annotated[float, BeforeValidator(size_rate)]
Count = Annotated[int, Field(strict=True, ge=1)]
Switch = Annotated[bool, Field(strict=True)]
Domain = Annotated[str, BeforeValidator(_domain)]
Hostname = Annotated[str, BeforeValidator(_hostname)]
Pattern = Annotated[str, BeforeValidator(_pattern)]
Mode = Annotated[int, PlainValidator(mode), PlainSerializer("{:04o}".format)]
Listen = Annotated[Where, PlainValidator(listening), PlainSerializer(str)]
Recipient = Annotated[str, BeforeValidator(_recipient)]
Hop = Annotated[Endpoint, BeforeValidator(_hop), PlainSerializer(str)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network), PlainSerializer(str)]
SecretFile = Annotated[Path, PlainValidator(_secret_file), PlainSerializer("file:{}".format)]
