"""Parsing and formatting of mailboxes, domains and address literals.

Promises: octets are checked from left to right, each once, and the first invalid one is reported.

Refuses: comments, white space, display names, a dot at the end of a domain, untagged IPv6 literals, octets that are
not UTF-8.

Tolerates with `lenient`: the deviations in `interface.TOLERATED`.

Standards: RFC 5321 §4.1.2 and §4.1.3, amended by RFC 6531 §3.3; §4.5.3.1.2 (domain length); RFC 1035 §2.3.4 (label
length); RFC 4291 §2.2 (IPv6 addresses).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from ironpost.wire.interface import TOLERATED, Mailbox, WireFault
from ironpost.wire.pure.octets import DOT, Octets, as_octets

DOMAIN_OCTETS: Final = 255
LABEL_OCTETS: Final = 63

NON_ASCII: Final = frozenset(range(128, 256))
ALPHANUMERIC: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
ATEXT: Final = ALPHANUMERIC | frozenset(b"!#$%&'*+-/=?^_`{|}~") | NON_ASCII
QTEXT: Final = frozenset(range(32, 127)) - frozenset(b'"\\') | NON_ASCII
LABEL: Final = ALPHANUMERIC | frozenset(b"-") | NON_ASCII

AT: Final = ord("@")
QUOTE: Final = ord('"')
BACKSLASH: Final = ord("\\")
HYPHEN: Final = ord("-")
UNDERSCORE: Final = ord("_")

SNUM: Final = rb"(?:0{0,2}[0-9]|0?[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])"
IPV4_LITERAL: Final = re.compile(SNUM + rb"(?:\." + SNUM + rb"){3}")
IPV6_LITERAL: Final = re.compile(rb"IPv6:(.*)", re.IGNORECASE | re.DOTALL)
IPV6_OCTETS: Final = re.compile(rb"[0-9A-Fa-f:.]*")
GENERAL_LITERAL: Final = re.compile(rb"[A-Za-z0-9-]*[A-Za-z0-9]:[!-Z^-~]+")


class Text:
    """Octets that should be UTF-8, with the length of their valid part."""

    def __init__(self, octets: bytes) -> None:
        self.octets = octets
        self.valid = len(octets)
        """The number of octets at the start that are valid UTF-8."""
        try:
            octets.decode()
        except UnicodeDecodeError as error:
            self.valid = error.start

    def get(self, offset: int) -> int | None:
        """Return the octet at `offset`; None after the end."""
        return self.octets[offset] if offset < len(self.octets) else None

    def fault(self, name: str, offset: int) -> WireFault:
        """Create a fault at `offset`, or `utf8-malformed` if the octets before it are not UTF-8."""
        return WireFault("utf8-malformed", self.valid) if self.valid < offset else WireFault(name, offset)

    def slice(self, start: int, end: int) -> str:
        """Return the text between two offsets.

        Raises:
            WireFault: `utf8-malformed`.
        """
        if self.valid < end:
            raise WireFault("utf8-malformed", self.valid)
        return self.octets[start:end].decode()


def read_local_part(text: Text, start: int, *, lenient: bool = False) -> tuple[str, int]:
    """Read the local part at `start`, which may be empty; return it and the offset after it (RFC 5321 §4.1.2).

    Args:
        text: the text to read.
        start: the offset of the local part.
        lenient: accept dots in any place.

    Raises:
        WireFault: `local-part-malformed`, `quoted-string-malformed`, `quoted-string-unclosed`, `utf8-malformed`.
    """
    if text.get(start) == QUOTE:
        return _read_quoted_string(text, start)
    at = atom = start
    while (octet := text.get(at)) is not None:
        if octet == DOT:
            if at == atom and not lenient:
                raise text.fault("local-part-malformed", at)
            atom = at + 1
        elif octet not in ATEXT:
            break
        at += 1
    if at == atom and at > start and not lenient:
        raise text.fault("local-part-malformed", at - 1)  # the dot at the end
    return text.slice(start, at), at


def _read_quoted_string(text: Text, start: int) -> tuple[str, int]:
    value = bytearray()
    at = start + 1
    while (octet := text.get(at)) != QUOTE:
        if octet == BACKSLASH:
            at += 1
            octet = text.get(at)
            if octet is not None and not 32 <= octet <= 126:
                raise text.fault("quoted-string-malformed", at)
        elif octet is not None and octet not in QTEXT:
            raise text.fault("quoted-string-malformed", at)
        if octet is None:
            raise text.fault("quoted-string-unclosed", at)
        value.append(octet)
        at += 1
    text.slice(start, at)
    return value.decode(), at + 1


def read_domain(text: Text, start: int, *, underscore: bool = False) -> int:
    """Read the Domain at `start`, which may be empty; return the offset after it (RFC 5321 §4.1.2, RFC 6531 §3.3).

    Args:
        text: the text to read.
        start: the offset of the domain.
        underscore: accept underscores like letters.

    Raises:
        WireFault: `domain-malformed`, `label-too-long`, `domain-too-long`, `utf8-malformed`.
    """
    at = label = start
    while (octet := text.get(at)) is not None:
        if octet == DOT:
            if at == label:
                raise text.fault("domain-malformed", at)
            if text.get(at - 1) == HYPHEN:
                raise text.fault("domain-malformed", at - 1)
            label = at + 1
        elif octet in LABEL or (underscore and octet == UNDERSCORE):
            if octet == HYPHEN and at == label:
                raise text.fault("domain-malformed", at)
            if at - label >= LABEL_OCTETS:
                raise text.fault("label-too-long", at)
        else:
            break
        if at - start >= DOMAIN_OCTETS:
            raise text.fault("domain-too-long", at)
        at += 1
    if at > start and text.get(at - 1) in (HYPHEN, DOT):
        raise text.fault("domain-malformed", at - 1)
    text.slice(start, at)
    return at


def _read_literal(text: Text, start: int, end: int | None) -> int:
    """Read the address literal at `start`; return the offset after it (RFC 5321 §4.1.3).

    The octet `end` ends the enclosing path, so it cannot be in the literal.
    """
    at = start
    while (octet := text.get(at)) != ord("]"):
        if octet is None or octet == end:
            raise WireFault("literal-unclosed", at)
        at += 1
    if at - start >= DOMAIN_OCTETS or not _is_literal(text.octets[start + 1 : at]):
        raise WireFault("literal-malformed", start)
    return at + 1


def _is_literal(content: bytes) -> bool:
    if found := IPV6_LITERAL.fullmatch(content):
        return _is_ipv6(found[1])
    # An IPv6 address without its tag is not a General-address-literal: "2001" is not registered (RFC 5321 §4.1.3).
    return bool(IPV4_LITERAL.fullmatch(content) or (GENERAL_LITERAL.fullmatch(content) and not _is_ipv6(content)))


def _is_ipv6(octets: bytes) -> bool:
    if not IPV6_OCTETS.fullmatch(octets):
        return False
    try:
        ipaddress.IPv6Address(octets.decode())
    except ValueError:
        return False
    return True


def read_host(text: Text, start: int, end: int | None, *, underscore: bool = False) -> int:
    """Read the Domain or address literal at `start`; return the offset after it.

    The octet `end` must follow it; None stands for the end of the text.

    Raises:
        WireFault: `domain-empty`, `literal-unclosed`, `literal-malformed` and what `read_domain` raises.
    """
    if text.get(start) == ord("["):
        after = _read_literal(text, start, end)
    else:
        after = read_domain(text, start, underscore=underscore)
    if text.get(after) != end:
        raise WireFault("domain-malformed", after)
    if after == start:
        raise WireFault("domain-empty", start)
    return after


def read_mailbox(text: Text, start: int, end: int | None, *, lenient: bool = False) -> tuple[Mailbox, int]:
    """Read the Mailbox at `start`; return it and the offset after it.

    The octet `end` must follow it; None stands for the end of the text.

    Raises:
        WireFault: the first fault.
    """
    local_part, at = read_local_part(text, start, lenient=lenient)
    octet = text.get(at)
    if octet != AT and octet != end:
        raise WireFault("local-part-malformed", at)
    if at == start:
        raise WireFault("local-part-empty", at)
    if octet == end:
        raise WireFault("at-missing", at)
    after = read_host(text, at + 1, end, underscore=lenient)
    return Mailbox(local_part, text.slice(at + 1, after)), after


def tolerated(text: Text, start: int, mailbox: Mailbox) -> tuple[str, ...]:
    """Return the deviations of the mailbox at `start` from the grammar, in the order of `TOLERATED`."""
    local_part, domain = mailbox
    found = (
        text.get(start) != QUOTE and (local_part[0] == "." or local_part[-1] == "." or ".." in local_part),
        "_" in domain and domain[0] != "[",
    )
    return tuple(name for name, used in zip(TOLERATED, found, strict=True) if used)


def parse_mailbox(text: str | Octets, *, lenient: bool = False) -> Mailbox:
    """Parse the whole of `text` as a Mailbox, without brackets and display name (RFC 5321 §4.1.2).

    Args:
        text: the address; octets are UTF-8.
        lenient: the address may deviate from the grammar as `TOLERATED` lists.

    Raises:
        WireFault: the first fault, with its offset in the octets of the UTF-8 form.
    """
    octets = text.encode() if isinstance(text, str) else as_octets(text)
    return read_mailbox(Text(octets), 0, None, lenient=lenient)[0]


def format_mailbox(mailbox: Mailbox, *, lenient: bool = False) -> str:
    """Write a mailbox as it stands in a path, quoted only where needed; the null path is empty (RFC 5321 §4.1.2).

    Args:
        mailbox: the address; stray dots are always quoted.
        lenient: an underscore counts as a letter of the domain.

    Raises:
        WireFault: if the grammar has no form for it, with the offset in the local part or in the domain.
    """
    if mailbox == ("", ""):
        return ""
    local_part = _format_local_part(mailbox.local_part)
    if not mailbox.domain and local_part.lower() == "postmaster":
        return local_part
    read_host(Text(mailbox.domain.encode()), 0, None, underscore=lenient)
    return f"{local_part}@{mailbox.domain}"


def _format_local_part(local_part: str) -> str:
    octets = local_part.encode()
    if local_part and octets[0] != QUOTE:
        try:
            if read_local_part(Text(octets), 0)[1] == len(octets):
                return local_part
        except WireFault:
            pass
    for at, octet in enumerate(octets):
        if octet not in QTEXT and octet not in (QUOTE, BACKSLASH):
            raise WireFault("quoted-string-malformed", at)
    return '"' + local_part.replace("\\", "\\\\").replace('"', '\\"') + '"'
