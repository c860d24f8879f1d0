"""A connection that is no session yet: what a proxy says about it is read, its network is looked at, TLS begins.

Promises: nothing of the client's reaches a session before the PROXY header is whole and valid and, with implicit TLS,
before the handshake is done. A header is read from a listed proxy only, and is demanded of it (SECURITY R14); it is
bounded in octets and, with the handshake, in time (R15). What is wrong with either closes the connection without a
word: nobody is there who would understand it.

Standards: the PROXY protocol (see `server.proxy`); RFC 8314 §3 (implicit TLS).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from ironpost.protocol.transaction import Peer, Tls
from ironpost.server.connection import Connection, peer_of
from ironpost.server.proxy import ProxyFault, parse
from ironpost.server.tls_transport import TlsTransport

if TYPE_CHECKING:
    from ironpost.model import Reply
    from ironpost.server.listener import Server

LOG = logging.getLogger("ironpost.server")


class Arrival(asyncio.Protocol):
    """One client, until it may be greeted."""

    __slots__ = ("_header", "_since", "peer", "prefix", "server", "transport")

    def __init__(self, server: Server) -> None:
        self.server = server
        self.transport: asyncio.Transport
        self.peer = Peer()
        self.prefix = ""
        """The network that it is counted by; empty for none."""
        self._header: bytes | None = None
        """What has come of a PROXY header; None if none is due."""
        self._since = server.loop.time()

    # -----------------------------------------------------------------------------------------------------------------
    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Looks who it is."""
        self.transport = cast("asyncio.Transport", transport)
        refusal = self.server.enter(self)
        if refusal is not None:
            self._refuse(refusal)
            return
        if self.server.stopping:  # it was accepted just before
            self.shutdown()
            return
        self.peer = peer_of(self.transport)
        if self.server.is_proxy(self.peer.ip):
            self._header = b""
        else:
            self._welcome(None, b"")

    def data_received(self, data: bytes) -> None:
        """A PROXY header, or a part of it."""
        if self._header is None:
            return  # it is being closed
        self._header += data
        try:
            header = parse(self._header)
        except ProxyFault as fault:
            self._header = None
            self.server.metrics.count("proxy_faults")
            LOG.warning("connection from proxy %s closed: %s", self.peer.ip, fault)
            self.transport.abort()
            return
        if header is None:
            return
        rest, self._header = self._header[header.size :], None
        if not header.local:
            # A client that the proxy does not know is nobody, and surely not the proxy with its rights.
            self.peer = Peer(header.ip, header.port, header.local_ip, header.local_port, via=self.peer.ip)
        self._welcome(header.tls, rest)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """It never became a session."""
        if self.prefix:
            self.server.leave_client(self.prefix)
        self.server.forget(self)

    # -----------------------------------------------------------------------------------------------------------------
    # The way to a session

    def _welcome(self, stated: Tls | None, rest: bytes) -> None:
        server, transport = self.server, self.transport
        self.prefix, refusal = server.enter_client(self.peer.ip)
        if refusal is not None:
            self._refuse(refusal)
        elif server.implicit_tls:
            assert server.tls is not None  # the server sees to it
            secure = TlsTransport(self, transport, server.tls, server.buffer)
            if rest:
                secure.data_received(rest)
        else:
            self._hand_over(transport, stated, rest)

    def _hand_over(self, transport: asyncio.Transport, tls: Tls | None, rest: bytes, *, early: bool = False) -> None:
        connection = Connection(self.server)
        self.server.succeed(self, connection)
        transport.set_protocol(connection)
        connection.begin(transport, self.peer, self.prefix, tls, rest, early=early)

    def _refuse(self, refusal: Reply) -> None:
        transport = self.transport
        transport.set_protocol(asyncio.Protocol())
        if not self.server.implicit_tls:
            transport.write(refusal.octets)
        transport.close()
        self.server.forget(self)

    # TlsTransport's side

    def secured(self, transport: TlsTransport, tls: Tls, *, early: bool) -> None:
        """The handshake is done."""
        self.server.metrics.count("handshakes", tls.version)
        self._hand_over(transport, tls, b"", early=early)

    def handshake_failed(self, reason: str) -> None:
        """It failed; the transport closes."""
        self.server.metrics.count("handshakes", "failed")
        LOG.info("TLS handshake with %s failed: %s", self.peer.ip, reason)

    def eof_received(self) -> None:
        """The client is gone."""

    # -----------------------------------------------------------------------------------------------------------------
    # The listener's side

    def sweep(self, now: float) -> None:
        """Ends what takes too long."""
        if now - self._since > self.server.timeouts.handshake:
            self.server.metrics.count("sessions_ended", "handshake")
            LOG.info("%s sent neither PROXY header nor TLS handshake in time", self.peer.ip or "a client")
            self.transport.abort()

    def shutdown(self) -> None:
        """The server stops."""
        self.transport.abort()

    def abort(self) -> None:
        """Closes at once."""
        self.transport.abort()
