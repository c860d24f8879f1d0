"""Outgoing connections by destination: how many are open, and which idle ones may be reused.

Promises: at most `limit` attempts at a destination run at a time, further ones wait in order; a connection carries at
most `messages` transactions, and is closed after `idle_seconds` without one. A connection is reused only for a message
of the same route, so with the same source address, name, login and certificate, and with the same TLS requirement,
which it still fulfils (SECURITY R39). After `close` no connection is kept.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ironpost.client.connection import Connection
    from ironpost.delivery.access import Access
    from ironpost.delivery.next_hop import Endpoint, HostAddress
    from ironpost.model.tls import TlsResult
    from ironpost.routing.route import Route
    from ironpost.routing.tls import Requirement

    DestinationKey: TypeAlias = tuple[Route, str]


@dataclass(slots=True, eq=False)
class Link:
    """A connection, the host it leads to, and its TLS."""

    connection: Connection
    target: HostAddress
    requirement: Requirement
    """The requirement that it fulfils; with `tls`, the part of the pool's key that concerns TLS."""
    tls: TlsResult
    access: Access | None = None
    """The access with which it was opened; a reload may have replaced it."""
    since: float = 0.0
    """Time of its last use, by the event loop's clock."""
    reused: bool = False

    def fulfils(self, requirement: Requirement, access: Access | None) -> bool:
        """Whether a message with this requirement, and the current access of its route, may use the connection."""
        return self.access is access and self.requirement == requirement and self.tls.level >= requirement.level


class Destination:
    """The connections to one destination."""

    __slots__ = ("gate", "idle", "users", "without_chunks")

    def __init__(self, limit: int) -> None:
        self.gate = asyncio.Semaphore(limit)
        self.idle: deque[Link] = deque()
        """Idle connections; the most recently used one is at the right end, and reused first."""
        self.users = 0
        self.without_chunks: set[Endpoint] = set()
        """Hosts that offer CHUNKING but reject BDAT; remembered while the destination is in use."""


class ConnectionPool:
    """The connections of one delivery agent."""

    def __init__(self, *, limit: Callable[[DestinationKey], int], messages: int, idle_seconds: float) -> None:
        """See the module; `limit` returns that of a destination, times are in seconds."""
        self._limit = limit
        self._messages = messages
        self._idle_seconds = idle_seconds
        self._destinations: dict[DestinationKey, Destination] = {}
        self._leaving: set[Connection] = set()
        """Connections that wait for the reply to QUIT."""
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def enter(self, key: DestinationKey) -> Destination:
        """The connections to a destination; an attempt waits for its `gate`, and calls `leave` at the end."""
        destination = self._destinations.get(key)
        if destination is None:
            destination = self._destinations[key] = Destination(self._limit(key))
        destination.users += 1
        return destination

    def leave(self, key: DestinationKey, destination: Destination) -> None:
        """End what `enter` began."""
        destination.users -= 1
        if not destination.users and not destination.idle:
            self._destinations.pop(key, None)

    async def take(self, destination: Destination, fits: Callable[[Link], Awaitable[bool]]) -> Link | None:
        """An idle connection that fits, no longer idle; None if there is none."""
        idle = destination.idle
        for link in reversed(tuple(idle)):
            if not link.connection.ready:
                if link in idle:
                    idle.remove(link)
                link.connection.abort()
            elif await fits(link) and link in idle and link.connection.ready:
                idle.remove(link)
                link.reused = True
                return link
        return None

    def keep(self, destination: Destination, link: Link) -> None:
        """Keep a connection for the next message, if it may carry another."""
        connection = link.connection
        if not connection.ready:
            return
        if self._closed or connection.session.transactions >= min(
            self._messages, connection.session.limits.transactions or self._messages
        ):
            self.dismiss(connection)
            return
        loop = asyncio.get_running_loop()
        link.since = loop.time()
        destination.idle.append(link)
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._idle_seconds, self._sweep)

    def dismiss(self, connection: Connection) -> None:
        """Send QUIT and close in the background."""
        self._leaving = {each for each in self._leaving if not each.gone}
        self._leaving.add(connection)
        connection.close_soon()

    async def close(self) -> None:
        """Send QUIT on every idle connection. Those in use are closed after their transaction."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        idle = [link.connection for destination in self._destinations.values() for link in destination.idle]
        for destination in self._destinations.values():
            destination.idle.clear()
        await asyncio.gather(*(each.quit() for each in (*idle, *self._leaving)))

    def _sweep(self) -> None:
        """Close connections that were idle for too long. One timer for all, active only while there are any."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        oldest = now
        for key, destination in list(self._destinations.items()):
            idle = destination.idle
            while idle and (now - idle[0].since >= self._idle_seconds or not idle[0].connection.ready):
                self.dismiss(idle.popleft().connection)
            if idle:
                oldest = min(oldest, idle[0].since)
            elif not destination.users:
                del self._destinations[key]
        self._sweeper = None
        if any(destination.idle for destination in self._destinations.values()):
            self._sweeper = loop.call_later(max(0.0, oldest + self._idle_seconds - now), self._sweep)
