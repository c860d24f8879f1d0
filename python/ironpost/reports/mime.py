"""MIME parts, as far as reports need them.

Promises: every part is 7-bit unless the caller says that the way back takes UTF-8; lines end in CRLF and stay under 998
octets; a boundary stands in no part.
Standards: RFC 2045 §6 (transfer encodings), RFC 2046 §5.1 (multipart), RFC 6532 §3.5 (encodings of message/global).
"""

from __future__ import annotations

import binascii
import re
from typing import TYPE_CHECKING, Final

from ironpost.message import header

if TYPE_CHECKING:
    from collections.abc import Sequence

_LINE_ENDS: Final = re.compile(rb"\r\n|\r|\n")


def lines_of(content: bytes) -> bytes:
    """The content with CRLF for every kind of line end, and one at its end."""
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
    """One body part with its header: as it is if it is 7-bit, else 8bit if `utf8` allows it, else quoted-printable.

    `media_type` is the Content-Type's value. `content` is brought to CRLF line ends; NUL or over-long lines are
    always encoded.
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


def multipart(parts: Sequence[bytes], boundary: str) -> tuple[str, bytes]:
    """The parts joined (RFC 2046 §5.1.1), and the boundary that was used.

    `boundary` should not be guessable; were it in a part all the same, it is lengthened until it is in none.
    """
    while any(boundary.encode("ascii") in each for each in parts):
        boundary += "x"
    mark = b"--" + boundary.encode("ascii")
    body = b"".join(mark + b"\r\n" + each + b"\r\n" for each in parts)
    return boundary, body + mark + b"--\r\n"
