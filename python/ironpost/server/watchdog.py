"""Names the hook that holds the event loop: while it does, no client is served.

Promises: a hook that keeps the loop from turning for `hold` seconds or longer is named in a warning, with the
milliseconds and the line where it stood; it costs a turn of the loop every `PERIOD` seconds and nothing a command. A
hold that is shorter than `PERIOD` may be missed, one that is repeated will not be for long. Nobody is interrupted.
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

HOLD: Final = 0.1
"""Seconds without a turn of the loop that are worth a word."""
PERIOD: Final = 0.25
"""Seconds between two looks."""

_log: Final = logging.getLogger("ironpost.server")


class Watchdog:
    """A thread that looks after one event loop."""

    def __init__(self, names: dict[CodeType, str], hold: float = HOLD) -> None:
        """
        Args:
            names: code of each hook to what a warning calls it.
            hold: in seconds.
        """
        self.holds = 0
        """Times that a hook held the loop."""
        self._names = names
        self._hold = hold
        self._turned = threading.Event()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to watch; called in the loop's own thread."""
        self._thread = threading.Thread(
            target=self._watch, args=(loop, threading.get_ident()), name="ironpost-watchdog", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Ends. Does not wait: the thread may wait for the loop itself."""
        self._over.set()
        self._turned.set()

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        while not self._over.wait(PERIOD):
            self._turned.clear()
            since = time.monotonic()
            try:
                loop.call_soon_threadsafe(self._turned.set)
            except RuntimeError:  # the loop is closed
                return
            found = None
            while not self._turned.wait(self._hold) and not self._over.is_set():
                found = found or self._holder(sys._current_frames().get(thread))
            if found is not None:
                _log.warning("hook %s held the event loop for %d ms at %s", found[0], _since(since), found[1])
                self.holds += 1

    def _holder(self, frame: FrameType | None) -> tuple[str, str] | None:
        """The hook on the stack, and where it stands."""
        while frame is not None:
            name = self._names.get(frame.f_code)
            if name is not None:
                return name, f"{frame.f_code.co_filename}:{frame.f_lineno}"
            frame = frame.f_back
        return None


def _since(moment: float) -> int:
    return round((time.monotonic() - moment) * 1000)
