"""When to ask the store for work: a hint in memory, so that an idle queue costs nothing and a busy one no queries.

Promises: `wait` is 0 as soon as something that the scheduler was told of is due; it is never longer than `LOOK_AGAIN`,
so that work nobody told it of (another process's, a cancelled caller's) is found, too.
"""

from __future__ import annotations

from typing import Final

LOOK_AGAIN: Final = 300.0
"""Seconds after which the store is asked though nothing is known to be due."""


class Scheduler:
    """The earliest time at which an unclaimed recipient may be due."""

    __slots__ = ("_earliest", "_look")

    def __init__(self) -> None:
        """At start everything may be due: what an earlier run left."""
        self._earliest: float | None = 0.0
        self._look = 0.0

    def note(self, due: float) -> None:
        """Something becomes due then (seconds since 1970)."""
        if self._earliest is None or due < self._earliest:
            self._earliest = due

    def asking(self, now: float) -> None:
        """The store is about to be asked for everything due at `now`; what is noted from here counts again."""
        self._earliest = None
        self._look = now + LOOK_AGAIN

    def wait(self, now: float) -> float:
        """Seconds until the store should be asked; 0 for now."""
        next_look = self._look if self._earliest is None else min(self._earliest, self._look)
        return max(0.0, next_look - now)
