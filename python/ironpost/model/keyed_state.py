"""Keyed state: small values with a time to live, such as counts of failed logins or a cached policy of a domain.

All workers of a server share it, and it survives restarts. `KeyedState` is the port; `MemoryState` implements it for
one process, and `processes.shared_state` shares a `MemoryState` between workers and keeps it in a file.

Promises: reading and writing use memory only and never block, so no reply waits for a disk. Each namespace has limits
on entries and octets; beyond them the entries written longest ago are evicted, first those of a group that has more
than its share, and counted in the metric `state_evictions`. A caller reads what it wrote at once.
Limitations: it is neither a lock nor a queue. Other workers see a change a moment later; if two workers `put` the same
key at the same time, the later change wins. Concurrent increments are added in any order. A crash loses about the last
second of changes, a power failure also those that the system has not written yet, so nothing may be stored here whose
loss would lose mail.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from ironpost.model.ports import Uncounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ironpost.model.ports import Metrics

KEY_OCTETS: Final = 255
"""Maximum octets of a key; a domain name fits (RFC 1035 §2.3.4). For longer or secret names use a digest."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace of keys, with its limits."""

    name: str
    max_entries: int
    """Maximum number of entries."""
    max_value: int
    """Maximum octets of a value."""
    max_octets: int
    """Maximum octets of all keys and values together."""
    max_ttl: float
    """Maximum time to live, in seconds."""
    group: Callable[[bytes], bytes] | None = None
    """Returns the group of a key, of which one party can have any number; None if there are no groups."""
    share: int = 0
    """Maximum number of entries of a group that are not evicted before those of others."""


class Entry(NamedTuple):
    """A value that has not expired."""

    value: bytes
    ttl: float
    """Seconds until it expires."""


class KeyedState(Protocol):
    """The port to keyed state. Expiry follows the wall clock of the implementation, because entries survive restarts.

    Every method takes a registered `Namespace`, and raises KeyError for others.
    """

    def get(self, namespace: Namespace, key: bytes) -> Entry | None:
        """Return the entry of a key; None if there is none, or it has expired."""
        ...

    def put(self, namespace: Namespace, key: bytes, value: bytes, ttl: float) -> None:
        """Set the value of a key.

        Args:
            namespace: the namespace of the key.
            key: 1 to `KEY_OCTETS` octets.
            value: at most `Namespace.max_value` octets.
            ttl: seconds from now until it expires; at most `Namespace.max_ttl` is used.

        Raises:
            ValueError: the key or the value is too long.
        """
        ...

    def increment(self, namespace: Namespace, key: bytes, amount: int, ttl: float) -> int:
        """Add to the value of a key, a decimal number, and return the sum; a missing or expired one counts as 0.

        Args:
            namespace: the namespace of the key.
            key: as for `put`.
            amount: the number to add.
            ttl: as for `put`; it replaces the previous time to live.

        Raises:
            ValueError: the key is too long, or its value is not a number.
        """
        ...

    def remove(self, namespace: Namespace, key: bytes) -> None:
        """Remove the entry of a key, if there is one."""
        ...

    def keys(self, namespace: Namespace) -> Sequence[bytes]:
        """Return all keys, some of which may have expired. For small namespaces."""
        ...


class Change(NamedTuple):
    """A change of one entry, in the form that other processes apply (`MemoryState.apply`)."""

    namespace: str
    key: bytes
    value: bytes | int | None
    """The new value; an int is added to the value, None removes the entry."""
    expires: float
    """The time of expiry, in seconds since 1970."""


