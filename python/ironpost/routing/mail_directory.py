"""The directory of a mail server: local domains, relay domains, and the mailboxes and aliases of its sources.

Promises: an address of a local domain is looked up in this order: the address itself; without its detail (`jo` for
`jo+news`); in the listed addresses; by the patterns, in order; the catch-all of its domain. The first result decides,
and of several sources the first that has a record. If that is a mailbox with a forward file, the targets in it decide.
`postmaster` and `abuse` exist in every local domain, and no list of a relay domain excludes them. A directory without
sources and without a list has every address of its domains. The reason of an entry gives the whole derivation.
Without I/O in a source, `find` returns the entry itself.

ASCII local parts are compared without regard to case, others in NFC and never folded further.
Standards: RFC 5321 §3.7 (relaying), §4.5.1 (postmaster); RFC 2142 §4 (abuse), §5 (postmaster).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar, cast
from unicodedata import normalize

from ironpost import wire
from ironpost.model import Address
from ironpost.routing.directory import (
    DISABLED,
    POSTMASTER,
    Alias,
    Closed,
    Mailbox,
    NotLocal,
    Relayed,
    Unknown,
    close_awaitable,
)

T = TypeVar("T")

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence
    from typing import TypeAlias

    from ironpost.model.address import AddressOrDomain
    from ironpost.model.patterns import Addresses, Domains
    from ironpost.routing.alias_patterns import AliasPattern
    from ironpost.routing.directory import Entry
    from ironpost.routing.records import Record, RecordSource

    Lookup: TypeAlias = Generator[Awaitable[Record | None], Record | None, T]
    """A search that yields what it must await, and is sent the result."""

ROLES: Final = frozenset({POSTMASTER, "abuse"})
"""Local parts that exist in every local domain, and whose mail no record may refuse."""


def key_of(address: Address | AddressOrDomain) -> str:
    """The key of an address in the sources, `jo@mail.example`, without quotes; of a catch-all, `@mail.example`."""
    return f"{folded(address.local_part or '')}@{address.key}"


def is_role(key: str) -> bool:
    """Whether a key is that of a local part in `ROLES`."""
    return key.rpartition("@")[0] in ROLES


def folded(name: str) -> str:
    """The form in which a local part or a login name is compared."""
    name = normalize("NFC", name)
    return name.lower() if name.isascii() else name


class RelayDomains(NamedTuple):
    """Domains of another system for which mail is accepted from any client."""

    domains: Domains
    recipients: Addresses | None = None
    """The addresses that exist there, besides those of the sources; None for all, or for all that `verifier` knows."""
    name: str = "relay"
    """Its name in reasons."""
    verifier: RecordSource | None = None
    """Knows the addresses that neither `recipients` nor a source lists; see `routing.directory.Relayed`."""
    accept_unverified: bool = False
    """Accept an address if the verifier cannot answer."""


class MailDirectory:
    """Implements `routing.directory.Directory`."""

    __slots__ = (
        "_forward_file", "_listed", "_local", "_patterns", "_postmaster", "_relay", "_separator", "_sources",
        "has_aliases",
    )  # fmt: skip

    def __init__(
        self,
        local: Domains,
        sources: Sequence[RecordSource] = (),
        *,
        patterns: Sequence[AliasPattern] = (),
        listed: Addresses | None = None,
        relay: Sequence[RelayDomains] = (),
        separator: str = "",
        postmaster: Address | None = None,
        forward_file: Callable[[Address], Awaitable[Record | None]] | None = None,
        has_aliases: bool = True,
    ) -> None:
        """Create the directory.

        Args:
            local: the domains whose mail is delivered here.
            sources: mailboxes and aliases, tried in this order for each key.
            patterns: aliases of addresses that match.
            listed: more addresses that exist; None: every address exists if there are no sources and patterns either.
            relay: domains of other systems that are relayed for any client.
            separator: characters that may separate a local part from its detail; empty for none.
            postmaster: where mail for `postmaster` and `abuse` goes; None: into a mailbox of that address, or to the
                catch-all.
            forward_file: reads the forward file of a mailbox: the targets, and whether a copy is kept.
            has_aliases: whether a source may have aliases; with patterns or forward files there are.
        """
        self._local = local
        self._sources = tuple(sources)
        self._patterns = tuple(patterns)
        self._listed = listed
        self._relay = tuple(relay)
        self._separator = separator
        self._postmaster = postmaster
        self._forward_file = forward_file
        self.has_aliases = has_aliases or bool(patterns) or postmaster is not None or forward_file is not None

    def find(self, address: Address, /) -> Entry | Awaitable[Entry]:
        """See `routing.directory.Directory`."""
        return _run(self._find(address))

    def _find(self, address: Address) -> Lookup[Entry]:
        entry = yield from self._find_listed(address)
        if self._forward_file is None or not isinstance(entry, Mailbox) or entry.address is None:
            return entry
        record = yield self._forward_file(entry.address)
        if record is None or not record.targets:
            return entry
        return _redirected(address, record, entry._replace(reason=f"{entry.reason}; forwarded by {record.where}"))

    def _find_listed(self, address: Address) -> Lookup[Entry]:
        domain = address.key
        if not domain:
            return self._own_postmaster()
        local = self._local.match(domain)
        if local is None:
            return (yield from self._find_elsewhere(address))
        where = f"{domain} is local" if local == domain else f"{domain} is local by {local}"
        key = key_of(address)
        record = yield from self._record(key)
        if record is not None:
            return _entry(address, key, record, f"{where}; {key}: {record.where}")
        local_part = key[: -len(domain) - 1]
        bare, detail = self._without_detail(local_part)
        base = f"{bare}@{domain}" if detail else key
        if detail and (record := (yield from self._record(base))) is not None:
            return _entry(address, base, record, f"{where}; {base} with the detail {detail}: {record.where}", detail)
        if local_part in ROLES and self._postmaster is not None and key != key_of(self._postmaster):
            return Alias((self._postmaster,), f"{where}; {local_part} goes to {self._postmaster} (local.postmaster)")
        if (mailbox := self._listed_mailbox(address, base, detail, where)) is not None:
            return mailbox
        for pattern in self._patterns:
            if (record := pattern.record(key)) is not None:
                return _entry(address, key, record, f"{where}; {key} is not listed; it matches {record.where}")
        if (record := (yield from self._record(f"@{domain}"))) is not None:
            return _entry(address, key, record, f"{where}; {key} is not listed; @{domain}: {record.where}")
        if local_part in ROLES:
            return Mailbox(f"{where}; {local_part} always exists", _mailbox(address, key))
        return Unknown(f"{where}, and {key} is not listed")

    def _own_postmaster(self) -> Entry:
        """The entry of <postmaster>, which is this system's (RFC 5321 §4.5.1)."""
        reason = "<postmaster> without a domain is local"
        if self._postmaster is None:
            return Mailbox(reason)
        return Alias((self._postmaster,), f"{reason}; it goes to {self._postmaster} (local.postmaster)")

    def _listed_mailbox(self, address: Address, base: str, detail: str, where: str) -> Mailbox | None:
        """The mailbox of an address that exists without a record; None if it does not."""
        mailbox = _mailbox(address, base)
        if self._listed is None:
            return None if self._sources or self._patterns else Mailbox(where, mailbox, detail)
        if mailbox in self._listed:
            return Mailbox(f"{where}; {base} is listed", mailbox, detail)
        if detail and address in self._listed:
            return Mailbox(f"{where}; {address} is listed", address)
        return None

    def _find_elsewhere(self, address: Address) -> Lookup[Entry]:
        domain = address.key
        for relay in self._relay:
            pattern = relay.domains.match(domain)
            if pattern is None:
                continue
            where = f"{domain} is a relay domain by {relay.name}"
            key = key_of(address)
            record = yield from self._record(key)
            if record is not None and record.targets:
                return _entry(address, key, record, f"{where}; {key}: {record.where}")
            if record is not None and record.disabled:
                return Closed(f"{where}; {key} is disabled: {record.where}", DISABLED)
            if record is not None:
                return Relayed(f"{where}; {key}: {record.where}")
            if relay.recipients is not None and address in relay.recipients:
                return Relayed(f"{where}; {key} is listed")
            if relay.verifier is not None or relay.recipients is None:
                return Relayed(where, relay.verifier, relay.accept_unverified)
            if is_role(key):
                return Relayed(f"{where}; {address.local_part} is accepted although it is not listed")
            return Unknown(f"{where}, and {key} is not listed", relayed=True)
        return NotLocal(f"{domain} is not local")

    def _without_detail(self, local_part: str) -> tuple[str, str]:
        """Divide a local part at its first separator; the detail is empty if there is none."""
        found = [at for character in self._separator if (at := local_part.find(character, 1)) > 0]
        if not found:
            return local_part, ""
        at = min(found)
        return local_part[:at], local_part[at + 1 :]

    def _record(self, key: str) -> Lookup[Record | None]:
        for source in self._sources:
            found = source.lookup(key)
            record = found if found is None or isinstance(found, tuple) else (yield found)
            if record is not None:
                return record
        return None


