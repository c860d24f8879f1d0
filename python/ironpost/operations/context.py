"""Ports of the process that runs operations, implemented by `compose`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from pathlib import Path

    from ironpost.accounts.file import UsersFile
    from ironpost.http import HttpClient
    from ironpost.mail_auth.keys import Key
    from ironpost.model.dns import Resolver
    from ironpost.model.keyed_state import StateUsage
    from ironpost.model.ports import Clock
    from ironpost.mta.queue_runner import QueueRunner
    from ironpost.mta.suspended import SuspendedDestinations
    from ironpost.operations.dane import DaneChecker
    from ironpost.operations.explain import Explainer
    from ironpost.operations.reload import Reloaded
    from ironpost.operations.status import Listening, WorkerStatus
    from ironpost.processes.jobs import JobStatus
    from ironpost.processes.resources import ResourceStatus
    from ironpost.queue.store import StandaloneReader, Store
    from ironpost.queue.suspension import Suspension
    from ironpost.routing.tls.mta_sts import StsPolicy
    from ironpost.storage.backup import FinishedBackup
    from ironpost.storage.restore import Restored
    from ironpost.storage.sqlite.received_reports import ReportedDomains


class ControlProcess(Protocol):
    """The process that holds the control socket."""

    @property
    def configuration_hash(self) -> str:
        """The hash of the running configuration."""
        ...

    def listening(self) -> list[Listening]:
        """The addresses that accept connections."""
        ...

    async def apply_reload(self) -> Reloaded:
        """Reload the configuration and apply it.

        Raises:
            ConfigError, RequestRefused: the configuration cannot be used; the old one stays in effect.
        """
        ...


class ServingProcess(ControlProcess, Protocol):
    """A process that serves mail: a worker, or the only process."""

    @property
    def queue(self) -> Store:
        """The store of this process."""
        ...

    @property
    def runner(self) -> QueueRunner:
        """The queue runner over `queue`."""
        ...

    @property
    def clock(self) -> Clock: ...

    @property
    def suspended(self) -> SuspendedDestinations:
        """What operators suspended."""
        ...

    def suspensions(self) -> list[Suspension]:
        """The same, which all workers share; empty in all but the first of them."""
        ...

    def wake_queue(self) -> None:
        """Notify the queue runner that messages became due."""
        ...

    def open_connections(self) -> dict[str, int]:
        """Numbers of open connections by the role of the listener."""
        ...

    def job_status(self) -> list[JobStatus]: ...

    async def resource_status(self) -> list[ResourceStatus]:
        """The use of memory and descriptors by this process; by the first one also that of the disk."""
        ...

    def state_usage(self) -> list[StateUsage]:
        """The size of the keyed state, which all workers share; empty in all but the first of them."""
        ...

    def counts(self) -> dict[str, dict[str, float]]:
        """The counters (`telemetry.metrics`)."""
        ...


class SupervisorProcess(ControlProcess, Protocol):
    """The supervisor of several workers."""

    @property
    def restarts(self) -> int:
        """Number of times a worker was restarted."""
        ...

    def worker_status(self) -> list[WorkerStatus]: ...


class DataDirectory(Protocol):
    """The configuration and data directory of a server that need not run: the context of local operations."""

    def queue_reader(self) -> AbstractContextManager[StandaloneReader]:
        """Open the queue with the rights of the directory's owner.

        Raises:
            RequestRefused: there is no queue, or it cannot be read.
        """
        ...

    def explainer(self) -> AbstractAsyncContextManager[Explainer]: ...

    def dane(self) -> AbstractAsyncContextManager[DaneChecker]: ...

    def resolver(self) -> Resolver:
        """DNS, as the server would use it."""
        ...

    def dmarc_reports(self, domain: str | None, days: int) -> ReportedDomains:
        """Sum up the reports about DMARC that arrived in the last days, about one domain or all.

        Raises:
            FileNotFoundError: none has arrived yet.
            OSError: they cannot be read.
        """
        ...

    def http(self, resolver: Resolver) -> HttpClient:
        """An HTTP client as the server would have it.

        Raises:
            RequestRefused: `http.ca` cannot be used.
        """
        ...

    def dkim_keys(self) -> Sequence[Key]:
        """The keys with which the server signs.

        Raises:
            RequestRefused: one cannot be used.
        """
        ...

    @property
    def sts_policies(self) -> Mapping[str, StsPolicy]:
        """The configured MTA-STS policies of our own domains, by domain in A-labels."""
        ...

    async def back_up(self, target: Path, *, mail: bool) -> FinishedBackup:
        """Copy the data directory, with the rights of its owner; `mail` includes Maildirs.

        Raises:
            OSError, StoreUnusable: see `storage.backup`.
        """
        ...

    async def restore(self, backup: Path, *, release: bool) -> Restored:
        """Make the data directory from a backup, with the rights of its owner; `release` keeps queued mail queued.

        Raises:
            OSError, StoreUnusable: see `storage.restore`.
        """
        ...

    @property
    def users(self) -> UsersFile: ...

    @property
    def path(self) -> Path:
        """The data directory."""
        ...
