"""Handles SIGTERM, SIGINT and SIGHUP for the whole life of a server process.

Promises: before the event loop runs, when nothing is open yet, SIGTERM and SIGINT end the process with exit code 0;
during the start they cancel it; later they stop the server, and a second one has no effect. SIGHUP never ends the
process: one that arrives during the start is remembered, because the configuration may have been read already.
Limitations: while the interpreter itself starts, signals have their default effect.
"""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Self

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
"""Signals that stop the server."""
TURNS: Final = 3
"""Iterations of the event loop after which a pending signal has been read and its handler called."""

log = logging.getLogger("ironpost.supervisor")

T = TypeVar("T")


class _EarlySignals:
    """Signal handling before the event loop exists."""

    def __init__(self) -> None:
        self.hangup = False
        """Whether SIGHUP was received."""
        self.began = False
        """Whether an event loop has taken over: the process then ends by itself."""

    def stop(self, *_: object) -> None:
        if not self.began:
            os._exit(0)

    def hung_up(self, *_: object) -> None:
        self.hangup = True


_early = _EarlySignals()


def early() -> None:
    """Install signal handlers in a process that will be a server, before anything is open that needs closing."""
    for number in STOPPING:
        signal.signal(number, _early.stop)
    signal.signal(signal.SIGHUP, _early.hung_up)


class Signals:
    """Signal handling on the running event loop. A context manager; it can be entered again inside."""

    def __init__(self) -> None:
        import asyncio  # `early` does not need it and must be fast

        self._loop = asyncio.get_running_loop()
        self.stopping = asyncio.Event()
        """Set when the server is to stop."""
        self._reload: Callable[[], None] | None = None
        self._hangup = False
        self._depth = 0
        self._earlier: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._depth += 1
        if self._depth == 1:
            _early.began = True
            self._earlier = {number: signal.getsignal(number) for number in (*STOPPING, signal.SIGHUP)}
            for number in STOPPING:
                self._loop.add_signal_handler(number, self._signalled, number)
            self._loop.add_signal_handler(signal.SIGHUP, self._hung_up)
            self._hangup, _early.hangup = _early.hangup, False
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            for number, earlier in self._earlier.items():
                self._loop.remove_signal_handler(number)
                signal.signal(number, earlier)

    def reload_by(self, reload: Callable[[], None]) -> None:
        """Set the function that SIGHUP calls; call it at once if SIGHUP has already been received."""
        self._reload = reload
        if self._hangup:
            self._hung_up()

    async def unless_stopped(self, start: Coroutine[Any, Any, T]) -> T | None:
        """Run one step of the start; return its result, or None if a signal stopped it, after the step has ended."""
        import asyncio

        task = asyncio.ensure_future(start)
        asked = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait([task, asked], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        finally:
            asked.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
        # Cancelled: errors do not matter now, but the step may have completed nevertheless.
        return None if task.cancelled() or task.exception() is not None else task.result()

    async def stop_asked(self) -> bool:
        """Whether a stop signal has arrived, including one that the event loop has not read yet."""
        import asyncio

        for _ in range(TURNS):
            await asyncio.sleep(0)
        return self.stopping.is_set()

    def _signalled(self, number: signal.Signals) -> None:
        if not self.stopping.is_set():
            log.info("stopping on %s", number.name)
        self.stopping.set()

    def _hung_up(self) -> None:
        self._hangup = self._reload is None
        if self._reload is not None:
            self._reload()