def _entry(address: Address, base: str, record: Record, reason: str, detail: str = "") -> Entry:
    """The entry of an address for which a source has a record.

    Args:
        address: as it was looked up.
        base: the key of its mailbox.
        record: the record.
        reason: the derivation.
        detail: what follows the separator.
    """
    if record.disabled:  # it keeps no copy, even if it is among its own targets
        others = tuple(target for target in record.targets if key_of(target) != base)
        record = record._replace(targets=others, keep=False)
    mailbox = Mailbox(reason, _mailbox(address, base), detail, record.quota, record.senders)
    if record.targets:
        return _redirected(address, record, mailbox)
    return Closed(f"{reason}, disabled", DISABLED) if record.disabled else mailbox


def _redirected(address: Address, record: Record, mailbox: Mailbox) -> Alias:
    """The entry of an address whose record has targets; `mailbox` takes the copy that may be kept."""
    base = key_of(mailbox.address or address)
    itself = any(key_of(target) == base for target in record.targets)
    if not (record.keep or itself):
        return Alias(record.targets, mailbox.reason, senders=mailbox.senders, disabled=record.disabled)
    targets = record.targets if itself else (*record.targets, address)
    return Alias(targets, f"{mailbox.reason}, with a copy in the mailbox", mailbox, mailbox.senders)


def _mailbox(address: Address, key: str) -> Address:
    """The address of the mailbox with that key; the one that was looked up if it is the same."""
    local_part = key[: -len(address.key) - 1]
    if local_part == address.local_part and address.key == address.domain:
        return address
    return Address.of(wire.Mailbox(local_part, address.key))


def _run(search: Lookup[T]) -> T | Awaitable[T]:
    """Return the result of a search; an awaitable if a source needs I/O."""
    try:
        pending = next(search)
    except StopIteration as found:
        return cast("T", found.value)
    return PendingSearch(search, pending)


class PendingSearch(Generic[T]):
    """A search that waits for a source: await it, or close it."""

    __slots__ = ("_pending", "_search")

    def __init__(self, search: Lookup[T], pending: Awaitable[Record | None]) -> None:
        self._search = search
        self._pending = pending

    def __await__(self) -> Generator[Any, None, T]:
        """Return the result."""
        while True:
            record = yield from self._pending.__await__()
            try:
                self._pending = self._search.send(record)
            except StopIteration as found:
                return cast("T", found.value)

    def close(self) -> None:
        """Give it up, before it was awaited."""
        close_awaitable(self._pending)
