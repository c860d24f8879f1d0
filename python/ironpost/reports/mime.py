"""Writes the MIME parts of reports.

Promises: every part is 7-bit unless the caller says that the route back supports UTF-8; lines end in CRLF and are at
most 998 octets long; the boundary appears in no part.
Standards: RFC 2045 §6 (transfer encodings), RFC 2046 §5.1 (multipart), RFC 6532 §3.5 (encodings of message/global).
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Final

from ironpost.message import header

if TYPE_CHECKING:
    from collections.abc import Sequence

_LINE_ENDS: Final = re.compile(rb"\r\n|\r|\n")


def lines_of(content: bytes) -> bytes:
    """Convert all line endings to CRLF, and add one at the end if it is missing."""
    content = _LINE_ENDS.sub(b"\r\n", content)
    return content if content.endswith(b"\r\n") or not content else content + b"\r\n"


def is_plain(content: bytes) -> bool:
    """Whether 7bit describes the content (RFC 2045 §2.7): ASCII, no NUL, lines of at most 998 octets."""
    return (
        content.isascii()
        and b"\0" not in content
        and all(len(line) <= header.LINE_LIMIT for line in content.split(b"\r\n"))
    )


def part(media_type: str, content: bytes, *, utf8: bool = False) -> bytes:
    """Return one body part with its header: unchanged if 7-bit, else 8bit if `utf8`, else quoted-printable.

    Args:
        media_type: the value of Content-Type.
        content: converted to CRLF line endings; NUL or over-long lines are always encoded.
        utf8: whether the route back supports UTF-8.
    """
    content = lines_of(content)
    encoding = "7bit"
    if not is_plain(content):
        encoding = "quoted-printable"
        if utf8 and b"\0" not in content and max(map(len, content.split(b"\r\n"))) <= header.LINE_LIMIT:
            encoding = "8bit"
    if encoding == "quoted-printable":
        content = binascii.b2a_qp(content, istext=True)
    return (
        header.field("Content-Type", media_type.split(" "))
        + header.field("Content-Transfer-Encoding", (encoding,))
        + b"\r\n"
        + content
    )


def attachment(media_type: str, octets: bytes, filename: str) -> bytes:
    """Return one body part with octets that are encoded as base64 (RFC 2045 §6.8), and the name of a file.

    Args:
        media_type: the value of Content-Type.
        octets: of the file.
        filename: ASCII without quotes and backslashes.
    """
    return (
        header.field("Content-Type", (media_type,))
        + header.field("Content-Transfer-Encoding", ("base64",))
        + header.field("Content-Disposition", ("attachment;", f'filename="{filename}"'))
        + b"\r\n"
        + base64.encodebytes(octets).replace(b"\n", b"\r\n")
    )


def multipart(parts: Sequence[bytes], boundary: str) -> tuple[str, bytes]:
    """Join parts (RFC 2046 §5.1.1); return the boundary that was used, and the result.

    `boundary` should not be guessable; if a part contains it nevertheless, it is lengthened.
    """
    while any(boundary.encode("ascii") in each for each in parts):
        boundary += "x"
    mark = b"--" + boundary.encode("ascii")
    body = b"".join(mark + b"\r\n" + each + b"\r\n" for each in parts)
    return boundary, body + mark + b"--\r\n"