class StateRow(NamedTuple):
    """One entry in its stored form."""

    namespace: str
    key: bytes
    value: bytes
    expires: float
    """The time of expiry, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class StateUsage:
    """The size of a namespace."""

    namespace: str
    entries: int
    octets: int


class MemoryState:
    """Implements `KeyedState` in memory."""

    def __init__(
        self,
        namespaces: Iterable[Namespace],
        now: Callable[[], float],
        *,
        metrics: Metrics | None = None,
        changed: Callable[[Change, Sequence[bytes]], None] | None = None,
    ) -> None:
        """Start without entries.

        Args:
            namespaces: the registered namespaces.
            now: returns the time, in seconds since 1970 (`model.ports.Clock.now`).
            metrics: counts evictions.
            changed: called after each change that is made here, with the keys that it evicted; not called by `apply`.
        """
        self._tables = {each.name: _Table(each) for each in namespaces}
        self._now = now
        self._metrics = Uncounted() if metrics is None else metrics
        self._changed = changed

    def get(self, namespace: Namespace, key: bytes) -> Entry | None:
        """See `KeyedState.get`."""
        now = self._now()
        row = self._tables[namespace.name].live(key, now)
        return None if row is None else Entry(row.value, row.expires - now)

    def put(self, namespace: Namespace, key: bytes, value: bytes, ttl: float) -> None:
        """See `KeyedState.put`."""
        if len(value) > namespace.max_value:
            raise ValueError(f"{namespace.name}: a value of {len(value)} octets; maximum: {namespace.max_value}")
        self._change(namespace, key, value, ttl)

    def increment(self, namespace: Namespace, key: bytes, amount: int, ttl: float) -> int:
        """See `KeyedState.increment`."""
        return int(self._change(namespace, key, amount, ttl))

    def remove(self, namespace: Namespace, key: bytes) -> None:
        """See `KeyedState.remove`."""
        if self._tables[namespace.name].discard(key) and self._changed is not None:
            self._changed(Change(namespace.name, key, None, 0.0), ())

    def keys(self, namespace: Namespace) -> Sequence[bytes]:
        """See `KeyedState.keys`."""
        return tuple(self._tables[namespace.name].rows)

    def apply(self, change: Change) -> list[bytes]:
        """Make a change that another process made, or restore a stored entry; return the keys that it evicted."""
        table = self._tables[change.namespace]
        if change.value is None:
            table.discard(change.key)
            return []
        table.write(change, self._now())
        return table.evict()

    def row(self, namespace: str, key: bytes) -> StateRow | None:
        """Return the entry of a key with its time of expiry; None if there is none."""
        return self._tables[namespace].rows.get(key)

    def remove_expired(self, namespace: str) -> int:
        """Remove expired entries, without calling `changed`; return their number."""
        table, now = self._tables[namespace], self._now()
        expired = [key for key, row in table.rows.items() if row.expires <= now]
        for key in expired:
            table.discard(key)
        return len(expired)

    def usage(self) -> list[StateUsage]:
        """Return the size of each namespace, including expired entries."""
        return [StateUsage(name, len(table.rows), table.octets) for name, table in self._tables.items()]

    def _change(self, namespace: Namespace, key: bytes, value: bytes | int, ttl: float) -> bytes:
        if not 0 < len(key) <= KEY_OCTETS:
            raise ValueError(f"{namespace.name}: a key of {len(key)} octets; expected 1 to {KEY_OCTETS}")
        table, now = self._tables[namespace.name], self._now()
        change = Change(namespace.name, key, value, now + min(ttl, namespace.max_ttl))
        written = table.write(change, now)
        evicted = table.evict()
        if evicted:
            self._metrics.count("state_evictions", namespace.name, len(evicted))
        if self._changed is not None:
            self._changed(change, evicted)
        return written


class _Table:
    """The entries of a namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self.rows: OrderedDict[bytes, StateRow] = OrderedDict()
        """The entries, in the order of their last change."""
        self.octets = 0
        self._groups: dict[bytes, OrderedDict[bytes, None]] = {}
        """The keys of each group, in the same order."""
        self._large: set[bytes] = set()
        """The groups with more entries than the share of one."""

    def live(self, key: bytes, now: float) -> StateRow | None:
        row = self.rows.get(key)
        if row is None:
            return None
        if row.expires <= now:
            self.discard(key)
            return None
        latest = now + self._namespace.max_ttl
        if row.expires > latest:  # the wall clock was set back; that must not prolong a delay
            row = self.rows[key] = row._replace(expires=latest)
        return row

    def write(self, change: Change, now: float) -> bytes:
        _, key, value, expires = change
        if isinstance(value, int):
            old = self.live(key, now)
            value = b"%d" % (value if old is None else int(old.value) + value)
        assert value is not None
        self.discard(key)
        self.rows[key] = StateRow(self._namespace.name, key, value, expires)
        self.octets += len(key) + len(value)
        if self._namespace.group is not None:
            group = self._namespace.group(key)
            members = self._groups.setdefault(group, OrderedDict())
            members[key] = None
            if len(members) > self._namespace.share:
                self._large.add(group)
        return value

    def discard(self, key: bytes) -> bool:
        row = self.rows.pop(key, None)
        if row is None:
            return False
        self.octets -= len(key) + len(row.value)
        if self._namespace.group is not None:
            group = self._namespace.group(key)
            members = self._groups[group]
            del members[key]
            if len(members) <= self._namespace.share:
                self._large.discard(group)
            if not members:
                del self._groups[group]
        return True

    def evict(self) -> list[bytes]:
        evicted = []
        while len(self.rows) > self._namespace.max_entries or self.octets > self._namespace.max_octets:
            large = [self._groups[group] for group in self._large]
            key = next(iter(max(large, key=len) if large else self.rows))
            self.discard(key)
            evicted.append(key)
        return evicted
