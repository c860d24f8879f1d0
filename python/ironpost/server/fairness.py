"""Fairness between connections: bounds the large reads and the closed connections handled in one event-loop iteration.

An event loop reads from a socket as long as data is available, several megabytes from a fast client, and does so for
every socket in one iteration. Fifty such clients blocked it for a second, and delayed every other client by as much.
Ten thousand connections that are reset at once cause the same problem: each has a `disconnect` hook to call.

Promises: callbacks run in the order in which they were added, at most `limit` in each iteration. Nothing is scheduled
while the queue is empty.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

LARGE: Final = 128 * 1024
"""Octets from which a read counts as large and is queued: half of what an event loop reads at once, so more input is
likely to follow."""
READS: Final = 4
"""Large reads handled in one iteration: one or two milliseconds of work if each has the 256 KiB of an event loop."""
DEFERRED_READS: Final = 128
"""Maximum number of queued large reads, 32 MiB in total; further ones are handled at once."""
CLOSES: Final = 100
"""Closed connections handled in one iteration: one or two milliseconds of work."""


class CallQueue:
    """A queue of callbacks, of which a limited number runs in each iteration of the event loop."""

    __slots__ = ("_callbacks", "_limit", "_loop", "_scheduled")

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int) -> None:
        """
        Args:
            loop: runs the callbacks.
            limit: maximum number of callbacks in one iteration, at least 1.
        """
        self._loop = loop
        self._limit = limit
        self._callbacks: deque[Callable[[], None]] = deque()
        self._scheduled = False

    def __len__(self) -> int:
        """Return the number of callbacks that have not run yet."""
        return len(self._callbacks)

    def add(self, callback: Callable[[], None]) -> None:
        """Run `callback` in one of the next iterations; at once if the loop is closed."""
        if self._loop.is_closed():
            callback()
            return
        self._callbacks.append(callback)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        callbacks = self._callbacks
        try:
            for _ in range(min(self._limit, len(callbacks))):
                callbacks.popleft()()
        finally:  # one that raises must not stop those after it
            self._scheduled = bool(callbacks)
            if self._scheduled:
                self._loop.call_soon(self._run)
