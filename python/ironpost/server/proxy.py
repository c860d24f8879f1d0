"""The PROXY protocol's header, versions 1 and 2: what a proxy says about the client whose octets follow.

    header = parse(octets)      None: more octets are needed

Promises: a pure function of the octets received so far, which looks at no more than `V1_OCTETS` or `V2_OCTETS` of them;
a header is whole or there is none. What it says may be believed only by a caller who knows the sender: see
`Server(proxy=...)` (SECURITY R14).
Refuses: with `ProxyFault`, which says what is wrong: everything that is not such a header to the letter, UDP, a wrong
checksum, and a header that is longer than its limit (SECURITY R15).

Standard: "The PROXY protocol, versions 1 and 2" of HAProxy, §2.1, §2.2 and §2.2.1 to §2.2.7.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.protocol.transaction import Tls
from ironpost.server.certificate import escaped

if TYPE_CHECKING:
    from collections.abc import Iterator

V1_OCTETS: Final = 107
"""Octets of a header of version 1 with its CRLF (§2.1)."""
V2_OCTETS: Final = 16 * 1024
"""Octets of a header of version 2. §2.2 allows 64 KiB; the known TLVs need a certificate and little else."""

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
"""Octets of a unique id at most (§2.2.5)."""


class ProxyFault(ValueError):
    """The octets are no header of the PROXY protocol; the text says what is wrong."""


class ProxyHeader(NamedTuple):
    """What a proxy says."""

    size: int
    """Octets of the header; what follows is the client's."""
    local: bool = False
    """The proxy speaks for itself (a health check): the connection is from where it is from."""
    ip: str = ""
    """The client's address; empty if the proxy does not know it or it has none."""
    port: int = 0
    local_ip: str = ""
    local_port: int = 0
    """Where the client connected to."""
    tls: Tls | None = None
    """The client reached the proxy by TLS, says the proxy (SECURITY R16)."""
    unique_id: bytes = b""
    """The proxy's name for the connection."""


def parse(octets: bytes) -> ProxyHeader | None:
    """The header at the start of a connection; None if its end has not come yet.

    Raises:
        ProxyFault: it is none.
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
    if words[0] == b"UNKNOWN":  # whatever follows is to be ignored
        return ProxyHeader(len(line))
    if words[0] not in {b"TCP4", b"TCP6"} or len(words) != 5:
        raise ProxyFault("the header of version 1 does not name TCP4, TCP6 or UNKNOWN, two addresses and two ports")
    read = _ipv4 if words[0] == b"TCP4" else _ipv6
    try:
        ip, local_ip = (read(word.decode("ascii")) for word in words[1:3])
    except ValueError as error:
        raise ProxyFault(f"an address in the header of version 1 is none of {words[0].decode()}") from error
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
    if family == _UNSPECIFIED:  # what follows has no known form
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
    """IPv4 clients of a proxy that listens on both families are what they are, for networks and limits."""
    found = IPv6Address(address)
    if found.scope_id is not None:
        raise ValueError("a zone means something on one machine only")
    return str(found.ipv4_mapped or found)


def _elements(data: bytes, start: int) -> Iterator[tuple[int, int, bytes]]:
    """Type, offset and value of each TLV (§2.2.1)."""
    while start < len(data):
        if start + 3 > len(data):
            raise ProxyFault("a TLV of the header is cut off")
        kind, length = struct.unpack_from("!BH", data, start)
        start += 3
        if start + length > len(data):
            raise ProxyFault("a TLV of the header is longer than the header")
        yield kind, start, data[start : start + length]
        start += length


def _values(header: bytes, start: int) -> tuple[Tls | None, bytes]:
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


def _tls(value: bytes, authority: bytes) -> Tls | None:
    """The TLV PP2_TYPE_SSL (§2.2.6)."""
    if len(value) < 5:
        raise ProxyFault("the TLV about TLS is cut off")
    client, verify = struct.unpack_from("!BI", value)
    found = {kind: _text(content) for kind, _, content in _elements(value, 5)}
    if not client & _CLIENT_SSL:
        return None
    name = found.get(_SSL_CN, "") if client & _CLIENT_CERTIFICATE and verify == 0 else ""
    return Tls(
        version=found.get(_SSL_VERSION, ""),
        cipher=found.get(_SSL_CIPHER, ""),
        server_name=_text(authority),
        subject=f"CN={escaped(name)}" if name else "",
        stated=True,
    )


def _text(value: bytes) -> str:
    """UTF-8 without control characters: it will stand in logs and in Received fields."""
    text = value.decode("utf-8", errors="replace")
    if not text.isprintable():
        raise ProxyFault("a text in the header holds control characters")
    return text


_TABLE: Final = []
for _octet in range(256):
    _remainder = _octet
    for _ in range(8):
        _remainder = _remainder >> 1 ^ (0x82F63B78 if _remainder & 1 else 0)
    _TABLE.append(_remainder)


def crc32c(octets: bytes) -> int:
    """The Castagnoli checksum (§2.2.3; RFC 3720 §B.4 has vectors)."""
    remainder = 0xFFFFFFFF
    for octet in octets:
        remainder = remainder >> 8 ^ _TABLE[(remainder ^ octet) & 0xFF]
    return remainder ^ 0xFFFFFFFF
