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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from ironpost.client.connection import Connection, connect
from ironpost.delivery import unreadable, words
from ironpost.delivery.next_hop import MAX_ADDRESSES, NowhereError, OwnSystem, exchangers, networks, smart_hosts
from ironpost.delivery.sending import Sending, too_many, undecided
from ironpost.delivery.settings import (
    ATTEMPT_SECONDS,
    CONNECT_TIMEOUT,
    CONNECTION_MESSAGES,
    DESTINATION_LIMIT,
    IDLE_SECONDS,
    LEAST_RATE,
)
from ironpost.model import Disposition, Outcome, Reply
from ironpost.protocol.client import TIMEOUTS, Ending, Step, check_hostname
from ironpost.protocol.client_tolerance import TOLERANCES
from ironpost.protocol.extensions import requiretls
from ironpost.routing.route import SMTP_PORT, Kind, Route

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence

    from ironpost.delivery.next_hop import Target
    from ironpost.model.ports import Metrics, Random, Resolver
    from ironpost.protocol.client_tolerance import Tolerance
    from ironpost.queue.store import QueuedMessage, QueuedRecipient

    Results: TypeAlias = list[tuple[int, Outcome]]
    Place: TypeAlias = tuple[str, int]

_OVER: Final = Outcome(
    Disposition.DEFERRED, Reply(451, "4.4.1", ("No host took the message in the time of one attempt",)), asked=True
)
AUTHENTICATION_NEEDED: Final = frozenset({530, 535, 538})
"""RFC 4954 §6: a login, or TLS, is missing."""


class _ServiceError(Exception):
    """No host of a destination took us as a client."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome.reply))
        self.outcome = outcome


@dataclass(slots=True)
class _Way:
    """A connection and where it leads."""

    connection: Connection
    target: Target
    since: float = 0.0
    """When it was last used, on the loop's clock."""
    reused: bool = False


class _Destination:
    """The connections to one place, and whose turn it is."""

    __slots__ = ("gate", "idle", "users", "without_chunks")

    def __init__(self, limit: int) -> None:
        self.gate = asyncio.Semaphore(limit)
        self.idle: deque[_Way] = deque()
        """The one used last is at the right end, and used first."""
        self.users = 0
        self.without_chunks: set[Place] = set()
        """Hosts that offer CHUNKING and then reject BDAT, for as long as the destination is in use."""


