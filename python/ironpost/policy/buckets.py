"""Token buckets: so many in so much time, by key, and all of it at once if nothing came before.

Promises: what a key spent comes back evenly; a question costs a dictionary access; no more than `KEYS` keys are
remembered, those that were asked about last (a key that is forgotten has a full bucket). Pure: time is a port.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from ironpost.model.ports import Clock
    from ironpost.policy.settings import Quota

KEYS: Final = 100_000
"""Keys remembered (a count)."""


class Buckets:
    """One quota for any number of keys."""

    __slots__ = ("_clock", "_full", "_keys", "_quota", "_rate", "tell")

    def __init__(self, quota: Quota, clock: Clock, keys: int = KEYS) -> None:
        self._quota = quota
        self._rate = quota.many / quota.seconds
        self._clock = clock
        self._keys = keys
        self._full: OrderedDict[str, float] = OrderedDict()
        """When the bucket of a key is, or was, full: it lacks what comes until then."""
        self.tell: Callable[[str], None] | None = None
        """Called with the key of each one that is taken, for other processes with the same buckets (`spent`)."""

    def take(self, key: str) -> float:
        """Takes one from the bucket of a key. 0, or the seconds after which there is one again; then none is taken."""
        now = self._clock.monotonic()
        full = max(now, self._full.get(key, now)) + 1 / self._rate
        wait = full - now - self._quota.seconds
        if wait > 1e-9:  # what division leaves behind
            return wait
        self._set(key, full)
        if self.tell is not None:
            self.tell(key)
        return 0.0

    def spent(self, key: str, count: int) -> None:
        """So many were taken elsewhere."""
        now = self._clock.monotonic()
        self._set(key, max(now, self._full.get(key, now)) + count / self._rate)

    def _set(self, key: str, full: float) -> None:
        self._full[key] = full
        self._full.move_to_end(key)
        if len(self._full) > self._keys:
            self._full.popitem(last=False)
