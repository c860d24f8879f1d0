"""What an operator can say about policy, as typed values.

Refuses: a network that is none, or that has host bits, with ValueError that names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

Network: TypeAlias = IPv4Network | IPv6Network

LOOPBACK: Final[tuple[Network, ...]] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
"""Who may relay unless the operator says otherwise."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Policy's configuration."""

    local_domains: frozenset[str] = frozenset({"localhost"})
    """Lower case; an address literal of ours with its brackets."""
    local_recipients: frozenset[str] | None = None
    """`local-part@domain`, lower case; None accepts every local part of the local domains."""
    trusted_networks: tuple[Network, ...] = LOOPBACK
    """Clients in these may relay."""

    @classmethod
    def of(
        cls,
        *,
        local_domains: Iterable[str] = ("localhost",),
        local_recipients: Iterable[str] | None = None,
        trusted_networks: Iterable[str] = tuple(map(str, LOOPBACK)),
    ) -> Settings:
        """From text, as configuration holds it.

        Raises:
            ValueError: a network is not an address or prefix; the sentence names it.
        """
        return cls(
            frozenset(domain.lower() for domain in local_domains),
            None if local_recipients is None else frozenset(address.lower() for address in local_recipients),
            tuple(ip_network(network) for network in trusted_networks),
        )

    def trusts(self, ip: str) -> bool:
        """Whether a client at that address is in a trusted network; text that is no address is not."""
        return _within(ip, self.trusted_networks)


@lru_cache(maxsize=4096)  # asked for each recipient of each message of each client
def _within(ip: str, networks: tuple[Network, ...]) -> bool:
    try:
        address: IPv4Address | IPv6Address = ip_address(ip.partition("%")[0])
    except ValueError:
        return False
    # A dual-stack socket shows an IPv4 client as ::ffff:192.0.2.1; the operator wrote 192.0.2.0/24.
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