class _Hosts:
    """The hosts of one attempt, in their order; one that failed is not tried again."""

    __slots__ = ("_targets", "failed", "worst")

    def __init__(self, targets: AsyncGenerator[Target, None], failed: Iterable[Place] = ()) -> None:
        self._targets = targets
        self.failed = set(failed)
        """Those that could not be used."""
        self.worst: Outcome | None = None
        """Of those that did not take us as a client. What may still work outweighs what never will: one host that is
        only away keeps the mail alive."""

    async def next(self) -> Target:
        """The next one.

        Raises:
            NowhereError: DNS has none at all.
            _ServiceError: every one was tried.
        """
        try:
            while len(self.failed) < MAX_ADDRESSES and (target := await anext(self._targets, None)) is not None:
                if target.place not in self.failed:
                    return target
        except NowhereError as nowhere:
            if self.worst is None:
                raise
            if self.worst.disposition is Disposition.FAILED:
                self.blame(None, nowhere.outcome)
        assert self.worst is not None, "no target at all raises NowhereError"
        raise _ServiceError(self.worst)

    def blame(self, target: Target | None, outcome: Outcome) -> None:
        """Records that a host could not be used, or could not be looked up."""
        if target is not None:
            self.failed.add(target.place)
        if self.worst is None or outcome.disposition is Disposition.DEFERRED:
            self.worst = outcome

    async def close(self) -> None:
        """No more are wanted."""
        await self._targets.aclose()


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
        attempt_seconds: float = ATTEMPT_SECONDS,
        chunking: bool = True,
        tolerances: Collection[Tolerance] = TOLERANCES,
        metrics: Metrics | None = None,
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
            attempt_seconds: for one message at one destination; large content has more.
            chunking: use BDAT for small content where the peer offers it.
            tolerances: which protocol errors of a peer are tolerated.
            metrics: counts the tolerances that were used.

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
        self._attempt_seconds = attempt_seconds
        self._chunking = chunking
        self._tolerances = tolerances
        self._metrics = metrics
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
        settled: dict[int, Outcome] = {}
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._attempt_seconds + message.body.size / LEAST_RATE
        hosts = _Hosts(self._targets(route, domain))
        way: _Way | None = None
        try:
            while recipients:
                if loop.time() >= deadline:
                    raise _ServiceError(_OVER)
                way = way or self._kept(destination, message) or await self._fresh(hosts, destination, message)
                transaction, results = await sending.transact(way.connection, recipients, deadline=deadline)
                if way.reused and _was_dead(way.connection):
                    way = None
                    continue
                if route.kind is Kind.SMART_HOST:
                    early = transaction.failed_at is Step.MAIL and not transaction.unsupported
                    results = [(each, _excused(outcome, early=early)) for each, outcome in results]
                settled.update((each.number, outcome) for each, outcome in results)
                if transaction.without_chunks and way.target.place not in destination.without_chunks:
                    # BDAT is what this peer promised, DATA is what every peer takes: once more, to the same host.
                    destination.without_chunks.add(way.target.place)
                    recipients = undecided(transaction, results)
                    way = await self._connected(way.target, hosts, destination, message)
                elif transaction.undecided or any(outcome.ours for _, outcome in results):
                    # RFC 5321 §5.1: this host did not judge the mail, so the next one is asked.
                    recipients = undecided(transaction, results)
                    hosts.blame(way.target, settled[recipients[0].number])
                    self._dismiss(way.connection)
                    way = None
                else:
                    self._keep(destination, way)
                    way = None
                    recipients = too_many(results)
                    if recipients:
                        await hosts.close()
                        hosts = _Hosts(self._targets(route, domain), hosts.failed)
        except NowhereError as nowhere:
            _settle_rest(settled, recipients, nowhere.outcome)
        except _ServiceError as refused:
            outcome = refused.outcome
            outcome = _excused(outcome, early=False) if route.kind is Kind.SMART_HOST else replace(outcome, ours=False)
            _settle_rest(settled, recipients, outcome)
        finally:
            await hosts.close()
        return list(settled.items())

    async def _fresh(self, hosts: _Hosts, destination: _Destination, message: QueuedMessage) -> _Way:
        """A ready connection to the first host that takes us, and may have the message."""
        while True:
            way = await self._connected(await hosts.next(), hosts, destination, message)
            if way is not None:
                return way

    async def _connected(
        self, target: Target, hosts: _Hosts, destination: _Destination, message: QueuedMessage
    ) -> _Way | None:
        """A ready connection to one host; None if it cannot be used, after recording that in `hosts`."""
        remote = str(target)
        try:
            connection = await connect(
                target.ip,
                target.port,
                self._local_hostname,
                remote=remote,
                timeouts=self._timeouts,
                connect_timeout=self._connect_timeout,
                chunking=self._chunking and target.place not in destination.without_chunks,
                tolerances=self._tolerances,
                metrics=self._metrics,
            )
        except OSError as error:
            reply = Reply(451, "4.4.1", (f"Cannot connect: {words(error)}",))
            hosts.blame(target, Outcome(Disposition.DEFERRED, reply, remote, asked=True))
            return None
        unfit = _unfit(connection, message)
        if connection.ready and unfit is None:
            return _Way(connection, target)
        if connection.ready:
            self._dismiss(connection)
        reply = connection.session.reason or unfit or Reply(451, "4.4.2", ("The connection was closed",))
        hosts.blame(target, replace(Outcome.of(reply, remote), ours=connection.session.turned_down))
        return None

    def _targets(self, route: Route, domain: str) -> AsyncGenerator[Target, None]:
        if route.kind is Kind.SMART_HOST:
            return smart_hosts(route.hosts, self._resolver)
        return exchangers(domain, self._resolver, self._random, self._own, self._port)

    # -- kept connections ---------------------------------------------------------------------------------------------

    def _kept(self, destination: _Destination, message: QueuedMessage) -> _Way | None:
        """One that may have the message."""
        while destination.idle:
            way = destination.idle.pop()
            if not way.connection.ready:
                way.connection.abort()
            elif _unfit(way.connection, message) is not None:
                destination.idle.append(way)
                return None
            else:
                way.reused = True
                return way
        return None

    def _keep(self, destination: _Destination, way: _Way) -> None:
        connection = way.connection
        if not connection.ready:
            return
        if self._closed or connection.session.transactions >= min(
            self._messages, connection.session.limits.transactions or self._messages
        ):
            self._dismiss(connection)
            return
        loop = asyncio.get_running_loop()
        way.since = loop.time()
        destination.idle.append(way)
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


def _excused(outcome: Outcome, *, early: bool) -> Outcome:
    """The outcome at a smart host, which the operator chose: it refuses what our configuration lacks, not the mail.

    Args:
        outcome: as it would be at any host.
        early: no recipient had been judged.
    """
    wants_login = outcome.reply.code in AUTHENTICATION_NEEDED
    if (outcome.disposition is Disposition.FAILED and early) or wants_login or outcome.ours:
        return replace(outcome, disposition=Disposition.DEFERRED, ours=True)
    return outcome


def _settle_rest(settled: dict[int, Outcome], recipients: Sequence[QueuedRecipient], outcome: Outcome) -> None:
    """For those whom no host judged; what one said of them already is better than that the last one was away."""
    for each in recipients:
        settled.setdefault(each.number, outcome)


def _unfit(connection: Connection, message: QueuedMessage) -> Reply | None:
    """Why this host cannot have the message, though another may."""
    session = connection.session
    return requiretls.refusal(message.envelope, session.offered, verified=session.verified)


def _was_dead(connection: Connection) -> bool:
    """A kept connection that was closed before it said anything about this message: its host had let go of it."""
    session = connection.session
    transaction = session.transaction
    if transaction is not None and transaction.failed_at is Step.RSET:
        return True  # it still held the transaction before, or did not know: nothing was said about this one
    if session.ending is Ending.REFUSED:
        return session.replies <= 1 and session.reason is not None and session.reason.code == 421
    return session.ending is Ending.LOST and session.replies == 0
