"""Composes a server of several processes: the supervisor.

A worker is a `compose.system.System` with a `WorkerContext`.

Promises: the supervisor holds the data directory, the addresses and the control socket, but no mail. It is ready when
every worker is. An address that is in use is refused before a worker starts. A request on the control socket is
forwarded to the workers that it concerns, and their answers are merged, with the names of workers that did not answer
(`silent`). One worker applies a reload before the others receive it; if the configuration cannot be used, all keep the
old one. A worker that did not answer a reload receives it again as soon as it answers.
Refuses: more workers than the data directory has shards.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from ironpost.accounts.record_sources import SourceContext
from ironpost.compose.auth import authenticator, first_login
from ironpost.compose.data_lock import locked, used
from ironpost.compose.delivery import local_errors, route_accesses
from ironpost.compose.directory import record_sources
from ironpost.compose.keyed_state import prepare_state
from ironpost.compose.listeners import ListenError, certificates, handed_over, place_of
from ironpost.compose.own_name import own_name
from ironpost.compose.reload import outcome, refuse_fixed
from ironpost.compose.signing import usable_keys
from ironpost.compose.system import Control, DirectoryLockComponent
from ironpost.config.quantities import Endpoint, SocketPath
from ironpost.delivery.access import AccessError, Accesses
from ironpost.operations.control_socket import ControlServer
from ironpost.operations.dispatch import supervisor_handlers
from ironpost.operations.operation import SilentWorker
from ironpost.operations.reload import Reloaded
from ironpost.operations.status import Listening, WorkerStatus
from ironpost.processes.clock import SystemClock
from ironpost.processes.lifecycle import Component, Supervisor
from ironpost.processes.requests import RequestTimedOut
from ironpost.processes.shared_limits import CONNECTIONS, ConnectionLedger
from ironpost.processes.signals import Signals
from ironpost.processes.worker_pool import Worker, WorkerPool
from ironpost.server.binding import bind, bind_unix, unbind_unix
from ironpost.storage import BACKENDS, drop
from ironpost.storage.backend import WORKER_ENDED
from ironpost.telemetry import formatters as log_output

if TYPE_CHECKING:
    import os
    import socket
    from collections.abc import Callable, Mapping

    from ironpost.compose.auth import InitialLogin
    from ironpost.config import Configuration, ListenerSection
    from ironpost.config.quantities import Where

WORKER = ("-m", "ironpost.cli.worker")
"""Arguments of the interpreter that start a worker."""

log = logging.getLogger("ironpost.compose")


class ConfigurationSource(NamedTuple):
    """A configuration, and its text for the workers."""

    configuration: Configuration
    text: str | None
    """The text of the file; None for the built-in default."""
    name: str
    """The name of the file, for messages."""


class TooManyWorkers(Exception):
    """More workers were requested than there are shards."""

    def __init__(self, workers: int, shards: int) -> None:
        super().__init__(f"{workers} workers are too many: this data directory has room for {shards}")


class ReservedAddress:
    """Component: one address of one listener, reserved for the workers, also while one of them restarts.

    A port is bound by each worker as well; Unix sockets and those of a service manager exist once, and the workers
    inherit them.
    """

    def __init__(self, number: int, listener: ListenerSection, where: Where, inherited: list[int]) -> None:
        """Describe the address.

        Args:
            number: index of the listener in the configuration, from 0.
            listener: its section.
            where: the address.
            inherited: the list to which descriptors that workers inherit are appended.
        """
        self.listener = number
        self.role = listener.role
        self.tls = listener.tls
        self.where = where
        self._mode = listener.mode
        self._inherited = inherited
        self._made: os.stat_result | None = None
        self.sockets: list[socket.socket] = []
        """The bound sockets; those of a service manager are put here before `start`."""

    async def start(self) -> None:
        """Bind the address.

        Raises:
            ListenError: the address cannot be bound.
        """
        where = self.where
        try:
            if isinstance(where, Endpoint):
                if where.port:
                    # SO_REUSEPORT would share the port with another server as well: bind once without it.
                    for sock in await bind(where.host, where.port):
                        sock.close()
                self.sockets = await bind(where.host, where.port, reuse_port=True)
                return
            if isinstance(where, SocketPath):
                self.sockets = [bind_unix(where.path, self._mode)]
                self._made = where.path.stat()
            elif not self.sockets:
                raise OSError(errno.ENOENT, "no socket of that name was passed (LISTEN_FDS)")
        except OSError as error:
            raise ListenError(where) from error
        self._inherited.extend(sock.fileno() for sock in self.sockets)

    async def stop(self) -> None:
        """Close the sockets, and remove a Unix socket that `start` created."""
        for sock in self.sockets:
            sock.close()
        if isinstance(self.where, SocketPath) and self._made is not None:
            unbind_unix(self.where.path, self._made)

    @property
    def port(self) -> int:
        """The port; 0 for a Unix or inherited socket."""
        return int(self.sockets[0].getsockname()[1]) if isinstance(self.where, Endpoint) else 0

    @property
    def bound(self) -> list[Endpoint | SocketPath]:
        """See `BoundListener.bound`."""
        return [place_of(sock.getsockname()) for sock in self.sockets]


class Supervised:
    """A server of several processes; start it with `run`."""

    def __init__(
        self, source: ConfigurationSource, load_configuration: Callable[[], ConfigurationSource], workers: int
    ) -> None:
        """Create a server; `run` starts it.

        Args:
            source: the configuration to run.
            load_configuration: rereads the configuration for a reload, or raises.
            workers: the number of workers.
        """
        self._source = source
        self._load_configuration = load_configuration
        self._count = workers
        self._name: str
        """The host name of the server."""
        self._workers: WorkerPool
        self._reloading = asyncio.Lock()
        self._ledger = ConnectionLedger()
        self.first_login: InitialLogin | None = None
        """See `System.first_login`."""
        self._confirmed: dict[int, ConfigurationSource] = {}
        """The configuration that each worker was last known to run."""
        self._unconfirmed: dict[int, str] = {}
        """Workers that did not confirm the last reload, with the reason: they may run either configuration."""
        self._inherited: list[int] = []
        self.listeners = [
            ReservedAddress(number, listener, where, self._inherited)
            for number, listener in enumerate(source.configuration.listener)
            for where in listener.listen
        ]
        """The reserved addresses."""

    @property
    def configuration(self) -> Configuration:
        """The running configuration."""
        return self._source.configuration

    async def run(self, ready: Callable[[], None]) -> None:
        """Run until a signal, which may arrive during the start; call `ready` when every worker is listening.

        Raises:
            DataError, ListenError, TooManyWorkers, WorkerFailed: it cannot start; everything that was started is
                stopped.
            StoreUnusable: another version of ironpost wrote the data.
            TlsError, AuthError, AccessError, SourceError: a certificate, the accounts, the login of a route, or a
                source of the directory cannot be used.
        """
        with Signals() as signals:
            components = await signals.unless_stopped(self._components())
            if components is not None:
                await Supervisor(components, self.reload, signals).run(ready)

    async def _components(self) -> list[Component]:
        """Create the components, with the data directory locked; if this raises, it is unlocked again."""
        data = self.configuration.data
        with used(data):
            lock = locked(data)
            try:
                shards = BACKENDS[self.configuration.queue.backend]().prepare(data)
                if self._count > shards:
                    raise TooManyWorkers(self._count, shards)
                prepare_state(data)
                if self.configuration.sendmail.directory is None:
                    drop.prepare(self.configuration.drop)
                self._name = await own_name(self.configuration)
                certificates(self.configuration, self._name)  # or create a self-signed one
                for error in local_errors(self.configuration):
                    raise error
                for access in route_accesses(self.configuration, Accesses(self.configuration.delivery.ca)):
                    if isinstance(access, AccessError):
                        raise access
                usable_keys(self.configuration)
                record_sources(self.configuration, SourceContext(SystemClock(), self.configuration.folder))
                self.first_login = first_login(self.configuration)  # its password is shown after a successful start
                authenticator(self.configuration)  # checks the accounts
                sockets = handed_over(self.configuration)
            except BaseException:
                lock.release()
                raise
        for each in self.listeners:
            each.sockets = sockets.get(str(each.where), [])
        self._inherited.append(lock.descriptor)  # a worker that outlives the supervisor keeps the directory locked
        self._workers = WorkerPool(
            self._count, WORKER, self._first_message, keep=self._inherited,
            on_notification=self._on_notification, on_ready=self._on_ready, on_end=self._on_end,
            on_alive=self._on_alive,
        )  # fmt: skip
        commands = supervisor_handlers(self, self._workers)
        return [
            DirectoryLockComponent(lock),
            *self.listeners,
            self._workers,
            Control(ControlServer(self.configuration.control, commands), data),
        ]

    def _first_message(self, number: int) -> Mapping[str, Any]:
        self._confirmed[number] = self._source
        self._unconfirmed.pop(number, None)
        return {
            "number": number,
            "workers": self._count,
            "name": self._name,
            "ports": [each.port for each in self.listeners],
            "sockets": {
                str(each.where): [sock.fileno() for sock in each.sockets]
                for each in self.listeners
                if not isinstance(each.where, Endpoint)
            },
            "text": self._source.text,
            "source": self._source.name,
        }

    # -- notifications between workers

    def _on_notification(self, number: int, note: Mapping[str, Any]) -> None:
        if CONNECTIONS in note:
            self._ledger.apply(number, note[CONNECTIONS])
        self._workers.notify_others(number, note)

    def _on_end(self, number: int) -> None:
        self._workers.notify_others(number, {CONNECTIONS: self._ledger.ended(number), WORKER_ENDED: number})

    def _on_ready(self, worker: Worker) -> None:
        for held in self._ledger.others(worker.number):
            self._workers.notify(worker.number, {CONNECTIONS: held})
        if self._confirmed[worker.number] is not self._source:
            log.warning("worker %d missed a reload; sending the configuration again", worker.number)
            task = asyncio.ensure_future(self._send_configuration(worker, self._source))
            task.add_done_callback(_logged)

    def _on_alive(self, worker: Worker) -> None:
        if worker.number in self._unconfirmed and not self._reloading.locked():
            log.warning("worker %d answers again; sending the configuration again", worker.number)
            task = asyncio.ensure_future(self._resend_configuration(worker))
            task.add_done_callback(_logged)

    async def _resend_configuration(self, worker: Worker) -> None:
        async with self._reloading:
            if worker.number in self._unconfirmed:
                await self._send_configuration(worker, self._source)

    # -- reload

    async def reload(self) -> str:
        """Reload every worker that answers (see `System.reload`); the result names those that do not.

        Raises:
            ConfigError, RequestRefused: the configuration cannot be used; nothing has changed.
            RequestTimedOut: neither of the two workers that were to try it answered; nothing has changed.
        """
        async with self._reloading:
            new, old = self._load_configuration(), self._source
            refuse_fixed(old.configuration, new.configuration)
            news = await self._try_configuration(new)  # if this raises, no worker has applied it
            self._source = new
            log_output.configure(new.configuration.log.level, new.configuration.log.format)
            # A worker that became ready meanwhile has the old one; later ones get the new one by `_on_ready`.
            ready = [
                each for each in self._workers.all
                if each.ready.is_set() and self._confirmed[each.number] is not new
                and each.number not in self._unconfirmed
            ]  # fmt: skip
            done = await asyncio.gather(
                *(self._send_configuration(each, new) for each in ready), return_exceptions=True
            )
            said = outcome(new.configuration, old.configuration, news)
            refused = [
                each for each in done if isinstance(each, BaseException) and not isinstance(each, RequestTimedOut)
            ]
            return "; ".join([said, *map(str, refused), *self._unconfirmed.values()])

    async def _try_configuration(self, new: ConfigurationSource) -> list[str]:
        """Apply a configuration in one worker, or in a second one if the first does not answer; return its `news`."""
        ready = sorted((each for each in self._workers.all if each.ready.is_set()), key=lambda each: each.silent)
        for worker in ready[:2]:
            with contextlib.suppress(RequestTimedOut):
                return await self._send_configuration(worker, new)
        if ready:
            raise RequestTimedOut("\n".join(self._unconfirmed[each.number] for each in ready[:2]))
        return []

    async def _send_configuration(self, worker: Worker, source: ConfigurationSource) -> list[str]:
        self._unconfirmed.pop(worker.number, None)
        try:
            answer = await worker.ask({"do": "reload", "text": source.text})
        except RequestTimedOut as error:
            self._unconfirmed[worker.number] = str(error)
            raise
        self._confirmed[worker.number] = source
        return list(answer.get("news", ()))

    # -- operations.context.SupervisorProcess

    @property
    def configuration_hash(self) -> str:
        return self.configuration.hash

    def listening(self) -> list[Listening]:
        return [Listening(each.role, each.tls, str(bound)) for each in self.listeners for bound in each.bound]

    async def apply_reload(self) -> Reloaded:
        message = await self.reload()
        return Reloaded(message, [], [SilentWorker(number, why) for number, why in sorted(self._unconfirmed.items())])

    @property
    def restarts(self) -> int:
        return self._workers.restarts

    def worker_status(self) -> list[WorkerStatus]:
        return [
            WorkerStatus(
                each.number, None if each.process is None else each.process.pid, each.ready.is_set(), each.starts
            )
            for each in self._workers.all
        ]


def _logged(task: asyncio.Future[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("reload not applied: %s", error)
