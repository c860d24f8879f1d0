"""The asyncio server: listening sockets, the connections they gave, their time-outs and their end.

    async with Server(handler, "127.0.0.1", 2525) as server:
        await server.serve_forever()

Promises: `start` listens on every address that the host name has, or raises an OSError that names the address; `port`
is the one that is bound. `stop` takes no new connections, lets every connection finish the message it is in, tells
the others 421, and closes what is left at its deadline. One timer serves all connections.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ironpost.protocol.server import DEFAULT
from ironpost.server.binding import bind
from ironpost.server.connection import Connection
from ironpost.server.handler import complete
from ironpost.server.hooks import THREADS, Hooks
from ironpost.server.timeouts import Timeouts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from ironpost.protocol.server import Override
    from ironpost.protocol.settings import Settings

LOG = logging.getLogger("ironpost.server")

BACKLOG: Final = 2048
"""Connections that the kernel holds for us; under 1,024 a burst of 10,000 loses some (DESIGN §11)."""
CONNECTIONS: Final = 10_000
"""Connections at a time; one more is told 421 4.3.2."""
GRACE: Final = 30.0
"""Seconds that `stop` gives connections to finish."""


class Server:
    """An SMTP server."""

    def __init__(
        self,
        handler: object,
        host: str | None = "localhost",
        port: int = 0,
        *,
        settings: Settings = DEFAULT,
        overrides: Mapping[str, Override] | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - immutable
        max_connections: int = CONNECTIONS,
        backlog: int = BACKLOG,
        reuse_port: bool = False,
        sockets: Sequence[socket.socket] = (),
        threads: int = THREADS,
    ) -> None:
        """
        Args:
            handler: the hooks of `protocol.handler.Handler`; missing ones answer as `BaseHandler` does.
            host: name or address to listen on; None for all interfaces.
            port: TCP port; 0 lets the system choose.
            settings: limits and names.
            overrides: verbs whose handling is replaced or added.
            timeouts: in seconds.
            max_connections: at a time.
            backlog: of each socket.
            reuse_port: several processes may listen on the port (SO_REUSEPORT).
            sockets: bound sockets to listen on instead of host and port; they become the server's.
            threads: in which hooks marked `@blocking` run.
        """
        self.hooks = Hooks(threads, patience=timeouts.hook)
        self.handler = complete(handler, self.hooks)
        self.host = host
        self.settings = replace(settings, claims=settings.claims | self.handler.claims)
        self.overrides = overrides
        self.timeouts = timeouts
        self.max_connections = max_connections
        self.connections: set[Connection] = set()
        self.refused = 0
        """Connections that were one too many."""
        self.loop: asyncio.AbstractEventLoop
        self.stopping = False
        self._port = port
        self._backlog = backlog
        self._reuse_port = reuse_port
        self._given = tuple(sockets)
        self._servers: list[asyncio.Server] = []
        self._addresses: tuple[tuple[str, int], ...] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._empty: asyncio.Event | None = None
        self._stopped: asyncio.Event | None = None

    @property
    def port(self) -> int:
        """The port that is bound (of the first address); before `start` the one that was asked for."""
        return self._addresses[0][1] if self._addresses else self._port

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Every address that is bound, as (host, port)."""
        return self._addresses

    async def start(self) -> None:
        """Listens.

        Raises:
            OSError: an address cannot be bound; the text names it.
            RuntimeError: the server was started before.
        """
        if self._stopped is not None:
            raise RuntimeError("a Server is started once; make a new one")
        self.loop = asyncio.get_running_loop()
        sockets = list(self._given) or await bind(self.host, self._port, reuse_port=self._reuse_port)
        try:
            for sock in sockets:
                sock.setblocking(False)
                if sock.family in {socket.AF_INET, socket.AF_INET6}:
                    # Connections take it over from the listener: without it pipelining stalls (DESIGN §11).
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._servers.append(
                    await self.loop.create_server(lambda: Connection(self), sock=sock, backlog=self._backlog)
                )
        except BaseException:
            for server in self._servers:
                server.close()
            for sock in sockets:
                sock.close()
            raise
        self.hooks.start(self.loop)
        self._stopped = asyncio.Event()
        names = [sock.getsockname() for sock in sockets]
        self._addresses = tuple((n[0], n[1]) if isinstance(n, tuple) else (str(n), 0) for n in names)
        self._timer = self.loop.call_later(self.timeouts.sweep, self._sweep)

    async def serve_forever(self) -> None:
        """Returns when `stop` was called and is done."""
        if self._stopped is None:
            await self.start()
        assert self._stopped is not None
        await self._stopped.wait()

    async def stop(self, grace: float = GRACE) -> None:
        """Stops listening, ends every connection, returns when they are gone.

        Args:
            grace: seconds for what is going on; then connections are aborted.
        """
        if self._stopped is None:
            return
        if self.stopping:
            await self._stopped.wait()
            return
        self.stopping = True
        for server in self._servers:
            server.close()
        self._empty = asyncio.Event()
        for connection in list(self.connections):
            connection.shutdown()
        if self.connections:
            try:
                await asyncio.wait_for(self._empty.wait(), grace)
            except TimeoutError:
                LOG.warning("%d connections did not finish in %g s, aborted", len(self.connections), grace)
                for connection in list(self.connections):
                    connection.abort()
                await self._empty.wait()
        if self._timer is not None:
            self._timer.cancel()
        await self.hooks.stop(grace)
        self._stopped.set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # -----------------------------------------------------------------------------------------------------------------
    # For connections

    def admit(self, connection: Connection) -> bool:
        """Takes the connection in, unless it is one too many."""
        if len(self.connections) >= self.max_connections:
            self.refused += 1
            return False
        self.connections.add(connection)
        return True

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        if connection in self.connections:
            self.connections.discard(connection)
            self.hooks.counts.raised += connection.session.failures
        if self._empty is not None and not self.connections:
            self._empty.set()

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in list(self.connections):
            connection.sweep(now)
        self._timer = self.loop.call_later(self.timeouts.sweep, self._sweep)
