"""Lifecycle of a server process: ordered start, reload on request, orderly stop.

Promises: components start in the order given and stop in reverse order, each completely before the next. If a component
fails to start, those started before it are stopped and its error is raised. SIGTERM and SIGINT stop the server; a
second signal does not shorten the stop, and one during the start cancels the start. SIGHUP reloads once the start is
complete. A reload that fails changes nothing and is logged with its reason. A component that ends by itself with an
error stops the others, and its error is raised.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from ironpost.processes.signals import Signals

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

log = logging.getLogger("ironpost.supervisor")


class Component(Protocol):
    """A part of the system with `start` and `stop`."""

    def start(self) -> Awaitable[object]:
        """Start; return when it is ready."""
        ...

    def stop(self) -> Awaitable[object]:
        """Stop; return when it has ended."""
        ...


class PeriodicLoop:
    """A component that consists of one task, which runs until it is stopped or raises."""

    def __init__(self, start: Callable[[], asyncio.Task[None]], stop: Callable[[], Awaitable[None]]) -> None:
        """Create the component. `start` creates the task; `stop` returns when it has ended."""
        self._start = start
        self.stop = stop
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Create the task."""
        self.task = self._start()


class Supervisor:
    """Runs components until a signal or `stop`."""

    def __init__(
        self, parts: Sequence[Component], reload: Callable[[], Awaitable[str]], signals: Signals | None = None
    ) -> None:
        """Create a supervisor; `run` starts the components.

        Args:
            parts: the components, in the order of their start.
            reload: rereads the configuration; returns a sentence for the log, or raises.
            signals: the signal handling that the caller has already entered; None to create it in `run`.
        """
        self._parts = parts
        self._reload = reload
        self._signals = signals
        self._asked = False
        self._reloads: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Ask `run` to return."""
        self._asked = True
        if self._signals is not None:
            self._signals.stopping.set()

    async def run(self, ready: Callable[[], None]) -> None:
        """Start all components, call `ready`, wait for a signal or `stop`, then stop all.

        Raises:
            BaseException: raised by a component during its start or run.
        """
        self._signals = signals = self._signals or Signals()
        if self._asked:
            signals.stopping.set()
        started: list[Component] = []
        with signals:
            try:
                for part in self._parts:
                    if not await self._start(part, signals):
                        return
                    started.append(part)
                if await signals.stop_asked():
                    return
                ready()
                signals.reload_by(self._hangup)
                await self._until_stopped(signals)
            finally:
                for part in reversed(started):
                    try:
                        await part.stop()
                    except Exception:
                        log.exception("a component did not stop cleanly")

    async def _start(self, part: Component, signals: Signals) -> bool:
        """Start a component; return False if a signal stopped the start before it was ready."""
        return await signals.unless_stopped(_started(part)) is not None

    async def _until_stopped(self, signals: Signals) -> None:
        loops = [part.task for part in self._parts if isinstance(part, PeriodicLoop) and part.task is not None]
        asked = asyncio.create_task(signals.stopping.wait())
        done, _ = await asyncio.wait([asked, *loops], return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        for task in done:
            if task is not asked and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def _hangup(self) -> None:
        task = asyncio.ensure_future(self._reload_and_log())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload_and_log(self) -> None:
        try:
            log.info(await self._reload())
        except Exception as error:  # noqa: BLE001 - after any error the old configuration stays in effect
            log.error("reload failed; the old configuration stays in effect: %s", error)


async def _started(part: Component) -> bool:
    await part.start()
    return True
