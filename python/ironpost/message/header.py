"""Header fields: one writer that cannot be talked into a second field, and a reader over `wire.scan_header`.

Promises: what `field` returns is one field: it ends in the only CRLF that is not followed by white space; lines are
folded at 78 octets between tokens and never reach 998 (RFC 5322 §2.1.1, §2.2.3); a token is never broken.
Refuses: CR, LF, NUL and other control characters, non-ASCII text unless asked for (RFC 6532 §3.2), empty or over-long
tokens, names that are no ftext: all with `HeaderError` (SECURITY R43).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ironpost import wire

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ironpost.model import Address

FOLD_AT: Final = 78
"""Octets in a line, without CRLF, that a writer should not exceed (RFC 5322 §2.1.1)."""
LINE_LIMIT: Final = 998
"""Octets in a line, without CRLF, that no writer may exceed (RFC 5322 §2.1.1)."""
WORD_LIMIT: Final = 800
"""Octets after which `words` cuts a word: a line with room for the field's name."""

_NAME: Final = re.compile(r"[!-9;-~]{1,76}")  # RFC 5322 §3.6.8 ftext
# Control characters (C0, DEL, C1), Unicode's own line and paragraph ends, and what UTF-8 cannot say.
_NOT_IN_UTF8_TEXT: Final = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")
_NOT_IN_ASCII_TEXT: Final = re.compile(r"[^ -~]")
_SPECIAL_IN_COMMENT: Final = re.compile(r"([()\\])")


class HeaderError(ValueError):
    """The value cannot stand in a header field."""


def field(name: str, tokens: Iterable[str], *, utf8: bool = False) -> bytes:
    """One header field with its CRLF: the tokens joined by one space, folded where a line would pass 78 octets.

    Args:
        name: the field name, without colon.
        tokens: words that must not be broken; a token may hold spaces (a quoted string).
        utf8: allow non-ASCII text (RFC 6532 §3.2); the message then needs SMTPUTF8.

    Raises:
        HeaderError: see the module's docstring; the sentence names the field.
    """
    if _NAME.fullmatch(name) is None:
        raise HeaderError(f"{name!r} is no header field name")
    listed = tuple(tokens)
    if not all(listed):
        raise HeaderError(f"an empty token in {name}")
    text = " ".join((f"{name}:", *listed))
    if (_NOT_IN_UTF8_TEXT if utf8 else _NOT_IN_ASCII_TEXT).search(text) is not None:
        raise HeaderError(f"{text!r} holds a character that is not allowed in a header field")
    if len(listed) == 0:
        raise HeaderError(f"{name} has no value")
    octets = text.encode("utf-8")
    if len(octets) <= FOLD_AT:
        return octets + b"\r\n"
    return _folded(name, listed, ascii_only=len(octets) == len(text))


def _folded(name: str, tokens: tuple[str, ...], *, ascii_only: bool) -> bytes:
    """The field over several lines. The first token stays beside the name, so that no line is of white space alone."""
    octets = [len(token) if ascii_only else len(token.encode("utf-8")) for token in tokens]
    if max(octets) > LINE_LIMIT - len(name) - 2:
        raise HeaderError(f"a token of {max(octets)} octets does not fit into a line of {name}")
    text = [f"{name}: {tokens[0]}"]
    used = len(name) + 2 + octets[0]
    for token, length in zip(tokens[1:], octets[1:], strict=True):
        used += 1 + length
        if used > FOLD_AT:
            text.append("\r\n")
            used = 1 + length
        text += (" ", token)
    text.append("\r\n")
    return "".join(text).encode("utf-8")


def shown(text: str, *, utf8: bool = False) -> str:
    """`text` with every character that `field` refuses written as a backslash escape, so that it can be shown."""
    pattern = _NOT_IN_UTF8_TEXT if utf8 else _NOT_IN_ASCII_TEXT
    return pattern.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def path(address: Address) -> str:
    """The address in angle brackets (RFC 5321 §4.1.2 Path); characters that `field` refuses are escaped."""
    return f"<{shown(str(address), utf8=True)}>"


def words(text: str, *, utf8: bool = False) -> list[str]:
    """Unstructured text (RFC 5322 §2.2.1) as tokens for `field`: escaped by `shown`, cut where a word is too long."""
    tokens: list[str] = []
    for word in shown(text, utf8=utf8).split():
        limit = WORD_LIMIT if word.isascii() else WORD_LIMIT // 4  # UTF-8 takes up to four octets a character
        tokens.extend(word[at : at + limit] for at in range(0, len(word), limit))
    return tokens


def comment(text: str) -> str:
    """`text` as one comment (RFC 5322 §3.2.2), whatever it holds."""
    return "(" + _SPECIAL_IN_COMMENT.sub(r"\\\1", shown(text)) + ")"


def above(fields: bytes, content: bytes) -> bytes:
    """Our fields as they stand above content that others wrote.

    White space at the start of the content would continue the last of our fields (RFC 5322 §2.2.3), and so could put
    words into it. Such content has no header section; an empty line says so.

    Args:
        fields: complete header fields.
        content: its first octets, or all.
    """
    return fields + b"\r\n" if content.startswith((b" ", b"\t")) else fields


class Header:
    """A header section that was read: fields by name, without regard to case (RFC 5322 §1.2.2)."""

    __slots__ = ("octets", "section")

    def __init__(self, octets: bytes, limits: wire.Limits | None = None) -> None:
        """Scans `octets`, the start of a message; what is no field ends the section (see `section.fault`)."""
        self.octets = octets
        self.section = wire.scan_header(octets, limits)

    def values(self, name: str) -> list[bytes]:
        """The values of all fields of that name, unfolded, without white space at their ends, in order."""
        wanted = name.lower()
        octets = self.octets
        return [
            wire.unfold(octets[entry.value : entry.end]).strip(b" \t\r\n")
            for entry in self.section.fields
            if entry.name.lower() == wanted
        ]

    def first(self, name: str) -> bytes | None:
        """The value of the first field of that name, or None."""
        values = self.values(name)
        return values[0] if values else None

    def without(self, *names: str) -> bytes:
        """All octets that were scanned, body included, without the fields of those names."""
        wanted = {name.lower() for name in names}
        kept: list[bytes] = []
        at = 0
        for entry in self.section.fields:
            if entry.name.lower() in wanted:
                kept.append(self.octets[at : entry.start])
                at = entry.end
        kept.append(self.octets[at:])
        return b"".join(kept)
