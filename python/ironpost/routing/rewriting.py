"""Address rewriting: other addresses for those of some mail, in the envelope and in the header section.

Promises: the first rule that matches an address decides. If it matched by the domain, its result is looked up once
more, among single addresses; there is no third lookup, so there are no loops. `conflict` finds rules whose result would
change the next time; without a conflict, rewriting twice is the same as once. The null reverse-path and `<postmaster>`
are never rewritten, nor is an address whose new form would be too long. In the header section only the octets of
addresses change (`message.address_list`). That of mail from clients that are neither authenticated nor trusted changes
by rules for all clients only, because its signatures break (RFC 6376).
Standards: RFC 5322 §3.6.2, §3.6.3 and §3.6.6 (the fields); RFC 6409 §8.8 (rewriting).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost import wire
from ironpost.message.address_list import replaced
from ironpost.model import Address
from ironpost.model.network import LOOPBACK
from ironpost.routing.directory import redirected

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ironpost.message.section import Header
    from ironpost.model import Envelope, Origin, Recipient
    from ironpost.model.network import Network
    from ironpost.model.patterns import AddressPattern


class Place(Enum):
    """Where an address can be."""

    REVERSE_PATH = "reverse-path"
    FORWARD_PATH = "forward-path"
    ORIGINATOR_FIELDS = "originator-fields"
    """From, Sender and Reply-To (RFC 5322 §3.6.2), and the same of Resent."""
    DESTINATION_FIELDS = "destination-fields"
    """To, Cc and Bcc (RFC 5322 §3.6.3), and the same of Resent."""


FIELDS: Final[Mapping[str, Place]] = {
    prefix + name: place
    for place, names in (
        (Place.ORIGINATOR_FIELDS, ("from", "sender", "reply-to")),
        (Place.DESTINATION_FIELDS, ("to", "cc", "bcc")),
    )
    for name in names
    for prefix in ("", "resent-")
}
"""The place that each header field is, by its name in lower case."""


QUICK: Final = 16 * 1024
"""Octets of the largest header section that is rewritten on the event loop; it takes some milliseconds."""
ENVELOPE: Final = frozenset({Place.REVERSE_PATH, Place.FORWARD_PATH})
"""The places that are not in the header section."""


class Rewritten(NamedTuple):
    """One address that was replaced."""

    place: Place
    before: Address
    after: Address
    rules: tuple[str, ...]
    """The names of the rules that did it."""

    def __str__(self) -> str:
        return f"{self.place.value}: {self.before} becomes {self.after} by {' and '.join(self.rules)}"


@dataclass(frozen=True, slots=True)
class RewriteRule:
    """One rule."""

    addresses: tuple[AddressPattern, ...]
    domain: str
    """The new domain."""
    local_part: str = ""
    """The new local part; empty to keep it."""
    places: frozenset[Place] = frozenset(Place)
    exceptions: frozenset[str] = frozenset()
    """Local parts in lower case whose addresses the rule does not match."""
    all_clients: bool = False
    """Whether it also changes the header section of mail from clients that are neither authenticated nor trusted."""
    name: str = "rule"

    def result(self, address: Address) -> Address:
        """The new address; the same if it would be too long."""
        try:
            return Address(self.local_part or address.local_part, self.domain)
        except wire.WireFault:
            return address


class Rewriting:
    """The rules that apply at one point of a message's way, in order.

    Rules for single addresses cost one dictionary access together; those for domains are tried in order.
    """

    def __init__(self, rules: Sequence[RewriteRule], trusted: tuple[Network, ...] = LOOPBACK) -> None:
        """`trusted`: networks whose clients' mail has its header section rewritten without authentication."""
        self._trusted = trusted
        self._single: dict[tuple[Place, str, str], tuple[int, RewriteRule]] = {}
        """The first rule for each single address, with its position."""
        self._by_domain: list[tuple[int, RewriteRule, AddressPattern]] = []
        for position, rule in enumerate(rules):
            for pattern in rule.addresses:
                if pattern.address is None:
                    self._by_domain.append((position, rule, pattern))
                elif pattern.address.local_part.lower() not in rule.exceptions:
                    for place in rule.places:
                        self._single.setdefault(_key(place, pattern.address), (position, rule))
        self._all_clients = any(rule.all_clients for rule in rules)
        self._fields = {name: place for name, place in FIELDS.items() if any(place in rule.places for rule in rules)}

    def find(self, place: Place, address: Address, *, own: bool = True) -> Rewritten | None:
        """The new address instead of another in that place; None if it stays.

        `own`: see `header`; it concerns header fields only.
        """
        first, rule = self._single.get(_key(place, address), (None, None))
        by_domain = next(self._matches(place, address, first), None)
        rule = by_domain or rule
        if rule is None or not (own or rule.all_clients or place in ENVELOPE):
            return None
        new, names = rule.result(address), [rule.name]
        if by_domain is not None and (second := self._single.get(_key(place, new))) is not None:
            new = second[1].result(new)
            names.append(second[1].name)
        same = (new.local_part, new.domain) == (address.local_part, address.domain)
        return None if same else Rewritten(place, address, new, tuple(names))

    def _matches(self, place: Place, address: Address, before: int | None) -> Iterator[RewriteRule]:
        """The rules that match by the domain, up to a position."""
        for position, rule, pattern in self._by_domain:
            if before is not None and position >= before:
                return
            if place in rule.places and pattern.matches(address) and address.local_part.lower() not in rule.exceptions:
                yield rule

    def envelope(self, envelope: Envelope, changes: list[Rewritten]) -> Envelope:
        """The envelope of a message that arrives; what is replaced in it is added to `changes`.

        Recipients that become equal are one; each keeps the address of RCPT, as below an alias.
        """
        before = len(changes)
        if (found := self.find(Place.REVERSE_PATH, envelope.reverse_path)) is not None:
            changes.append(found)
            envelope = envelope._replace(reverse_path=found.after)
        recipients: dict[Address, Recipient] = {}
        for recipient in envelope.recipients:
            if (found := self.find(Place.FORWARD_PATH, recipient.address)) is not None:
                changes.append(found)
                recipient = redirected(recipient, found.after)
            recipients.setdefault(recipient.address, recipient)
        if any(each.place is Place.FORWARD_PATH for each in changes[before:]):
            envelope = envelope._replace(recipients=tuple(recipients.values()))
        return envelope

    def is_own(self, origin: Origin) -> bool:
        """Whether the header section of a message is rewritten by all rules (`Origin.is_own`)."""
        return origin.is_own(self._trusted)

    def changes_headers(self, *, own: bool) -> bool:
        """Whether `header` can change anything."""
        return bool(self._fields) and (own or self._all_clients)

    def header(self, header: Header, changes: list[Rewritten], *, own: bool) -> bytes:
        """The octets of a header section, the same object if nothing was replaced; what was is added to `changes`.

        `own`: the result of `is_own`; if it is false, only rules for all clients apply.
        """
        before = len(changes)
        octets = header.octets
        pieces: list[bytes] = []
        at = 0
        for entry in header.section.fields:
            place = self._fields.get(entry.name.lower())
            if place is None:
                continue
            change = partial(self._change, changes, place, own)
            pieces.append(octets[at : entry.value])
            pieces.append(replaced(octets[entry.start : entry.value], octets[entry.value : entry.end], change))
            at = entry.end
        return b"".join((*pieces, octets[at:])) if len(changes) > before else octets

    def _change(self, changes: list[Rewritten], place: Place, own: bool, address: Address) -> Address | None:
        found = self.find(place, address, own=own)
        if found is None:
            return None
        changes.append(found)
        return found.after


