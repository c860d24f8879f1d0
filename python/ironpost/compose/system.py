"""The composition root: from a configuration to a running system. The one module that knows every name.

Promises: parts start inner ones first (store, queue runner, control socket, listeners) and stop in the reverse order.
A reload builds everything new before it changes anything; a configuration that cannot be used, or that changes what is
fixed while the server runs, changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ironpost import wire
from ironpost.compose.auth import AuthError, Login, authenticator, first_login, login_limit
from ironpost.compose.delivery import Ways, customers, routes
from ironpost.compose.listeners import Common, Manner, Place, certificates, handed_over, places
from ironpost.compose.policy import policy_settings
from ironpost.config import ConfigError
from ironpost.config.schema import FIXED, FIXED_LISTENER
from ironpost.lookup.passwords import Pool
from ironpost.policy import Policy
from ironpost.policy.checks import Ports, configured
from ironpost.protocol.client_name import full_name
from ironpost.queue.retry import RetryLaw
from ironpost.server.limits import LocalBook
from ironpost.server.tls import TlsError
from ironpost.service import records
from ironpost.service.clock import SystemClock, SystemRandom
from ironpost.service.control import ControlError, ControlServer, Unanswered
from ironpost.service.inbound import Inbound
from ironpost.service.lending import LendingStore
from ironpost.service.metrics import Counters
from ironpost.service.on_demand import OnDemand
from ironpost.service.queue_commands import QueueCommands
from ironpost.service.queue_runner import QueueRunner
from ironpost.service.shared_limits import SharedBooks, SharedQuotas
from ironpost.service.supervisor import Loop, Part, Supervisor
from ironpost.storage.lock import DirectoryLock
from ironpost.storage.shards import ShardedStore, lay_out

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    from ironpost.config import Configuration
    from ironpost.server.limits import LimitBook
    from ironpost.service.control import Command
    from ironpost.service.news import News

CLAIMS = frozenset({"FUTURERELEASE", "REQUIRETLS"})
"""Extensions that are offered because queue and delivery keep what they promise: a message waits for its time, and one
that requires TLS is delivered here, or handed to a next hop that promises the same under verified TLS, or fails."""
SPARE_FILES = 512
"""Descriptors beyond those of connections: the store, deliveries, DNS."""
NAME_SECONDS = 5.0
"""How long the start waits for the machine's full name."""

UNCHANGED = "nothing has changed in the configuration ({}); certificates and accounts were read again"
"""What a reload says when the text is the same; the argument is the hash."""

log = logging.getLogger("ironpost.compose")


