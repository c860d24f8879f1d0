"""Scheduled jobs: periodic housekeeping of a server, each run by exactly one process for each thing it works on.

Promises: a job runs first `FIRST_SECONDS` after the start and then `interval` seconds after its last run ended, never
twice at once. One that raises is logged (`job-failed`) and runs again at its next time; other jobs are unaffected.
Limitations: times are not stored, so a restart begins a new schedule.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from ironpost.model.parameters import moment_text
from ironpost.telemetry.events import record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ironpost.model.ports import Clock

FIRST_SECONDS: Final = 10.0
"""Seconds from the start of a process to the first run of its jobs."""

log = logging.getLogger("ironpost.jobs")

ContextT = TypeVar("ContextT")


class Runs(Enum):
    """Which processes run a job."""

    ONCE = "once"
    """One process of the server runs it. For resources that all processes share."""
    EACH = "each"
    """Every process runs it, on what it alone owns, such as its shards."""


@dataclass(frozen=True, slots=True)
class Job(Generic[ContextT]):
    """One periodic job."""

    name: str
    interval: float
    """Seconds from the end of one run to the start of the next."""
    runs: Runs
    run: Callable[[ContextT], Awaitable[str]]
    """Does the work; returns a result of a few words, for `ironpost status`."""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The last and next run of a job in one process."""

    name: str
    worker: int
    last: str | None
    """Time at which the last run ended, ISO 8601 in UTC; None before the first."""
    result: str
    """Result of the last run, or its error."""
    failed: bool
    next: str
    """Time at which the next run starts, ISO 8601 in UTC."""


class JobScheduler:
    """A component that runs the jobs of one process."""

    def __init__(
        self, jobs: Sequence[Job[Any]], context: object, clock: Clock, *, worker: int = 0, workers: int = 1
    ) -> None:
        """Select the jobs of this process; `start` schedules them.

        Args:
            jobs: all jobs of the server, including those that other processes run.
            context: the argument of their `run`.
            clock: time.
            worker: the number of this process, from 0.
            workers: the number of processes. The n-th job of `Runs.ONCE` runs in worker n modulo this number.
        """
        self._jobs = [job for number, job in enumerate(jobs) if job.runs is Runs.EACH or number % workers == worker]
        self._context = context
        self._clock = clock
        self._worker = worker
        self._status: dict[str, JobStatus] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Schedule the jobs."""
        for job in self._jobs:
            self._status[job.name] = JobStatus(
                job.name, self._worker, None, "", False, moment_text(self._clock.now() + FIRST_SECONDS)
            )
        self._tasks = [asyncio.create_task(self._repeat(job)) for job in self._jobs]

    async def stop(self) -> None:
        """Cancel the jobs. Changes they have made durable remain."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def status(self) -> list[JobStatus]:
        """The jobs of this process, in the order of the registry."""
        return list(self._status.values())

    async def _repeat(self, job: Job[Any]) -> None:
        await self._clock.sleep(FIRST_SECONDS)
        while True:
            failed = False
            try:
                result = await job.run(self._context)
            except Exception as error:  # noqa: BLE001 - a job that fails does not affect others (R25)
                failed, result = True, f"{type(error).__name__}: {error}"
                record(log, "job-failed", logging.WARNING, job=job.name, detail=result)
            now = self._clock.now()
            self._status[job.name] = JobStatus(
                job.name, self._worker, moment_text(now), result, failed, moment_text(now + job.interval)
            )
            await self._clock.sleep(job.interval)
