"""Sets of domains and of addresses, written as patterns.

A domain pattern is `mail.example` (that domain), `*.mail.example` (every domain below it, not itself) or `*` (every
domain, address literals included). An address pattern is `jo@mail.example`, or `*@` and a domain pattern.

Promises: case is ignored; membership costs one dictionary access and one comparison per `*.` pattern; the empty domain
(the null reverse-path, `<postmaster>`) matches nothing.
Refuses: anything else, with a ValueError that names the pattern.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ironpost.model.address import Address

EVERY: Final = "*"
"""Matches every domain, or every local part."""


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
        """The most specific kind of pattern that matches `domain` (in lower case), or None."""
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
