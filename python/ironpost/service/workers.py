"""The workers of a server that runs in several processes: started, watched, started again, asked, stopped.

Promises: `start` returns when every worker is ready, and raises the first one's sentence if one cannot be, with none
left behind. A worker that dies without saying why is started again: during `start` up to `START_ATTEMPTS` times in all,
later without limit, at once if it had run for a while, else after a growing pause; the others go on meanwhile. One that
stops answering, or is not ready in time, is killed and treated as one that died. `stop` tells all to stop, waits for
what they finish, and kills what does not answer or does not end; it returns within `STOP_SECONDS` and `KILL_SECONDS`.
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
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from ironpost.service.control import Unanswered
from ironpost.service.journal import record
from ironpost.service.link import ANSWER_SECONDS, Link, LinkLost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FIRST_PAUSE: Final = 0.5
"""Seconds before a worker is started again that ended soon after its start; doubled each time."""
LONGEST_PAUSE: Final = 30.0
"""Seconds that this can grow to."""
HEALTHY: Final = 60.0
"""Seconds after which a worker counts as having run."""
START_ATTEMPTS: Final = 3
"""How often a worker may die during the first start without saying why."""
START_SECONDS: Final = 300.0
"""How long a worker may take until it is ready. With 100,000 queued messages it takes about a second; the limit leaves
room for a recovery on a slow disk, because one that is too short would keep a server from ever starting."""
PING_SECONDS: Final = 5.0
"""How often a worker is asked whether it still runs."""
MISSED_PINGS: Final = 6
"""Rounds in a row (30 s) without a word from a worker that is ready, after which it is killed. Its event loop can be
late: by a second for a command on 120,000 messages, by more on a machine that swaps. Clients wait 5 minutes for a
greeting (RFC 5321 §4.5.3.2.1), so half a minute costs no mail. Rounds are counted, and not time, so that a supervisor
that was itself suspended does not blame its workers."""
MISSED_WHEN_STOPPING: Final = 3
"""The same (15 s) while the server stops: a worker that is killed loses nothing that was acknowledged."""
ENDING_SECONDS: Final = 30.0
"""How long a process may live on after it closed its link, which it does when its sessions are over: deliveries have
10 s, the rest is for the store."""
STOP_SECONDS: Final = 50.0
"""How long workers may take to stop: sessions have 30 s, deliveries 10, the rest is for the store."""
KILL_SECONDS: Final = 5.0
"""How long the system may take to end a process that was killed, and to close its link."""

_SOFTWARE: Final = 70
"""The exit code of a fault that nobody explained."""
_TEMPORARY: Final = 75
"""The exit code of what may work another time."""

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
        self.killed = ""
        """Why its last process was killed here; empty if it was not."""
        self.silent = 0
        """Rounds of pings in a row in which nothing came from it."""
        self.starts = 0
        """How often it became ready."""

    async def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Asks the living process.

        Raises:
            Unanswered: it is not running, or does not answer within `ANSWER_SECONDS`.
            ControlError: it refuses.
        """
        if self.link is None or not self.ready.is_set():
            raise Unanswered(f"worker {self.number} is being started again")
        try:
            return await self.link.ask(request, ANSWER_SECONDS)
        except LinkLost:
            raise Unanswered(f"worker {self.number} ended before it answered") from None
        except Unanswered:
            raise Unanswered(f"worker {self.number} did not answer within {ANSWER_SECONDS:g} s") from None


