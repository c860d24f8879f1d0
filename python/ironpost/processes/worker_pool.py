"""The worker processes of a server: starts, watches, restarts and stops them, and sends them requests.

Promises: `start` returns when every worker is ready; if one cannot start, it stops the others and raises that worker's
error. A worker that dies without reporting a reason is restarted: during `start` up to `START_ATTEMPTS` times in all,
later without limit, immediately if it had run for `HEALTHY` seconds, else after an increasing pause. The others are not
affected. A worker that stops answering, or is not ready in time, is killed and handled like one that died. `stop`
signals all workers, waits for them, and kills those that do not answer or do not end; it returns within `STOP_SECONDS`
plus `KILL_SECONDS`.
The supervisor process holds no mail, listeners or shards, so a worker that dies affects no other process.

A worker is a new interpreter (spawned, not forked). It receives its configuration as the first line on its `Channel`
and sends the notifications `ready` and `failed`. It ends when the channel is closed, so no worker outlives the
supervisor, even one that crashed.
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

from ironpost.processes.channel import ANSWER_SECONDS, Channel, ChannelClosed
from ironpost.processes.requests import RequestTimedOut
from ironpost.telemetry.events import record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FIRST_PAUSE: Final = 0.5
"""Seconds before a worker that ended soon after its start is restarted; doubled each time."""
LONGEST_PAUSE: Final = 30.0
"""Maximum of that pause, in seconds."""
HEALTHY: Final = 60.0
"""Seconds after which a worker that ends is restarted without a pause."""
START_ATTEMPTS: Final = 3
"""Number of times a worker may die without reporting a reason during the first start."""
START_SECONDS: Final = 300.0
"""Timeout of a worker's start. With 100,000 queued messages a start takes about a second; the timeout leaves time for a
recovery on a slow disk, because one that is too short would keep a server from ever starting."""
PING_SECONDS: Final = 5.0
"""Interval of pings."""
MISSED_PINGS: Final = 6
"""Consecutive pings without an answer (30 s) after which a ready worker is killed. Its event loop can be late: by a
second for a command on 120,000 messages, by more on a machine that swaps. Clients wait 5 minutes for a greeting
(RFC 5321 §4.5.3.2.1), so half a minute costs no mail. Pings are counted instead of time, so that a supervisor that was
itself suspended does not kill its workers."""
MISSED_WHEN_STOPPING: Final = 3
"""The same while the server stops (15 s): a worker that is killed loses no acknowledged mail."""
ENDING_SECONDS: Final = 30.0
"""Seconds that a process may run after it closed its channel, which it does when its sessions have ended: deliveries
have 10 s, the rest is for the store."""
STOP_SECONDS: Final = 50.0
"""Seconds that workers may take to stop: sessions have 30 s, deliveries 10 s, the rest is for the store."""
KILL_SECONDS: Final = 5.0
"""Seconds that a killed process may take to end and its channel to close."""

_SOFTWARE: Final = 70
"""Exit code after an unexplained failure."""
_IO_ERROR: Final = 74
"""Exit code of a worker whose log could not be recovered after a failed sync; it has logged the reason."""
_TEMPORARY: Final = 75
"""Exit code after a failure that may be temporary."""

log = logging.getLogger("ironpost.workers")

Notification: TypeAlias = "Mapping[str, Any]"


class WorkerFailed(Exception):
    """A worker cannot start. `code` is its exit code; the text is for the operator."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class Worker:
    """One worker, across restarts of its process."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ready: asyncio.Event = asyncio.Event()
        self.channel: Channel | None = None
        self.process: asyncio.subprocess.Process | None = None
        self.failure: WorkerFailed | None = None
        """Reason that its last process gave for not starting."""
        self.killed = ""
        """Reason for which the supervisor killed its last process; empty if it did not."""
        self.silent = 0
        """Consecutive pings without an answer."""
        self.starts = 0
        """Number of times it became ready."""

    async def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request to its process and return the answer.

        Raises:
            RequestTimedOut: it is not running, or does not answer within `ANSWER_SECONDS`.
            RequestRefused: it refuses; the text says why.
        """
        if self.channel is None or not self.ready.is_set():
            raise RequestTimedOut(f"worker {self.number} is restarting")
        try:
            return await self.channel.ask(request, ANSWER_SECONDS)
        except ChannelClosed:
            raise RequestTimedOut(f"worker {self.number} ended before it answered") from None
        except RequestTimedOut:
            raise RequestTimedOut(f"worker {self.number} did not answer within {ANSWER_SECONDS:g} s") from None


