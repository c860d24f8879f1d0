"""Delivery to other systems over SMTP: next hop, connections that are kept for a while, one transaction a destination.

Promises: one outcome for each recipient; recipients of one destination share a transaction, as far as the host takes
them together; at most `DESTINATION_LIMIT` connections lead to a destination at a time, the rest wait their turn; a host
that cannot be reached, or refuses service, is followed by the next; a kept connection that turns out dead is replaced
once, without an outcome. After a time-out or a protocol error a connection is closed, never kept (SECURITY R19).
Refuses: to conclude anything from silence: what nobody answered is deferred.
Standards: RFC 5321 §5.1 (order of hosts), §4.5.4.1 (sending strategy), §3.6.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from ironpost.client.connection import CONNECT_TIMEOUT, Connection, connect
from ironpost.delivery import unreadable, words
from ironpost.delivery.next_hop import MAX_ADDRESSES, NowhereError, OwnSystem, exchangers, networks, smart_hosts
from ironpost.delivery.sending import Sending, too_many
from ironpost.model import Disposition, Outcome, Reply
from ironpost.protocol.client import TIMEOUTS, Ending, Step, check_hostname
from ironpost.protocol.extensions import requiretls
from ironpost.routing.route import SMTP_PORT, Kind, Route

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

    from ironpost.delivery.next_hop import Target
    from ironpost.model.ports import Random, Resolver
    from ironpost.queue.store import QueuedMessage, QueuedRecipient

    Results: TypeAlias = list[tuple[int, Outcome]]

DESTINATION_LIMIT: Final = 20
"""Connections to one destination at a time."""
CONNECTION_MESSAGES: Final = 100
"""Messages sent over one connection before it is replaced, so that load spreads over equal hosts."""
IDLE_SECONDS: Final = 5.0
"""How long a connection is kept without work."""


class _ServiceError(Exception):
    """No host of a destination took us as a client."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome.reply))
        self.outcome = outcome


@dataclass(slots=True)
class _Kept:
    connection: Connection
    since: float


class _Destination:
    """The connections to one place, and whose turn it is."""

    __slots__ = ("gate", "idle", "users")

    def __init__(self, limit: int) -> None:
        self.gate = asyncio.Semaphore(limit)
        self.idle: deque[_Kept] = deque()
        """The one used last is at the right end, and used first."""
        self.users = 0


