"""Parsing of the PROXY protocol header, versions 1 and 2, by which a proxy names the client that it forwards.

    header = parse(octets)      None: more octets are needed

Promises: a pure function of the octets received so far, which examines at most `V1_OCTETS` or `V2_OCTETS` of them; it
returns a complete header or none. Refuses: anything that does not conform to the specification, UDP, a wrong checksum,
and a header longer than its limit (SECURITY R15), with `ProxyFault`. Limitations: the caller must know that the sender
is a trusted proxy, see `Server(proxy=...)` (SECURITY R14).

Standard: "The PROXY protocol, versions 1 and 2" of HAProxy, §2.1, §2.2 and §2.2.1 to §2.2.7.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.model.certificate import escaped
from ironpost.model.network import unmapped
from ironpost.protocol.server.transaction import TlsInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

V1_OCTETS: Final = 107
"""Maximum octets of a header of version 1, with its CRLF (§2.1)."""
V2_OCTETS: Final = 16 * 1024
"""Maximum octets of a header of version 2. §2.2 allows 64 KiB; the largest known TLV contains one certificate."""

_V1: Final = b"PROXY "
_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_HEAD: Final = len(_V2) + 4

_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31
_ADDRESSES: Final = {_UNSPECIFIED: 0, _TCP4: 12, _TCP6: 36, _UNIX: 216}
"""Octets of the address block of each family and transport that can carry SMTP."""

_AUTHORITY, _CRC32C, _UNIQUE_ID, _SSL = 0x02, 0x03, 0x05, 0x20
_SSL_VERSION, _SSL_CN, _SSL_CIPHER = 0x21, 0x22, 0x23
_CLIENT_SSL, _CLIENT_CERTIFICATE = 0x01, 0x06
UNIQUE_ID_OCTETS: Final = 128
"""Maximum octets of a unique id (§2.2.5)."""


class ProxyFault(ValueError):
    """Not a valid header of the PROXY protocol; the text says what is wrong."""


class ProxyHeader(NamedTuple):
    """The contents of a PROXY header."""

    size: int
    """Octets of the header; the client's input follows it."""
    local: bool = False
    """The command is LOCAL: the proxy itself is the client (a health check), so the addresses of the TCP connection
    apply."""
    ip: str = ""
    """The client's IP address; empty if the proxy does not know it, or the client has none."""
    port: int = 0
    """The client's port; 0 without `ip`."""
    local_ip: str = ""
    """The IP address that the client connected to; empty without `ip`."""
    local_port: int = 0
    """The port that the client connected to; 0 without `ip`."""
    tls: TlsInfo | None = None
    """The TLS parameters between client and proxy, as the proxy states them; None without TLS (SECURITY R16)."""
    unique_id: bytes = b""
    """The id that the proxy gave the connection (§2.2.5); empty if none."""


def parse(octets: bytes) -> ProxyHeader | None:
    """Parse the header at the start of a connection; return None if it is not complete yet.

    Raises:
        ProxyFault: not a valid PROXY header.
    """
    if octets[:1] == _V1[:1]:
        return _version_1(octets)
    if octets.startswith(_V2):
        return _version_2(octets)
    if len(octets) < len(_V2) and _V2.startswith(octets):
        return None
    raise ProxyFault("the connection does not begin with a PROXY header")


def _version_1(octets: bytes) -> ProxyHeader | None:
    end = octets.find(b"\n", 0, V1_OCTETS)
    if end < 0:
        if len(octets) >= V1_OCTETS:
            raise ProxyFault(f"the header of version 1 is longer than {V1_OCTETS} octets")
        if not octets.startswith(_V1[: len(octets)]):
            raise ProxyFault("the connection does not begin with a PROXY header")
        return None
    line = octets[: end + 1]
    if not line.startswith(_V1) or not line.endswith(b"\r\n"):
        raise ProxyFault("the header of version 1 is not PROXY, a space, and a line that ends in CRLF")
    words = line[len(_V1) : -2].split(b" ")
    if words[0] == b"UNKNOWN":  # the rest of the line must be ignored (§2.1)
        return ProxyHeader(len(line))
    if words[0] not in {b"TCP4", b"TCP6"} or len(words) != 5:
        raise ProxyFault("the header of version 1 does not name TCP4, TCP6 or UNKNOWN, two addresses and two ports")
    read = _ipv4 if words[0] == b"TCP4" else _ipv6
    try:
        ip, local_ip = (read(word.decode("ascii")) for word in words[1:3])
    except ValueError as error:
        raise ProxyFault(f"an address in the header of version 1 is not a valid {words[0].decode()} address") from error
    return ProxyHeader(len(line), ip=ip, port=_port(words[3]), local_ip=local_ip, local_port=_port(words[4]))


def _port(word: bytes) -> int:
    if not word.isdigit() or len(word) > 5 or (word[:1] == b"0" and word != b"0") or int(word) > 65535:
        raise ProxyFault("a port in the header of version 1 is not a number from 0 to 65535")
    return int(word)


