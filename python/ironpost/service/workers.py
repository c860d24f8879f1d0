"""The workers of a server that runs in several processes: started, watched, started again, asked, stopped.

Promises: `start` returns when every worker is ready, and raises the first one's sentence if one cannot be, with none
left behind. A worker that ends by itself is started again, at once if it had run for a while, else after a growing
pause; the others go on meanwhile. `stop` tells all to stop, waits for what they finish, and kills what does not end.
Refuses: to hold mail, listeners or shards: a worker that is gone has taken down nothing but itself.

A worker is a fresh interpreter (spawned, not forked) that gets its orders as the first line over its `Link` and sends
the notes `ready` and `failed`. It ends when that link does: so no worker outlives the supervisor, however that ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ironpost.service.control import ControlError
from ironpost.service.link import Link, LinkLost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FIRST_PAUSE: Final = 0.5
"""Seconds before a worker is started again that ended soon after its start; doubled each time."""
LONGEST_PAUSE: Final = 30.0
"""Seconds that this can grow to."""
HEALTHY: Final = 60.0
"""Seconds after which a worker counts as having run."""
STOP_SECONDS: Final = 60.0
"""How long workers may take to stop: more than sessions (30) and deliveries (10) have."""

_SOFTWARE: Final = 70
"""The exit code of a fault that nobody explained."""

log = logging.getLogger("ironpost.workers")

Note: TypeAlias = "Mapping[str, Any]"


class WorkerFailed(Exception):
    """A worker cannot start. `code` is the exit code that it ended with; the text is for people."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Worker:
    """One of them, through all its processes."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ready: asyncio.Event = asyncio.Event()
        self.link: Link | None = None
        self.process: asyncio.subprocess.Process | None = None
        self.failure: WorkerFailed | None = None
        """What its last process said before it ended."""
        self.starts = 0

    async def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Asks the living process.

        Raises:
            ControlError: it refuses, or is not there.
        """
        if self.link is None or not self.ready.is_set():
            raise ControlError(f"worker {self.number} is being started again; try again in a moment")
        try:
            return await self.link.ask(request)
        except LinkLost:
            raise ControlError(f"worker {self.number} ended meanwhile; try again in a moment") from None