class RemoteDelivery:
    """Every connection that leaves this system. `agent(route)` gives the agent of a route; `close` ends it."""

    def __init__(
        self,
        resolver: Resolver,
        random: Random,
        *,
        local_hostname: str | None = None,
        own_names: Iterable[str] = (),
        own_networks: Iterable[str] | None = None,
        port: int = SMTP_PORT,
        limit: int = DESTINATION_LIMIT,
        idle_seconds: float = IDLE_SECONDS,
        connection_messages: int = CONNECTION_MESSAGES,
        timeouts: Mapping[Step, float] = TIMEOUTS,
        connect_timeout: float = CONNECT_TIMEOUT,
        chunking: bool = True,
    ) -> None:
        """Opens nothing yet.

        Args:
            resolver: DNS.
            random: shuffles equal exchangers.
            local_hostname: what we say in EHLO; None for the address literal of each connection.
            own_names: names under which other systems know this one: an MX that names one is a loop.
            own_networks: addresses and networks at which this system takes mail: an MX that leads there is a loop.
                Loopback if None.
            port: where the exchangers of MX routes listen.
            limit: connections to one destination at a time.
            idle_seconds: how long a connection is kept without work.
            connection_messages: messages over one connection.
            timeouts: seconds by step (RFC 5321 §4.5.3.2).
            connect_timeout: seconds to wait for TCP, each address.
            chunking: use BDAT for small content where the peer offers it.

        Raises:
            ValueError: `own_networks` holds what is neither address nor network.
            wire.WireFault: `local_hostname` is neither a domain nor an address literal.
        """
        if local_hostname is not None:
            check_hostname(local_hostname)
        names = frozenset(name.lower() for name in own_names)
        self._own = OwnSystem(names) if own_networks is None else OwnSystem(names, networks(own_networks))
        self._resolver = resolver
        self._random = random
        self._local_hostname = local_hostname
        self._port = port
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._messages = connection_messages
        self._timeouts = timeouts
        self._connect_timeout = connect_timeout
        self._chunking = chunking
        self._destinations: dict[tuple[Route, str], _Destination] = {}
        self._leaving: set[Connection] = set()
        """Connections whose QUIT is not answered yet."""
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def agent(self, route: Route) -> RemoteAgent:
        """The agent of an MX or smart host route.

        Raises:
            ValueError: `route` is local.
        """
        if route.kind is Kind.LOCAL:
            raise ValueError("a local route has no remote agent")
        return RemoteAgent(self, route)

    async def close(self) -> None:
        """Says QUIT on every kept connection. Running deliveries end by themselves, and keep nothing."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        kept = [kept.connection for destination in self._destinations.values() for kept in destination.idle]
        for destination in self._destinations.values():
            destination.idle.clear()
        await asyncio.gather(*(each.quit() for each in (*kept, *self._leaving)))

    # -- one destination ----------------------------------------------------------------------------------------------

    async def send(
        self, route: Route, domain: str, message: QueuedMessage, recipients: Sequence[QueuedRecipient]
    ) -> Results:
        """One message to its recipients at one destination (`domain` is empty for a smart host)."""
        key = (route, domain)
        destination = self._destinations.get(key)
        if destination is None:
            destination = self._destinations[key] = _Destination(self._limit)
        destination.users += 1
        try:
            async with destination.gate:
                return await self._attempt(destination, route, domain, message, recipients)
        finally:
            destination.users -= 1
            if not destination.users and not destination.idle:
                self._destinations.pop(key, None)

    async def _attempt(
        self,
        destination: _Destination,
        route: Route,
        domain: str,
        message: QueuedMessage,
        recipients: Sequence[QueuedRecipient],
    ) -> Results:
        try:
            sending = await Sending.of(message)
        except OSError as error:
            return _same(recipients, unreadable(error))
        settled: Results = []
        while True:
            connection = self._kept(destination)
            if connection is not None and _unfit(connection, message) is not None:
                self._keep(destination, connection)
                connection = None
            reused = connection is not None
            if connection is None:
                try:
                    connection = await self._fresh(route, domain, message)
                except NowhereError as nowhere:
                    return settled + _same(recipients, nowhere.outcome)
                except _ServiceError as refused:
                    return settled + _same(recipients, refused.outcome)
            results = await sending.over(connection, recipients)
            if reused and _was_dead(connection):
                continue
            self._keep(destination, connection)
            recipients = too_many(results)
            again = {each.number for each in recipients}
            settled += [(each.number, outcome) for each, outcome in results if each.number not in again]
            if not recipients:
                return settled

    async def _fresh(self, route: Route, domain: str, message: QueuedMessage) -> Connection:
        """A ready connection to the first host that takes us, and may have the message."""
        worst: Outcome | None = None
        tried = 0
        targets = self._targets(route, domain)
        try:
            async for target in targets:
                if tried == MAX_ADDRESSES:
                    break
                tried += 1
                remote = str(target)
                try:
                    connection = await connect(
                        target.ip,
                        target.port,
                        self._local_hostname,
                        remote=remote,
                        timeouts=self._timeouts,
                        connect_timeout=self._connect_timeout,
                        chunking=self._chunking,
                    )
                except OSError as error:
                    reply = Reply(451, "4.4.1", (f"Cannot connect: {words(error)}",))
                    outcome = Outcome(Disposition.DEFERRED, reply, remote, asked=True)
                else:
                    unfit = _unfit(connection, message)
                    if connection.ready and unfit is None:
                        return connection
                    if connection.ready:
                        self._dismiss(connection)
                    reply = connection.session.reason or unfit or Reply(451, "4.4.2", ("The connection was closed",))
                    outcome = Outcome.of(reply, remote)
                # What may still work outweighs what never will: one host that is only away keeps the mail alive.
                if worst is None or outcome.disposition is Disposition.DEFERRED:
                    worst = outcome
        except NowhereError as nowhere:
            if worst is None:
                raise
            if worst.disposition is Disposition.FAILED and nowhere.outcome.disposition is Disposition.DEFERRED:
                worst = nowhere.outcome
        finally:
            await targets.aclose()
        assert worst is not None, "no target at all raises NowhereError"
        raise _ServiceError(worst)

    def _targets(self, route: Route, domain: str) -> AsyncGenerator[Target, None]:
        if route.kind is Kind.SMART_HOST:
            return smart_hosts(route.hosts, self._resolver)
        return exchangers(domain, self._resolver, self._random, self._own, self._port)

    # -- kept connections ---------------------------------------------------------------------------------------------

    def _kept(self, destination: _Destination) -> Connection | None:
        while destination.idle:
            connection = destination.idle.pop().connection
            if connection.ready:
                return connection
            connection.abort()
        return None

    def _keep(self, destination: _Destination, connection: Connection) -> None:
        if not connection.ready:
            return
        if self._closed or connection.session.transactions >= min(
            self._messages, connection.session.limits.transactions or self._messages
        ):
            self._dismiss(connection)
            return
        loop = asyncio.get_running_loop()
        destination.idle.append(_Kept(connection, loop.time()))
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._idle_seconds, self._sweep)

    def _dismiss(self, connection: Connection) -> None:
        self._leaving = {each for each in self._leaving if not each.gone}
        self._leaving.add(connection)
        connection.close_soon()

    def _sweep(self) -> None:
        """Closes what was kept too long. One timer for all, only while something is kept."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        oldest = now
        for key, destination in list(self._destinations.items()):
            idle = destination.idle
            while idle and (now - idle[0].since >= self._idle_seconds or not idle[0].connection.ready):
                self._dismiss(idle.popleft().connection)
            if idle:
                oldest = min(oldest, idle[0].since)
            elif not destination.users:
                del self._destinations[key]
        self._sweeper = None
        if any(destination.idle for destination in self._destinations.values()):
            self._sweeper = loop.call_later(max(0.0, oldest + self._idle_seconds - now), self._sweep)


