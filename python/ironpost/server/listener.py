"""The asyncio server: listening sockets, the connections they gave, their time-outs and their end.

    async with Server(handler, "127.0.0.1", 2525) as server:
        await server.serve_forever()

Promises: `start` listens on every address that the host name has, or at a path, or raises an OSError that names the
address; `port` is the one that is bound. `stop` takes no new connections, lets every connection finish the message it
is in, tells the others 421, and closes what is left at its deadline. One timer serves all connections, in slices, so
that ten thousand of them do not hold the loop. What `tls`, `limits`, `timeouts` and `settings` are set to while it runs
holds for what comes after: sessions go on as they began.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ironpost.model.ports import Metrics, Uncounted
from ironpost.protocol import replies
from ironpost.protocol.server import DEFAULT
from ironpost.server.arrival import Arrival
from ironpost.server.binding import UNIX_MODE, bind, bind_unix, unbind_unix
from ironpost.server.connection import Connection
from ironpost.server.handler import complete
from ironpost.server.hooks import THREADS, Hooks
from ironpost.server.limits import Excess, LimitBook, Limits, LocalBook, Network, within
from ironpost.server.timeouts import Timeouts
from ironpost.server.tls_transport import BUFFER
from ironpost.server.turns import Partings, Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from ironpost.model import Reply
    from ironpost.protocol.server import Override
    from ironpost.protocol.settings import Settings
    from ironpost.server.tls import TlsContext

LOG = logging.getLogger("ironpost.server")

BACKLOG: Final = 2048
"""Connections that the kernel holds for us; under 1,024 a burst of 10,000 loses some (DESIGN §11)."""
GRACE: Final = 30.0
"""Seconds that `stop` gives connections to finish."""
SLICE: Final = 500
"""Connections (a count) that one turn of the loop looks at: about a third of a millisecond."""

_EXCESSES: Final = {
    Excess.TOTAL: replies.TOO_MANY_CONNECTIONS,
    Excess.PREFIX: replies.TOO_MANY_FROM_NETWORK,
    Excess.RATE: replies.TOO_MANY_NEW,
}


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
        limits: Limits = Limits(),  # noqa: B008 - immutable
        book: LimitBook | None = None,
        tls: TlsContext | None = None,
        implicit_tls: bool = False,
        path: str | Path | None = None,
        path_mode: int = UNIX_MODE,
        proxy: Sequence[str | Network] = (),
        pause: float | None = 0.0,
        backlog: int = BACKLOG,
        reuse_port: bool = False,
        sockets: Sequence[socket.socket] = (),
        threads: int = THREADS,
        metrics: Metrics = Uncounted(),  # noqa: B008 - it has no state
        name: str = "",
    ) -> None:
        """
        Args:
            handler: the hooks of `protocol.handler.Handler`; missing ones answer as `BaseHandler` does.
            host: name or address to listen on; None for all interfaces.
            port: TCP port; 0 lets the system choose.
            settings: limits and names.
            overrides: verbs whose handling is replaced or added.
            timeouts: in seconds.
            limits: connections, in total and for one network.
            book: where they are counted; other servers may share it. Its own unless given.
            tls: certificates: clients may say STARTTLS (RFC 3207).
            implicit_tls: clients begin with TLS instead (RFC 8314 §3).
            path: of a Unix socket to listen on instead of host and port; a stale one is replaced.
            path_mode: who may connect to it.
            proxy: networks of proxies, whose connections must begin with a PROXY header. Nobody else's may.
            pause: seconds before the greeting. Whoever speaks before it reads 554, and so does whoever has spoken when
                it is due; None: what comes early is read as commands.
            backlog: of each socket.
            reuse_port: several processes may listen on the port (SO_REUSEPORT).
            sockets: bound sockets to listen on instead of host and port; they become the server's.
            threads: in which hooks marked `@blocking` run.
            metrics: told of connections, refusals, time-outs and handshakes.
            name: what metrics call this server.

        Raises:
            ValueError: implicit TLS or STARTTLS without certificates; a pause below 0.
        """
        self.hooks = Hooks(threads, patience=timeouts.hook)
        self.handler = complete(handler, self.hooks)
        self.host = host
        if tls is None and (implicit_tls or settings.starttls):
            raise ValueError("TLS needs a certificate: Server(tls=TlsContext.load(...))")
        if pause is not None and not pause >= 0:
            raise ValueError(f"Server.pause must be 0 seconds or more, not {pause}")
        self._own_starttls = tls is not None and not implicit_tls
        self.settings = settings
        self.overrides = overrides
        self.timeouts = timeouts
        self.limits = limits
        self.book: LimitBook = LocalBook() if book is None else book
        self.tls = tls
        """May be replaced while the server runs: new handshakes get the new one."""
        self.implicit_tls = implicit_tls
        self.path = path
        self.is_proxy: Callable[[str], bool] = within(proxy)
        """Whether the connections of this address begin with a PROXY header."""
        self.pause = pause
        self.metrics = metrics
        self.name = name
        self.connections: set[Connection | Arrival] = set()
        self.refused = 0
        """Connections that a limit refused."""
        self.loop: asyncio.AbstractEventLoop
        self.turns: Turns
        self.partings: Partings
        """For connections that send much."""
        self.buffer = memoryview(b"")
        """Where TLS decrypts; one for all connections, as they are served one after the other."""
        self.stopping = False
        self._port = port
        self._path_mode = path_mode
        self._made: os.stat_result | None = None
        """The Unix socket's file."""
        self._backlog = backlog
        self._reuse_port = reuse_port
        self._given = tuple(sockets)
        self._factory = Arrival if proxy or implicit_tls else Connection
        self._servers: list[asyncio.Server] = []
        self._addresses: tuple[tuple[str, int], ...] = ()
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._unswept: list[Connection | Arrival] = []
        self._ungreeted: deque[tuple[float, Connection]] = deque()
        """Connections in their pause, and when it ends; it is as long for all, so the first is due first."""
        self._greeter: asyncio.TimerHandle | None = None
        self._empty: asyncio.Event | None = None
        self._stopped: asyncio.Event | None = None

    @property
    def settings(self) -> Settings:
        """What sessions have in common; new ones get what is set here."""
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._settings = replace(
            settings,
            claims=settings.claims | self.handler.claims,
            starttls=settings.starttls or self._own_starttls,
            nonce=settings.nonce or secrets.token_urlsafe,
            now=settings.now or time.time,
        )

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
        self.turns = Turns(self.loop)
        self.partings = Partings(self.loop)
        if self.tls is not None:
            self.buffer = memoryview(bytearray(BUFFER))
        sockets = list(self._given) or await self._bind()
        try:
            for sock in sockets:
                sock.setblocking(False)
                if sock.family in {socket.AF_INET, socket.AF_INET6}:
                    # Connections take it over from the listener: without it pipelining stalls (DESIGN §11).
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._servers.append(
                    await self.loop.create_server(lambda: self._factory(self), sock=sock, backlog=self._backlog)
                )
        except BaseException:
            for server in self._servers:
                server.close()
            for sock in sockets:
                sock.close()
            self._unbind()
            raise
        self.hooks.start(self.loop)
        self._stopped = asyncio.Event()
        names = [sock.getsockname() for sock in sockets]
        self._addresses = tuple((n[0], n[1]) if isinstance(n, tuple) else (str(n), 0) for n in names)
        self._timer = self.loop.call_later(self.timeouts.sweep, self._sweep)

    async def _bind(self) -> list[socket.socket]:
        if self.path is None:
            return await bind(self.host, self._port, reuse_port=self._reuse_port)
        sock = bind_unix(self.path, self._path_mode)
        self._made = os.stat(self.path)  # noqa: PTH116 - of a file that was just made
        return [sock]

    async def serve_forever(self) -> None:
        """Returns when `stop` was called and is done. Cancelled, it stops the server at once."""
        if self._stopped is None:
            await self.start()
        assert self._stopped is not None
        try:
            await self._stopped.wait()
        except asyncio.CancelledError:
            await self.stop(grace=0.0)
            raise

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
        self._unbind()
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
        for timer in (self._timer, self._greeter):
            if timer is not None:
                timer.cancel()
        await self.hooks.stop(grace)
        self._stopped.set()

    def _unbind(self) -> None:
        if self.path is not None and self._made is not None:
            unbind_unix(self.path, self._made)
            self._made = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # -----------------------------------------------------------------------------------------------------------------
    # For connections

    def enter(self, party: Connection | Arrival) -> Reply | None:
        """Counts one more connection; the refusal if it is one too many."""
        excess = self.book.enter(self.limits)
        if excess is not None:
            return self._excess(excess)
        self.connections.add(party)
        self.metrics.count("connections", self.name)
        return None

    def enter_client(self, ip: str) -> tuple[str, Reply | None]:
        """Counts one more connection of a client's network. The network, empty if it is not counted; a refusal."""
        limits = self.limits
        prefix = limits.prefix(ip)
        if not prefix:
            return "", None
        excess = self.book.enter_prefix(prefix, limits, self.loop.time())
        return (prefix, None) if excess is None else ("", self._excess(excess))

    def _excess(self, excess: Excess) -> Reply:
        self.refused += 1
        self.metrics.count("connections_refused", excess.value)
        return _EXCESSES[excess]

    def leave_client(self, prefix: str) -> None:
        """The client of `enter_client` is gone."""
        self.book.leave_prefix(prefix)

    def succeed(self, arrival: Arrival, connection: Connection) -> None:
        """What arrived has become a session."""
        self.connections.discard(arrival)
        self.connections.add(connection)

    def forget(self, party: Connection | Arrival) -> None:
        """The connection is gone."""
        if party in self.connections:
            self.connections.discard(party)
            self.book.leave()
            if self._empty is not None and not self.connections:
                self._empty.set()

    # -----------------------------------------------------------------------------------------------------------------
    # Time

    def greet_later(self, connection: Connection) -> None:
        """Calls its `greet` after the pause."""
        assert self.pause is not None
        self._ungreeted.append((self.loop.time() + self.pause, connection))
        if self._greeter is None:
            self._greeter = self.loop.call_later(self.pause, self._greet)

    def _greet(self) -> None:
        now, waiting = self.loop.time(), self._ungreeted
        while waiting and waiting[0][0] <= now:
            waiting.popleft()[1].greet()
        self._greeter = self.loop.call_at(waiting[0][0], self._greet) if waiting else None

    def _sweep(self) -> None:
        now, unswept = self.loop.time(), self._unswept
        if not unswept:
            unswept.extend(self.connections)
            self.book.sweep(now)
        for party in unswept[-SLICE:]:
            if party in self.connections:
                try:
                    party.sweep(now)
                except Exception:
                    LOG.critical("a connection could not be looked after, aborted", exc_info=True)
                    party.abort()
        del unswept[-SLICE:]
        if unswept:  # the rest in the loop's next turn: others wait
            self._timer = self.loop.call_soon(self._sweep)
        else:
            self._timer = self.loop.call_later(self.timeouts.sweep, self._sweep)
