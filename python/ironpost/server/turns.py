"""Turns: whoever sends much waits until the others had theirs.

An event loop reads from a socket for as long as it has something, several megabytes if the client is fast, and does so
for every socket in one turn; fifty such clients held it for a second, and with it everybody who sends one command.

Promises: in one turn of the loop `PIECES` large pieces are worked on, those that came first first; a connection whose
piece waits is not read meanwhile. What is kept waiting is bounded by `KEPT`.
Costs: one call of the loop for each turn in which somebody waits; nothing for those who send little.
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


class Turns:
    """The queue of one server."""

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