class RemoteAgent:
    """Implements `ironpost.delivery.Agent` for one MX or smart host route."""

    __slots__ = ("_delivery", "_route")

    def __init__(self, delivery: RemoteDelivery, route: Route) -> None:
        self._delivery = delivery
        self._route = route

    async def deliver(
        self, message: QueuedMessage, recipients: Sequence[QueuedRecipient]
    ) -> Sequence[tuple[int, Outcome]]:
        """See `ironpost.delivery.Agent.deliver`."""
        send = self._delivery.send
        if self._route.kind is Kind.SMART_HOST:
            return await send(self._route, "", message, recipients)
        groups: dict[str, list[QueuedRecipient]] = {}
        for each in recipients:
            groups.setdefault(each.recipient.address.key, []).append(each)
        if len(groups) == 1:
            ((domain, group),) = groups.items()
            return await send(self._route, domain, message, group)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(send(self._route, domain, message, each)) for domain, each in groups.items()]
        return [result for task in running for result in task.result()]


def _same(recipients: Sequence[QueuedRecipient], outcome: Outcome) -> Results:
    return [(each.number, outcome) for each in recipients]


def _unfit(connection: Connection, message: QueuedMessage) -> Reply | None:
    """Why this host cannot have the message, though another may."""
    session = connection.session
    return requiretls.refusal(message.envelope, session.offered, verified=session.verified)


def _was_dead(connection: Connection) -> bool:
    """A kept connection that was closed before it said anything about this message: its host had let go of it."""
    session = connection.session
    if session.ending is Ending.REFUSED:
        return session.replies <= 1 and session.reason is not None and session.reason.code == 421
    return session.ending is Ending.LOST and session.replies == 0