class DataError(Exception):
    """The data directory cannot be used; the cause is the OSError."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"cannot use the data directory {path}")
        self.path = path


@contextlib.contextmanager
def used(data: Path) -> Iterator[None]:
    """What the system refuses about the data directory becomes a `DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(data) from error


class Share(NamedTuple):
    """What a worker, one of several processes, is of the whole (`compose.workers`)."""

    number: int
    """From 0."""
    workers: int
    """How many there are."""
    name: str
    """What the server calls itself."""
    ports: tuple[int, ...]
    """Where to listen, in the order of the listeners' addresses: others listen there, too."""
    sockets: Mapping[str, list[socket.socket]]
    """What all share instead: Unix sockets and inherited ones, by the name in the configuration."""
    news: News
    """From and for the others."""
    front: Callable[[Mapping[str, Command], Callable[[], None]], Part]
    """Makes what stands in the place of the control socket, from the commands and a way to stop."""


def reloading(reload: Callable[[], Awaitable[str]]) -> Command:
    """The command of the control socket that reloads, and says so in the log."""

    async def answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
        del request
        try:
            said = await reload()
        except (ConfigError, ControlError) as error:
            log.error("reload failed, the old configuration stays: %s", error)
            kind = Unanswered if isinstance(error, Unanswered) else ControlError
            raise kind(f"the old configuration stays\n{error}") from None
        log.info(said)
        return {"said": said}

    return answer


class System:
    """One server process: `run` it."""

    def __init__(
        self, configuration: Configuration, again: Callable[[], Configuration], share: Share | None = None
    ) -> None:
        """Opens nothing yet.

        Args:
            configuration: what to run.
            again: reads the configuration anew, for a reload; it raises what is wrong with it.
            share: for one of several processes; None for the only one, which has the directory to itself.
        """
        self.configuration = configuration
        self._again = again
        self._share = share
        self._workers = 1 if share is None else share.workers
        self._clock = SystemClock()
        self._random = SystemRandom()
        self._counters = Counters()
        self._login_limit = login_limit(self._clock, self._counters, share and share.news)
        self._pool = Pool()
        """The threads that check passwords: one pool, however often the accounts are read anew."""
        self._quotas: SharedQuotas | None = None
        self.first_login: Login | None = None
        """The account that this start made, for whoever started it."""
        self.places: list[Place] = []
        """Where it listens."""
        self._name: str
        """What the server calls itself."""
        self._ways: Ways
        self._runner: QueueRunner
        self._on_demand: OnDemand
        self._store: ShardedStore
        self._supervisor: Supervisor

    async def run(self, ready: Callable[[], None]) -> None:
        """Runs until a signal; calls `ready` when it listens.

        Raises:
            DataError, ListenError: it cannot start; everything that was started is stopped.
            SchemaError: another version of ironpost wrote the data.
            TlsError: a certificate cannot be used.
            AuthError: the accounts cannot be used.
        """
        configuration = self.configuration
        raise_file_limit(_connections(configuration) + SPARE_FILES, asked=asked_for_connections(configuration))
        lock, self._store = self._opened(configuration)
        share = self._share
        if share is not None:
            self._quotas = SharedQuotas(share.news, asyncio.get_running_loop().call_later)
        try:
            self._name = name = await own_name(configuration) if share is None else share.name
            if share is None:
                self.first_login = first_login(configuration)
            tls = certificates(configuration, name)
            common = self._common(configuration, name)
        except BaseException:
            await self._store.close()
            if lock is not None:
                lock.release()
            raise
        self._ways = Ways(configuration, name, self._clock, self._random, self._counters)
        self._runner = QueueRunner(
            store=self._store,
            routes=routes(configuration),
            agents=self._ways.agent,
            clock=self._clock,
            random=self._random,
            reporting_mta=name,
            law=RetryLaw(expiry=configuration.queue.expire),
            concurrency=max(1, configuration.queue.concurrency // self._workers),
            each=configuration.delivery.connections,
        )
        self._on_demand = OnDemand(
            customers(configuration),
            store=self._store,
            attempt=self._runner.attempt,
            wake=self._runner.wake,
            clock=self._clock,
            local_hostname=full_name(name),
        )
        self.places = places(
            configuration,
            common,
            self._handlers(configuration, name),
            tls,
            self._counters,
            handed_over(configuration) if share is None else share.sockets,
            share and share.ports,
            self._books(),
        )
        queue = QueueCommands(self._store, self._clock, self._runner.wake)
        commands = {
            "reload": reloading(self.reload),
            "status": self._status,
            "metrics": self._metrics,
            **queue.offered(),
        }
        front: Part
        if share is None:
            front = Control(ControlServer(configuration.control, commands), configuration.data)
        else:
            assert isinstance(self._store, LendingStore)
            lending = self._store.join(share.news, share.number, share.workers, self._runner.wake)
            front = share.front({**commands, **lending, "known": queue.which}, lambda: self._supervisor.stop())
        parts: list[Part] = [
            *([Lock(lock)] if lock is not None else []),
            _Held(self._store.close),
            _Held(self._ways.close),
            Loop(self._runner.start, self._runner.stop),
            _Held(self._on_demand.stop),
            front,
            *self.places,
        ]
        self._supervisor = Supervisor(parts, self.reload)
        await self._supervisor.run(ready)

    def _books(self) -> Callable[[int], LimitBook]:
        """Where the connections of a listener are counted."""
        if self._share is None:
            return lambda _: LocalBook()
        later = asyncio.get_running_loop().call_later
        return SharedBooks(self._workers, self._share.news, later, self._clock.monotonic).book

    def _opened(self, configuration: Configuration) -> tuple[DirectoryLock | None, ShardedStore]:
        data, queue, share = configuration.data, configuration.queue, self._share
        kind = ShardedStore if share is None else LendingStore
        open_store = partial(
            kind.at, data, now=self._clock.now, reserve=queue.reserve, memory=queue.memory, history=queue.history,
            history_size=queue.history_size,
        )  # fmt: skip
        with used(data):
            if share is not None:
                return None, open_store(worker=share.number, workers=share.workers)
            lock = DirectoryLock(data)
            try:
                lay_out(data)
                return lock, open_store()
            except BaseException:
                lock.release()
                raise

    # What a reload changes

    async def reload(self) -> str:
        """Reads the configuration again and takes it over. Sessions that are open keep the old one to their end.

        Returns:
            What changed, for people.

        Raises:
            ConfigError, ControlError: it cannot be used; nothing has changed.
        """
        new, old = self._again(), self.configuration
        refuse_fixed(old, new)
        name = self._name  # `hostname` is fixed; and a reload waits for no name server
        new_routes = routes(new)
        handlers = self._handlers(new, name)
        try:
            common = self._common(new, name)
            tls = certificates(new, name)
        except (AuthError, TlsError) as error:
            raise ControlError(str(error)) from error
        manners = [Manner.of(new, listener, common) for listener in new.listener]
        # From here on nothing can fail.
        self.configuration = new
        records.change(new.log.level, new.log.format)
        self._runner.routes = new_routes
        self._on_demand.customers = customers(new)
        self._ways.deliver_to(new.maildir)
        for place in self.places:
            place.take_over(handlers[place.role], manners[place.listener], tls)
        if new.hash == old.hash:
            return UNCHANGED.format(old.hash)
        return f"configuration {new.hash} replaces {old.hash}"

    def _common(self, configuration: Configuration, name: str) -> Common:
        return Common(name, authenticator(configuration, self._pool), self._login_limit, self._clock.now)

    def _handlers(self, configuration: Configuration, name: str) -> dict[str, Inbound]:
        """One for each role that a listener has."""
        ports = Ports(self._clock, self._ways.resolver, self._quotas.share if self._quotas is not None else None)
        logging_in = {each.role for each in configuration.listener if configuration.on_demand and each.auth != "none"}
        policy = Policy(configured(policy_settings(configuration, name), ports))
        return {
            role: Inbound(
                store=self._store,
                policy=policy,
                clock=self._clock,
                random=self._random,
                hostname=name,
                accept=self._runner.accept,
                role=role,
                on_demand=self._on_demand if role in logging_in else None,
                claims=CLAIMS,
                metrics=self._counters,
            )
            for role in {listener.role for listener in configuration.listener}
        }

    # What the control socket offers

    async def _status(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        del request
        return {
            "configuration": self.configuration.hash,
            "listening": [
                {"role": place.role, "tls": place.tls, "at": str(bound)}
                for place in self.places
                for bound in place.bound
            ],
            "connections": sum(len(place.server.connections) for place in self.places),
        }

    async def _metrics(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        del request
        connections: dict[str, int] = {}
        for place in self.places:
            connections[place.role] = connections.get(place.role, 0) + len(place.server.connections)
        counts = self._counters.snapshot() | {"log_lines_dropped": {"": records.dropped()}}
        return {"counts": counts, "gauges": {"connections_open": connections}}


class Lock:
    """A part: the data directory's lock, let go last."""

    def __init__(self, lock: DirectoryLock) -> None:
        self._lock = lock

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self._lock.release()


class _Held:
    """A part that is there already and needs an end."""

    def __init__(self, close: Callable[[], Any]) -> None:
        self.stop = close

    async def start(self) -> None:
        pass


class Control:
    """A part: the control socket, whose trouble is the data directory's."""

    def __init__(self, server: ControlServer, data: Path) -> None:
        self._server = server
        self._data = data
        self.stop = server.stop

    async def start(self) -> None:
        with used(self._data):
            await self._server.start()


async def own_name(configuration: Configuration) -> str:
    """What the server calls itself: as configured, else the machine's full name, else its short one.

    The full name may have to be asked for from a name server, which the event loop does not wait for, and nobody
    longer than `NAME_SECONDS`. The log says what is waited for, and what could not be used.
    """
    if configuration.hostname is not None:
        return configuration.hostname
    short = socket.gethostname()
    names = [short]
    if "." not in short:
        log.info("no hostname is configured: looking for the full name of %a, for at most %g s", short, NAME_SECONDS)
        full = await _full_name(short)
        if full is None:
            log.warning("the full name of %a was not found in %g s: configure hostname", short, NAME_SECONDS)
        elif full != short:
            names.insert(0, full)
    for name in names:
        try:
            wire.parse_mailbox(f"x@{name}")
        except wire.WireFault as fault:
            log.warning("this machine is called %a, which no mail server can be (%s): configure hostname", name, fault)
        else:
            return name.lower()
    log.warning("this server calls itself localhost, which others may refuse: configure hostname")
    return "localhost"


async def _full_name(short: str) -> str | None:
    """`socket.getfqdn`, in a thread that nobody waits for at the end; None if it takes too long."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[str] = loop.create_future()

    def settle(name: str) -> None:
        if not found.done():
            found.set_result(name)

    def look() -> None:
        name = socket.getfqdn(short)
        with contextlib.suppress(RuntimeError):  # the loop is closed: it was too late
            loop.call_soon_threadsafe(settle, name)

    threading.Thread(target=look, name="ironpost-name", daemon=True).start()
    try:
        return await asyncio.wait_for(found, NAME_SECONDS)
    except TimeoutError:
        return None


def refuse_fixed(old: Configuration, new: Configuration) -> None:
    """Raises ControlError if something differs that cannot change while the server runs."""
    fixed = _fixed_differences(old, new)
    if fixed:
        raise ControlError(f"a reload cannot change {' and '.join(fixed)}: restart the server for that")


def _fixed_differences(old: Configuration, new: Configuration) -> list[str]:
    """The key paths of what differs."""
    found = [".".join(path) for path in FIXED if _value(new, path) != _value(old, path)]
    if len(new.listener) != len(old.listener):
        return [*found, "the number of listeners"]
    for number, (before, after) in enumerate(zip(old.listener, new.listener, strict=True), 1):
        found += [f"listener[{number}].{key}" for key in FIXED_LISTENER if getattr(before, key) != getattr(after, key)]
    return found


def _value(configuration: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        configuration = getattr(configuration, name)
    return configuration


def _connections(configuration: Configuration) -> int:
    """The most connections that clients can have at one time."""
    return sum(
        configuration.limits_of(listener).connections * len(listener.listen) for listener in configuration.listener
    )


def asked_for_connections(configuration: Configuration) -> bool:
    """Whether somebody wrote how many there may be."""
    asked = [configuration.limits]
    if "listener" in configuration.model_fields_set:
        asked += [listener.limits for listener in configuration.listener]
    return any("connections" in limits.model_fields_set for limits in asked)


def raise_file_limit(wanted: int, *, asked: bool = True) -> None:
    """Asks the system for as many open files as the configuration may need; `asked`: somebody wrote that number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, target), hard))
    if target < wanted:
        # Who did not ask for so many connections is not warned of what the default could need.
        level = logging.WARNING if asked else logging.INFO
        told = "%d open files are allowed, %d may be needed: raise the limit, or lower limits.connections"
        log.log(level, told, target, wanted)
