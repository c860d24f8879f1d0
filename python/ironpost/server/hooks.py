"""Execution of one server's hooks: a thread pool for blocking hooks, tasks for streaming hooks, and a watchdog.

Promises: a hook marked `@blocking` runs in one of a bounded number of threads and never on the event loop (SECURITY
R26); if it is abandoned before a thread is free, it does not run. The pool is created on first use, so a server without
blocking hooks has only the watchdog's thread. `HookCounts` counts calls and failures.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ironpost.server.watchdog import THRESHOLD, Watchdog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from types import CodeType

    from ironpost.protocol.server.session import ServerSession

THREADS: Final = 8
"""Default size of the thread pool for blocking hooks."""

_log: Final = logging.getLogger("ironpost.server")


@dataclass(slots=True)
class HookCounts:
    """Counts of one server's hooks since its start."""

    raised: int = 0
    """Hooks that raised, timed out or returned an invalid result, in sessions that have ended; each was replied to with
    451."""
    pooled: int = 0
    """Calls of blocking hooks."""
    abandoned: int = 0
    """Blocking hooks that were abandoned, because the client disconnected or they timed out."""
    running: int = 0
    """Blocking hooks that are running or waiting for a thread now."""


class Hooks:
    """Runs the hooks of one server."""

    def __init__(self, threads: int = THREADS, threshold: float = THRESHOLD, cleanup_timeout: float = 300.0) -> None:
        """
        Args:
            threads: size of the thread pool for blocking hooks.
            threshold: seconds for which a hook may block the event loop before the watchdog logs its name.
            cleanup_timeout: seconds for a `data` hook to undo its work after its body was lost.

        Raises:
            ValueError: `threads` is less than 1.
        """
        if threads < 1:
            raise ValueError(f"threads is {threads}; the minimum is 1")
        self.counts = HookCounts()
        self.cleanup_timeout = cleanup_timeout
        """See `server.body`."""
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._tasks: set[asyncio.Future[Any]] = set()
        self._names: dict[CodeType, str] = {}
        self._watchdog = Watchdog(self._names, threshold)

    @property
    def stalls(self) -> int:
        """How often a hook blocked the event loop for longer than the threshold."""
        return self._watchdog.stalls

    def add_names(self, hooks: Iterable[Callable[..., Any]]) -> None:
        """Let the watchdog recognise these hooks and log their names."""
        for hook in hooks:
            code = getattr(inspect.unwrap(hook), "__code__", None)
            if code is not None:
                self._names[code] = getattr(hook, "__qualname__", repr(hook))

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the watchdog of the event loop; called in its thread."""
        self._watchdog.start(loop)

    async def stop(self, grace: float) -> None:
        """Stop the watchdog and the pool. Wait `grace` seconds for tasks that are still running, then cancel them."""
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
        """Hold a reference to a task until it is done; `stop` waits for it."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def pooled(self, hook: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        """Return a coroutine function that runs a blocking hook in the thread pool."""
        return partial(self._run, hook)

    async def _run(self, hook: Callable[..., Any], *arguments: Any) -> Any:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "ironpost-hook")
        counts = self.counts
        counts.pooled += 1
        counts.running += 1
        try:
            # If this is cancelled before a thread is free, the hook does not run.
            return await asyncio.get_running_loop().run_in_executor(self._pool, hook, *arguments)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            counts.abandoned += task is not None and task.cancelling() > 0  # else the hook raised it
            raise
        finally:
            counts.running -= 1

    def detached(self, hook: Callable[[ServerSession], Any]) -> Callable[[ServerSession], None]:
        """Return a function that runs an asynchronous `disconnect` hook in a separate task, and logs its errors."""

        def disconnect(session: ServerSession) -> None:
            pending = hook(session)
            if asyncio.iscoroutine(pending):
                task = asyncio.ensure_future(pending)
                self.keep(task)
                task.add_done_callback(partial(_log_failure, session))

        return disconnect


def _log_failure(session: ServerSession, task: asyncio.Task[Any]) -> None:
    exc = failure(task)
    if exc is not None:
        session.raised(exc)


def failure(task: asyncio.Future[Any]) -> BaseException | None:
    """Return the exception of a hook's task; None if it raised none, or its task was cancelled."""
    if not task.cancelled():
        return task.exception()
    requested = task.cancelling() if isinstance(task, asyncio.Task) else True
    return None if requested else asyncio.CancelledError("raised by the hook; its task was not cancelled")
