"""Turns: whoever sends much waits until the others had theirs, and so does who is gone when many go at once.

An event loop reads from a socket for as long as it has something, several megabytes if the client is fast, and does so
for every socket in one turn; fifty such clients held it for a second, and with it everybody who sends one command.

Promises: in one turn of the loop `PIECES` large pieces are worked on, those that came first first; a connection whose
piece waits is not read meanwhile. What is kept waiting is bounded by `KEPT`. And the ends of `PARTINGS` connections are
written down in one turn: ten thousand that are cut off together do not hold the others up.
Costs: one call of the loop for each turn in which somebody waits or goes; nothing for those who send little.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

    from ironpost.server.connection import Connection

LARGE: Final = 128 * 1024
"""Octets of one read from which on it is a large piece: half of what a loop reads at once, so more will come."""
PIECES: Final = 4
"""Large pieces (a count) in one turn: of 256 KiB each, as loops read them, one or two milliseconds of work."""
KEPT: Final = 128
"""Pieces (a count) that may wait: 32 MiB. Beyond it a piece is worked on as it comes."""
PARTINGS: Final = 100
"""Connections (a count) whose end is written down in one turn: one or two milliseconds of work."""


class Turns:
    """The queue of one server's large pieces."""

    __slots__ = ("_loop", "_running", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Connection] = deque()
        self._running = False

    @property
    def full(self) -> bool:
        """No more pieces may wait."""
        return len(self._waiting) >= KEPT

    def wait(self, connection: Connection) -> None:
        """Calls its `take_turn` when it is its turn."""
        self._waiting.append(connection)
        if not self._running:
            self._running = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        waiting = self._waiting
        for _ in range(min(PIECES, len(waiting))):
            waiting.popleft().take_turn()
        self._running = bool(waiting)
        if self._running:
            self._loop.call_soon(self._turn)


class Partings:
    """The queue of one server's connections that are gone."""

    __slots__ = ("_done", "_loop", "_running", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Connection] = deque()
        self._done = 0
        """In this turn."""
        self._running = False

    def end(self, connection: Connection) -> None:
        """Calls its `part`, at once unless many went in this turn."""
        if self._done < PARTINGS:
            self._done += 1
            connection.part()
        else:
            self._waiting.append(connection)
        if not self._running and not self._loop.is_closed():
            self._running = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        waiting = self._waiting
        self._done = min(PARTINGS, len(waiting))
        for _ in range(self._done):
            waiting.popleft().part()
        self._running = self._done > 0
        if self._running:
            self._loop.call_soon(self._turn)
