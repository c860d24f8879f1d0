"""What workers counted for each domain and day, from which reports are made: entries of keyed state.

Each worker has entries that only it writes; a report has the sums of all workers.

Promises: days are in UTC. An entry of another version counts as absent.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ironpost.model.keyed_state import KeyedState, Namespace

DAY: Final = 86_400
"""Seconds of a day in UTC, which one report covers."""
DOMAINS: Final = 10_000
"""Domains that a worker counts between two flushes."""
KEPT: Final = 3 * DAY
"""Seconds for which counts are kept after their last change."""


class DayOfDomain(NamedTuple):
    """One day of one domain, of which there may be a report."""

    day: int
    """Days since 1970 in UTC."""
    digest: str
    """Of the domain."""
    keys: tuple[bytes, ...]
    """The entries of the workers."""

    @property
    def start(self) -> int:
        """The first second of the day, since 1970."""
        return self.day * DAY

    @property
    def end(self) -> int:
        """The end of the day, in seconds since 1970."""
        return self.start + DAY


class DailyEntries:
    """The entries of one namespace, by day, worker and domain."""

    def __init__(self, state: KeyedState, namespace: Namespace, now: Callable[[], float], worker: int) -> None:
        """Use a namespace.

        Args:
            state: keyed state.
            namespace: for these entries only.
            now: seconds since 1970.
            worker: the number of this worker; no other may have it at the same time.
        """
        self._state = state
        self._namespace = namespace
        self._now = now
        self._worker = worker

    def today(self) -> int:
        """Return the number of the day, since 1970 in UTC."""
        return int(self._now() // DAY)

    def get(self, day: int, domain: str) -> bytes:
        """Return what this worker counted; empty if there is nothing."""
        return self._read(self._key(day, domain))[1]

    def put(self, day: int, domain: str, value: bytes) -> bool:
        """Set what this worker counted; return False, and do nothing, if that is too large."""
        value = domain.encode("ascii") + b"\n" + value
        if len(value) > self._namespace.max_value:
            return False
        self._state.put(self._namespace, self._key(day, domain), value, KEPT)
        return True

    def days(self) -> list[DayOfDomain]:
        """Return all days with entries, except today."""
        today = self.today()
        found: dict[tuple[int, str], list[bytes]] = {}
        for key in self._state.keys(self._namespace):
            day, _, digest = key.decode("ascii").split("/")
            if int(day) < today:
                found.setdefault((int(day), digest), []).append(key)
        return [DayOfDomain(day, digest, tuple(keys)) for (day, digest), keys in sorted(found.items())]

    def values(self, day: DayOfDomain) -> tuple[str, Sequence[bytes]]:
        """Return the domain, and what each worker counted. Both are empty if nothing can be read."""
        found = [self._read(key) for key in day.keys]
        return next((domain for domain, _ in found if domain), ""), [value for _, value in found if value]

    def remove(self, day: DayOfDomain) -> None:
        """Remove the entries of a day of a domain."""
        for key in day.keys:
            self._state.remove(self._namespace, key)

    def _key(self, day: int, domain: str) -> bytes:
        return f"{day}/{self._worker}/{digest_of(domain)}".encode()

    def _read(self, key: bytes) -> tuple[str, bytes]:
        entry = self._state.get(self._namespace, key)
        domain, _, value = b"".partition(b"\n") if entry is None else entry.value.partition(b"\n")
        return (domain.decode(), value) if domain.isascii() else ("", b"")


def digest_of(domain: str) -> str:
    """Return a short name of a domain: the key of an entry has at most 255 octets, and a domain alone may have 253."""
    return sha256(domain.encode()).hexdigest()[:32]
