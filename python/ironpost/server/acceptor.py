"""Listening sockets, and the connections that they accept, of any protocol: their limits, timeouts and end.

Promises: `start` listens on every address of the host name, or at a path, or raises an OSError that names the address;
`port` is the one that is bound. `stop` accepts no new connections, lets each finish what it is receiving, and aborts
what is left after the grace period. One timer enforces the timeouts of all connections, in slices, so that ten thousand
of them do not block the event loop. `tls`, `limits` and `timeouts` may be replaced while it runs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, TypedDict

from ironpost.model.network import parse_networks, within
from ironpost.model.ports import Metrics, Uncounted
from ironpost.model.text import counted
from ironpost.server.binding import UNIX_MODE, bind, bind_unix, unbind_unix
from ironpost.server.fairness import CLOSES, READS, CallQueue
from ironpost.server.limits import Capacity, ConnectionLimiter, ConnectionLimits, Excess, LocalLimiter
from ironpost.server.timeouts import Timeouts
from ironpost.server.tls_transport import BUFFER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from ironpost.model.network import Network
    from ironpost.server.host import HostedConnection, Refusal
    from ironpost.server.tls import TlsContext

LOG = logging.getLogger("ironpost.server")

BACKLOG: Final = 2048
"""Connections that the kernel queues for each socket; with less than 1,024 a burst of 10,000 loses some."""
ACCEPTS: Final = 100
"""Connections that asyncio accepts in one iteration of the event loop, so before the first of them can be refused."""
GRACE: Final = 30.0
"""Seconds that `stop` waits for connections to finish, by default."""
SLICE: Final = 500
"""Connections whose timeouts are checked in one iteration of the event loop: a third of a millisecond of work."""


class AcceptorOptions(TypedDict, total=False):
    """The options of every `Acceptor`."""

    timeouts: Timeouts
    limits: ConnectionLimits
    limiter: ConnectionLimiter | None
    capacity: Capacity | None
    tls: TlsContext | None
    implicit_tls: bool
    path: str | Path | None
    path_mode: int
    proxy: Sequence[str | Network]
    backlog: int
    reuse_port: bool
    sockets: Sequence[socket.socket]
    metrics: Metrics
    name: str


class Acceptor(ABC):
    """Accepts connections. It is the `AcceptingHost` of its connections; a subclass says which protocol they speak."""

    refusals: ClassVar[Mapping[Excess, Refusal]]
    """What a connection that exceeds a limit is sent before it is closed."""

    def __init__(
        self,
        host: str | None,
        port: int,
        *,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - immutable
        limits: ConnectionLimits = ConnectionLimits(),  # noqa: B008 - immutable
        limiter: ConnectionLimiter | None = None,
        capacity: Capacity | None = None,
        tls: TlsContext | None = None,
        implicit_tls: bool = False,
        path: str | Path | None = None,
        path_mode: int = UNIX_MODE,
        proxy: Sequence[str | Network] = (),
        backlog: int = BACKLOG,
        reuse_port: bool = False,
        sockets: Sequence[socket.socket] = (),
        metrics: Metrics = Uncounted(),  # noqa: B008 - it has no state
        name: str = "",
    ) -> None:
        """
        Args:
            host: name or address to listen on; None for all interfaces.
            port: TCP port; 0 lets the system choose.
            timeouts: timeouts of connections, in seconds.
            limits: limits on connections, in total and by network.
            limiter: counts connections; several may share one. None: a new one.
            capacity: the resources for connections, which all listeners of a process share. None: no limit.
            tls: certificates.
            implicit_tls: clients begin with a TLS handshake (RFC 8314 §3).
            path: a Unix socket to listen on instead of host and port; a stale socket is replaced.
            path_mode: permissions of the Unix socket.
            proxy: networks of proxies. Connections from them must begin with a PROXY header, others must not.
            backlog: connections that the kernel queues for each socket.
            reuse_port: several processes may listen on the port (SO_REUSEPORT).
            sockets: bound sockets to listen on instead of host and port; `stop` closes them.
            metrics: counts connections, refusals, timeouts and handshakes.
            name: the label of these connections in metrics.

        Raises:
            ValueError: implicit TLS without certificates.
        """
        if implicit_tls and tls is None:
            raise ValueError("TLS needs certificates: tls=TlsContext.load(...)")
        self.host = host
        self.timeouts = timeouts
        self.limits = limits
        self.limiter: ConnectionLimiter = LocalLimiter() if limiter is None else limiter
        self._capacity = capacity or Capacity()
        self.tls = tls
        """The certificates for new handshakes; None for no TLS."""
        self.implicit_tls = implicit_tls
        self.path = path
        self._proxies = parse_networks(proxy)
        self.metrics = metrics
        self.name = name
        self.connections: set[HostedConnection] = set()
        """The connections that are open."""
        self.refused = 0
        """Connections that a limit refused."""
        self.loop: asyncio.AbstractEventLoop
        """The event loop that `start` was called in."""
        self.read_queue: CallQueue
        """See `AcceptingHost.read_queue`; set by `start`."""
        self.close_queue: CallQueue
        """See `AcceptingHost.close_queue`; set by `start`."""
        self.read_buffer: memoryview
        """See `AcceptingHost.read_buffer`; set by `start`."""
        self.stopping = False
        """`stop` was called."""
        self._port = port
        self._path_mode = path_mode
        self._socket_file: os.stat_result | None = None
        """The file of the Unix socket when it was created, so that the socket of another server is never removed."""
        self._backlog = backlog
        self._reuse_port = reuse_port
        self._given = tuple(sockets)
        self._servers: list[asyncio.Server] = []
        self._addresses: tuple[tuple[str, int], ...] = ()
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        """The timer of the next sweep."""
        self._unswept: list[HostedConnection] = []
        """The connections that the current sweep has not checked yet."""
        self._empty: asyncio.Event | None = None
        """Set when the last connection has ended; None before `stop`."""
        self._stopped: asyncio.Event | None = None
        """Set when `stop` is done; None before `start`."""

    @abstractmethod
    def connection(self) -> asyncio.Protocol:
        """Create the protocol of a connection that was just accepted."""

    @property
    def port(self) -> int:
        """The port that is bound (of the first address); before `start` the one that was requested."""
        return self._addresses[0][1] if self._addresses else self._port

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Every address that is bound, as (host, port)."""
        return self._addresses

    async def start(self) -> None:
        """Start listening.

        Raises:
            OSError: an address cannot be bound; the text names it.
            RuntimeError: `start` was called before.
        """
        if self._stopped is not None:
            raise RuntimeError(f"a {type(self).__name__} can be started only once; create a new one")
        self.loop = asyncio.get_running_loop()
        self.read_queue = CallQueue(self.loop, READS)
        self.close_queue = CallQueue(self.loop, CLOSES)
        self.read_buffer = memoryview(bytearray(BUFFER))
        sockets = list(self._given) or await self._bind()
        try:
            for sock in sockets:
                sock.setblocking(False)
                if sock.family in {socket.AF_INET, socket.AF_INET6}:
                    # Accepted sockets inherit it. Without it pipelining stalls for 40 ms with some clients.
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._servers.append(
                    await self.loop.create_server(lambda: self.connection(), sock=sock, backlog=ACCEPTS)
                )
                sock.listen(self._backlog)  # not above: asyncio accepts up to its backlog in one iteration
        except BaseException:
            for server in self._servers:
                server.close()
            for sock in sockets:
                sock.close()
            self._unbind()
            raise
        self._stopped = asyncio.Event()
        names = [sock.getsockname() for sock in sockets]
        self._addresses = tuple((n[0], n[1]) if isinstance(n, tuple) else (str(n), 0) for n in names)
        self._timer = self.loop.call_later(self.timeouts.sweep, self._sweep)

    async def _bind(self) -> list[socket.socket]:
        if self.path is None:
            return await bind(self.host, self._port, reuse_port=self._reuse_port)
        sock = bind_unix(self.path, self._path_mode)
        self._socket_file = os.stat(self.path)  # noqa: PTH116 - a file that was just created
        return [sock]

    async def serve_forever(self) -> None:
        """Start if necessary, and return when `stop` is done. If cancelled, stop without a grace period."""
        if self._stopped is None:
            await self.start()
        assert self._stopped is not None
        try:
            await self._stopped.wait()
        except asyncio.CancelledError:
            await self.stop(grace=0.0)
            raise

    async def stop(self, grace: float = GRACE) -> None:
        """Stop listening, end every connection, and return when all are closed.

        Args:
            grace: seconds for connections to finish what they are receiving; afterwards they are aborted.
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
                LOG.warning(
                    "closed %s that did not finish within %g s", counted(len(self.connections), "connection"), grace
                )
                for connection in list(self.connections):
                    connection.abort()
                await self._empty.wait()
        if self._timer is not None:
            self._timer.cancel()
        await self._ended(grace)
        self._stopped.set()

    async def _ended(self, grace: float) -> None:  # noqa: B027 - a subclass may have nothing to end
        """Called by `stop` when all connections are closed; `grace` as there."""

    def retire(self) -> None:
        """Call `HostedConnection.retire` of all connections, some at a time; new ones are still accepted."""
        for connection in self.connections:
            self.close_queue.add(partial(self._retire, connection))

    def _retire(self, connection: HostedConnection) -> None:
        if connection in self.connections:
            connection.retire()

    def _unbind(self) -> None:
        if self.path is not None and self._socket_file is not None:
            unbind_unix(self.path, self._socket_file)
            self._socket_file = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # -----------------------------------------------------------------------------------------------------------------
    # AcceptingHost

    def admit(self, connection: HostedConnection) -> Refusal | None:
        """See `AcceptingHost.admit`."""
        excess = self._capacity.excess(connection.transport) or self.limiter.enter(self.limits)
        if excess is not None:
            return self._refuse(excess)
        self.connections.add(connection)
        self.metrics.count("connections", self.name)
        return None

    def is_proxy(self, ip: str) -> bool:
        """See `AcceptingHost.is_proxy`."""
        return within(ip, self._proxies) is not None

    def admit_client(self, ip: str) -> tuple[str, Refusal | None]:
        """See `AcceptingHost.admit_client`."""
        limits = self.limits
        network = limits.prefix(ip)
        if not network:
            return "", None
        excess = self.limiter.enter_prefix(network, limits, self.loop.time())
        return (network, None) if excess is None else ("", self._refuse(excess))

    def _refuse(self, excess: Excess) -> Refusal:
        self.refused += 1
        self.metrics.count("connections_refused", excess.value)
        return self.refusals[excess]

    def replace(self, old: HostedConnection, new: HostedConnection) -> None:
        """See `AcceptingHost.replace`."""
        self.connections.discard(old)
        self.connections.add(new)

    def release(self, connection: HostedConnection, network: str = "") -> None:
        """See `AcceptingHost.release`."""
        if network:
            self.limiter.leave_prefix(network)
        self.connections.discard(connection)
        self.limiter.leave()
        if self._empty is not None and not self.connections:
            self._empty.set()

    def _sweep(self) -> None:
        """Check the timeouts of `SLICE` connections; the next slice follows in the next iteration."""
        now, unswept = self.loop.time(), self._unswept
        if not unswept:
            unswept.extend(self.connections)
            self.limiter.sweep(now)
        for connection in unswept[-SLICE:]:
            if connection in self.connections:
                try:
                    connection.sweep(now)
                except Exception:
                    LOG.critical("the timeouts of a connection could not be checked, aborted", exc_info=True)
                    connection.abort()
        del unswept[-SLICE:]
        if unswept:
            self._timer = self.loop.call_soon(self._sweep)
        else:
            self._timer = self.loop.call_later(self.timeouts.sweep, self._sweep)
