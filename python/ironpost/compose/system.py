"""Composes a server process: store, queue runner, control socket and listeners, with their reload.

Promises: components start in that order and stop in the reverse one. A reload builds everything new before it changes
anything; a configuration that cannot be used, or that changes a setting fixed at start, changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ironpost.accounts.passwords import PasswordPool
from ironpost.accounts.record_sources import SourceContext
from ironpost.compose.auth import AuthError, InitialLogin, authenticator, first_login
from ironpost.compose.data_directory import store_options
from ironpost.compose.data_lock import locked, used
from ironpost.compose.delivery import (
    DeliveryAgents,
    archives,
    concurrency_policy,
    customers,
    delivery_limits,
    local_warnings,
    own_system,
    reply_rules,
    reported_domains,
    retry_policy,
    rewriting,
    routes,
)
from ironpost.compose.directory import SourceError, callout, record_sources
from ironpost.compose.keyed_state import prepare_state, shared_state
from ironpost.compose.listeners import (
    BoundListener,
    ListenerProfile,
    SessionDefaults,
    certificates,
    create_listeners,
    handed_over,
    http_handler,
)
from ironpost.compose.own_name import own_name
from ironpost.compose.policy import policy
from ironpost.compose.reload import outcome, refuse_fixed
from ironpost.compose.reports import Counting, ReportSenders, dmarc_recorder, send_due
from ironpost.compose.resources import raise_file_limit, resource_limits, room_for_connections
from ironpost.compose.signing import key_warnings, usable_keys
from ironpost.delivery.access import AccessError
from ironpost.model.text import error_text
from ironpost.mta.http_resources import ReceiptLimits
from ironpost.mta.inbound import Inbound
from ironpost.mta.jobs import JOBS
from ironpost.mta.on_demand import OnDemand
from ironpost.mta.pickup import Pickup
from ironpost.mta.queue_runner import QueueRunner
from ironpost.mta.signing import Signing
from ironpost.operations.control_socket import ControlServer
from ironpost.operations.dispatch import handlers, worker_handlers
from ironpost.operations.reload import Reloaded
from ironpost.operations.status import Listening
from ironpost.policy import Ports
from ironpost.processes.clock import SystemClock, SystemRandom
from ironpost.processes.jobs import JobScheduler, JobStatus
from ironpost.processes.lifecycle import Component, PeriodicLoop, Supervisor
from ironpost.processes.requests import RequestRefused
from ironpost.processes.resources import (
    AcceptFaults,
    ResourceStatus,
    ResourceWatch,
    UsageReader,
    available_memory,
    bounds_of,
    disk_status,
    reserved,
)
from ironpost.processes.shared_destinations import SharedDestinations
from ironpost.processes.shared_limits import SharedLimiters, SharedQuotas
from ironpost.processes.signals import Signals
from ironpost.protocol.client.name import full_name
from ironpost.protocol.sasl.backoff import LoginBackoff
from ironpost.queue.suspension import Suspensions
from ironpost.server.limits import Capacity, Excess, LocalLimiter
from ironpost.server.tls import TlsError
from ironpost.storage import BACKENDS, drop
from ironpost.storage.backend import KeepsHistory
from ironpost.telemetry import formatters as log_output
from ironpost.telemetry.metrics import Counters

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ironpost.config import Configuration
    from ironpost.delivery.path_template import PathTemplate
    from ironpost.http.exchange import HttpHandler
    from ironpost.mail_auth.keys import Key
    from ironpost.model.keyed_state import StateUsage
    from ironpost.mta.daily_reports import SentReports
    from ironpost.mta.pickup import PickedUp
    from ironpost.mta.suspended import SuspendedDestinations
    from ironpost.policy.buckets import Buckets
    from ironpost.processes.bus import WorkerBus
    from ironpost.processes.requests import RequestHandler
    from ironpost.processes.resources import Usage
    from ironpost.queue.store import Store
    from ironpost.queue.suspension import Suspension
    from ironpost.routing.directory import Directory
    from ironpost.routing.records import RecordSource
    from ironpost.routing.route import Routes
    from ironpost.server.limits import ConnectionLimiter
    from ironpost.server.tls import TlsContext
    from ironpost.storage.lock import DirectoryLock

CLAIMS = frozenset({"DELIVERBY", "FUTURERELEASE", "MT-PRIORITY", "REQUIRETLS"})
"""Extensions that are offered because queue and delivery honour them: a message waits until its release time, and is
returned or reported at its deadline; one of higher priority is attempted first; one that requires TLS is delivered on
this system, sent over verified TLS to a next hop that offers the extension, or fails."""

log = logging.getLogger("ironpost.compose")


class WorkerContext(NamedTuple):
    """The position of a worker among the processes of a server (`compose.workers`)."""

    number: int
    """The number of this worker, from 0."""
    workers: int
    """The number of workers."""
    name: str
    """The host name of the server."""
    ports: tuple[int, ...]
    """Ports to listen on, in the order of the listeners' addresses; all workers share them."""
    sockets: Mapping[str, list[socket.socket]]
    """Sockets that workers inherit: Unix sockets and those of a service manager, by their name in the configuration."""
    bus: WorkerBus
    """Notifications and requests between workers."""
    create_channel: Callable[[Mapping[str, RequestHandler], Callable[[], None]], Component]
    """Creates the channel to the supervisor, which replaces the control socket, from request handlers and a function
    that stops this process."""


