"""Operation `status`: the configuration, listeners, connections and workers of a running server."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Final

from ironpost.model.keyed_state import StateUsage  # noqa: TC001 - a dataclass field, whose type `decode` reads
from ironpost.operations.destinations import DestinationEntry, entry, state_of, with_mail
from ironpost.operations.operation import EmptyRequest, Operation, Scope, SilentWorker
from ironpost.operations.queue import SuspendedEntry, suspended_entry
from ironpost.processes.jobs import JobStatus  # noqa: TC001 - a dataclass field, whose type `decode` reads
from ironpost.processes.resources import ResourceStatus  # noqa: TC001 - as above

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.operations.context import ServingProcess, SupervisorProcess


DOWN: Final = 100
"""Maximum number of destinations that are named as down."""


@dataclass(frozen=True, slots=True)
class Listening:
    """One address that accepts connections."""

    role: str
    tls: str
    at: str


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker of a supervisor."""

    number: int
    pid: int | None
    """Its process id; None while it is restarting."""
    ready: bool
    starts: int
    """Number of times it became ready."""


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a running server."""

    configuration: str
    """The hash of the running configuration."""
    listening: list[Listening]
    connections: int
    """Open connections of clients."""
    workers: list[WorkerStatus] = field(default_factory=list)
    """The workers; empty if a single process serves mail."""
    jobs: list[JobStatus] = field(default_factory=list)
    """Scheduled jobs, of each process that runs them."""
    resources: list[ResourceStatus] = field(default_factory=list)
    """The use of memory and descriptors, by each process that serves mail, and of the disk."""
    state: list[StateUsage] = field(default_factory=list)
    """The size of each namespace of keyed state; empty if the first worker did not answer."""
    suspended: list[SuspendedEntry] = field(default_factory=list)
    """Suspended destinations; empty if the first worker did not answer."""
    down: list[DestinationEntry] = field(default_factory=list)
    """Destinations with mail that cannot be reached, at most `DOWN` of each worker."""
    silent: list[SilentWorker] = field(default_factory=list)
    """Workers that did not answer; `connections` does not count theirs."""


async def _status(process: ServingProcess, _request: EmptyRequest) -> Status:
    now = process.clock.now()
    down = (each for each in with_mail(process) if state_of(each, now) == "down")
    return Status(
        process.configuration_hash,
        process.listening(),
        sum(process.open_connections().values()),
        jobs=process.job_status(),
        resources=await process.resource_status(),
        state=process.state_usage(),
        suspended=[suspended_entry(each) for each in process.suspensions()],
        down=[entry("", each, now) for each in islice(down, DOWN)],
    )


def _complete(supervisor: SupervisorProcess, status: Status, silent: Mapping[int, str]) -> Status:
    return replace(
        status,
        configuration=supervisor.configuration_hash,
        listening=supervisor.listening(),
        workers=supervisor.worker_status(),
        silent=[SilentWorker(number, why) for number, why in sorted(silent.items())],
    )


STATUS: Final = Operation(
    "status", EmptyRequest, Status, Scope.ALL, _status, complete=_complete, empty=Status("", [], 0)
)