class Answers(NamedTuple):
    """What several workers said."""

    given: dict[int, dict[str, Any]]
    """By the worker's number."""
    silent: dict[int, str]
    """Those who did not answer, and why: sentences for people."""


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
        alive: Callable[[Worker], None] = lambda _worker: None,
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
            alive: called every `PING_SECONDS` for a worker that is ready and answers.
        """
        self.all = [Worker(number) for number in range(count)]
        self._command = command
        self._orders = orders
        self._keep = keep
        self._heard = heard
        self._began = began
        self._ended = ended
        self._alive = alive
        self.restarts = 0
        """How often any of them was started again."""
        self._tending: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Returns when all are ready.

        Raises:
            WorkerFailed: one cannot start, died `START_ATTEMPTS` times, or was not ready within `START_SECONDS`; none
                runs any more.
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
        """Returns when all have ended, or could not be killed."""
        self._stopping.set()
        for worker in self.all:
            _signal(worker, signal.SIGTERM)
        await self._until_ended(STOP_SECONDS)
        for worker in self._living():
            _kill(worker, f"did not stop within {STOP_SECONDS:g} s")
        await self._until_ended(KILL_SECONDS)
        for worker in self._living():
            assert worker.process is not None
            log.error("worker %d (process %d) did not end when it was killed", worker.number, worker.process.pid)
        for task in self._tending:
            task.cancel()
        await asyncio.gather(*self._tending, return_exceptions=True)

    async def _until_ended(self, seconds: float) -> None:
        tending = [task for task in self._tending if not task.done()]
        if tending:
            await asyncio.wait(tending, timeout=seconds)

    def _living(self) -> list[Worker]:
        return [each for each in self.all if each.process is not None and each.process.returncode is None]

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

    async def ask_all(self, request: Mapping[str, Any]) -> Answers:
        """Asks every worker, all at once.

        Raises:
            ControlError: one refuses; the others have answered.
        """
        return await self.ask_each(dict.fromkeys(range(len(self.all)), request))

    async def ask_each(self, requests: Mapping[int, Mapping[str, Any]]) -> Answers:
        """As `ask_all`, with the requests by the number of the worker."""
        asked = (self.all[number].ask(request) for number, request in requests.items())
        found = Answers({}, {})
        refusals: list[BaseException] = []
        for number, answer in zip(requests, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if isinstance(answer, Unanswered):
                found.silent[number] = str(answer)
            elif isinstance(answer, BaseException):
                refusals.append(answer)
            else:
                found.given[number] = answer
        if refusals:
            raise refusals[0]
        return found

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
        attempts = 0
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
                attempts += 1
                if worker.failure is not None:
                    raise worker.failure
                if worker.killed:
                    raise WorkerFailed(_TEMPORARY, f"worker {worker.number} {how}")
                if attempts >= START_ATTEMPTS:
                    times = f"before it was ready, {attempts} times in a row"
                    raise WorkerFailed(_SOFTWARE, f"worker {worker.number} {how} {times}")
            pause = 0.0 if loop.time() - began >= HEALTHY else min(max(FIRST_PAUSE, 2 * pause), LONGEST_PAUSE)
            log.error("worker %d %s; it is started again in %g s", worker.number, how, pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            self.restarts += not self._stopping.is_set()

    async def _run(self, worker: Worker) -> None:
        """One process of a worker, from its start to its end."""
        ours, its = socket.socketpair()
        worker.failure, worker.killed, worker.silent = None, "", 0
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
        watch = asyncio.create_task(self._watch(worker, link, gone))
        try:
            await process.wait()
        finally:
            watch.cancel()
        with contextlib.suppress(TimeoutError):  # another process can only hold its end of the link by a fault of ours
            await asyncio.wait_for(gone.wait(), KILL_SECONDS)  # by then everything that it said was heard
        link.cut()
        worker.ready.clear()
        worker.link = None
        self._ended(worker.number)

    async def _watch(self, worker: Worker, link: Link, gone: asyncio.Event) -> None:
        """Kills a process that is not ready in time, stops answering, or does not end after it closed its link."""
        rounds = 0
        while not gone.is_set():
            before = link.received
            if worker.ready.is_set():  # before that it reads nothing but its orders
                link.ping()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(gone.wait(), PING_SECONDS)
            if gone.is_set():
                break
            rounds += 1
            worker.silent = 0 if link.received != before else worker.silent + 1
            if self._stopping.is_set() or worker.ready.is_set():
                if worker.silent >= (MISSED_WHEN_STOPPING if self._stopping.is_set() else MISSED_PINGS):
                    _kill(worker, f"did not answer for {worker.silent * PING_SECONDS:g} s")
                    return
                if not worker.silent and not self._stopping.is_set():
                    self._alive(worker)
            elif rounds * PING_SECONDS >= START_SECONDS:
                _kill(worker, f"was not ready within {START_SECONDS:g} s")
                return
        await asyncio.sleep(ENDING_SECONDS)
        _kill(worker, f"closed its link and did not end within {ENDING_SECONDS:g} s")

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


def _kill(worker: Worker, why: str) -> None:
    if worker.process is not None and worker.process.returncode is None:
        worker.killed = why
        record(log, "worker-killed", logging.ERROR, number=worker.number, pid=worker.process.pid, reason=why)
        _signal(worker, signal.SIGKILL)


def _how(worker: Worker) -> str:
    assert worker.process is not None
    if worker.killed:
        return f"(process {worker.process.pid}) {worker.killed} and was killed"
    code = worker.process.returncode or 0
    if worker.failure is not None:
        return f"cannot start: {worker.failure}"
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
