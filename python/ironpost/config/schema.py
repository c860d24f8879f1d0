"""Every key that a configuration may hold, with its meaning, its unit and its default.

Promises: the defaults are what `ironpost serve` runs with when there is no file. Models are frozen; a key that is not
here is an error. Order of `[[route]]` is its semantics: the first that matches decides.
Standards: RFC 5321 §4.5.3.1.8 (recipients), RFC 5321 §4.5.3.2 (time-outs), RFC 1870 (size), RFC 5321 §5.1 (routes).
"""

from __future__ import annotations

import hashlib
import json
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from ironpost.config.quantities import Endpoint, duration, endpoint, size
from ironpost.model import Address
from ironpost.policy.settings import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable


def _domain(value: object) -> str:
    """A domain in lower case, or `ValueError`."""
    if not isinstance(value, str) or not value:
        raise ValueError('a domain is a name like "mail.example"')
    try:
        return Address("x", value).key
    except ValueError as fault:
        raise ValueError(f'"{value}" is no domain: {fault}') from None


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


def _least(read: Callable[[object], float], text: str) -> AfterValidator:
    """Refuses a quantity below the one that `text` means to `read`."""

    def check(value: float) -> float:
        if value < read(text):
            raise ValueError(f"the least is {text}")
        return value

    return AfterValidator(check)


def _some(values: tuple[object, ...]) -> tuple[object, ...]:
    if not values:
        raise ValueError("the list is empty; at least one entry is needed")
    return values


Duration = Annotated[float, BeforeValidator(duration)]
Size = Annotated[int, BeforeValidator(size)]
Domain = Annotated[str, BeforeValidator(_domain)]
Hostname = Annotated[str, BeforeValidator(_hostname)]
Pattern = Annotated[str, BeforeValidator(_pattern)]
Listen = Annotated[Endpoint, BeforeValidator(endpoint), PlainSerializer(str)]
Hop = Annotated[Endpoint, BeforeValidator(_hop), PlainSerializer(str)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network), PlainSerializer(str)]


class Section(BaseModel):
    """A table: frozen, and closed to keys that it does not name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Smtp(Section):
    """`[smtp]`: how mail comes in."""

    listen: Annotated[tuple[Listen, ...], AfterValidator(_some)] = (Endpoint("127.0.0.1", 2525),)
    """Where to listen. Port 0 takes a free one."""
    trusted: tuple[Network, ...] = LOOPBACK
    """Networks whose clients may send to any domain. All others reach the local domains only."""
    max_message: Annotated[Size, _least(size, "64KiB")] = 1 << 30
    """Octets in the largest message, announced by SIZE (RFC 1870)."""
    max_recipients: Annotated[int, Field(strict=True, ge=100)] = 1000
    """Recipients in one transaction, never below 100 (RFC 5321 §4.5.3.1.8)."""
    max_connections: Annotated[int, Field(strict=True, ge=1)] = 10000
    """Connections at one time, on each address."""
    command_timeout: Annotated[Duration, _least(duration, "1s")] = 300.0
    """How long to wait for a command (RFC 5321 §4.5.3.2.7)."""
    data_timeout: Annotated[Duration, _least(duration, "1s")] = 180.0
    """How long to wait for the next piece of content (RFC 5321 §4.5.3.2.5)."""


class Local(Section):
    """`[local]`: mail that ends here."""

    domains: tuple[Domain, ...] = ("localhost",)
    """Domains whose mail is delivered here, every local part."""
    maildir: Path | None = None
    """The Maildir that takes it; `mail` in the data directory unless said otherwise."""


class Queue(Section):
    """`[queue]`: mail that waits."""

    expire: Annotated[Duration, _least(duration, "60s")] = 5 * 86400.0
    """How long to try before the sender gets a report (RFC 5321 §4.5.4.1)."""
    concurrency: Annotated[int, Field(strict=True, ge=1, le=1000)] = 100
    """Deliveries at one time."""
    reserve: Size = 64 << 20
    """Free disk space below which new mail is answered 452 4.3.1."""


class Route(Section):
    """`[[route]]`: the next hop for some domains. The first that matches decides; without one, DNS does."""

    domains: Annotated[tuple[Pattern, ...], AfterValidator(_some)]
    """`mail.example` itself, `*.mail.example` for all below it, `*` for every domain."""
    smart_host: Annotated[tuple[Hop, ...], AfterValidator(_some)]
    """Next hops in order of preference."""


class Log(Section):
    """`[log]`: what is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important record that is written."""


class Configuration(Section):
    """A whole configuration."""

    data: Path = Path("ironpost-data")
    """The data directory: queue, control socket, Maildir."""
    hostname: Hostname | None = None
    """What this server calls itself; the machine's full name unless said otherwise."""
    smtp: Smtp = Smtp()
    local: Local = Local()
    queue: Queue = Queue()
    route: tuple[Route, ...] = ()
    log: Log = Log()

    @property
    def maildir(self) -> Path:
        """Where local mail goes."""
        return self.local.maildir or self.data / "mail"

    @property
    def control(self) -> Path:
        """The control socket."""
        return self.data / "control.sock"

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that differ when the configuration does."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


FIXED: tuple[tuple[str, ...], ...] = (("data",), ("hostname",), ("smtp", "listen"), ("queue",))
"""Key paths that a reload cannot change."""
