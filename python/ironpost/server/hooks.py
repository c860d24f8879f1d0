"""What the hooks of one server run on: the pool of those that block, the tasks of those that read bodies, a watchdog.

Promises: a hook marked `@blocking` runs in one of a bounded number of threads and never on the event loop (SECURITY
R26); one that waits for a thread and is given up meanwhile is not run. Nothing here starts before it is needed: a
server without such hooks has no thread but the watchdog's. Everything is counted in `Counts`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ironpost.server.watchdog import HOLD, Watchdog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from types import CodeType

    from ironpost.protocol.server import ServerSession

THREADS: Final = 8
"""Blocking hooks that run at one time, by default."""

_MARK: Final = "_ironpost_blocking"
_log: Final = logging.getLogger("ironpost.server")

F = TypeVar("F", bound="Callable[..., Any]")


def blocking(hook: F) -> F:
    """Marks a hook that blocks (a database driver, a file on a slow disk): it runs in the server's thread pool.

    It may read the session and must not change it.

    Raises:
        TypeError: it is an `async def`, which belongs on the event loop.
    """
    if inspect.iscoroutinefunction(hook):
        raise TypeError(f"{hook.__qualname__} is an async def: @blocking is for hooks that are not")
    setattr(hook, _MARK, True)
    return hook


def blocks(hook: object) -> bool:
    """Whether the hook is marked `@blocking`."""
    return getattr(hook, _MARK, False) is True


@dataclass(slots=True)
class Counts:
    """What happened to one server's hooks since its start."""

    raised: int = 0
    """Hooks that raised, were late or answered nonsense, in sessions that have ended: 451 each."""
    pooled: int = 0
    """Calls of blocking hooks."""
    abandoned: int = 0
    """Blocking hooks that were given up: the client had gone, or they took too long."""
    running: int = 0
    """Blocking hooks that run, or wait for a thread, now."""


class Hooks:
    """One for each server."""

    def __init__(self, threads: int = THREADS, hold: float = HOLD, patience: float = 300.0) -> None:
        """
        Args:
            threads: of the pool for blocking hooks.
            hold: seconds that a hook may hold the event loop before the watchdog names it.
            patience: seconds that a data hook has for undoing.
        """
        if threads < 1:
            raise ValueError(f"{threads} threads cannot run a hook; the least is 1")
        self.counts = Counts()
        self.patience = patience
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._tasks: set[asyncio.Future[Any]] = set()
        self._names: dict[CodeType, str] = {}
        self._watchdog = Watchdog(self._names, hold)

    @property
    def holds(self) -> int:
        """Times that a hook held the event loop."""
        return self._watchdog.holds

    def name(self, hooks: Iterable[Callable[..., Any]]) -> None:
        """Tells the watchdog what to call these."""
        for hook in hooks:
            code = getattr(inspect.unwrap(hook), "__code__", None)
            if code is not None:
                self._names[code] = getattr(hook, "__qualname__", repr(hook))

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """The server starts."""
        self._watchdog.start(loop)

    async def stop(self, grace: float) -> None:
        """The connections are gone: waits for hooks that undo what they did, and cancels them after so many seconds."""
        self._watchdog.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def keep(self, task: asyncio.Future[Any]) -> None:
        """Holds a task until it is done."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def pooled(self, hook: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        """A blocking hook as one that is awaited."""
        return partial(self._run, hook)

    async def _run(self, hook: Callable[..., Any], *arguments: Any) -> Any:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "ironpost-hook")
        counts = self.counts
        counts.pooled += 1
        counts.running += 1
        try:
            # Cancelled while it waits for a thread, the call is taken back.
            return await asyncio.get_running_loop().run_in_executor(self._pool, hook, *arguments)
        except asyncio.CancelledError:
            counts.abandoned += 1
            raise
        finally:
            counts.running -= 1

    def apart(self, hook: Callable[[ServerSession], Any]) -> Callable[[ServerSession], None]:
        """A `disconnect` hook that answers later: nobody waits for it, and what it raises is counted and logged."""

        def disconnect(session: ServerSession) -> None:
            pending = hook(session)
            if asyncio.iscoroutine(pending):
                task = asyncio.ensure_future(pending)
                self.keep(task)
                task.add_done_callback(partial(_ended, session))

        return disconnect


def _ended(session: ServerSession, task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (exc := task.exception()) is not None:
        session.raised(exc)
