"""Limits on connections: the total number, the number from one network, the rate of new ones from one network, and the
resources of the process.

Promises: every limit has a name, a default with its reason, and a reply that names it; each refusal is counted. The
limits by network do not apply to exempt networks; the total does. The number of networks whose state is kept is
bounded.
Refuses: limits that are not positive, and prefix lengths out of range, with ValueError.

Timeouts and the minimum data rate are in `timeouts`; limits on one session (errors, commands, recipients, sizes) are in
`protocol.server.settings`.

Standards: RFC 2505 §2.12 (rates), RFC 5321 §4.3.2 (421 in place of the greeting).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final, Protocol

from ironpost.model.network import IPV4_PREFIX, IPV6_PREFIX, LOOPBACK, client_network, parse_networks, within
from ironpost.model.options import Unit, option

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from ironpost.model.network import Network

RATE_WINDOW: Final = 60.0
"""The longest burst: as many connections may arrive at once as the rate allows in this time, in seconds."""
REMEMBERED: Final = 100_000
"""Maximum number of networks whose state is kept; beyond it those without open connections are forgotten."""


class Excess(Enum):
    """The limit that a refused connection exceeds; the value is its label in metrics."""

    TOTAL = "total"
    PREFIX = "prefix"
    RATE = "rate"
    MEMORY = "memory"
    DESCRIPTORS = "descriptors"


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits on the connections of all clients together, and of the clients in one network."""

    connections: int = option(10_000, "connections", Unit.COUNT)
    """Concurrent connections on each listener. A process with 20,000 descriptors has room for the default
    (SECURITY R23)."""
    connections_per_prefix: int = option(100, "connections_per_prefix", Unit.COUNT)
    """Concurrent connections from one prefix, outside the trusted networks. Postfix allows one client half as many
    (SECURITY R23)."""
    connection_rate: float = option(10.0, "connection_rate", Unit.PER_SECOND)
    """New connections from one prefix, outside the trusted networks; bursts of up to a minute's worth are allowed. Per
    second (RFC 2505 §2.12)."""
    ipv4_prefix: int = option(IPV4_PREFIX, "ipv4_prefix", Unit.COUNT, maximum=32)
    """Prefix length in bits for IPv4 clients."""
    ipv6_prefix: int = option(IPV6_PREFIX, "ipv6_prefix", Unit.COUNT, maximum=128)
    """Prefix length in bits for IPv6 clients."""
    exempt: tuple[str | Network, ...] = LOOPBACK
    """The trusted networks, which have no limit by prefix; by default this machine: its programs are limited by the
    total alone."""

    def __post_init__(self) -> None:
        for name in ("connections", "connections_per_prefix", "connection_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"ConnectionLimits.{name} must be more than 0, not {getattr(self, name)}")
        for name, most in (("ipv4_prefix", 32), ("ipv6_prefix", 128)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"ConnectionLimits.{name} must be 1 to {most} bits, not {getattr(self, name)}")
        parse_networks(self.exempt)

    @cached_property
    def prefix(self) -> Callable[[str], str]:
        """A function from a client's IP address to the network by which it is counted, as text; empty if the address
        is exempt or invalid."""
        exempt, v4, v6 = parse_networks(self.exempt), self.ipv4_prefix, self.ipv6_prefix

        @lru_cache(4096)
        def prefix(ip: str) -> str:
            return client_network(ip, v4, v6) if within(ip, exempt) is None else ""

        return prefix


@dataclass(slots=True)
class Capacity:
    """The resources that a process has for connections. Its servers share one, which may change at any time."""

    descriptors: int | None = None
    """Connections may have descriptors below this number; None for no limit. The system assigns the lowest that is
    free, so however many connections there are, those from this number on remain for other purposes."""
    shortage: Excess | None = None
    """The resource that is short, for which every new connection is refused; None if none is."""

    def excess(self, transport: asyncio.BaseTransport) -> Excess | None:
        """Return the reason to refuse a new connection, by its transport; None if there is none."""
        if self.shortage is not None:
            return self.shortage
        if self.descriptors is None or transport.get_extra_info("socket").fileno() < self.descriptors:
            return None
        return Excess.DESCRIPTORS


class ConnectionLimiter(Protocol):
    """Counts open connections, for one process or for several that share the counts.

    Each connection that `enter` or `enter_prefix` accepted is followed by exactly one `leave` or `leave_prefix`.
    """

    def enter(self, limits: ConnectionLimits) -> Excess | None:
        """Count a new connection in the total. Return None to accept it, or the limit that it exceeds."""
        ...

    def leave(self) -> None:
        """Count the end of a connection."""
        ...

    def enter_prefix(self, prefix: str, limits: ConnectionLimits, now: float) -> Excess | None:
        """Count a new connection from a network. Return None to accept it, or the limit that it exceeds.

        Args:
            prefix: the network, as `ConnectionLimits.prefix` names it.
            limits: the limits that apply now.
            now: the time in seconds, by a monotonic clock.
        """
        ...

    def leave_prefix(self, prefix: str) -> None:
        """Count the end of a connection from a network."""
        ...

    def sweep(self, now: float) -> None:
        """Discard state that is no longer needed. Called every few seconds; `now` as for `enter_prefix`."""
        ...


@dataclass(slots=True)
class _NetworkState:
    """The token bucket of one network, and the number of its open connections."""

    active: int
    tokens: float
    """Connections that may be opened at once, at the time `updated`."""
    updated: float
    """The time of the last change of `tokens`, in seconds."""


@dataclass(slots=True)
class LocalLimiter:
    """The `ConnectionLimiter` of one process."""

    connections: int = 0
    _networks: dict[str, _NetworkState] = field(default_factory=dict)

    def enter(self, limits: ConnectionLimits) -> Excess | None:
        """See `ConnectionLimiter`."""
        if self.connections >= limits.connections:
            return Excess.TOTAL
        self.connections += 1
        return None

    def leave(self) -> None:
        """See `ConnectionLimiter`."""
        self.connections -= 1

    def enter_prefix(self, prefix: str, limits: ConnectionLimits, now: float) -> Excess | None:
        """See `ConnectionLimiter`."""
        burst = max(1.0, limits.connection_rate * RATE_WINDOW)
        network = self._networks.get(prefix)
        if network is None:
            if len(self._networks) >= REMEMBERED:
                self._networks = {name: each for name, each in self._networks.items() if each.active}
            network = self._networks[prefix] = _NetworkState(0, burst, now)
        elif network.active >= limits.connections_per_prefix:
            return Excess.PREFIX
        tokens = min(burst, network.tokens + (now - network.updated) * limits.connection_rate)
        network.updated = now
        if tokens < 1:
            network.tokens = tokens
            return Excess.RATE
        network.tokens = tokens - 1
        network.active += 1
        return None

    def leave_prefix(self, prefix: str) -> None:
        """See `ConnectionLimiter`."""
        network = self._networks.get(prefix)
        if network is not None:
            network.active -= 1

    def sweep(self, now: float) -> None:
        """See `ConnectionLimiter`."""
        idle = [name for name, each in self._networks.items() if not each.active and now - each.updated > RATE_WINDOW]
        for name in idle:
            del self._networks[name]
