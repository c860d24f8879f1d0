"""aiosmtpd's reader of PROXY headers (version 1 and 2), with all that they state.

Promises: the reader gets no octet after the header. A malformed header never raises: `ProxyData.error` says what is
wrong with it, and the value is false.
Standards: the PROXY protocol specification of HAProxy, sections 2.1 and 2.2.
"""

from __future__ import annotations

import contextlib
import logging
import re
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, ClassVar, Final, Protocol, TypeAlias

V2_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
V1_MAXIMUM: Final = 107
"""Octets of a header of version 1."""
RE_ADDR_ALLOWCHARS: Final = re.compile(r"^[0-9a-fA-F.:]+$")
RE_PORT_NOLEADZERO: Final = re.compile(r"^[1-9]\d{0,4}|0$")

log = logging.getLogger("mail.debug")

EndpointAddress: TypeAlias = "IPv4Address | IPv6Address | str | bytes"


class V2_CMD(IntEnum):  # noqa: N801 - aiosmtpd's name
    """The commands of version 2."""

    LOCAL = 0
    PROXY = 1


class AF(IntEnum):
    """The address families; UNKNOWN of version 1 is UNSPEC."""

    UNSPEC = 0
    INET = 1
    INET6 = 2
    UNIX = 3


class PROTO(IntEnum):
    """The transport protocols; UNKNOWN of version 1 is UNSPEC."""

    UNSPEC = 0
    STREAM = 1
    DGRAM = 2


class MalformedTLV(RuntimeError):
    """A TLV ends early."""


class UnknownTypeTLV(KeyError):
    """The type of a TLV is not known."""


class AsyncReader(Protocol):
    """What `get_proxy` needs of a stream."""

    async def read(self, n: int = ...) -> bytes:
        """Return at most `n` octets."""
        ...

    async def readexactly(self, n: int) -> bytes:
        """Return `n` octets."""
        ...

    async def readuntil(self, separator: bytes = ...) -> bytes:
        """Return octets up to and with the separator, by default LF."""
        ...


def _same(values: dict[str, Any], expected: dict[str, Any], *, raises: bool) -> bool:
    """Whether the values are as expected; `raises` names the first that is not."""
    for name, value in expected.items():
        if name not in values:
            if raises:
                raise KeyError(f"notfound:{name}")
            return False
        if values[name] != value:
            if raises:
                raise ValueError(f"mismatch:{name} actual={values[name]!r} expect={value!r}")
            return False
    return True


