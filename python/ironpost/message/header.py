"""A writer of header fields that is safe from field injection.

Promises: `field` returns exactly one field, which ends in its only CRLF that is not followed by white space; lines are
folded at 78 octets between tokens and never exceed 998 (RFC 5322 §2.1.1, §2.2.3); tokens are never split.
Refuses: CR, LF, NUL and other control characters, non-ASCII text unless asked for (RFC 6532 §3.2), empty or over-long
tokens, and names other than ftext: all with `HeaderError` (SECURITY R43).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ironpost.model.text import escaped_character

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ironpost.model import Address

FOLD_AT: Final = 78
"""Octets in a line, without CRLF, that a writer should not exceed (RFC 5322 §2.1.1)."""
LINE_LIMIT: Final = 998
"""Octets in a line, without CRLF, that no writer may exceed (RFC 5322 §2.1.1)."""
WORD_LIMIT: Final = 800
"""Octets after which `words` splits a word, so that it fits into a line with the field name."""

_NAME: Final = re.compile(r"[!-9;-~]{1,76}")  # RFC 5322 §3.6.8 ftext
_FIELD: Final = re.compile(rb"[!-9;-~]{1,76}:(?:[^\0\r\n]|\r\n[ \t])*\r\n")
# Control characters (C0, DEL, C1), Unicode line and paragraph separators, and surrogates, which UTF-8 cannot encode.
_NOT_IN_UTF8_TEXT: Final = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")
_NOT_IN_ASCII_TEXT: Final = re.compile(r"[^ -~]")
_PRINTABLE: Final = bytes(range(ord(" "), ord("~") + 1))
_SPECIAL_IN_COMMENT: Final = re.compile(r"([()\\])")


class HeaderError(ValueError):
    """A value is not allowed in a header field."""


def field(name: str, tokens: Iterable[str], *, utf8: bool = False) -> bytes:
    """One header field with its CRLF: the tokens joined by one space, folded where a line would pass 78 octets.

    Args:
        name: the field name, without colon.
        tokens: words that must not be split; a token may contain spaces (a quoted string).
        utf8: allow non-ASCII text (RFC 6532 §3.2); the message then needs SMTPUTF8.

    Raises:
        HeaderError: see the module's docstring; the text names the field.
    """
    if _NAME.fullmatch(name) is None:
        raise HeaderError(f"{name!r} is not a valid header field name")
    listed = tuple(tokens)
    if not all(listed):
        raise HeaderError(f"an empty token in {name}")
    text = " ".join((f"{name}:", *listed))
    octets = text.encode("utf-8", "surrogatepass")
    if _NOT_IN_UTF8_TEXT.search(text) if utf8 else octets.translate(None, _PRINTABLE):
        raise HeaderError(f"{text!r} contains a character that is not allowed in a header field")
    if len(listed) == 0:
        raise HeaderError(f"{name} has no value")
    if len(octets) <= FOLD_AT:
        return octets + b"\r\n"
    if len(octets) > len(text):  # an octet becomes a character, so that lines are measured in octets
        listed = tuple(token.encode("utf-8").decode("latin-1") for token in listed)
    return _folded(name, listed)


def checked_field(octets: bytes) -> bytes:
    """Octets that are one header field with its CRLF, unchanged.

    Raises:
        HeaderError: they are not.
    """
    if _FIELD.fullmatch(octets) is None:
        raise HeaderError(f"{octets!r} is not one header field")
    return octets


def _folded(name: str, tokens: tuple[str, ...]) -> bytes:
    """Fold the field. The first token stays on the line of the name, so that no line consists of white space only."""
    longest = max(map(len, tokens))
    if longest > LINE_LIMIT - len(name) - 2:
        raise HeaderError(f"a token of {longest} octets does not fit into a line of {name}")
    lines: list[str] = []
    line = f"{name}: {tokens[0]}"
    for token in tokens[1:]:
        if len(line) + len(token) >= FOLD_AT:
            lines.append(line)
            line = ""
        line = f"{line} {token}"
    return "\r\n".join((*lines, line, "")).encode("latin-1")


def shown(text: str, *, utf8: bool = False) -> str:
    """`text` with every character that `field` refuses replaced by a backslash escape."""
    pattern = _NOT_IN_UTF8_TEXT if utf8 else _NOT_IN_ASCII_TEXT
    return pattern.sub(lambda match: escaped_character(match[0]), text)


def path(address: Address) -> str:
    """The address in angle brackets (RFC 5321 §4.1.2 Path); characters that `field` refuses are escaped."""
    return f"<{shown(str(address), utf8=True)}>"


def words(text: str, *, utf8: bool = False) -> list[str]:
    """Unstructured text (RFC 5322 §2.2.1) as tokens for `field`: escaped by `shown`, with over-long words split."""
    tokens: list[str] = []
    for word in shown(text, utf8=utf8).split():
        limit = WORD_LIMIT if word.isascii() else WORD_LIMIT // 4  # UTF-8 takes up to four octets a character
        tokens.extend(word[at : at + limit] for at in range(0, len(word), limit))
    return tokens


def comment(text: str) -> str:
    """`text` as one comment (RFC 5322 §3.2.2), with special characters quoted."""
    return "(" + _SPECIAL_IN_COMMENT.sub(r"\\\1", shown(text)) + ")"
