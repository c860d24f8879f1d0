"""The server of SMTP, submission and LMTP over asyncio.

    async with Server(handler, "127.0.0.1", 2525) as server:
        await server.serve_forever()

Promises: those of `Acceptor`. `stop` lets each session finish the message that it is receiving, and ends the others
with 421. `settings` may be replaced while the server runs, too; sessions keep the settings with which they began.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from ironpost.model.ports import Metrics, Uncounted
from ironpost.protocol import replies
from ironpost.protocol.server.session import DEFAULT
from ironpost.server.acceptor import BACKLOG, Acceptor
from ironpost.server.binding import UNIX_MODE
from ironpost.server.connection import ServerConnection
from ironpost.server.handler import complete
from ironpost.server.hooks import THREADS, Hooks
from ironpost.server.limits import Capacity, ConnectionLimiter, ConnectionLimits, Excess
from ironpost.server.preamble import PendingConnection
from ironpost.server.timeouts import Timeouts

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ironpost.model.network import Network
    from ironpost.protocol.server.session import Override
    from ironpost.protocol.server.settings import ServerSettings
    from ironpost.server.host import HostedConnection
    from ironpost.server.tls import TlsContext


class Server(Acceptor):
    """An SMTP, submission or LMTP server. It is the `Host` of its connections."""

    refusals: ClassVar = {
        Excess.TOTAL: replies.TOO_MANY_CONNECTIONS,
        Excess.PREFIX: replies.TOO_MANY_FROM_NETWORK,
        Excess.RATE: replies.TOO_MANY_NEW,
        Excess.MEMORY: replies.SHORTAGE,
        Excess.DESCRIPTORS: replies.SHORTAGE,
    }

    def __init__(
        self,
        handler: object,
        host: str | None = "localhost",
        port: int = 0,
        *,
        settings: ServerSettings = DEFAULT,
        overrides: Mapping[str, Override] | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - immutable
        limits: ConnectionLimits = ConnectionLimits(),  # noqa: B008 - immutable
        limiter: ConnectionLimiter | None = None,
        capacity: Capacity | None = None,
        tls: TlsContext | None = None,
        implicit_tls: bool = False,
        path: str | Path | None = None,
        path_mode: int = UNIX_MODE,
        proxy: Sequence[str | Network] = (),
        greeting_delay: float | None = 0.0,
        backlog: int = BACKLOG,
        reuse_port: bool = False,
        sockets: Sequence[socket.socket] = (),
        threads: int = THREADS,
        metrics: Metrics = Uncounted(),  # noqa: B008 - it has no state
        name: str = "",
    ) -> None:
        """
        Args:
            handler: any object with hooks of `protocol.server.handler.Handler`; `BaseHandler` has the defaults.
            host: name or address to listen on; None for all interfaces.
            port: TCP port; 0 lets the system choose.
            settings: the settings of new sessions.
            overrides: verbs whose handling is replaced or added; see `protocol.server.session.Override`.
            timeouts: timeouts of connections, in seconds, and the minimum data rate.
            limits: limits on connections, in total and by network.
            limiter: counts connections; several servers may share one. None: a new one.
            capacity: the resources for connections, which the servers of a process share. None: no limit.
            tls: certificates; if given, STARTTLS is offered (RFC 3207).
            implicit_tls: clients begin with a TLS handshake, and STARTTLS is not offered (RFC 8314 §3).
            path: a Unix socket to listen on instead of host and port; a stale socket is replaced.
            path_mode: permissions of the Unix socket.
            proxy: networks of proxies. Connections from them must begin with a PROXY header, others must not.
            greeting_delay: seconds before the greeting, 0 for none; a client that sends anything before it gets 554.
                None disables that check, and early input is interpreted as commands.
            backlog: connections that the kernel queues for each socket.
            reuse_port: several processes may listen on the port (SO_REUSEPORT).
            sockets: bound sockets to listen on instead of host and port; the server closes them.
            threads: size of the pool for hooks marked `@blocking`.
            metrics: counts connections, refusals, timeouts and handshakes.
            name: the label of this server in metrics.

        Raises:
            TypeError: `handler` has no hook, or is a class.
            ValueError: implicit TLS or STARTTLS without certificates; a greeting delay below 0.
        """
        super().__init__(
            host,
            port,
            timeouts=timeouts,
            limits=limits,
            limiter=limiter,
            capacity=capacity,
            tls=tls,
            implicit_tls=implicit_tls,
            path=path,
            path_mode=path_mode,
            proxy=proxy,
            backlog=backlog,
            reuse_port=reuse_port,
            sockets=sockets,
            metrics=metrics,
            name=name,
        )
        self.hooks = Hooks(threads, cleanup_timeout=timeouts.hook)
        self.handler = complete(handler, self.hooks, settings.extensions)
        if tls is None and settings.starttls:
            raise ValueError("TLS needs certificates: Server(tls=TlsContext.load(...))")
        if greeting_delay is not None and not greeting_delay >= 0:
            raise ValueError(f"Server.greeting_delay must be 0 seconds or more, not {greeting_delay}")
        self._own_starttls = tls is not None and not implicit_tls
        self.settings = settings
        self.overrides = overrides
        self.greeting_delay = greeting_delay
        self._greetings: deque[tuple[float, Callable[[], None]]] = deque()
        """The due time and the callback of each delayed greeting. All have the same delay, so they are in order."""
        self._greeting_timer: asyncio.TimerHandle | None = None
        """The timer of the first entry of `_greetings`; None if there is none."""
        self._pending = bool(proxy) or implicit_tls
        """Connections begin with a PROXY header or a handshake."""

    @property
    def settings(self) -> ServerSettings:
        """The settings of new sessions. The setter adds the extensions of the handler, STARTTLS, a clock and nonces."""
        return self._settings

    @settings.setter
    def settings(self, settings: ServerSettings) -> None:
        self._settings = replace(
            settings.serving(self.handler),
            starttls=settings.starttls or self._own_starttls,
            nonce=settings.nonce or secrets.token_urlsafe,
            now=settings.now or time.time,
        )

    def connection(self) -> asyncio.Protocol:
        """See `Acceptor.connection`."""
        return PendingConnection(self, ServerConnection) if self._pending else ServerConnection(self)

    async def start(self) -> None:
        """See `Acceptor.start`."""
        await super().start()
        self.hooks.start(self.loop)

    async def _ended(self, grace: float) -> None:
        """See `Acceptor._ended`."""
        if self._greeting_timer is not None:
            self._greeting_timer.cancel()
        await self.hooks.stop(grace)

    # -----------------------------------------------------------------------------------------------------------------
    # Host

    def release(self, connection: HostedConnection, network: str = "", failures: int = 0) -> None:
        """See `Host.release`."""
        self.hooks.counts.raised += failures
        super().release(connection, network)

    def greet_later(self, greet: Callable[[], None]) -> None:
        """See `Host.greet_later`."""
        assert self.greeting_delay is not None
        self._greetings.append((self.loop.time() + self.greeting_delay, greet))
        if self._greeting_timer is None:
            self._greeting_timer = self.loop.call_later(self.greeting_delay, self._greet)

    def _greet(self) -> None:
        now, greetings = self.loop.time(), self._greetings
        while greetings and greetings[0][0] <= now:
            greetings.popleft()[1]()
        self._greeting_timer = self.loop.call_at(greetings[0][0], self._greet) if greetings else None
