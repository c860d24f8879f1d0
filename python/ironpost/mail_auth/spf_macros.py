"""SPF macros: parsing, once for each record, and expansion, once for each use.

Promises: a text is checked as a whole before any part of it is used; expansion never fails, and stops as soon as the
result is long enough (SECURITY R23). A name that a domain-spec expands to has at most 253 characters (SECURITY R51):
labels are removed from its left until it fits.
Refuses: a text that the grammar does not allow, with `SpfError`.
Standards: RFC 7208 §7.1 (grammar), §7.2 (letters), §7.3 (expansion); RFC 3986 §2.3 (unreserved characters).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from ironpost.mail_auth.names import NAME_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SHOWN: Final = 80
"""Characters of a term in a reason."""

_PIECE: Final = re.compile(
    r"%\{(?P<letter>[a-z])(?P<digits>[0-9]*)(?P<reverse>r?)(?P<delimiters>[-.+,/_=]*)\}"
    r"|(?P<escape>%[%_-])|(?P<literal>[!-$&-~]+)|(?P<space> +)",
    re.IGNORECASE,
)
_ESCAPES: Final = {"%%": "%", "%_": " ", "%-": "%20"}
_LETTERS: Final = frozenset("slodiphv")
_EXPLANATION_LETTERS: Final = _LETTERS | frozenset("crt")
_TOP_LEVEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", re.IGNORECASE)


class SpfError(ValueError):
    """What a domain publishes is invalid or exceeds a limit: `permerror`. The text says why, in ASCII."""


@dataclass(frozen=True, slots=True)
class Macro:
    """One macro-expand (RFC 7208 §7.1)."""

    letter: str
    """In lower case."""
    escaped: bool
    """The letter is in upper case: the value is escaped as in a URL."""
    parts: int
    """Number of right-hand parts to use; 0 for all."""
    reverse: bool
    delimiters: str
    """Characters that separate parts, each once; empty if the value is split at dots."""

    def expand(self, value: str) -> str:
        """Apply the transformers to the value of the letter."""
        if self.parts or self.reverse or self.delimiters:
            delimiters = self.delimiters or "."
            for other in delimiters[1:]:
                value = value.replace(other, delimiters[0])
            parts = value.split(delimiters[0])
            if self.reverse:
                parts.reverse()
            value = ".".join(parts[-self.parts :])
        # Text from octets that were not UTF-8 has surrogates.
        return quote(value, safe="", errors="surrogatepass") if self.escaped else value


@dataclass(frozen=True, slots=True)
class MacroString:
    """A text with macros."""

    pieces: tuple[str | Macro, ...]
    letters: frozenset[str]
    """The letters of its macros, in lower case."""

    def expand(self, values: Mapping[str, str], limit: int) -> str:
        """Replace each macro by its value, and cut off what is longer than `limit` characters.

        Args:
            values: the value of each letter in `letters`.
            limit: the length of the result, at most.
        """
        return "".join(_expanded(self.pieces, values, limit))[:limit]

    def expand_name(self, values: Mapping[str, str]) -> str:
        """Expand to a domain name without its trailing dot, shortened to `NAME_LIMIT` characters.

        A label that is longer is not shortened: `names.is_name` refuses it.
        """
        # A name can only be cut after a dot, which may be in front of its last 253 characters and the trailing dot.
        pieces = _expanded(reversed(self.pieces), values, NAME_LIMIT + 2)
        name = "".join(reversed(pieces)).removesuffix(".")
        if len(name) > NAME_LIMIT:
            name = name[name.find(".", len(name) - NAME_LIMIT - 1) + 1 :]
        return name


def _expanded(pieces: Iterable[str | Macro], values: Mapping[str, str], limit: int) -> list[str]:
    """The values of pieces, one by one, until there are `limit` characters."""
    expanded: list[str] = []
    size = 0
    for piece in pieces:
        if size >= limit:
            break
        expanded.append(piece if isinstance(piece, str) else piece.expand(values[piece.letter]))
        size += len(expanded[-1])
    return expanded


def parse_macros(text: str) -> MacroString:
    """Parse a macro-string, the value of an unknown modifier.

    Raises:
        SpfError: it is invalid.
    """
    return _macro_string(_pieces(text, _LETTERS))


def parse_domain_spec(text: str) -> MacroString:
    """Parse a domain-spec, which ends in a macro or in a dot and a top-level label.

    Raises:
        SpfError: it is invalid.
    """
    pieces = tuple(_pieces(text, _LETTERS))
    if not text.endswith("}"):
        _, dot, label = text.removesuffix(".").rpartition(".")
        if not dot or label.isdigit() or not _TOP_LEVEL.fullmatch(label):
            raise SpfError(f"{shown(text)} does not end in a top-level domain")
    return _macro_string(pieces)


def parse_explanation(text: str) -> MacroString:
    """Parse an explain-string, the text that `exp` refers to, which may also contain spaces and the letters c, r and t.

    Raises:
        SpfError: it is invalid.
    """
    return _macro_string(_pieces(text, _EXPLANATION_LETTERS))


def shown(text: str) -> str:
    """Text from DNS for a reason: in quotes, in ASCII and not too long."""
    return ascii(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def _macro_string(pieces: Iterable[str | Macro]) -> MacroString:
    listed = tuple(pieces)
    return MacroString(listed, frozenset(piece.letter for piece in listed if isinstance(piece, Macro)))


def _pieces(text: str, letters: frozenset[str]) -> Iterable[str | Macro]:
    at = 0
    while at < len(text):
        match = _PIECE.match(text, at)
        if match is None:
            raise SpfError(f"invalid macro or character in {shown(text)} (offset {at})")
        at = match.end()
        if match["letter"] is None:
            yield _ESCAPES.get(match[0], match[0])
            continue
        letter = match["letter"].lower()
        if letter not in letters:
            raise SpfError(f"the macro letter {match['letter']} is not allowed in {shown(text)}")
        parts = int(match["digits"].lstrip("0")[:4] or 0)  # four digits name more parts than any value has
        if match["digits"] and not parts:
            raise SpfError(f"a macro of zero parts in {shown(text)}")
        delimiters = "".join(dict.fromkeys(match["delimiters"]))
        yield Macro(letter, match["letter"].isupper(), parts, bool(match["reverse"]), delimiters)
