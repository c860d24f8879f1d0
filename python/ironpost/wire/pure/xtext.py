"""xtext and utf-8-addr-xtext: encodings of octets and characters that a parameter value cannot hold.

Promises: decoding undoes encoding; what is encoded is an esmtp-value of printable ASCII.
Refuses: octets that must be encoded, escapes that the grammar does not have (lower case in xtext; in
utf-8-addr-xtext a code point that needs no escape, NUL and the control characters for which it has no HEXPOINT, line
ends among them, and surrogates).
Standards: RFC 3461 §4; RFC 6533 §3.
"""

from __future__ import annotations

import re
from typing import Final

from ironpost.wire.interface import WireFault
from ironpost.wire.pure.octets import Octets, as_octets

XCHAR: Final = frozenset(range(33, 127)) - frozenset(b"+=")
XTEXT_ITEM: Final = re.compile(rb"\+([0-9A-F]{2})|([!-*,-<>-~]+)")

QCHAR: Final = XCHAR - frozenset(b"\\")
EMBEDDED: Final = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")
HEXPOINT: Final = re.compile(
    r"[01][1-9]|10|20|2B|3D|7F|5C|[89A-F][0-9A-F]|[1-9A-F][0-9A-F]{2}|[1-9A-CEF][0-9A-F]{3}|D[0-7][0-9A-F]{2}"
    r"|[1-9A-F][0-9A-F]{4}|10[0-9A-F]{4}",
    re.IGNORECASE,
)


def xtext_encode(data: Octets | str) -> str:
    """Encode octets, or the UTF-8 form of a text, as xtext (RFC 3461 §4)."""
    octets = data.encode() if isinstance(data, str) else as_octets(data)
    return "".join(chr(octet) if octet in XCHAR else f"+{octet:02X}" for octet in octets)


def xtext_decode(text: str | Octets) -> bytes:
    """Decode xtext to octets (RFC 3461 §4).

    Raises:
        WireFault: `xtext-malformed`.
    """
    octets = text.encode() if isinstance(text, str) else as_octets(text)
    pieces: list[bytes] = []
    at = 0
    while at < len(octets):
        found = XTEXT_ITEM.match(octets, at)
        if found is None:
            raise WireFault("xtext-malformed", at)
        escape, plain = found.groups()
        pieces.append(bytes.fromhex(escape.decode()) if escape else plain)
        at = found.end()
    return b"".join(pieces)


def utf8_addr_xtext_encode(text: str) -> str:
    """Encode an address in its 7-bit form, utf-8-addr-xtext (RFC 6533 §3).

    Raises:
        WireFault: `xtext-malformed` at a control character that the form cannot hold.
        UnicodeEncodeError: if the text holds a surrogate.
    """
    text.encode()
    pieces: list[str] = []
    for at, character in enumerate(text):
        if ord(character) in QCHAR:
            pieces.append(character)
            continue
        point = f"{ord(character):02X}"
        if not HEXPOINT.fullmatch(point):
            raise WireFault("xtext-malformed", len(text[:at].encode()))
        pieces.append(f"\\x{{{point}}}")
    return "".join(pieces)


def utf8_addr_xtext_decode(text: str) -> str:
    """Decode an address from utf-8-addr-xtext or utf-8-addr-unitext (RFC 6533 §3).

    Raises:
        WireFault: `xtext-malformed`.
        UnicodeEncodeError: if the text holds a surrogate.
    """
    text.encode()
    pieces: list[str] = []
    at = 0
    while at < len(text):
        character = text[at]
        if ord(character) in QCHAR or ord(character) > 127:
            pieces.append(character)
            at += 1
            continue
        found = EMBEDDED.match(text, at)
        if found is None or not HEXPOINT.fullmatch(found[1]):
            raise WireFault("xtext-malformed", len(text[:at].encode()))
        pieces.append(chr(int(found[1], 16)))
        at = found.end()
    return "".join(pieces)
