"""Sets of domains and of addresses, written as patterns.

A domain pattern is `mail.example` (that domain), `*.mail.example` (every domain below it, not itself) or `*` (every
domain, address literals included). A set of addresses (`Addresses`) lists `jo@mail.example`, or `*@` and a domain
pattern; a single `AddressPattern` is an address or a domain pattern.

Promises: case is ignored; membership costs one dictionary access and one comparison per `*.` pattern; the empty domain
(the null reverse-path, `<postmaster>`) matches nothing.
Refuses: anything else, with a ValueError that names the pattern.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NewType

from ironpost.model.address import Address

if TYPE_CHECKING:
    from collections.abc import Iterable

EVERY: Final = "*"
"""Matches every domain, or every local part."""

DomainPattern = NewType("DomainPattern", str)
"""A domain pattern, as an option."""


class Domains:
    """A set of domains."""

    __slots__ = ("_below", "_every", "_exact")

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        exact: set[str] = set()
        below: list[str] = []
        self._every = False
        for pattern in patterns:
            name = pattern.lower()
            if name == EVERY:
                self._every = True
                continue
            if name.startswith("*."):
                name = name[2:]
                below.append("." + name)
            else:
                exact.add(name)
            if not name or name.startswith(".") or any(c in name for c in "* @<>"):
                raise ValueError(f"domain pattern {pattern!r}: write example.org, *.example.org or *")
        self._exact = frozenset(exact)
        self._below = tuple(below)

    def match(self, domain: str) -> str | None:
        """Return a pattern that matches `domain` (in lower case): itself, else a `*.` pattern, else `*`; or None."""
        if domain in self._exact:
            return domain
        for suffix in self._below:
            if domain.endswith(suffix) and len(domain) > len(suffix):
                return "*" + suffix
        return EVERY if self._every and domain else None

    def __contains__(self, domain: str) -> bool:
        return self.match(domain) is not None


class Addresses:
    """A set of addresses."""

    __slots__ = ("_domains", "_exact")

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        exact: set[str] = set()
        domains: list[str] = []
        for pattern in patterns:
            local_part, at, domain = pattern.rpartition("@")
            if not at or not local_part:
                raise ValueError(f"address pattern {pattern!r}: write jo@example.org or *@example.org")
            if local_part == EVERY:
                domains.append(domain)
            else:
                exact.add(pattern.lower())
        self._exact = frozenset(exact)
        self._domains = Domains(domains)

    def __contains__(self, address: Address) -> bool:
        # RFC 5321 §2.4 lets only the final system interpret a local part: here case is ignored.
        return f"{address.local_part.lower()}@{address.key}" in self._exact or address.key in self._domains


class AddressPattern:
    """A set of addresses: `jo@mail.example`, `mail.example` (the whole domain), `*.mail.example` (its subdomains), `*`.

    Case is ignored (RFC 2505 §2). No pattern matches the null reverse-path.
    """

    __slots__ = ("address", "below", "domain", "every", "text")

    def __init__(self, text: str) -> None:
        """Parse a pattern.

        Raises:
            ValueError: the text has none of these forms.
        """
        self.text = text
        self.every = text == EVERY
        """The pattern is `*`, which matches every address that has a domain."""
        self.address: Address | None = None
        """The address, if the pattern is one; else None."""
        self.domain = ""
        """The domain in lower case, if the pattern is an address or a domain; else empty."""
        self.below = ""
        """A dot and the domain in lower case, if the pattern is `*.` and a domain; else empty."""
        if self.every:
            return
        if "@" in text:
            self.address = Address.parse(text)
            self.domain = self.address.key
            if self.address.local_part == EVERY:
                raise ValueError(f'to match every address of a domain, write "{self.address.domain}"')
        elif text.startswith("*."):
            self.below = "." + Address("x", text[2:]).key
        else:
            self.domain = Address("x", text).key

    def matches(self, address: Address) -> bool:
        """Whether the pattern matches the address."""
        if not address.domain:
            return False
        if self.address is not None:
            same = address.local_part.lower() == self.address.local_part.lower()
            return same and address.key == self.domain
        return self.every or address.key == self.domain or (bool(self.below) and address.key.endswith(self.below))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AddressPattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"AddressPattern({self.text!r})"
