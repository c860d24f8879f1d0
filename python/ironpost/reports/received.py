"""Files of received reports: found in messages, and decompressed.

Promises: the memory and time that are used are bounded, whatever a file contains (SECURITY R23). In a message only the
first `MAX_PARTS` parts of `MAX_LEVELS` levels are searched.
Refuses: what cannot be read, with `ReportError`.
Standards: RFC 1952 (gzip), RFC 2045 §6 (transfer encodings), RFC 2046 §5.1 (multipart).
"""

from __future__ import annotations

import binascii
import re
import struct
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.message.section import Header

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

MAX_LEVELS: Final = 4
"""Nested multiparts of a message that are searched."""
MAX_PARTS: Final = 100
"""Parts of each of them that are searched."""
MAX_RATIO: Final = 100
"""How many times larger than its compressed form a report may be."""
SHOWN: Final = 40
"""Characters of an unknown transfer encoding that an error quotes."""
GZIP: Final = b"\x1f\x8b"
"""The first octets of a gzip file."""
ZIP: Final = b"PK\x03\x04"
"""The first octets of a zip archive with a file."""

_ZIP_HEADER: Final = struct.Struct("<4s5H3I2H")
"""The header of a file in an archive, which its name and other data follow."""
_STORED, _DEFLATED = 0, 8
"""Methods of compression."""
_ENCRYPTED, _SIZE_FOLLOWS = 0x1, 0x8
"""Flags of a file."""

_BOUNDARY: Final = re.compile(r'\bboundary=(?:"([^"]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)
_DECODERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "base64": binascii.a2b_base64,
    "quoted-printable": binascii.a2b_qp,
    "7bit": bytes,
    "8bit": bytes,
    "binary": bytes,
}
"""Transfer encodings (RFC 2045 §6)."""


class ReportError(ValueError):
    """A report cannot be read. The text says why."""


class AttachedFile(NamedTuple):
    """The file in a part of a message."""

    media_type: str
    """In lower case."""
    content: bytes
    header: Header
    """The header section of the message; empty if the file was not in one."""


def attached(message: bytes, media_types: Container[str]) -> AttachedFile | None:
    """Return the first file in a message that has one of some media types; None if there is none.

    Args:
        message: its lines end in CRLF, or all in LF.
        media_types: in lower case.

    Raises:
        ReportError: its transfer encoding is unknown or invalid.
    """
    if b"\r\n" not in message:
        message = message.replace(b"\n", b"\r\n")
    header = Header(message)
    found = _attached(header, media_types, MAX_LEVELS)
    return None if found is None else AttachedFile(*found, header)


def _attached(section: Header, media_types: Container[str], levels: int) -> tuple[str, bytes] | None:
    """The first file in a message or part, of which at most `levels` may be nested: its media type and content.

    Args:
        section: its header section, which the body follows; lines end in CRLF.
        media_types: in lower case.
        levels: of nested multiparts.
    """
    kind = (section.first("Content-Type") or b"").decode("ascii", "replace")
    media_type = kind.partition(";")[0].strip().lower()
    body = section.octets[section.section.end :]
    if media_type.startswith("multipart/") and levels:
        boundary = _BOUNDARY.search(kind)
        if boundary is None:
            return None
        mark = b"\r\n--" + (boundary[1] or boundary[2]).encode("ascii", "replace")
        for part in (b"\r\n" + body).split(mark, MAX_PARTS)[1:]:
            if part.startswith(b"--"):
                break
            found = _attached(Header(part.partition(b"\r\n")[2]), media_types, levels - 1)
            if found is not None:
                return found
    if media_type not in media_types:
        return None
    encoding = (section.first("Content-Transfer-Encoding") or b"7bit").decode("ascii", "replace").lower()
    if encoding not in _DECODERS:
        raise ReportError(f"unknown transfer encoding {encoding[:SHOWN]!a}")
    try:
        return media_type, _DECODERS[encoding](body)
    except binascii.Error as error:
        raise ReportError(f"invalid {encoding}: {error}") from None


def decompressed(octets: bytes, max_octets: int) -> bytes:
    """Decompress a gzip file of at most `max_octets` after that.

    Raises:
        ReportError: it is not one whole gzip member, or it exceeds a limit.
    """
    content, rest = _inflated(octets, zlib.MAX_WBITS | 16, "gzip", min(max_octets, MAX_RATIO * len(octets)))
    if rest:
        raise ReportError("invalid gzip: octets after its end")
    return content


def unzipped(octets: bytes, max_octets: int) -> bytes:
    """Decompress the first file in a zip archive, of at most `max_octets` after that.

    The directory of the archive is not read: nothing in it is needed, and it could name any number of files.

    Raises:
        ReportError: the archive is invalid or encrypted, or the file exceeds a limit.
    """
    if len(octets) < _ZIP_HEADER.size:
        raise ReportError("invalid zip: it is incomplete")
    _, _, flags, method, _, _, _, size, _, name, extra = _ZIP_HEADER.unpack_from(octets)
    content = octets[_ZIP_HEADER.size + name + extra :]
    if flags & _ENCRYPTED:
        raise ReportError("the zip archive is encrypted")
    if method == _DEFLATED:
        return _inflated(content, -zlib.MAX_WBITS, "zip", min(max_octets, MAX_RATIO * len(content)))[0]
    if method != _STORED:
        raise ReportError(f"zip method {method} is not supported")
    if flags & _SIZE_FOLLOWS or size > min(len(content), max_octets):
        raise ReportError("invalid zip: the size of the file is unknown, or too large")
    return content[:size]


def _inflated(octets: bytes, window: int, form: str, limit: int) -> tuple[bytes, bytes]:
    """The decompressed octets, and those that follow the compressed ones."""
    reader = zlib.decompressobj(window)
    try:
        content = reader.decompress(octets, limit + 1)
    except zlib.error as error:
        raise ReportError(f"invalid {form}: {error}") from None
    if len(content) > limit:
        raise ReportError(f"more than {limit} octets after decompression")
    if not reader.eof:
        raise ReportError(f"invalid {form}: it is incomplete")
    return content, reader.unused_data
