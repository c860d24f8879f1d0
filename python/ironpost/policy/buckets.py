"""Token buckets: a quota of tokens per period for each key. A full bucket may be emptied at once.

Promises: a bucket refills evenly; taking a token costs one dictionary access; at most `KEYS` keys are remembered, the
most recently used ones (a forgotten key has a full bucket). Pure: time is a port.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from ironpost.model.ports import Clock
    from ironpost.policy.options import Quota

KEYS: Final = 100_000
"""Maximum number of keys remembered."""


class Buckets:
    """One quota for any number of keys."""

    __slots__ = ("_clock", "_full", "_keys", "_quota", "_rate", "on_take")

    def __init__(self, quota: Quota, clock: Clock, keys: int = KEYS) -> None:
        self._quota = quota
        self._rate = quota.many / quota.seconds
        self._clock = clock
        self._keys = keys
        self._full: OrderedDict[str, float] = OrderedDict()
        """Key to the time at which its bucket is full again (`Clock.monotonic`)."""
        self.on_take: Callable[[str], None] | None = None
        """Called with the key of each token taken, to notify other processes that share the buckets (`spent`)."""

    def take(self, key: str) -> float:
        """Take a token from the bucket of a key. Returns 0, or, if there is none, the seconds until there is one."""
        now = self._clock.monotonic()
        full = max(now, self._full.get(key, now)) + 1 / self._rate
        wait = full - now - self._quota.seconds
        if wait > 1e-9:  # rounding error of the division
            return wait
        self._set(key, full)
        if self.on_take is not None:
            self.on_take(key)
        return 0.0

    def give_back(self, key: str) -> None:
        """Put back a token that was taken for nothing. Other processes that share the buckets are not notified."""
        full = self._full.get(key)
        if full is not None:
            self._full[key] = full - 1 / self._rate

    def spent(self, key: str, count: int) -> None:
        """Take `count` tokens that another process has granted."""
        now = self._clock.monotonic()
        self._set(key, max(now, self._full.get(key, now)) + count / self._rate)

    def _set(self, key: str, full: float) -> None:
        self._full[key] = full
        self._full.move_to_end(key)
        if len(self._full) > self._keys:
            self._full.popitem(last=False)
