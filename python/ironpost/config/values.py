"""The types of values in a configuration, for pydantic.

Promises: an invalid value is refused with an error that shows a valid one. Secrets are never in the configuration
itself: it names the file or the environment variable that has one, so a configuration can be shown and hashed.
"""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator

from ironpost.config.quantities import (
    MANY,
    SECONDS,
    Endpoint,
    Where,
    duration,
    endpoint,
    listening,
    memory,
    mode,
    percentage,
    quota,
    rate,
    size,
    size_rate,
    socket_path,
)
from ironpost.delivery.path_template import PathTemplate
from ironpost.model import Address
from ironpost.model.patterns import AddressPattern
from ironpost.model.text import complaint
from ironpost.policy.options import Quota as MessageQuota
from ironpost.processes.resources import MemoryLimit
from ironpost.routing.profile import SecretSource
from ironpost.routing.route import Host, UnixSocket
from ironpost.routing.route import NextHop as ConfiguredHop
from ironpost.storage import BACKENDS
from ironpost.wire import WireFault

if TYPE_CHECKING:
    from collections.abc import Callable


DNS_PORT: Final = 53


class Section(BaseModel):
    """A table: frozen, and closed to keys that it does not name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _secret_file(value: object) -> Path:
    """Return the file that contains a secret."""
    path = value.removeprefix("file:") if isinstance(value, str) and value.startswith("file:") else ""
    if not path or "\0" in path:
        raise ValueError('expected the file of the secret, like "file:secrets/key.pem"')
    return Path(path)


def _secret(value: object) -> SecretSource:
    """Where a secret is kept."""
    return SecretSource.parse(value if isinstance(value, str) else "")


def _ip_address(value: object) -> str:
    """An IP address of this machine, in its canonical form."""
    try:
        address = ip_address(value) if isinstance(value, str) else None
    except ValueError:
        address = None
    if address is None or address.is_unspecified or address.is_multicast:
        raise ValueError(f'"{value}" is not an address of a host: expected one like "192.0.2.1" or "2001:db8::1"')
    return str((isinstance(address, IPv6Address) and address.ipv4_mapped) or address)


def _domain(value: object) -> str:
    """A domain in lower case, or `ValueError`."""
    if not isinstance(value, str) or not value:
        raise ValueError('a domain is a name, like "mail.example"')
    try:
        return Address("x", value).key
    except ValueError as fault:
        why = complaint(value, fault)
        if isinstance(fault, WireFault) and fault.id == "domain-malformed":
            why += f"; {DOMAIN_FORM}"
        raise ValueError(f'"{value}" is not a valid domain: {why}') from None


DOMAIN_FORM = "it needs labels of letters, digits, underscores and inner hyphens, with one dot between two of them"


def hostname(value: object) -> str:
    """Parse a domain that may appear in a greeting (RFC 5321 §4.2, §4.1.2), where not every mail domain may."""
    name = _domain(value)
    if "_" in name:
        raise ValueError(f'"{value}" contains an underscore, for which other servers may refuse mail')
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
        raise ValueError(f'"{value}" is not a valid address: {complaint(str(value), fault)}') from None
    if address is None or not address.domain:
        raise ValueError('an address is like "jo@mail.example", or "*@mail.example" for all addresses in a domain')
    return f"{address.local_part.lower()}@{address.key}"


def mail_address(value: object) -> Address:
    """Parse an address with a domain."""
    try:
        address = Address.parse(value) if isinstance(value, str) else None
    except ValueError as fault:
        raise ValueError(f'"{value}" is not a valid address: {complaint(str(value), fault)}') from None
    if address is None or not address.domain:
        raise ValueError('an address is like "jo@mail.example"')
    return address


def _hop(value: object) -> Endpoint:
    """A next hop: an endpoint with a real port, and the name or address of a host."""
    found = endpoint(value)
    if not found.port:
        raise ValueError(f'"{value}": not a valid port to connect to, expected 1 to 65535')
    Host(found.host, found.port)
    return found


def _next_hop(value: object) -> ConfiguredHop:
    """A next hop, or a Unix socket."""
    if isinstance(value, str) and value.startswith("unix:"):
        return UnixSocket(socket_path(value).path)
    if not isinstance(value, str) or ":" not in value:
        raise ValueError(
            f'"{value}" is neither a host with a port, like "127.0.0.1:24", '
            'nor a Unix socket, like "unix:/run/dovecot/lmtp"'
        )
    found = _hop(value)
    return Host(found.host, found.port)


def _name_server(value: object) -> Endpoint:
    """An IP address with or without a port."""
    text = value if isinstance(value, str) else ""
    with contextlib.suppress(ValueError):
        return Endpoint(str(ip_address(text)), DNS_PORT)
    try:
        found = _hop(text)
        ip_address(found.host)
    except ValueError:
        expected = 'expected an IP address, with a port if it is not 53, like "127.0.0.1" or "[::1]:5353"'
        sentence = f'"{value}" is not a name server: {expected}'
        raise ValueError(sentence) from None
    return found


def _network(value: object) -> IPv4Network | IPv6Network:
    if not isinstance(value, str):
        raise ValueError('a network is an address with a prefix length, like "192.0.2.0/24" or "2001:db8::/32"')
    try:
        return ip_network(value)
    except ValueError as fault:
        raise ValueError(f'a network is an address with a prefix length, like "192.0.2.0/24": {fault}') from None


def _address_match(value: object) -> AddressPattern:
    if not isinstance(value, str):
        raise ValueError('expected an address, a domain, "*.domain" or "*"')
    try:
        return AddressPattern(value)
    except ValueError as fault:
        raise ValueError(
            f'"{value}" is neither an address, a domain, "*.domain" nor "*": {_match_why(value, fault)}'
        ) from None


def _path_template(value: object) -> PathTemplate:
    if not isinstance(value, str):
        raise ValueError('expected a path, such as "/srv/mail/{domain}/{local}"')
    return PathTemplate(value)


def _nullable_sender_pattern(value: object) -> AddressPattern | None:
    """A sender pattern; None for `<>`, the null reverse-path."""
    return None if value == NULL_SENDER else _address_match(value)


NULL_SENDER = "<>"
"""The null reverse-path, as a pattern of senders."""


def _match_why(value: str, fault: ValueError) -> str:
    if "@" in value:
        return complaint(value, fault)
    below = "*." if value.startswith("*.") else ""
    return complaint(value.removeprefix(below), fault, ahead=-len(below))


def _quota_text(value: MessageQuota) -> str:
    return f"{value.many}/{next(unit for unit, seconds in SECONDS.items() if seconds == value.seconds)}"


def _memory_text(value: MemoryLimit) -> str:
    return f"{value.octets}B" if value.octets else f"{round(100 * value.share)}%"


def least(read: Callable[[object], float], text: str) -> AfterValidator:
    """Refuse a quantity below the one that `text` means to `read`."""

    def check(value: float) -> float:
        if value < read(text):
            raise ValueError(f"minimum: {text}")
        return value

    return AfterValidator(check)


def known_backend(name: str) -> str:
    """Refuse a name that is not in `storage.BACKENDS`."""
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}; expected {' or '.join(map(repr, BACKENDS))}")
    return name


Duration = Annotated[float, BeforeValidator(duration)]
DurationOrNever = Annotated[float | None, BeforeValidator(lambda value: None if value == "never" else duration(value))]
Timeout = Annotated[float, BeforeValidator(duration), least(duration, "1s")]
Size = Annotated[int, BeforeValidator(size)]
Rate = Annotated[float, BeforeValidator(rate)]
Percentage = Annotated[float, BeforeValidator(percentage)]
Quota = Annotated[MessageQuota, PlainValidator(lambda value: MessageQuota(*quota(value))), PlainSerializer(_quota_text)]
Memory = Annotated[
    MemoryLimit, PlainValidator(lambda value: MemoryLimit(*memory(value))), PlainSerializer(_memory_text)
]
AddressMatch = Annotated[AddressPattern, PlainValidator(_address_match), PlainSerializer(lambda value: value.text)]
PathText = Annotated[PathTemplate, PlainValidator(_path_template), PlainSerializer(str)]
NullableSenderPattern = Annotated[
    AddressPattern | None,
    PlainValidator(_nullable_sender_pattern),
    PlainSerializer(lambda value: NULL_SENDER if value is None else value.text),
]
SizeRate = Annotated[float, BeforeValidator(size_rate)]
Count = Annotated[int, Field(strict=True, ge=1, le=MANY)]
Switch = Annotated[bool, Field(strict=True)]
Domain = Annotated[str, BeforeValidator(_domain)]
Hostname = Annotated[str, BeforeValidator(hostname)]
Pattern = Annotated[str, BeforeValidator(_pattern)]
Mode = Annotated[int, PlainValidator(mode), PlainSerializer("{:04o}".format)]
Listen = Annotated[Where, PlainValidator(listening), PlainSerializer(str)]
MailAddress = Annotated[Address, PlainValidator(mail_address), PlainSerializer(str)]
Recipient = Annotated[str, BeforeValidator(_recipient)]
Hop = Annotated[Endpoint, BeforeValidator(_hop), PlainSerializer(str)]
NextHop = Annotated[ConfiguredHop, PlainValidator(_next_hop), PlainSerializer(str)]
NameServer = Annotated[Endpoint, BeforeValidator(_name_server), PlainSerializer(str)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network), PlainSerializer(str)]
SecretFile = Annotated[Path, PlainValidator(_secret_file), PlainSerializer("file:{}".format)]
Secret = Annotated[SecretSource, PlainValidator(_secret), PlainSerializer(str)]
IPAddressText = Annotated[str, BeforeValidator(_ip_address)]