class Answers(NamedTuple):
    """Answers of several workers."""

    given: dict[int, dict[str, Any]]
    """Answers by worker number."""
    silent: dict[int, str]
    """Reasons for missing answers, by worker number: sentences for the operator."""


class WorkerPool:
    """All workers: a component of the supervisor process."""

    def __init__(
        self,
        count: int,
        command: Sequence[str],
        first_message: Callable[[int], Mapping[str, Any]],
        *,
        keep: Sequence[int] = (),
        on_notification: Callable[[int, Notification], None] = lambda _number, _notification: None,
        on_ready: Callable[[Worker], None] = lambda _worker: None,
        on_end: Callable[[int], None] = lambda _number: None,
        on_alive: Callable[[Worker], None] = lambda _worker: None,
    ) -> None:
        """Create the workers; `start` starts their processes.

        Args:
            count: the number of workers.
            command: the interpreter's arguments that run a worker; its socket's descriptor is appended.
            first_message: returns the first message to a worker, by its number.
            keep: descriptors that workers inherit; read at each start.
            on_notification: receives notifications of workers, except those about their start.
            on_ready: called each time a worker becomes ready.
            on_end: called when a worker's process has ended.
            on_alive: called every `PING_SECONDS` for a worker that is ready and answers.
        """
        self.all = [Worker(number) for number in range(count)]
        self._command = command
        self._first_message = first_message
        self._keep = keep
        self._on_notification = on_notification
        self._on_ready = on_ready
        self._on_end = on_end
        self._on_alive = on_alive
        self.restarts = 0
        """Number of restarts of all workers."""
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Start all workers; return when they are ready.

        Raises:
            WorkerFailed: one cannot start, died `START_ATTEMPTS` times, or was not ready within `START_SECONDS`; all
                were stopped.
        """
        self._tasks = [asyncio.create_task(self._keep_running(worker)) for worker in self.all]
        ready = asyncio.create_task(self._all_ready())
        try:
            await asyncio.wait([ready, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in self._tasks:
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
        """Stop all workers; return when they have ended, or could not be killed."""
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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _until_ended(self, seconds: float) -> None:
        running = [task for task in self._tasks if not task.done()]
        if running:
            await asyncio.wait(running, timeout=seconds)

    def _living(self) -> list[Worker]:
        return [each for each in self.all if each.process is not None and each.process.returncode is None]

    def notify(self, number: int, notification: Notification) -> None:
        """Send a notification to a worker, if it is ready."""
        worker = self.all[number]
        if worker.channel is not None and worker.ready.is_set():
            worker.channel.notify(notification)

    def notify_others(self, number: int, notification: Notification) -> None:
        """Send a notification to all workers that are ready, except one."""
        for worker in self.all:
            if worker.number != number:
                self.notify(worker.number, notification)

    async def ask_all(self, request: Mapping[str, Any]) -> Answers:
        """Send a request to every worker, concurrently.

        Raises:
            RequestRefused: one refuses; the others have answered.
        """
        return await self.ask_each(dict.fromkeys(range(len(self.all)), request))

    async def ask_each(self, requests: Mapping[int, Mapping[str, Any]]) -> Answers:
        """Send requests to several workers, by worker number; otherwise like `ask_all`."""
        asked = (self.all[number].ask(request) for number, request in requests.items())
        found = Answers({}, {})
        refusals: list[BaseException] = []
        for number, answer in zip(requests, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if isinstance(answer, RequestTimedOut):
                found.silent[number] = str(answer)
            elif isinstance(answer, BaseException):
                refusals.append(answer)
            else:
                found.given[number] = answer
        if refusals:
            raise refusals[0]
        return found

    async def _ask_others(self, worker: Worker, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Forward a request of one worker to all others that are ready."""
        asked = [each.ask(request["request"]) for each in self.all if each is not worker and each.ready.is_set()]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return {"answers": [answer for answer in answers if not isinstance(answer, BaseException)]}

    # -- one worker

    async def _keep_running(self, worker: Worker) -> None:
        """Restart one worker until `stop`; raise `WorkerFailed` if its first start fails."""
        loop = asyncio.get_running_loop()
        pause = 0.0
        attempts = 0
        while not self._stopping.is_set():
            began = loop.time()
            try:
                await self._run(worker)
                end = _describe_end(worker)
            except OSError as error:
                end = f"cannot be started: {error}"
            if self._stopping.is_set():
                return
            if worker.starts == 0:
                attempts += 1
                if worker.failure is not None:
                    raise worker.failure
                if worker.killed:
                    raise WorkerFailed(_TEMPORARY, f"worker {worker.number} {end}")
                if attempts >= START_ATTEMPTS:
                    times = f"before it was ready, {attempts} times in a row"
                    raise WorkerFailed(_SOFTWARE, f"worker {worker.number} {end} {times}")
            pause = 0.0 if loop.time() - began >= HEALTHY else min(max(FIRST_PAUSE, 2 * pause), LONGEST_PAUSE)
            log.error("worker %d %s; restarting in %g s", worker.number, end, pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            self.restarts += not self._stopping.is_set()

    async def _run(self, worker: Worker) -> None:
        """Run one process of a worker; return when it has ended."""
        ours, its = socket.socketpair()
        worker.failure, worker.killed, worker.silent = None, "", 0
        gone = asyncio.Event()
        channel = Channel({"others": partial(self._ask_others, worker)}, partial(self._notified, worker), gone.set)
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
        await channel.open(ours)
        worker.channel = channel
        channel.notify(self._first_message(worker.number))
        if self._stopping.is_set():  # `stop` signalled the workers before this process started
            _signal(worker, signal.SIGTERM)
        watch = asyncio.create_task(self._watch(worker, channel, gone))
        try:
            await process.wait()
        finally:
            watch.cancel()
        with contextlib.suppress(
            TimeoutError
        ):  # only a bug could make another process hold its end of the channel open
            await asyncio.wait_for(gone.wait(), KILL_SECONDS)  # everything it sent has been received by then
        channel.abort()
        worker.ready.clear()
        worker.channel = None
        self._on_end(worker.number)

    async def _watch(self, worker: Worker, channel: Channel, gone: asyncio.Event) -> None:
        """Kill a process that is not ready in time, stops answering, or closes its channel and does not end."""
        rounds = 0
        while not gone.is_set():
            before = channel.received
            if worker.ready.is_set():  # before that it answers no pings
                channel.ping()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(gone.wait(), PING_SECONDS)
            if gone.is_set():
                break
            rounds += 1
            worker.silent = 0 if channel.received != before else worker.silent + 1
            if self._stopping.is_set() or worker.ready.is_set():
                if worker.silent >= (MISSED_WHEN_STOPPING if self._stopping.is_set() else MISSED_PINGS):
                    _kill(worker, f"did not answer for {worker.silent * PING_SECONDS:g} s")
                    return
                if not worker.silent and not self._stopping.is_set():
                    self._on_alive(worker)
            elif rounds * PING_SECONDS >= START_SECONDS:
                _kill(worker, f"was not ready within {START_SECONDS:g} s")
                return
        await asyncio.sleep(ENDING_SECONDS)
        _kill(worker, f"closed its channel and did not end within {ENDING_SECONDS:g} s")

    def _notified(self, worker: Worker, notification: Notification) -> None:
        if "ready" in notification:
            worker.starts += 1
            worker.ready.set()
            self._on_ready(worker)
        elif "failed" in notification:
            worker.failure = WorkerFailed(notification["code"], notification["failed"])
        else:
            self._on_notification(worker.number, notification)


def _signal(worker: Worker, number: signal.Signals) -> None:
    if worker.process is not None and worker.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            worker.process.send_signal(number)


def _kill(worker: Worker, why: str) -> None:
    if worker.process is not None and worker.process.returncode is None:
        worker.killed = why
        record(log, "worker-killed", logging.ERROR, number=worker.number, pid=worker.process.pid, reason=why)
        _signal(worker, signal.SIGKILL)


def _describe_end(worker: Worker) -> str:
    assert worker.process is not None
    if worker.killed:
        return f"(process {worker.process.pid}) {worker.killed} and was killed"
    code = worker.process.returncode or 0
    if worker.failure is not None:
        return f"cannot start: {worker.failure}"
    why = " (its disk failed)" if code == _IO_ERROR else ""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}{why}"