def _version_2(octets: bytes) -> ProxyHeader | None:
    if len(octets) < _HEAD:
        return None
    command, family, length = struct.unpack_from("!BBH", octets, len(_V2))
    size = _HEAD + length
    if command not in {_LOCAL, _PROXY}:
        raise ProxyFault(f"version and command of the header are 0x{command:02x}, neither LOCAL nor PROXY of version 2")
    if size > V2_OCTETS:
        raise ProxyFault(f"the header of version 2 has {size} octets, more than {V2_OCTETS}")
    if len(octets) < size:
        return None
    header = octets[:size]
    if command == _LOCAL:  # §2.2: the receiver must accept it and must ignore family and addresses
        return ProxyHeader(size, local=True)
    if family not in _ADDRESSES:
        raise ProxyFault(f"family and transport of the header are 0x{family:02x}, neither TCP nor a Unix stream")
    if family == _UNSPECIFIED:  # the form of the rest is not specified
        return ProxyHeader(size)
    start = _HEAD + _ADDRESSES[family]
    if start > size:
        raise ProxyFault("the header of version 2 is shorter than its addresses")
    tls, unique_id = _values(header, start)
    if family == _TCP4:
        source, target, port, local_port = struct.unpack_from("!4s4sHH", header, _HEAD)
        return ProxyHeader(size, False, _ipv4(source), port, _ipv4(target), local_port, tls, unique_id)
    if family == _TCP6:
        source, target, port, local_port = struct.unpack_from("!16s16sHH", header, _HEAD)
        return ProxyHeader(size, False, _ipv6(source), port, _ipv6(target), local_port, tls, unique_id)
    return ProxyHeader(size, tls=tls, unique_id=unique_id)


def _ipv4(address: bytes | str) -> str:
    return str(IPv4Address(address))


def _ipv6(address: bytes | str) -> str:
    """Parse an address; an IPv4-mapped one becomes IPv4."""
    found = IPv6Address(address)
    if found.scope_id is not None:
        raise ValueError("an address from a proxy must not have a zone")
    return str(unmapped(found))


def _elements(data: bytes, start: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, offset and value of each TLV (§2.2.1)."""
    while start < len(data):
        if start + 3 > len(data):
            raise ProxyFault("a TLV of the header is truncated")
        kind, length = struct.unpack_from("!BH", data, start)
        start += 3
        if start + length > len(data):
            raise ProxyFault("a TLV of the header is longer than the header")
        yield kind, start, data[start : start + length]
        start += length


def _values(header: bytes, start: int) -> tuple[TlsInfo | None, bytes]:
    authority = unique_id = b""
    secure: bytes | None = None
    for kind, at, value in _elements(header, start):
        if kind == _CRC32C:
            if len(value) != 4:
                raise ProxyFault("the checksum of the header does not have four octets")
            if int.from_bytes(value, "big") != crc32c(header[:at] + bytes(4) + header[at + 4 :]):
                raise ProxyFault("the checksum of the header is wrong")
        elif kind == _AUTHORITY:
            authority = value
        elif kind == _UNIQUE_ID:
            if len(value) > UNIQUE_ID_OCTETS:
                raise ProxyFault(f"the unique id of the header has more than {UNIQUE_ID_OCTETS} octets")
            unique_id = value
        elif kind == _SSL:
            secure = value
    return _tls(secure, authority) if secure is not None else None, unique_id


def _tls(value: bytes, authority: bytes) -> TlsInfo | None:
    """Parse the value of the TLV PP2_TYPE_SSL (§2.2.6)."""
    if len(value) < 5:
        raise ProxyFault("the TLV about TLS is truncated")
    client, verify = struct.unpack_from("!BI", value)
    found = {kind: _text(content) for kind, _, content in _elements(value, 5)}
    if not client & _CLIENT_SSL:
        return None
    name = found.get(_SSL_CN, "") if client & _CLIENT_CERTIFICATE and verify == 0 else ""
    return TlsInfo(
        version=found.get(_SSL_VERSION, ""),
        cipher=found.get(_SSL_CIPHER, ""),
        server_name=_text(authority),
        subject=f"CN={escaped(name)}" if name else "",
        stated=True,
    )


def _text(value: bytes) -> str:
    """Decode UTF-8 without control characters, because the text goes into logs and Received fields."""
    text = value.decode("utf-8", errors="replace")
    if not text.isprintable():
        raise ProxyFault("a text in the header contains control characters")
    return text


_TABLE: Final = []
for _octet in range(256):
    _remainder = _octet
    for _ in range(8):
        _remainder = _remainder >> 1 ^ (0x82F63B78 if _remainder & 1 else 0)
    _TABLE.append(_remainder)


def crc32c(octets: bytes) -> int:
    """Return the CRC-32C checksum (§2.2.3; RFC 3720 §B.4 has vectors)."""
    remainder = 0xFFFFFFFF
    for octet in octets:
        remainder = remainder >> 8 ^ _TABLE[(remainder ^ octet) & 0xFF]
    return remainder ^ 0xFFFFFFFF
