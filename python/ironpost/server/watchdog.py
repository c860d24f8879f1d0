"""Detection of hooks that block the event loop, during which no client is served.

Promises: a hook that blocks the event loop for `threshold` seconds or longer is logged as a warning, with its name, the
duration and the line that it was executing. The cost is one callback every `PERIOD` seconds, and none for each command.
Limitations: a single stall shorter than `PERIOD` may be missed. The hook is not interrupted.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from types import CodeType, FrameType

THRESHOLD: Final = 0.1
"""Seconds for which the event loop may be blocked before a warning is logged, by default."""
PERIOD: Final = 0.25
"""Seconds between two checks."""

_log: Final = logging.getLogger("ironpost.server")


class Watchdog:
    """A thread that watches one event loop."""

    def __init__(self, names: dict[CodeType, str], threshold: float = THRESHOLD) -> None:
        """
        Args:
            names: the name of each hook, by its code object; may grow later.
            threshold: seconds after which a warning is logged.
        """
        self.stalls = 0
        """The number of warnings logged."""
        self._names = names
        self._threshold = threshold
        self._loop_ran = threading.Event()
        """Set by the event loop when it runs the callback of the current check."""
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread; called in the thread of the event loop."""
        self._thread = threading.Thread(
            target=self._watch, args=(loop, threading.get_ident()), name="ironpost-watchdog", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, without joining it: it may be waiting for the event loop."""
        self._stopped.set()
        self._loop_ran.set()

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        while not self._stopped.wait(PERIOD):
            self._loop_ran.clear()
            since = time.monotonic()
            try:
                loop.call_soon_threadsafe(self._loop_ran.set)
            except RuntimeError:  # the loop is closed
                return
            found = None
            while not self._loop_ran.wait(self._threshold) and not self._stopped.is_set():
                found = found or self._running_hook(sys._current_frames().get(thread))
            if found is not None:
                milliseconds = round((time.monotonic() - since) * 1000)
                _log.warning("hook %s blocked the event loop for %d ms at %s", found[0], milliseconds, found[1])
                self.stalls += 1

    def _running_hook(self, frame: FrameType | None) -> tuple[str, str] | None:
        """Return the name of the hook on the stack, and the line that it is executing; None if there is none."""
        while frame is not None:
            name = self._names.get(frame.f_code)
            if name is not None:
                return name, f"{frame.f_code.co_filename}:{frame.f_lineno}"
            frame = frame.f_back
        return None