class Workers:
    """All of them: a `Part` of the supervisor's process."""

    def __init__(
        self,
        count: int,
        command: Sequence[str],
        orders: Callable[[int], Mapping[str, Any]],
        *,
        keep: Sequence[int] = (),
        heard: Callable[[int, Note], None] = lambda _number, _note: None,
        began: Callable[[Worker], None] = lambda _worker: None,
        ended: Callable[[int], None] = lambda _number: None,
    ) -> None:
        """Starts nothing yet.

        Args:
            count: how many.
            command: the arguments of the interpreter that make a worker; the number of its socket follows.
            orders: what a worker is told when it starts, by its number.
            keep: descriptors that workers inherit; looked at when one is started.
            heard: takes the notes of a worker that are not about its start.
            began: called when a worker is ready, first and again.
            ended: called when a worker's process is gone.
        """
        self.all = [Worker(number) for number in range(count)]
        self._command = command
        self._orders = orders
        self._keep = keep
        self._heard = heard
        self._began = began
        self._ended = ended
        self._tending: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Returns when all are ready.

        Raises:
            WorkerFailed: one cannot start; none runs any more.
        """
        self._tending = [asyncio.create_task(self._tend(worker)) for worker in self.all]
        ready = asyncio.create_task(self._all_ready())
        try:
            await asyncio.wait([ready, *self._tending], return_when=asyncio.FIRST_COMPLETED)
            for task in self._tending:
                if task.done():
                    await task
            await ready
        except BaseException:
            ready.cancel()
            await self.stop()
            raise

    async def _all_ready(self) -> None:
        for worker in self.all:
            await worker.ready.wait()

    async def stop(self) -> None:
        """Returns when all have ended."""
        self._stopping.set()
        for worker in self.all:
            _signal(worker, signal.SIGTERM)
        tending = [task for task in self._tending if not task.done()]
        if tending:
            _, late = await asyncio.wait(tending, timeout=STOP_SECONDS)
            for worker in self.all if late else ():
                if worker.process is not None and worker.process.returncode is None:
                    log.error("worker %d did not stop in %g s and is killed", worker.number, STOP_SECONDS)
                    _signal(worker, signal.SIGKILL)
        await asyncio.gather(*self._tending, return_exceptions=True)

    def tell(self, number: int, note: Mapping[str, Any]) -> None:
        """Sends a note to a worker, if it is ready."""
        worker = self.all[number]
        if worker.link is not None and worker.ready.is_set():
            worker.link.tell(note)

    def tell_others(self, number: int, note: Mapping[str, Any]) -> None:
        """Sends a note to all that are ready, but one."""
        for worker in self.all:
            if worker.number != number:
                self.tell(worker.number, note)

    async def ask_all(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Asks every worker; the answers in their order.

        Raises:
            ControlError: one refuses or is not there, the others may have done it.
        """
        answers = await asyncio.gather(*(worker.ask(request) for worker in self.all), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def _ask_others(self, worker: Worker, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """A question of one worker to all others."""
        asked = [each.ask(request["request"]) for each in self.all if each is not worker and each.ready.is_set()]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return {"answers": [answer for answer in answers if not isinstance(answer, BaseException)]}

    # -- one worker

    async def _tend(self, worker: Worker) -> None:
        """Keeps one worker running, until `stop`; raises if its very first start fails."""
        loop = asyncio.get_running_loop()
        pause = 0.0
        while not self._stopping.is_set():
            began = loop.time()
            try:
                await self._run(worker)
                how = _how(worker)
            except OSError as error:
                how = f"cannot be started: {error}"
            if self._stopping.is_set():
                return
            if worker.starts == 0:
                raise worker.failure or WorkerFailed(_SOFTWARE, f"worker {worker.number} {how} before it was ready")
            pause = 0.0 if loop.time() - began >= HEALTHY else min(max(FIRST_PAUSE, 2 * pause), LONGEST_PAUSE)
            log.error("worker %d %s; it is started again in %g s", worker.number, how, pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _run(self, worker: Worker) -> None:
        """One process of a worker, from its start to its end."""
        ours, its = socket.socketpair()
        worker.failure = None
        gone = asyncio.Event()
        link = Link({"others": partial(self._ask_others, worker)}, lambda note: self._note(worker, note), gone.set)
        try:
            with its:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-P", *self._command, str(its.fileno()),
                    stdin=asyncio.subprocess.DEVNULL, pass_fds=(its.fileno(), *self._keep),
                    start_new_session=True,  # the terminal's Ctrl-C is for the supervisor, which passes it on
                )  # fmt: skip
        except BaseException:
            ours.close()
            raise
        worker.process = process
        await link.open(ours)
        worker.link = link
        link.tell(self._orders(worker.number))
        if self._stopping.is_set():  # it came too late to be told by `stop`
            _signal(worker, signal.SIGTERM)
        await process.wait()
        await gone.wait()  # by then everything that it said was heard
        worker.ready.clear()
        worker.link = None
        self._ended(worker.number)

    def _note(self, worker: Worker, note: Note) -> None:
        if "ready" in note:
            worker.starts += 1
            worker.ready.set()
            self._began(worker)
        elif "failed" in note:
            worker.failure = WorkerFailed(note["code"], note["failed"])
        else:
            self._heard(worker.number, note)


def _signal(worker: Worker, number: signal.Signals) -> None:
    if worker.process is not None and worker.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            worker.process.send_signal(number)


def _how(worker: Worker) -> str:
    assert worker.process is not None
    code = worker.process.returncode or 0
    if worker.failure is not None:
        return f"cannot start: {worker.failure}"
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
