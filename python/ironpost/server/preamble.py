"""The phase before the session: reads the PROXY header, checks the limits for the client, starts implicit TLS.

Promises: no input reaches a session before the PROXY header is complete and valid and, with implicit TLS, before the
handshake is done. A PROXY header is read only from a listed proxy, and required from it (SECURITY R14); it is limited
in octets and, like the handshake, in time (SECURITY R15). A fault in either closes the connection without a reply,
which neither a proxy nor a TLS client would understand.

Standards: the PROXY protocol (see `server.proxy`); RFC 8314 §3 (implicit TLS).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

from ironpost.protocol.server.transaction import Peer, TlsInfo
from ironpost.server.connection import peer_of
from ironpost.server.host import AcceptingHost, HostedConnection
from ironpost.server.proxy import ProxyFault, parse
from ironpost.server.tls_transport import TlsTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from ironpost.server.host import Refusal

LOG = logging.getLogger("ironpost.server")

H = TypeVar("H", bound=AcceptingHost)


class StartedConnection(HostedConnection, Protocol):
    """The connection that follows: an `asyncio.Protocol`, such as `ServerConnection`."""

    def begin(
        self,
        transport: asyncio.Transport,
        peer: Peer,
        network: str,
        tls: TlsInfo | None,
        received: bytes = b"",
        *,
        early: bool = False,
    ) -> None:
        """Start the session; see `ServerConnection.begin`."""
        ...


class PendingConnection(asyncio.Protocol, Generic[H]):
    """One client's connection until its session can start; then another one replaces it."""

    __slots__ = ("_header", "_session", "_started", "host", "network", "peer", "transport")

    def __init__(self, host: H, session: Callable[[H], StartedConnection]) -> None:
        """
        Args:
            host: the server.
            session: creates the connection that follows, such as `ServerConnection`.
        """
        self.host = host
        self._session = session
        self.transport: asyncio.Transport
        """The TCP or Unix transport."""
        self.peer = Peer()
        """The other end of the transport; after a PROXY header, the client that the header names."""
        self.network = ""
        """The network for which the host counts the client; empty if it is not counted."""
        self._header: bytes | None = None
        """The octets of the PROXY header received so far; None if no header is expected."""
        self._started = host.loop.time()
        """The time at which the connection was accepted."""

    # -----------------------------------------------------------------------------------------------------------------
    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a PROXY header if the connection comes from a proxy; else continue with the client's limits."""
        self.transport = cast("asyncio.Transport", transport)
        refusal = self.host.admit(self)
        if refusal is not None:
            self._refuse(refusal)
            return
        if self.host.stopping:  # the connection was accepted just before
            self.shutdown()
            return
        self.peer = peer_of(self.transport)
        if self.host.is_proxy(self.peer.ip):
            self._header = b""
        else:
            self._admit_client(None, b"")

    def data_received(self, data: bytes) -> None:
        """Read the PROXY header, or a part of it."""
        if self._header is None:
            return  # the connection is closing
        self._header += data
        try:
            header = parse(self._header)
        except ProxyFault as fault:
            self._header = None
            self.host.metrics.count("proxy_faults")
            LOG.warning("connection from proxy %s closed: %s", self.peer.ip, fault)
            self.transport.abort()
            return
        if header is None:
            return
        received, self._header = self._header[header.size :], None
        if not header.local:
            # A client that the proxy does not know must not get the rights of the proxy itself.
            self.peer = Peer(header.ip, header.port, header.local_ip, header.local_port, via=self.peer.ip)
        self._admit_client(header.tls, received)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Release a connection that ended before a session began."""
        self.host.release(self, self.network)

    # -----------------------------------------------------------------------------------------------------------------
    # Starting the session

    def _admit_client(self, stated: TlsInfo | None, received: bytes) -> None:
        """Check the limits for the client; then start implicit TLS or the session.

        Args:
            stated: the TLS parameters of the client's connection to the proxy, as the proxy states them.
            received: input that was read after the PROXY header.
        """
        host, transport = self.host, self.transport
        self.network, refusal = host.admit_client(self.peer.ip)
        if refusal is not None:
            host.release(self)
            self._refuse(refusal)
        elif host.implicit_tls:
            assert host.tls is not None  # see `Host.implicit_tls`
            secure = TlsTransport(self, transport, host.tls, host.read_buffer)
            if received:
                secure.data_received(received)
        else:
            self._start_session(transport, stated, received)

    def _start_session(
        self, transport: asyncio.Transport, tls: TlsInfo | None, received: bytes, *, early: bool = False
    ) -> None:
        connection = self._session(self.host)
        self.host.replace(self, connection)
        transport.set_protocol(cast("asyncio.Protocol", connection))
        connection.begin(transport, self.peer, self.network, tls, received, early=early)

    def _refuse(self, refusal: Refusal) -> None:
        transport = self.transport
        transport.set_protocol(asyncio.Protocol())
        if not self.host.implicit_tls:
            transport.write(refusal.octets)
        transport.close()

    # -----------------------------------------------------------------------------------------------------------------
    # TlsOwner

    def handshake_done(self, transport: TlsTransport, tls: TlsInfo, *, early: bool) -> None:
        """See `TlsOwner`."""
        self.host.metrics.count("handshakes", tls.version)
        self._start_session(transport, tls, b"", early=early)

    def handshake_failed(self, reason: str) -> None:
        """See `TlsOwner`."""
        self.host.metrics.count("handshakes", "failed")
        LOG.info("TLS handshake with %s failed: %s", self.peer.ip, reason)

    def eof_received(self) -> None:
        """Let the transport close, as the client did."""

    # -----------------------------------------------------------------------------------------------------------------
    # HostedConnection

    def sweep(self, now: float) -> None:
        """See `HostedConnection`: PROXY header and handshake together have `Timeouts.handshake`."""
        if now - self._started > self.host.timeouts.handshake:
            self.host.metrics.count("sessions_ended", "handshake")
            LOG.info("%s sent neither PROXY header nor TLS handshake in time", self.peer.ip or "a client")
            self.transport.abort()

    def shutdown(self) -> None:
        """See `HostedConnection`: there is no session yet, so the connection is closed at once."""
        self.transport.abort()

    def retire(self) -> None:
        """See `HostedConnection`: there is no session yet, so the connection is closed at once."""
        self.transport.abort()

    def abort(self) -> None:
        """See `HostedConnection`."""
        self.transport.abort()
