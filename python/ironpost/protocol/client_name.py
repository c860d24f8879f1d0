"""What a client may call itself in EHLO (RFC 5321 §4.1.1.1, §4.1.4).

Promises: a name that passes is a Domain or an address literal of RFC 5321 §4.1.2 and §4.1.3, in ASCII. Our server reads
more than that, but a client is judged by what it says.
Refuses: names with an underscore, IP addresses without brackets, names of the reverse tree (`ip6.arpa`), literals of
IPv4-mapped addresses.
"""

from __future__ import annotations

from ipaddress import ip_address

from ironpost import wire


def check_hostname(name: str) -> None:
    """Refuses what EHLO cannot carry, or what makes servers turn a client away (RFC 6531 §3.7.1: no U-labels).

    Raises:
        wire.WireFault: `name` is neither a domain nor an address literal, not ASCII, or one of those named above.
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
    """`name` if a client can call itself so: one with a dot, and no loopback. None if an address literal is better."""
    if "." not in name or name.lower().startswith(("localhost.", "[")):
        return None
    try:
        check_hostname(name)
    except wire.WireFault:
        return None
    return name


def address_literal(ip: str) -> str:
    """The address literal of RFC 5321 §4.1.3 for an IP address; a zone is dropped, a mapped IPv4 address is one."""
    address = ip_address(ip.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"


def _ip_version(text: str) -> int | None:
    """4 or 6 for an IP address, 0 for an IPv4-mapped one, None for what is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return 0 if getattr(address, "ipv4_mapped", None) is not None else address.version
