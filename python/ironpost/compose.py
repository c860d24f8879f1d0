"""The composition root: from a configuration to a running system. The one module that knows every name.

Promises: parts start inner ones first (store, queue runner, control socket, listeners) and stop in the reverse order.
A reload builds everything new before it changes anything; a configuration that cannot be used, or that changes what is
fixed while the server runs, changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import socket
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from ironpost import wire
from ironpost.config import ConfigError
from ironpost.config.schema import FIXED
from ironpost.delivery.maildir import Maildir
from ironpost.delivery.next_hop import LOOPBACK
from ironpost.delivery.remote import RemoteDelivery
from ironpost.lookup.dns import DnsResolver
from ironpost.model.ports import Answer, ResolverError
from ironpost.policy import Policy
from ironpost.policy import settings as policy_settings
from ironpost.policy.checks import configured
from ironpost.protocol.settings import Settings
from ironpost.queue.retry import RetryLaw
from ironpost.routing.route import SMTP_PORT, Host, Kind, Route, Routes, Rule
from ironpost.server import Server, Timeouts
from ironpost.service import records
from ironpost.service.clock import SystemClock, SystemRandom
from ironpost.service.control import ControlError, ControlServer
from ironpost.service.inbound import Inbound
from ironpost.service.queue_runner import QueueRunner
from ironpost.service.supervisor import Loop, Part, Supervisor
from ironpost.storage.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ironpost.config import Configuration
    from ironpost.config.quantities import Endpoint
    from ironpost.delivery import Agent
    from ironpost.model.ports import Resolver

SPARE_FILES = 512
"""Descriptors beyond those of connections: the store, deliveries, DNS."""

log = logging.getLogger("ironpost.compose")


class ListenError(Exception):
    """An address cannot be listened on; the cause is the OSError."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(f"cannot listen on {endpoint}")
        self.endpoint = endpoint