class System:
    """One server process; start it with `run`."""

    def __init__(
        self,
        configuration: Configuration,
        load_configuration: Callable[[], Configuration],
        context: WorkerContext | None = None,
    ) -> None:
        """Create a server process; `run` starts it.

        Args:
            configuration: the configuration to run.
            load_configuration: rereads the configuration for a reload, or raises.
            context: the position of this worker; None for the only process of a server.
        """
        self.configuration = configuration
        self._load_configuration = load_configuration
        self._context = context
        self._workers = 1 if context is None else context.workers
        self._number = 0 if context is None else context.number
        self._clock = SystemClock()
        self._random = SystemRandom()
        self._counters = Counters()
        self._state = shared_state(configuration.data, self._clock, self._counters, context and context.bus)
        self._suspensions = Suspensions(self._state.memory, self._clock.now)
        self._login_limit = LoginBackoff(self._state.memory, metrics=self._counters)
        self._signing = Signing(self._counters)
        """The keys with which mail is signed."""
        self._pool = PasswordPool()
        """Threads that check passwords; kept across reloads."""
        self._reloading = asyncio.Lock()
        self._posted_reports = ReceiptLimits(self._clock)
        """Limits the reports about TLS that others post."""
        self._quotas: SharedQuotas | None = None
        self.first_login: InitialLogin | None = None
        """The account that this start created; its password is shown once."""
        self.listeners: list[BoundListener] = []
        """The listening addresses."""
        self._tls: TlsContext | None = None
        self._news: list[str] = []
        """Sentences about certificates from the last reload."""
        self._name: str
        """The host name of the server."""
        self._agents: DeliveryAgents
        self._runner: QueueRunner
        self._on_demand: OnDemand
        self._store: Store
        self._join: Callable[..., dict[str, RequestHandler]]
        """Connects the store of one of several workers to the others (`storage.backend.WorkerStore.join`)."""
        self._jobs: JobScheduler
        self._open_files: int
        """Number of descriptors that this process may open."""
        self._capacity = Capacity()
        self._resources = ResourceWatch(UsageReader(), self._shortage_changed, worker=self._number)
        self._supervisor: Supervisor

    async def run(self, ready: Callable[[], None]) -> None:
        """Run until a signal, which may arrive during the start; call `ready` when all addresses are listening.

        Raises:
            DataError, ListenError: it cannot start; everything that was started is stopped.
            StoreUnusable: another version of ironpost wrote the data.
            TlsError: a certificate cannot be used.
            AuthError: the accounts cannot be used.
            AccessError: a login or certificate of a route, or a key for signing, cannot be used.
            SourceError: a source of the directory cannot be used.
        """
        with Signals() as signals:
            components = await signals.unless_stopped(self._components())
            if components is not None:
                self._supervisor = Supervisor(components, self.reload, signals)
                await self._supervisor.run(ready)

    async def _components(self) -> list[Component]:
        """Create the components, with the store open; if this raises, everything is closed again."""
        configuration = self.configuration
        self._open_files, available = raise_file_limit(configuration, self._workers), available_memory()
        asyncio.get_running_loop().set_exception_handler(AcceptFaults(self._clock, self._counters).handle)
        lock, self._store = self._opened(configuration)
        context = self._context
        if context is not None:
            self._quotas = SharedQuotas(context.bus, asyncio.get_running_loop().call_later)
            self._quotas.share("posted reports", self._posted_reports.rates)
        try:
            return await self._assembled(configuration, lock, available)
        except BaseException:
            await self._store.close()
            if lock is not None:
                lock.release()
            raise

    async def _assembled(
        self, configuration: Configuration, lock: DirectoryLock | None, available: int
    ) -> list[Component]:
        """Create the components around the open store.

        The account of the first login is created when everything else that a configuration names has been read: its
        password is shown once, at the end of a successful start.
        """
        context = self._context
        self._name = name = await own_name(configuration) if context is None else context.name
        self._tls = tls = certificates(configuration, name)
        sockets = handed_over(configuration) if context is None else context.sockets
        own = own_system(configuration, name, sockets)
        state = self._state.memory
        self._counting = counting = Counting(configuration, state, self._clock, self._counters, self._number)
        self._agents = DeliveryAgents(
            configuration,
            name,
            own,
            self._clock,
            self._random,
            self._counters,
            state=state,
            tls_recorder=counting.tls,
            directory=lambda: self._runner.routes.directory,
        )
        self._agents.prepare(configuration)()
        keys = usable_keys(configuration)
        self._sign_with(configuration, keys)
        self._warn(configuration, keys)
        table = self._routes(configuration, self._sources(configuration))
        if context is None:
            self.first_login = first_login(configuration)
        defaults = self._session_defaults(configuration, name)
        self._runner = QueueRunner(
            store=self._store,
            routes=table,
            agents=self._agents.agent,
            clock=self._clock,
            random=self._random,
            reporting_mta=name,
            suspensions=self._suspensions,
            retry=retry_policy(configuration.queue),
            concurrency=max(1, configuration.queue.concurrency // self._workers),
            destinations=concurrency_policy(configuration.delivery),
            limits=delivery_limits(configuration.delivery),
            metrics=self._counters,
            rules=reply_rules(configuration.queue),
            signing=self._signing,
        )
        if context is not None:
            SharedDestinations(
                context.number,
                context.workers,
                context.bus,
                self._runner.scheduler,
                later=asyncio.get_running_loop().call_later,
                now=self._clock.now,
                changed=self._runner.pump,
            )
        self._on_demand = OnDemand(
            customers(configuration),
            store=self._store,
            attempt=self._runner.attempt,
            retry=self._runner.requests.retry,
            local_hostname=full_name(name),
            rewriting=self._agents.rewriting,
        )
        self._reports = ReportSenders(
            configuration,
            counting,
            state,
            host=name,
            agents=self._agents,
            store=self._store,
            runner=self._runner,
            signing=self._signing,
            clock=self._clock,
            random=self._random,
            metrics=self._counters,
            share=self._share,
        )
        self._reception = rewriting(configuration, "reception")
        self._pickup = Pickup(
            store=self._store,
            accept=self._runner.accept,
            directory=lambda: self._runner.routes.directory,
            archives=lambda: archives(self.configuration),
            rewriting=lambda: self._reception,
            signing=self._signing,
            clock=self._clock,
            random=self._random,
            hostname=name,
            metrics=self._counters,
        )
        self._jobs = JobScheduler(JOBS, self, self._clock, worker=self._number, workers=self._workers)
        self.listeners = create_listeners(
            configuration,
            defaults,
            self._handlers(configuration, name, self._runner.routes.directory),
            tls,
            self._counters,
            sockets,
            context and context.ports,
            self._limiters(),
            self._capacity,
            room_for_connections(configuration, self._open_files, self._workers, report=self._number == 0),
        )
        self._limit_resources(configuration, available)
        control: Component
        if context is None:
            control = Control(ControlServer(configuration.control, handlers(self)), configuration.data)
        else:
            forwarding = self._join(
                context.bus, context.number, context.workers, partial(self._runner.wake, probe=True)
            )
            control = context.create_channel({**worker_handlers(self), **forwarding}, lambda: self._supervisor.stop())
        components: list[Component] = [
            *([DirectoryLockComponent(lock)] if lock is not None else []),
            self._state,
            counting,
            _CloseOnly(self._store.close),
            _CloseOnly(self._agents.close),
            PeriodicLoop(self._runner.start, self._runner.stop),
            _CloseOnly(self._on_demand.stop),
            _CloseOnly(self._reports.stop),
            self._jobs,
            control,
            *self.listeners,
        ]
        return components

    def _limiters(self) -> Callable[[int], ConnectionLimiter]:
        """Return the connection limiter of a listener."""
        if self._context is None:
            return lambda _: LocalLimiter()
        later = asyncio.get_running_loop().call_later
        return SharedLimiters(self._workers, self._context.bus, later, self._clock.monotonic).book

    def _opened(self, configuration: Configuration) -> tuple[DirectoryLock | None, Store]:
        data, queue, context = configuration.data, configuration.queue, self._context
        options = store_options(queue, self._clock.now)
        with used(data):
            backend = BACKENDS[queue.backend]()
            if context is not None:
                store = backend.open_worker(data, options, context.number, context.workers)
                self._join = store.join
                return None, store
            lock = locked(data)
            try:
                backend.prepare(data)
                prepare_state(data)
                if configuration.sendmail.directory is None:
                    drop.prepare(configuration.drop)
                return lock, backend.open(data, options)
            except BaseException:
                lock.release()
                raise

    # -- reload

    async def reload(self) -> str:
        """Reload the configuration and apply it to new sessions; open sessions keep the old one.

        Returns:
            A sentence about what changed.

        Raises:
            ConfigError, RequestRefused: the configuration cannot be used; nothing has changed.
        """
        async with self._reloading:
            return await self._reload()

    async def _reload(self) -> str:
        new, old = self._load_configuration(), self.configuration
        refuse_fixed(old, new)
        name = self._name  # `hostname` cannot change, and a reload does not wait for DNS
        try:
            sources = await asyncio.to_thread(self._sources, new)
            defaults = self._session_defaults(new, name)
            tls = certificates(new, name)
            use_accesses = self._agents.prepare(new)
            keys = usable_keys(new)
            new_routes = self._routes(new, sources)
        except (AccessError, AuthError, SourceError, TlsError) as error:
            raise RequestRefused(str(error)) from error
        handlers = self._handlers(new, name, new_routes.directory)
        try:
            available = available_memory()
        except OSError as error:
            raise RequestRefused(f"cannot read how much memory there is: {error_text(error)}") from error
        room = room_for_connections(new, self._open_files, self._workers, report=self._number == 0)
        profiles = [ListenerProfile.of(new, listener, defaults, room) for listener in new.listener]
        # From here on nothing can fail.
        self.configuration = new
        log_output.configure(new.log.level, new.log.format)
        use_accesses()
        self._sign_with(new, keys)
        self._warn(new, keys)
        self._runner.routes = new_routes
        self._on_demand.customers = customers(new)
        self._reception = rewriting(new, "reception")
        self._agents.rewriting.rules = rewriting(new, "delivery")
        self._agents.reported = reported_domains(new)
        self._limit_resources(new, available)
        for each in self.listeners:
            each.apply(handlers[each.listener], profiles[each.listener], tls)
        self._news = [] if tls is None else tls.changes(self._tls)
        self._tls = tls
        return outcome(new, old, self._news)

    def _sign_with(self, configuration: Configuration, keys: Sequence[Key]) -> None:
        self._signing.use(keys, configuration.smtp.trusted)

    def _warn(self, configuration: Configuration, keys: Sequence[Key]) -> None:
        if self._number == 0:
            for warning in (*key_warnings(configuration, keys), *local_warnings(configuration, os.geteuid())):
                log.warning(warning)

    def _limit_resources(self, configuration: Configuration, available: int) -> None:
        limits, files = resource_limits(configuration), self._open_files
        self._capacity.descriptors = files - reserved(limits, files)
        self._resources.bounds = bounds_of(limits, available, files, self._workers)
        self._resources.sample()

    def _shortage_changed(self, resource: Excess | None) -> None:
        """Take no more work while a resource is short."""
        self._capacity.shortage = resource
        self._runner.short = resource is not None
        if resource is not None:
            for each in self.listeners:
                each.server.retire()

    def _session_defaults(self, configuration: Configuration, name: str) -> SessionDefaults:
        users = authenticator(configuration, self._pool, lambda: self._runner.routes.directory)
        return SessionDefaults(name, users, self._login_limit, self._clock.now)

    def _sources(self, configuration: Configuration) -> list[RecordSource]:
        """Open the sources of the directory. Blocks.

        Raises:
            SourceError: one cannot be used.
        """
        return record_sources(configuration, SourceContext(self._clock, configuration.folder, self._agents.http))

    def _routes(self, configuration: Configuration, sources: Sequence[RecordSource]) -> Routes:
        """Create the routing table and its directory."""
        asking = callout(lambda: self._runner.routes, self._agents.agent, self._clock, self._counters)
        return routes(configuration, sources, callout=asking, metrics=self._counters)

    @property
    def _share(self) -> Callable[[str, Buckets], None] | None:
        """Shares buckets with the other workers; None if there are none."""
        return None if self._quotas is None else self._quotas.share

    def _handlers(self, configuration: Configuration, name: str, directory: Directory) -> list[Inbound | HttpHandler]:
        """Create the handler of each listener; those with one role share it."""
        recorder = dmarc_recorder(self._counting, self._reports)
        ports = Ports(self._clock, self._agents.resolver, self._share, directory, recorder)
        logging_in = {each.role for each in configuration.listener if configuration.on_demand and each.auth != "none"}
        rules = policy(configuration, name, ports)
        inbound = {
            role: Inbound(
                store=self._store,
                policy=rules,
                clock=self._clock,
                random=self._random,
                hostname=name,
                accept=self._runner.accept,
                directory=directory,
                role=role,
                on_demand=self._on_demand if role in logging_in else None,
                claims=CLAIMS,
                archives=archives(configuration),
                rewriting=rewriting(configuration, "reception"),
                signing=self._signing,
                idempotency=configuration.queue.idempotency > 0,
                metrics=self._counters,
            )
            for role in {listener.role for listener in configuration.listener if listener.takes_mail}
        }
        return [
            inbound[each.role]
            if each.takes_mail
            else http_handler(configuration, each, self._posted_reports, self._counters)
            for each in configuration.listener
        ]

    # -- operations.context.ServingProcess

    @property
    def configuration_hash(self) -> str:
        return self.configuration.hash

    def listening(self) -> list[Listening]:
        return [Listening(each.role, each.tls, str(bound)) for each in self.listeners for bound in each.bound]

    async def apply_reload(self) -> Reloaded:
        message = await self.reload()
        return Reloaded(message, self._news)

    @property
    def queue(self) -> Store:
        return self._store

    @property
    def runner(self) -> QueueRunner:
        return self._runner

    @property
    def suspended(self) -> SuspendedDestinations:
        return self._runner.suspended

    def suspensions(self) -> list[Suspension]:
        return list(self._suspensions.all().values()) if self._number == 0 else []

    # -- mta.jobs.JobContext

    @property
    def clock(self) -> SystemClock:
        return self._clock

    @property
    def maildirs(self) -> Sequence[PathTemplate]:
        return [self.configuration.maildir, *self.configuration.local.maildirs]

    async def prune_history(self) -> int:
        return await self._store.prune_history() if isinstance(self._store, KeepsHistory) else 0

    async def remove_expired_state(self) -> int:
        return await self._state.remove_expired()

    def sample_resources(self) -> Usage:
        return self._resources.sample()

    async def refresh_sts_policies(self) -> tuple[int, int]:
        return (0, 0) if self._agents.sts is None else await self._agents.sts.refresh()

    @property
    def dane(self) -> bool:
        return self._agents.context.dane

    async def dane_obstacle(self) -> str:
        return await self._agents.dane_obstacle()

    async def store_report_counts(self) -> None:
        await self._counting.store()

    async def send_tls_reports(self) -> SentReports | None:
        return await send_due(self._reports.tls)

    async def send_dmarc_reports(self) -> SentReports | None:
        return await send_due(self._reports.dmarc)

    async def pick_up(self) -> PickedUp:
        smtp = self.configuration.smtp
        return await self._pickup.run(self.configuration.drop, octets=smtp.max_message, recipients=smtp.max_recipients)

    def wake_queue(self) -> None:
        self._runner.wake()

    def open_connections(self) -> dict[str, int]:
        connections: dict[str, int] = {}
        for each in self.listeners:
            connections[each.role] = connections.get(each.role, 0) + len(each.server.connections)
        return connections

    def job_status(self) -> list[JobStatus]:
        return self._jobs.status()

    async def resource_status(self) -> list[ResourceStatus]:
        found, queue = self._resources.status(), self.configuration.queue
        if self._number == 0 and queue.backend != "memory":
            with contextlib.suppress(OSError):  # the store reports its faults by itself
                found.append(await asyncio.to_thread(disk_status, self.configuration.data, queue.reserve))
        return found

    def state_usage(self) -> list[StateUsage]:
        return self._state.memory.usage() if self._number == 0 else []

    def counts(self) -> dict[str, dict[str, float]]:
        return self._counters.snapshot() | {"log_lines_dropped": {"": log_output.dropped()}}


class DirectoryLockComponent:
    """Component: the lock on the data directory, released last."""

    def __init__(self, lock: DirectoryLock) -> None:
        self._lock = lock

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self._lock.release()


class _CloseOnly:
    """Component that is already running and only needs to be closed."""

    def __init__(self, close: Callable[[], Any]) -> None:
        self.stop = close

    async def start(self) -> None:
        pass


class Control:
    """Component: the control socket. Its errors are those of the data directory, in which it is."""

    def __init__(self, server: ControlServer, data: Path) -> None:
        self._server = server
        self._data = data
        self.stop = server.stop

    async def start(self) -> None:
        with used(self._data):
            await self._server.start()
