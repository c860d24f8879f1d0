"""The life of a server process: start in order, reload on request, stop without losing anything.

Promises: parts start in the order given and stop in the reverse order, each to its end; a part that cannot start stops
those before it and its error comes out. SIGTERM and SIGINT stop, a second one does not shorten it; SIGHUP reloads. A
reload that fails changes nothing and is logged with its reason.
Refuses: to outlive a part: one that ends by itself with an error stops the rest, and the error comes out.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

log = logging.getLogger("ironpost.supervisor")


class Part(Protocol):
    """Something that runs between `start` and `stop`."""

    def start(self) -> Awaitable[object]:
        """Done when it is ready."""
        ...

    def stop(self) -> Awaitable[object]:
        """Done when it has ended cleanly."""
        ...


class Loop:
    """A part that is one task, which ends by its own stop, or by a fault."""

    def __init__(self, start: Callable[[], asyncio.Task[None]], stop: Callable[[], Awaitable[None]]) -> None:
        """`start` makes the task, `stop` returns when it has ended."""
        self._start = start
        self.stop = stop
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Lets it run."""
        self.task = self._start()


class Supervisor:
    """Runs parts until told to stop."""

    def __init__(self, parts: Sequence[Part], reload: Callable[[], Awaitable[str]]) -> None:
        """`parts`: inner ones first. `reload` re-reads the configuration: returns a sentence or raises."""
        self._parts = parts
        self._reload = reload
        self._stop = asyncio.Event()
        self._reloads: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Asks `run` to return."""
        self._stop.set()

    async def run(self, ready: Callable[[], None]) -> None:
        """Starts everything, calls `ready`, waits for a signal or `stop`, stops everything.

        Raises:
            BaseException: what a part raised while it started or ran.
        """
        loop = asyncio.get_running_loop()
        started: list[Part] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        loop.add_signal_handler(signal.SIGHUP, self._hangup)
        try:
            for part in self._parts:
                if not await self._begun(part):
                    return
                started.append(part)
            ready()
            await self._until_stopped()
        finally:
            for part in reversed(started):
                try:
                    await part.stop()
                except Exception:
                    log.exception("a part did not stop cleanly")
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    async def _begun(self, part: Part) -> bool:
        """Starts a part; False, and the start is called off, if a signal comes before it is ready."""
        start = asyncio.ensure_future(part.start())
        asked = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([start, asked], return_when=asyncio.FIRST_COMPLETED)
            if not start.done():
                start.cancel()
                await asyncio.wait([start])
                return False
            await start
            return True
        finally:
            asked.cancel()

    async def _until_stopped(self) -> None:
        loops = [part.task for part in self._parts if isinstance(part, Loop) and part.task is not None]
        asked = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait([asked, *loops], return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        for task in done:
            if task is not asked and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def _signalled(self, number: signal.Signals) -> None:
        log.info("stopping on %s", number.name)
        self._stop.set()

    def _hangup(self) -> None:
        task = asyncio.ensure_future(self._reload_and_log())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload_and_log(self) -> None:
        try:
            log.info(await self._reload())
        except Exception as error:  # noqa: BLE001 - whatever it is, the old configuration stays and the log says why
            log.error("reload failed, the old configuration stays: %s", error)
