"""How much of a server one client may take: connections, in total and by network, and the rate at which they come.

Promises: every limit has a name, a default with its reason, and an answer that says which one was met; each refusal is
counted. A network that is exempt has no limit of its own, only its part in the total. What is remembered of networks
that are gone is bounded.
Refuses: limits below 1, with ValueError.

Time-outs and the pace of content stand in `timeouts`; what one session may do (errors, commands, recipients, sizes) in
`protocol.settings`.

Standards: RFC 2505 §2.12 (rates), RFC 5321 §4.3.2 (421 in place of the greeting).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Network: TypeAlias = IPv4Network | IPv6Network

CONNECTIONS: Final = 10_000
"""Connections at a time (a count): what a process with 20,000 descriptors has room for (SECURITY R23)."""
CONNECTIONS_PER_PREFIX: Final = 100
"""Connections at a time from one network (a count): twice what Postfix allows one client (SECURITY R23)."""
CONNECTION_RATE: Final = 10.0
"""New connections a second from one network; a minute's worth may come at once (RFC 2505 §2.12)."""
RATE_WINDOW: Final = 60.0
"""Seconds whose connections may come at once."""
IPV4_PREFIX: Final = 32
"""Bits of an IPv4 address that make one network."""
IPV6_PREFIX: Final = 64
"""Bits of an IPv6 address that make one network: what one host can choose addresses from (RFC 4291 §2.5.1)."""
REMEMBERED: Final = 100_000
"""Networks (a count) of which something is remembered."""
EXEMPT: Final = ("127.0.0.0/8", "::1/128")
"""This machine: local programs are limited by the total alone."""


class Excess(Enum):
    """Which limit was met."""

    TOTAL = "total"
    PREFIX = "prefix"
    RATE = "rate"


@dataclass(frozen=True)
class Limits:
    """What all clients together, and those of one network, may take of one server."""

    connections: int = CONNECTIONS
    connections_per_prefix: int = CONNECTIONS_PER_PREFIX
    connection_rate: float = CONNECTION_RATE
    ipv4_prefix: int = IPV4_PREFIX
    ipv6_prefix: int = IPV6_PREFIX
    exempt: tuple[str | Network, ...] = EXEMPT
    """Networks without a limit of their own."""

    def __post_init__(self) -> None:
        for name in ("connections", "connections_per_prefix", "connection_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Limits.{name} must be more than 0, not {getattr(self, name)}")
        for name, most in (("ipv4_prefix", 32), ("ipv6_prefix", 128)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"Limits.{name} is a number of bits from 1 to {most}, not {getattr(self, name)}")
        networks(self.exempt)

    @cached_property
    def prefix(self) -> Callable[[str], str]:
        """The network that an address is counted by, as text; empty for one that is exempt or that is no address."""
        inside, v4, v6 = within(self.exempt), self.ipv4_prefix, self.ipv6_prefix

        @lru_cache(4096)
        def prefix(ip: str) -> str:
            try:
                address = ip_address(ip)
            except ValueError:  # a Unix socket, a client that a proxy does not know
                return ""
            if inside(ip):
                return ""
            bits, whole = (v4, 32) if address.version == 4 else (v6, 128)
            return ip if bits == whole else str(ip_network((int(address), bits), strict=False))

        return prefix


class LimitBook(Protocol):
    """Who has how much at the moment. One for each process, or one that processes share.

    What `enter` and `enter_prefix` let in is given back by `leave` and `leave_prefix`, once each.
    """

    def enter(self, limits: Limits) -> Excess | None:
        """One more connection; None lets it in."""
        ...

    def leave(self) -> None:
        """One less."""
        ...

    def enter_prefix(self, prefix: str, limits: Limits, now: float) -> Excess | None:
        """One more connection of a network, at a time in seconds of a clock that does not run backwards."""
        ...

    def leave_prefix(self, prefix: str) -> None:
        """One less of that network."""
        ...

    def sweep(self, now: float) -> None:
        """Forgets what does not matter any more. Called every few seconds."""
        ...


@dataclass(slots=True)
class _Account:
    """One network."""

    active: int
    tokens: float
    """Connections that may still come at once."""
    stamp: float
    """When that was so."""


@dataclass(slots=True)
class LocalBook:
    """The `LimitBook` of one server, in memory."""

    connections: int = 0
    _accounts: dict[str, _Account] = field(default_factory=dict)

    def enter(self, limits: Limits) -> Excess | None:
        """See `LimitBook`."""
        if self.connections >= limits.connections:
            return Excess.TOTAL
        self.connections += 1
        return None

    def leave(self) -> None:
        """See `LimitBook`."""
        self.connections -= 1

    def enter_prefix(self, prefix: str, limits: Limits, now: float) -> Excess | None:
        """See `LimitBook`."""
        burst = max(1.0, limits.connection_rate * RATE_WINDOW)
        account = self._accounts.get(prefix)
        if account is None:
            if len(self._accounts) >= REMEMBERED:
                self._accounts = {name: each for name, each in self._accounts.items() if each.active}
            account = self._accounts[prefix] = _Account(0, burst, now)
        elif account.active >= limits.connections_per_prefix:
            return Excess.PREFIX
        tokens = min(burst, account.tokens + (now - account.stamp) * limits.connection_rate)
        account.stamp = now
        if tokens < 1:
            account.tokens = tokens
            return Excess.RATE
        account.tokens = tokens - 1
        account.active += 1
        return None

    def leave_prefix(self, prefix: str) -> None:
        """See `LimitBook`."""
        account = self._accounts.get(prefix)
        if account is not None:
            account.active -= 1

    def sweep(self, now: float) -> None:
        """See `LimitBook`."""
        idle = [name for name, each in self._accounts.items() if not each.active and now - each.stamp > RATE_WINDOW]
        for name in idle:
            del self._accounts[name]


def networks(listed: Iterable[str | Network]) -> tuple[Network, ...]:
    """Networks out of their texts.

    Raises:
        ValueError: one is none; the text names it.
    """
    return tuple(ip_network(each) if isinstance(each, str) else each for each in listed)


def within(listed: Iterable[str | Network]) -> Callable[[str], bool]:
    """A test whether an address, as text, lies in one of the networks; what is no address lies in none."""
    found = networks(listed)

    def inside(ip: str) -> bool:
        try:
            address = ip_address(ip)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any(
            (mapped or address) in network for network in found if network.version == (mapped or address).version
        )

    return lru_cache(4096)(inside)
