"""IP addresses: the networks by which clients are trusted, counted and limited, and those that are not public.

Promises: all packages use these functions, so they agree on which addresses belong to one client. An IPv4-mapped IPv6
address (`::ffff:192.0.2.1`), as a socket for both families reports it, is treated as the IPv4 address; the zone of a
link-local address (`%eth0`) is ignored. Text that is not an IP address (a Unix socket, a client unknown to the proxy)
gives None or an empty string, never an error, and is in no network.

Standards: RFC 4291 §2.5.1 (an interface identifier has 64 bits), §2.5.5.2 (IPv4-mapped addresses), RFC 5321 §4.1.3
(address literals), RFC 6761 §6.3 (localhost), RFC 6890 §2.2 (special-purpose addresses).
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

IPAddress: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

SUBMISSIONS: Final = 465
"""The port of submission with implicit TLS (RFC 8314 §3.3)."""
LOOPBACK: Final[tuple[Network, ...]] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
"""The networks of this machine."""
IPV4_PREFIX: Final = 32
"""Default prefix length, in bits, of the IPv4 network that counts as one client."""
IPV6_PREFIX: Final = 64
"""Default prefix length, in bits, of the IPv6 network that counts as one client: a host may use any address in its /64
(RFC 4291 §2.5.1)."""

_ADDRESS_LIMIT: Final = 100
"""Characters of an address with its zone: peers choose some of these texts, which are kept."""
_SPECIAL: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ip_network(network), purpose)
    for network, purpose in {
        "0.0.0.0/8": "on this network",
        "10.0.0.0/8": "private",
        "100.64.0.0/10": "shared by a carrier's customers",
        "127.0.0.0/8": "loopback",
        "169.254.0.0/16": "link-local",
        "172.16.0.0/12": "private",
        "192.0.0.0/24": "for protocols",
        "192.0.2.0/24": "for documentation",
        "192.88.99.0/24": "a 6to4 relay",
        "192.168.0.0/16": "private",
        "198.18.0.0/15": "for benchmarks",
        "198.51.100.0/24": "for documentation",
        "203.0.113.0/24": "for documentation",
        "224.0.0.0/4": "multicast",
        "240.0.0.0/4": "reserved",
        "::/128": "unspecified",
        "::1/128": "loopback",
        "64:ff9b::/96": "an IPv4 address in NAT64 form",
        "64:ff9b:1::/48": "an IPv4 address in NAT64 form",
        "2001::/32": "an IPv4 address in Teredo form",
        "2001::/23": "for protocols",
        "2001:db8::/32": "for documentation",
        "2002::/16": "an IPv4 address in 6to4 form",
        "3fff::/20": "for documentation",
        "fc00::/7": "private",
        "fe80::/10": "link-local",
        "ff00::/8": "multicast",
    }.items()
)
"""The networks of the IANA registries of special-purpose addresses whose addresses no public server has, and those that
embed an IPv4 address."""
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
"""The IPv6 addresses that are assigned to hosts of the Internet (RFC 4291 §2.4)."""


def unmapped(address: IPAddress) -> IPAddress:
    """Return the IPv4 address of an IPv4-mapped IPv6 address; any other address unchanged."""
    mapped: IPv4Address | None = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


def parse_ip(text: str) -> IPAddress | None:
    """Parse the IP address of a client, without its zone, unmapped; return None if `text` is not an address."""
    return _parse_ip(text) if len(text) <= _ADDRESS_LIMIT else None


@lru_cache(4096)  # called several times for each recipient of each message
def _parse_ip(text: str) -> IPAddress | None:
    try:
        return unmapped(ip_address(text.partition("%")[0]))
    except ValueError:
        return None


def parse_networks(listed: Iterable[str | Network]) -> tuple[Network, ...]:
    """Parse networks; an address is a network of one.

    Raises:
        ValueError: a text is not a network, or has host bits set; the error names it.
    """
    return tuple(ip_network(each) if isinstance(each, str) else each for each in listed)


def within(ip: str, networks: tuple[Network, ...]) -> Network | None:
    """Return the first network that contains the address; None if there is none, or `ip` is not an address."""
    address = parse_ip(ip)
    if address is not None:
        for network in networks:  # a cache would take longer: networks have a slow hash
            if address in network:
                return network
    return None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: `localhost` (RFC 6761 §6.3), or a loopback address."""
    return host.lower() == "localhost" or within(host, LOOPBACK) is not None


def special_purpose(address: IPAddress) -> str | None:
    """Return what an address is reserved for, such as `loopback`; None for the address of a host on the Internet.

    IPv6 addresses from which a gateway or tunnel derives an IPv4 address are special too: they lead to networks to
    which the address itself does not belong.
    """
    address = unmapped(address)
    for network, purpose in _SPECIAL:
        if address in network:
            return purpose
    return None if address.version == 4 or address in _GLOBAL_UNICAST else "reserved"


def client_network(ip: str, v4: int = IPV4_PREFIX, v6: int = IPV6_PREFIX) -> str:
    """Return the network that counts as one client for an address; the address itself if the prefix covers all bits.

    Args:
        ip: the address of a client.
        v4: the prefix length for IPv4, in bits.
        v6: the prefix length for IPv6, in bits.

    Returns:
        `192.0.2.1`, `2001:db8::/64`; empty if `ip` is not an address.
    """
    return _client_network(ip, v4, v6) if len(ip) <= _ADDRESS_LIMIT else ""


@lru_cache(4096)
def _client_network(ip: str, v4: int, v6: int) -> str:
    address = parse_ip(ip)
    if address is None:
        return ""
    bits = v4 if address.version == 4 else v6
    return str(address) if bits == address.max_prefixlen else str(ip_network(f"{address}/{bits}", strict=False))


def address_literal(ip: str) -> str:
    """Return the address literal of an address (RFC 5321 §4.1.3): `[192.0.2.1]`, `[IPv6:2001:db8::1]`.

    The result is empty if `ip` is not an address.
    """
    address = parse_ip(ip)
    if address is None:
        return ""
    return f"[{address}]" if address.version == 4 else f"[IPv6:{address}]"
