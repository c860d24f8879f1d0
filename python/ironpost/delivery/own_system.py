"""Recognises this system as a next hop: its names, its addresses, and its listeners.

Promises: an address of this machine is recognised whenever it was configured, because the kernel is queried each time.
Limitations: if the kernel cannot answer, the address counts as another system's.
Standards: RFC 5321 §5.1 (an exchanger that is the client itself), §6.3 (loops).
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from ironpost.model.network import LOOPBACK, unmapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.model.network import IPAddress, Network

ANY: Final[dict[int, IPAddress]] = {4: IPv4Address(0), 6: IPv6Address(0)}
"""By IP version: the unspecified address; a socket bound to it listens on every address of the machine."""
_UNASSIGNED: Final = {4: "240.0.0.1", 6: "100::1"}
"""By IP version: an unassigned address (class E, the discard prefix). If it can be bound, any address can."""
_DISCARD: Final = 9
"""The port that `connect` needs; nothing is sent."""


@dataclass(frozen=True, slots=True)
class OwnSystem:
    """The names of this system and the addresses at which it can be reached."""

    names: frozenset[str] = frozenset()
    """In lower case."""
    networks: Sequence[Network] = LOOPBACK
    """Networks that contain no exchanger of another system, at any port."""
    listening: frozenset[tuple[IPAddress, int]] = frozenset()
    """Addresses (from `reached`) and ports of the listeners. An unspecified address stands for every address of its
    family that this machine has."""

    def owns(self, address: IPAddress, port: int) -> bool:
        """Whether an exchanger at `address` would be this system."""
        return any(address in network for network in self.networks) or self.listens(address, port)

    def listens(self, address: IPAddress, port: int) -> bool:
        """Whether a connection to `address` (from `reached`) and `port` would reach one of our listeners."""
        if (address, port) in self.listening:
            return True
        return (ANY[address.version], port) in self.listening and is_local(address)


def is_local(address: IPAddress) -> bool:
    """Whether this machine has the address now.

    For a local destination the kernel chooses the same address as source, unless it is a secondary address of an
    interface; but a secondary address can be bound, and a foreign one cannot. With `ip_nonlocal_bind` every address can
    be bound: then only the source address decides.
    """
    version, text = address.version, str(address)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((text, _DISCARD))
            source: str = probe.getsockname()[0]
    except OSError:  # no such family, no route, or a broadcast address
        return False
    return source == text or (_can_bind(family, text) and not _can_bind(family, _UNASSIGNED[version]))


def _can_bind(family: socket.AddressFamily, text: str) -> bool:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((text, 0))
        except OSError:
            return False
    return True


def reached(text: str) -> IPAddress:
    """Parse the IP address of a host to connect to; an IPv4-mapped one is the IPv4 address that it reaches.

    Unlike that of a client, it keeps its zone.

    Raises:
        ValueError: `text` is not an IP address.
    """
    return unmapped(ip_address(text))
