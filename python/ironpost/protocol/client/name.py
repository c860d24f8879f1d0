"""The name of a client in EHLO (RFC 5321 §4.1.1.1, §4.1.4).

Promises: a valid name is a Domain or an address literal of RFC 5321 §4.1.2 and §4.1.3, in ASCII. Our server accepts
more, but other servers may not.
Refuses: names with an underscore, IP addresses without brackets, names for reverse DNS (`ip6.arpa`), literals of
IPv4-mapped addresses.
"""

from __future__ import annotations

from ipaddress import ip_address

from ironpost import wire
from ironpost.model.network import unmapped


def check_hostname(name: str) -> None:
    """Check that a name is valid in EHLO, and not one that servers reject (RFC 6531 §3.7.1: no U-labels).

    Raises:
        wire.WireFault: `name` is neither a domain nor an address literal, is not ASCII, or is one that the module
            refuses.
    """
    if not name.isascii():
        raise wire.WireFault("domain-malformed", next(at for at, octet in enumerate(name.encode()) if octet > 127))
    wire.parse_command(b"EHLO " + name.encode())
    if name.startswith("["):
        if _ip_version(name[1:-1].lower().removeprefix("ipv6:")) == 0:
            raise wire.WireFault("literal-malformed", 1)
    elif "_" in name:
        raise wire.WireFault("domain-malformed", name.index("_"))
    elif _ip_version(name) is not None or name.lower().endswith((".in-addr.arpa", ".ip6.arpa")):
        raise wire.WireFault("domain-malformed", 0)


def full_name(name: str) -> str | None:
    """Return `name` if it is fully qualified, valid in EHLO and not loopback, else None: use an address literal."""
    if "." not in name or name.lower().startswith(("localhost.", "[")):
        return None
    try:
        check_hostname(name)
    except wire.WireFault:
        return None
    return name


def _ip_version(text: str) -> int | None:
    """Return 4 or 6 for an IP address, 0 for an IPv4-mapped one, None for any other text."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return address.version if unmapped(address) == address else 0