class ProxyTLV(dict[str, Any]):
    """The TLVs of a header by name, `xNN` for an unknown type; `tlv_loc` has their offsets."""

    __slots__ = ("tlv_loc",)

    PP2_TYPENAME: ClassVar[dict[int, str]] = {
        0x01: "ALPN",
        0x02: "AUTHORITY",
        0x03: "CRC32C",
        0x04: "NOOP",
        0x05: "UNIQUE_ID",
        0x20: "SSL",
        0x21: "SSL_VERSION",
        0x22: "SSL_CN",
        0x23: "SSL_CIPHER",
        0x24: "SSL_SIG_ALG",
        0x25: "SSL_KEY_ALG",
        0x30: "NETNS",
    }

    def __init__(self, *args: Any, _tlv_loc: dict[str, int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tlv_loc = _tlv_loc

    def __getattr__(self, item: str) -> Any:
        return self.get(item)

    def same_attribs(self, _raises: bool = False, **kwargs: Any) -> bool:
        """Whether these TLVs have these values.

        Raises:
            KeyError: one is missing; only with `_raises`.
            ValueError: one differs; only with `_raises`.
        """
        return _same(self, kwargs, raises=_raises)

    @classmethod
    def parse(
        cls, data: bytes | bytearray, partial_ok: bool = True, strict: bool = False
    ) -> tuple[dict[str, Any], dict[str, int]]:
        """Return the TLVs and their offsets.

        Raises:
            MalformedTLV: one ends early; not with `partial_ok`.
            UnknownTypeTLV: the type of one is unknown; only with `strict`.
        """
        values: dict[str, Any] = {}
        offsets: dict[str, int] = {}
        try:
            cls._parse(data, 0, values, offsets, partial_ok=partial_ok, strict=strict)
        except MalformedTLV:
            if not partial_ok:
                raise
        return values, offsets

    @classmethod
    def _parse(
        cls,
        data: bytes | bytearray,
        start: int,
        values: dict[str, Any],
        offsets: dict[str, int],
        *,
        partial_ok: bool,
        strict: bool,
    ) -> None:
        position = 0
        while position < len(data):
            kind = data[position]
            size = int.from_bytes(data[position + 1 : position + 3], "big")
            value = data[position + 3 : position + 3 + size]
            if len(value) < size:
                raise MalformedTLV(f"TLV 0x{kind:02X} is malformed!")
            name = cls.PP2_TYPENAME.get(kind, f"x{kind:02X}")
            if strict and kind not in cls.PP2_TYPENAME:
                raise UnknownTypeTLV(name)
            offsets[name] = start + position
            if name == "SSL":
                values["SSL_CLIENT"] = value[0]
                values["SSL_VERIFY"] = int.from_bytes(value[1:5], "big")
                try:
                    cls._parse(value[5:], position, values, offsets, partial_ok=partial_ok, strict=strict)
                    values["SSL"] = True
                except MalformedTLV:
                    values["SSL"] = False
                    if not partial_ok:
                        raise
                    return
            else:
                values[name] = value
            position += 3 + size

    @classmethod
    def from_raw(cls, raw: bytes | bytearray, strict: bool = False) -> ProxyTLV | None:
        """Return the TLVs; None if there are none. It raises as `parse` does."""
        if not raw:
            return None
        values, offsets = cls.parse(raw, partial_ok=False, strict=strict)
        return cls(values, _tlv_loc=offsets)

    @classmethod
    def name_to_num(cls, name: str) -> int | None:
        """Return the type with this name; None if there is none."""
        return next((kind for kind, known in cls.PP2_TYPENAME.items() if known == name), None)


@dataclass(kw_only=True)
class ProxyData:
    """One header. It is true if it is valid."""

    version: int | None
    """None if the signature is of neither version."""
    command: int | None = field(init=False, default=None)
    family: int | None = field(init=False, default=None)
    protocol: int | None = field(init=False, default=None)
    src_addr: EndpointAddress | None = field(init=False, default=None)
    dst_addr: EndpointAddress | None = field(init=False, default=None)
    src_port: int | None = field(init=False, default=None)
    dst_port: int | None = field(init=False, default=None)
    rest: bytes | bytearray = field(init=False, default=b"")
    """What follows the addresses, or UNKNOWN."""
    whole_raw: bytearray = field(init=False, default_factory=bytearray)
    """The whole header."""
    tlv_start: int | None = field(init=False, default=None)
    """The offset of the first TLV in `whole_raw`."""
    error: str = field(init=False, default="")
    """What is wrong with the header; empty if nothing is."""
    _tlv: ProxyTLV | None = field(init=False, default=None)

    @property
    def valid(self) -> bool:
        """Whether the header is complete and well-formed."""
        return not (self.error or self.version is None or self.protocol is None)

    @property
    def tlv(self) -> ProxyTLV | None:
        """The TLVs; None if there are none, or they are malformed."""
        if self._tlv is None:
            with contextlib.suppress(MalformedTLV):
                self._tlv = ProxyTLV.from_raw(self.rest)
        return self._tlv

    def with_error(self, error_msg: str, log_prefix: bool = True) -> ProxyData:
        """Record and log an error; return this object."""
        log.warning("%s%s", "PROXY error: " if log_prefix else "", error_msg)
        self.error = error_msg
        return self

    def same_attribs(self, _raises: bool = False, **kwargs: Any) -> bool:
        """Whether these attributes have these values; it raises as `ProxyTLV.same_attribs` does."""
        values = {name: getattr(self, name) for name in kwargs if hasattr(self, name)}
        return _same(values, kwargs, raises=_raises)

    def __bool__(self) -> bool:
        return self.valid


class _Malformed(Exception):
    """A header is malformed; the text says how."""


def _read_v1(data: ProxyData, line: bytes) -> None:
    """Fill in a header of version 1 from what follows `PROXY`."""
    if len(data.whole_raw) > V1_MAXIMUM:
        raise _Malformed("PROXYv1 header too long")
    if not line.endswith(b"\r\n"):
        raise _Malformed("PROXYv1 malformed")
    start, *words = line[:-2].split(b" ")
    if start:
        raise _Malformed("PROXYv1 wrong signature")
    kind = words.pop(0)
    if kind == b"UNKNOWN":
        data.family, data.protocol = AF.UNSPEC, PROTO.UNSPEC
        data.rest = b"".join(b" " + word for word in words)
        return
    if kind[-1:] not in {b"4", b"6"}:
        raise _Malformed("PROXYv1 unrecognized family")
    version = int(kind[-1:])
    data.family = AF.INET if version == 4 else AF.INET6
    if not kind.startswith(b"TCP"):
        raise _Malformed("PROXYv1 unrecognized protocol")
    data.protocol = PROTO.STREAM
    try:
        source, target = (ip_address(_word(words, RE_ADDR_ALLOWCHARS)) for _ in range(2))
    except ValueError as error:
        raise _Malformed("PROXYv1 address malformed") from error
    if not source.version == target.version == version:
        raise _Malformed(f"PROXYv1 address not IPv{version}")
    data.src_addr, data.dst_addr = source, target
    try:
        data.src_port = int(_word(words, RE_PORT_NOLEADZERO))
        data.dst_port = int(_word(words, RE_PORT_NOLEADZERO))
    except ValueError as error:
        raise _Malformed("PROXYv1 port malformed") from error
    for name, port in (("src", data.src_port), ("dst", data.dst_port)):
        if not 0 <= port <= 65535:
            raise _Malformed(f"PROXYv1 {name} port out of bounds")
    if words:
        raise _Malformed("PROXYv1 unrecognized extraneous data")


def _word(words: list[bytes], form: re.Pattern[str]) -> str:
    word = words.pop(0).decode("latin-1")
    if not form.match(word):
        raise ValueError(word)
    return word


async def _read_v2(data: ProxyData, reader: AsyncReader, initial: bytes) -> None:
    """Read and fill in a header of version 2."""
    signature = initial + await _exactly(reader, len(V2_SIGNATURE) - len(initial), "signature")
    if signature != V2_SIGNATURE:
        raise _Malformed("PROXYv2 wrong signature")
    log.debug("Got PROXYv2 signature")
    header = await _exactly(reader, 4, "header")
    log.debug("Got PROXYv2 header")
    version, kinds, size = struct.unpack("!BBH", header)
    if version & 0xF0 != 0x20:
        raise _Malformed("PROXYv2 illegal version")
    data.command, data.family, data.protocol = version & 0x0F, kinds >> 4, kinds & 0x0F
    for name, value, known in (
        ("command", data.command, V2_CMD),
        ("family", data.family, AF),
        ("protocol", data.protocol, PROTO),
    ):
        if value not in set(known):
            raise _Malformed(f"PROXYv2 unsupported {name}")
    tail = await _exactly(reader, size, "tail part")
    log.debug("Got PROXYv2 tail part")
    data.whole_raw = bytearray(signature + header + tail)
    form = _ADDRESSES.get(AF(data.family)) if data.protocol else None
    if form is None:
        data.rest = tail
        return
    length = struct.calcsize(form)
    if len(tail) < length:
        raise _Malformed("PROXYv2 truncated address")
    source, target, *ports = struct.unpack(form, tail[:length])
    if ports:
        address = IPv4Address if data.family == AF.INET else IPv6Address
        data.src_addr, data.dst_addr = address(source), address(target)
        data.src_port, data.dst_port = ports
    else:
        data.src_addr, data.dst_addr = source, target
    data.rest = tail[length:]
    if data.rest:
        data.tlv_start = 16 + length


_ADDRESSES: Final = {AF.INET: "!4s4sHH", AF.INET6: "!16s16sHH", AF.UNIX: "!108s108s"}
"""The forms of the addresses of version 2."""


async def _exactly(reader: AsyncReader, size: int, name: str) -> bytes:
    octets = bytearray()
    while len(octets) < size:
        piece = await reader.read(size - len(octets))
        if not piece:
            raise ConnectionError(f"Connection lost while waiting for {name}")
        octets += piece
    return bytes(octets)


async def get_proxy(reader_func: AsyncReader) -> ProxyData:
    """Read one header; it may be invalid, and raises only if the stream ends within the signature."""
    log.debug("Waiting for PROXY signature")
    signature = await reader_func.readexactly(5)
    data = ProxyData(version=None)
    try:
        if signature == b"PROXY":
            log.debug("PROXY version 1")
            data.version = 1
            line = bytes(await reader_func.readuntil())
            data.whole_raw = bytearray(signature + line)
            _read_v1(data, line)
        elif signature == V2_SIGNATURE[:5]:
            log.debug("PROXY version 2")
            data.version = 2
            await _read_v2(data, reader_func, signature)
        else:
            return data.with_error("PROXY unrecognized signature")
    except _Malformed as error:
        return data.with_error(str(error))
    except Exception as error:  # noqa: BLE001 - the stream may raise anything
        return ProxyData(version=None).with_error(f"PROXY exception: {error}", log_prefix=False)
    return data
