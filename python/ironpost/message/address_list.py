"""The addresses in the header fields that hold mailboxes or groups, and their replacement in place.

Promises: `replaced` changes the octets of local parts and domains and nothing else: display names, comments, encoded
words, groups, folding and the white space between tokens are as before. An address that is not valid, or not UTF-8, is
left as it is; so is everything after the first octet that the syntax does not allow. `all_addresses` leaves out nothing
that a reader could take for an address (SECURITY R49). Time is linear in the length of the field. If a line grows
beyond 998 octets, it is folded after a comma (RFC 5322 §2.1.1).
Standards: RFC 5322 §3.4 (address lists), §3.4.1 (addr-spec), §4.4 (obsolete forms: routes, and white space and comments
around the dots of an address, which a replacement removes); RFC 6532 §3.2 (UTF-8); RFC 6854 (groups in any field).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost import wire
from ironpost.message.header import LINE_LIMIT
from ironpost.model import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SHOWN: Final = 80
"""Octets of an invalid address in an error."""

_TOKEN: Final = re.compile(
    rb"""[ \t\r\n]+
    | (?P<quoted> "(?:[^"\\]|\\.)*+" )
    | (?P<literal> \[(?:[^\[\]\\]|\\.)*+\] )
    | (?P<atom> [^\x00-\x20\x7f()<>@,;:\\".\[\]]+ (?: \. [^\x00-\x20\x7f()<>@,;:\\".\[\]]+ )*+ )
    | (?P<special> [<>@,;:.] )
    | (?P<comment> \( )""",
    re.VERBOSE | re.DOTALL,
)
"""RFC 5322 §3.2, with a dot-atom as one token; an octet of UTF-8 is an octet of an atom (RFC 6532 §3.2)."""
_IN_COMMENT: Final = re.compile(rb"[()]|\\.", re.DOTALL)
_QUOTED_PAIR: Final = re.compile(rb"\\(.)", re.DOTALL)


class Token(NamedTuple):
    """A token of a structured field body, by offsets into it."""

    kind: str
    """`quoted`, `literal`, `atom` (also a dot-atom), or the special character itself."""
    octets: bytes
    start: int
    end: int


class FoundAddress(NamedTuple):
    """An address, by offsets into a field body."""

    address: Address
    start: int
    """The offset of the local part."""
    at: int
    """The offset after it."""
    domain: int
    """The offset of the domain."""
    end: int
    """The offset after it."""


class _Element(NamedTuple):
    """The tokens between two separators of an address list."""

    tokens: list[Token]
    is_address: bool
    """They must be an address; otherwise they are a display name, the name of a group, or a route."""


def addresses(body: bytes) -> Iterator[FoundAddress]:
    """The addresses of a field body, in order."""
    for element in _elements(tokens(body)):
        if element.is_address and (found := _address(element.tokens)) is not None:
            yield found


def all_addresses(body: bytes) -> list[Address]:
    """All addresses that a reader could see in a field body, in order; also one where a display name should be.

    Words in the place of an address, as in `Doe, Jo <jo@mail.example>`, are left out if none of them could hide one.

    Raises:
        ValueError: a part of it is not valid, so readers may differ; the text says which, in ASCII.
    """
    read = list(tokens(body + b";"))
    if not read or read[-1].start != len(body):
        raise ValueError("a character is not allowed, or a quoted string, comment or literal has no end")
    found: list[Address] = []
    for element in _elements(read[:-1]):
        if not element.tokens:
            continue
        text = body[element.tokens[0].start : element.tokens[-1].end]
        if text.isascii() and b"@" not in text and b"=?" not in text:
            continue
        if not element.is_address and all(token.kind != "@" for token in element.tokens):
            continue
        address = _address(element.tokens)
        if address is None:
            raise ValueError(f"{text[:SHOWN].decode('utf-8', 'replace')!a} is not an address")
        found.append(address.address)
    return found


def replaced(name: bytes, body: bytes, change: Callable[[Address], Address | None]) -> bytes:
    """The body of an address field after some of its addresses were replaced; the same object if none was.

    Args:
        name: the octets of the line before the body, for the length of the first line.
        body: the field body with its CRLF.
        change: the address to write instead of another; None to keep that one.
    """
    pieces: list[bytes] = []
    at = 0
    for found in addresses(body):
        new = change(found.address)
        if new is None or (new.local_part, new.domain) == (found.address.local_part, found.address.domain):
            continue
        if new.local_part != found.address.local_part:
            pieces += (body[at : found.start], str(new)[: -len(new.domain) - 1].encode())
            at = found.at
        pieces += (body[at : found.domain], new.domain.encode())
        at = found.end
    if not pieces:
        return body
    return _folded(name, b"".join((*pieces, body[at:])))


def tokens(body: bytes) -> Iterator[Token]:
    """The tokens of a structured field body (RFC 5322 §3.2) up to the first octet that starts none.

    Comments and white space are skipped.
    """
    at = 0
    while (match := _TOKEN.match(body, at)) is not None:
        kind, at = match.lastgroup, match.end()
        if kind == "comment":
            if (after := _after_comment(body, at)) is None:
                return
            at = after
        elif kind is not None:
            yield Token(match[0].decode() if kind == "special" else kind, match[0], match.start(), at)


def _after_comment(body: bytes, at: int) -> int | None:
    """The offset after a comment whose first parenthesis is before `at`; None if it is not closed."""
    depth = 1
    for match in _IN_COMMENT.finditer(body, at):
        depth += {b"(": 1, b")": -1}.get(match[0], 0)
        if depth == 0:
            return match.end()
    return None


def _elements(listed: Iterable[Token]) -> Iterator[_Element]:
    """The elements of an address list, some of them empty."""
    element: list[Token] = []
    angle = False
    for token in listed:
        if token.kind == "<":
            yield _Element(element, False)  # the display name
            element, angle = [], True
        elif angle and token.kind == ">":
            yield _Element(element, True)
            element, angle = [], False
        elif angle and token.kind == ":":
            yield _Element(element, False)  # a route (RFC 5322 §4.4)
            element = []
        elif not angle and token.kind in {",", ";", ":"}:
            yield _Element(element, token.kind != ":")  # before the colon is the name of a group
            element = []
        else:
            element.append(token)
    yield _Element(element, not angle)


def _address(element: list[Token]) -> FoundAddress | None:
    """The address that the tokens form; None if they form another thing."""
    kinds = [token.kind for token in element]
    if kinds.count("@") != 1:
        return None
    split = kinds.index("@")
    if not (_alternates(kinds[:split], {"atom", "quoted"}) and _alternates(kinds[split + 1 :], {"atom", "literal"})):
        return None
    local_part, domain = element[:split], element[split + 1 :]
    try:
        value = b"".join(unquoted(token) for token in local_part).decode()
        address = Address(value, b"".join(token.octets for token in domain).decode())
    except (UnicodeDecodeError, wire.WireFault):
        return None
    return FoundAddress(address, local_part[0].start, local_part[-1].end, domain[0].start, domain[-1].end)


def _alternates(kinds: list[str], words: set[str]) -> bool:
    """Whether tokens of these kinds are words with one dot between two of them."""
    return len(kinds) % 2 == 1 and words.issuperset(kinds[::2]) and {"."}.issuperset(kinds[1::2])


def unquoted(token: Token) -> bytes:
    """What a word means: a quoted string without its quotes, backslashes and folding (RFC 5322 §3.2.4)."""
    if token.kind != "quoted":
        return token.octets
    return _QUOTED_PAIR.sub(rb"\1", wire.unfold(token.octets[1:-1]))


def _folded(name: bytes, body: bytes) -> bytes:
    """Fold an address list with lines that are too long, after commas."""
    if all(len(line) <= LINE_LIMIT for line in (name + body).split(b"\r\n")):
        return body
    pieces: list[bytes] = []
    start, used = 0, len(name)
    for end in (*(token.end for token in tokens(body) if token.kind == ","), len(body)):
        piece = body[start:end]
        lines = piece.split(b"\r\n")
        if start and used + len(lines[0]) > LINE_LIMIT and lines[0].strip():
            pieces.append(b"\r\n ")
            used = 1
        pieces.append(piece)
        used = len(lines[-1]) + (used if len(lines) == 1 else 0)
        start = end
    return b"".join(pieces)