class DataError(Exception):
    """The data directory cannot be used; the cause is the OSError."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"cannot use the data directory {path}")
        self.path = path


class System:
    """One server process: `run` it."""

    def __init__(self, configuration: Configuration, again: Callable[[], Configuration]) -> None:
        """Opens nothing yet. `again` reads the configuration anew, for a reload; it raises what is wrong with it."""
        self.configuration = configuration
        self._again = again
        self._clock = SystemClock()
        self._random = SystemRandom()
        self._servers: list[Server] = []
        self._ways: _Ways
        self._runner: QueueRunner
        self._store: SqliteStore
        self._supervisor: Supervisor

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens, once it runs."""
        return [address for server in self._servers for address in server.addresses]

    async def run(self, ready: Callable[[], None]) -> None:
        """Runs until a signal; calls `ready` when it listens.

        Raises:
            DataError, ListenError: it cannot start; everything that was started is stopped.
            SchemaError: another version of ironpost wrote the data.
        """
        configuration = self.configuration
        _raise_file_limit(configuration.smtp.max_connections * len(configuration.smtp.listen) + SPARE_FILES)
        try:
            self._store = SqliteStore.at(configuration.data, now=self._clock.now, reserve=configuration.queue.reserve)
        except OSError as error:
            raise DataError(configuration.data) from error
        name = _own_name(configuration)
        self._ways = _Ways(configuration, name, self._clock, self._random)
        self._runner = QueueRunner(
            store=self._store,
            routes=_routes(configuration),
            agents=self._ways.agent,
            clock=self._clock,
            random=self._random,
            reporting_mta=name,
            law=RetryLaw(expiry=configuration.queue.expire),
            concurrency=configuration.queue.concurrency,
        )
        handler = self._handler(configuration, name)
        self._servers = [
            Server(
                handler,
                endpoint.host,
                endpoint.port,
                settings=_session_settings(configuration, name),
                timeouts=_timeouts(configuration),
                max_connections=configuration.smtp.max_connections,
            )
            for endpoint in configuration.smtp.listen
        ]
        commands = {"reload": self._command_reload, "retry": self._retry, "drop": self._drop, "status": self._status}
        parts: list[Part] = [
            _Held(self._store.close),
            _Held(self._ways.close),
            Loop(self._runner.start, self._runner.stop),
            _Control(ControlServer(configuration.control, commands), configuration.data),
            *map(_Listener, self._servers, configuration.smtp.listen),
        ]
        self._supervisor = Supervisor(parts, self.reload)
        await self._supervisor.run(ready)

    # What a reload changes

    async def reload(self) -> str:
        """Reads the configuration again and takes it over. Sessions that are open keep the old one to their end.

        Returns:
            What changed, for people.

        Raises:
            ConfigError, ControlError: it cannot be used; nothing has changed.
        """
        new, old = self._again(), self.configuration
        fixed = [".".join(path) for path in FIXED if _value(new, path) != _value(old, path)]
        if fixed:
            raise ControlError(f"a reload cannot change {' and '.join(fixed)}: restart the server for that")
        if new == old:
            return f"nothing has changed (configuration {old.hash})"
        name = _own_name(new)
        routes = _routes(new)
        handler, settings, timeouts = self._handler(new, name), _session_settings(new, name), _timeouts(new)
        # From here on nothing can fail.
        self.configuration = new
        records.set_level(new.log.level)
        self._runner.routes = routes
        self._ways.deliver_to(new.maildir)
        for server in self._servers:
            server.handler = handler
            server.settings = settings
            server.timeouts = timeouts
            server.max_connections = new.smtp.max_connections
        return f"configuration {new.hash} replaces {old.hash}"

    def _handler(self, configuration: Configuration, name: str) -> Inbound:
        policy = policy_settings.Settings(
            local_domains=frozenset(configuration.local.domains),
            trusted_networks=configuration.smtp.trusted,
        )
        return Inbound(
            store=self._store,
            policy=Policy(configured(policy)),
            clock=self._clock,
            random=self._random,
            hostname=name,
            accept=self._runner.accept,
        )

    # What the control socket offers

    async def _command_reload(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        del request
        try:
            said = await self.reload()
        except (ConfigError, ControlError) as error:
            log.error("reload failed, the old configuration stays: %s", error)
            raise ControlError(f"the old configuration stays\n{error}") from None
        log.info(said)
        return {"said": said}

    async def _retry(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        ids = None if request.get("ids") is None else await self._known(request)
        recipients = await self._store.retry(ids, self._clock.now())
        self._runner.wake()
        return {"recipients": recipients}

    async def _drop(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"messages": await self._store.drop(await self._known(request), self._clock.now())}

    async def _status(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        del request
        return {
            "configuration": self.configuration.hash,
            "listening": [list(address) for address in self.addresses],
            "connections": sum(len(server.connections) for server in self._servers),
        }

    async def _known(self, request: Mapping[str, Any]) -> list[str]:
        ids = request.get("ids")
        if not isinstance(ids, list) or not ids or not all(isinstance(each, str) for each in ids):
            raise ControlError('"ids" must be a list of queue ids')
        unknown = [each for each in ids if await self._store.get(each) is None]
        if unknown:
            raise ControlError(f"no message {', '.join(unknown)} in the queue; nothing was changed")
        return ids


class _Ways:
    """The delivery agents."""

    def __init__(self, configuration: Configuration, name: str, clock: SystemClock, random: SystemRandom) -> None:
        self._make = partial(Maildir, clock=clock, random=random, host=name)
        self._maildir = self._make(configuration.maildir)
        self._former: list[Maildir] = []
        self._remote = RemoteDelivery(
            _resolver(),
            random,
            local_hostname=name if "." in name else None,
            own_names=(name,),
            own_networks=(*LOOPBACK, *_own_addresses(configuration)),
        )

    def agent(self, route: Route) -> Agent:
        """The agent of a route."""
        return self._maildir if route.kind is Kind.LOCAL else self._remote.agent(route)

    def deliver_to(self, path: Path) -> None:
        """Local mail goes there from now on; what is being delivered ends where it began."""
        if path != self._maildir.path:
            self._former.append(self._maildir)
            self._maildir = self._make(path)

    async def close(self) -> None:
        """Ends connections and threads."""
        await self._remote.close()
        for maildir in (*self._former, self._maildir):
            maildir.close()


def _routes(configuration: Configuration) -> Routes:
    rules = [
        Rule(rule.domains, Route.smart(Host(hop.host, hop.port) for hop in rule.smart_host))
        for rule in configuration.route
    ]
    return Routes(configuration.local.domains, rules)


class _Held:
    """A part that is there already and needs an end."""

    def __init__(self, close: Callable[[], Any]) -> None:
        self.stop = close

    async def start(self) -> None:
        pass


class _Control:
    """The control socket, whose trouble is the data directory's."""

    def __init__(self, server: ControlServer, data: Path) -> None:
        self._server = server
        self._data = data
        self.stop = server.stop

    async def start(self) -> None:
        try:
            await self._server.start()
        except OSError as error:
            raise DataError(self._data) from error


class _Listener:
    """A server on its address."""

    def __init__(self, server: Server, endpoint: Endpoint) -> None:
        self._server = server
        self._endpoint = endpoint
        self.stop = server.stop

    async def start(self) -> None:
        try:
            await self._server.start()
        except OSError as error:
            raise ListenError(self._endpoint) from error


class _NoResolver:
    """For a system that names no name server: local mail and smart hosts by address work, the rest waits."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def mx(self, _domain: str, /) -> Answer:
        raise ResolverError(self._reason)

    addresses = mx


def _resolver() -> Resolver:
    try:
        return DnsResolver()
    except ResolverError as error:
        log.warning("mail that needs DNS will wait: %s", error)
        return _NoResolver(str(error))


def _own_addresses(configuration: Configuration) -> list[str]:
    """Where other systems' mail reaches this one: an MX that leads there is a loop."""
    found = []
    for endpoint in configuration.smtp.listen:
        with contextlib.suppress(ValueError):  # a name
            address = ip_address(endpoint.host)
            if endpoint.port == SMTP_PORT and not address.is_unspecified:
                found.append(str(address))
    return found


def _own_name(configuration: Configuration) -> str:
    """What the server calls itself: as configured, else the machine's full name, else its short one."""
    if configuration.hostname is not None:
        return configuration.hostname
    short = socket.gethostname()
    for name in (short if "." in short else socket.getfqdn(), short):
        with contextlib.suppress(wire.WireFault):
            wire.parse_mailbox(f"x@{name}")
            return name.lower()
    return "localhost"


def _session_settings(configuration: Configuration, name: str) -> Settings:
    smtp = configuration.smtp
    return Settings(hostname=name, max_size=smtp.max_message, max_recipients=smtp.max_recipients)


def _timeouts(configuration: Configuration) -> Timeouts:
    return Timeouts(command=configuration.smtp.command_timeout, data=configuration.smtp.data_timeout)


def _value(configuration: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        configuration = getattr(configuration, name)
    return configuration


def _raise_file_limit(wanted: int) -> None:
    """Asks the system for as many open files as the configuration may need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, target), hard))
    if target < wanted:
        log.warning(
            "%d open files are allowed, %d may be needed: raise the limit, or lower max_connections", target, wanted
        )