def _key(place: Place, address: Address) -> tuple[Place, str, str]:
    return place, address.local_part.lower(), address.key


def conflict(rules: Sequence[RewriteRule]) -> str:
    """A sentence about an address whose new form would change the next time; empty if there is none."""
    rewriting = Rewriting(rules)
    for place, (local_part, domain) in product(Place, _telling(rules)):
        try:
            found = rewriting.find(place, Address(local_part, domain))
        except wire.WireFault:  # there can be no such address
            continue
        again = None if found is None else rewriting.find(place, found.after)
        if found is not None and again is not None:
            return f"{found}, and the next time {again.after} by {' and '.join(again.rules)}"
    return ""


def _telling(rules: Sequence[RewriteRule]) -> list[tuple[str, str]]:
    """Addresses that show how the rules treat all others, sorted.

    By domain, rules tell only exceptions from other local parts. The local part of a single address counts in the
    domain of that address, and in those that a rule turns into it.
    """
    patterns = [(pattern, rule) for rule in rules for pattern in rule.addresses]
    names = {"any-name"}.union(*(rule.exceptions for rule in rules))
    domains = {rule.domain for rule in rules}
    domains.update(pattern.domain or f"any-host{pattern.below or '.invalid'}" for pattern, _ in patterns)
    sources: dict[str, set[str]] = {}
    """The domains that become a domain."""
    for pattern, rule in patterns:
        if pattern.address is None:
            matched = (domain for domain in domains if pattern.matches(Address("any-name", domain)))
            sources.setdefault(rule.domain.lower(), set()).update(matched)
    found = set(product(names, domains))
    for pattern, _ in patterns:
        if (single := pattern.address) is not None:
            found.update((single.local_part, domain) for domain in (single.domain, *sources.get(single.key, ())))
    return sorted(found)
