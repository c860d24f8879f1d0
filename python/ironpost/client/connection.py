"""One TCP or Unix connection driven by a client session: an asyncio `Protocol`, no streams, one write for each batch.

Promises: whatever ends a wait (a reply, a timeout, a lost connection, cancellation), every recipient has its outcome
afterwards, and no timer and no task remains. A cancelled or failed transaction aborts the connection, so that content
is never terminated by accident. TLS is used as the session's `Security` demands. The verifier decides the level of TLS;
without one, the peer's certificate and name must be valid.
Refuses: a second transaction while one is in progress (RuntimeError, from the session).
Standards: RFC 5321 §4.5.3.2 (timeouts, by the session's table), §4.1.1.10 (QUIT).
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from functools import cached_property
from time import time
from typing import TYPE_CHECKING, Final

from ironpost.client.reach import reach, reach_socket
from ironpost.client.tls import (
    channel_bindings,
    connect_tls,
    context_for,
    failure_text,
    failure_type,
    peer_chain,
    resuming,
    start_tls,
    suits,
    verifier_for,
)
from ironpost.client.tls_sessions import Resumption, TlsPeer
from ironpost.client.unread import UNREAD_OCTETS, unread
from ironpost.model import Reply
from ironpost.model.network import address_literal
from ironpost.model.tls import BY_AUTHORITIES, UNAUTHENTICATED
from ironpost.protocol.client.envelope import CHUNK_LIMIT
from ironpost.protocol.client.opening import NOTHING
from ironpost.protocol.client.session import TIMEOUTS, ClientSession, ClientState, ClientStep, Security, check_hostname
from ironpost.protocol.client.tolerance import TOLERANCES
from ironpost.protocol.dialect import SMTP

if TYPE_CHECKING:
    import ssl
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from ironpost.client.tls_sessions import TlsSessions
    from ironpost.model import Pieces
    from ironpost.model.ports import Metrics
    from ironpost.model.tls import Verification, Verifier
    from ironpost.protocol.client.session import OutgoingTransaction
    from ironpost.protocol.client.tolerance import Tolerance
    from ironpost.protocol.dialect import Dialect

CONNECT_TIMEOUT: Final = 30.0
"""Seconds to wait for TCP; RFC 5321 names no limit."""
INPUT: Final = UNREAD_OCTETS
"""Maximum octets read at a time. If `unread` returned more, asyncio's TLS would pass on the rest after the loss."""
HELD: Final = CHUNK_LIMIT
"""Octets up to which a caller should read the whole content and let the transaction hold it, instead of streaming."""
NONCE: Final = 18
"""Random octets in a nonce."""
_NEEDS_CALLER: Final = frozenset({ClientState.SECURING, ClientState.READY, ClientState.CONTENT, ClientState.CLOSED})
"""States in which the session waits for its caller, not for the peer."""
_INTERRUPTED: Final = Reply(451, "4.3.0", ("The transaction was aborted by this system",))


class _Shared(threading.local):
    """What the connections of one thread share."""

    @cached_property
    def input(self) -> memoryview:
        """What is read from a socket, until it is copied at once."""
        return memoryview(bytearray(INPUT))


_shared = _Shared()


class Connection(asyncio.BufferedProtocol, asyncio.Protocol):
    """A connection and its session. Use `connect` to create it."""

    def __init__(
        self,
        local_hostname: str | None,
        remote: str,
        timeouts: Mapping[ClientStep, float] = TIMEOUTS,
        *,
        dialect: Dialect = SMTP,
        chunking: bool = True,
        security: Security = NOTHING,
        tls: ssl.SSLContext | None = None,
        verifier: Verifier = UNAUTHENTICATED,
        server_name: str = "",
        resumption: Resumption | None = None,
        tolerances: Collection[Tolerance] = TOLERANCES,
        metrics: Metrics | None = None,
    ) -> None:
        """See `connect`. A connection that another system opened (ATRN) needs no verifier."""
        self.remote = remote
        self._local_hostname = local_hostname
        self._timeouts = timeouts if timeouts is TIMEOUTS else {**TIMEOUTS, **timeouts}
        self._dialect = dialect
        self._chunking = chunking
        self._security = security
        self._tls = tls
        self._verifier = verifier
        self._server_name = server_name
        self.resumption = resumption
        """Of the TLS session; None if sessions are neither resumed nor kept."""
        self._tolerances = tolerances
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self._polite = False
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport
        self.session: ClientSession
        self.local_ip = ""
        """The IP address of this end; empty for a Unix socket."""
        self.gone = False
        """The transport has closed the socket."""

    # -- called by asyncio --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.BaseProtocol`."""
        self._transport = transport
        own = transport.get_extra_info("sockname")
        self.local_ip = own[0] if isinstance(own, tuple) else ""
        local = self._local_hostname or address_literal(self.local_ip or "127.0.0.1")
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        nonce = secrets.token_urlsafe(NONCE) if self._security.credentials is not None else ""
        self.session = ClientSession(
            local, self.remote,
            dialect=self._dialect, chunking=self._chunking, security=self._security, secure=tls is not None,
            nonce=nonce, tolerances=self._tolerances, metrics=self._metrics,
        )  # fmt: skip
        if tls is not None:
            self.session.bindings, self.session.tls = self._examine(tls)
        self._arm()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where the transport reads to; for `data_received` asyncio would allocate 256 KiB for each read."""
        return _shared.input

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        self.data_received(_shared.input[:nbytes].tobytes())

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        session = self.session
        before = session.replies, session.state
        session.receive(data)
        # Only a complete reply extends the deadline.
        self._advance(rearm=(session.replies, session.state) != before)

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`."""
        self.session.eof()
        self._advance(rearm=True)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self.gone = True
        if exc is not None and not self.session.closed and self._transport.get_extra_info("ssl_object") is None:
            self.session.receive(unread(self._transport))
        self.session.eof()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake()

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._paused = True

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._paused = False
        self._arm()
        self._wake()

    # -- called by the owner ------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """A transaction can begin."""
        return self.session.state is ClientState.READY and not self._transport.is_closing()

    async def opened(self) -> None:
        """Wait for the greeting, EHLO, TLS and AUTH. Afterwards the session is READY, or CLOSED with its reason."""
        try:
            await self._until_caller_needed()
            if self.session.securing:
                await self._secure()
                await self._until_caller_needed()
        except BaseException:
            self.abort()
            raise
        if self.resumption is not None:
            if not self.ready:
                self.resumption.forget()
            elif (tls := self._transport.get_extra_info("ssl_object")) is not None:
                self.resumption.keep(tls)

    async def reset(self) -> bool:
        """Clear the peer's state after a failed transaction; False if the connection can no longer be used."""
        try:
            if self.ready:
                self.session.reset()
                self._advance(rearm=True)
                await self._until_caller_needed()
        except BaseException:
            self.abort()
            raise
        return self.ready

    async def transact(
        self, transaction: OutgoingTransaction, pieces: Pieces | None = None, *, deadline: float | None = None
    ) -> None:
        """Run one transaction. Afterwards every recipient has its outcome.

        Args:
            transaction: what to send.
            pieces: the content, if the transaction does not hold it. Always closed at the end.
            deadline: time of the event loop's clock by which all content must be sent. Waiting for the reply to it is
                limited by the timeout of its step only, because giving up there could duplicate the message (RFC 1047).

        Raises:
            RuntimeError: the session is not READY.
            Exception: what `pieces` raises; the connection is aborted and the recipients are deferred.
        """
        late = None if deadline is None else self._loop.call_at(deadline, self._deadline_passed)
        try:
            session = self.session
            transaction.now = time()
            session.begin(transaction)
            self._flush()
            self._arm()
            await self._until_caller_needed()
            if session.state is ClientState.CONTENT and pieces is not None:
                await self._pump(pieces)
                await self._until_caller_needed()
        except BaseException:
            self.abort()
            raise
        finally:
            if late is not None:
                late.cancel()
            close = getattr(pieces, "aclose", None)
            if close is not None:
                await close()

    async def quit(self) -> None:
        """Send QUIT, wait a few seconds for the reply, and close."""
        self.session.quit()
        self._advance(rearm=True)
        try:
            while not self.gone:
                await self._wait()
        finally:
            self._transport.abort()

    def abort(self) -> None:
        """Close at once; recipients without an outcome are deferred."""
        self.session.abort(_INTERRUPTED)
        self._transport.abort()

    def close_soon(self) -> None:
        """Send QUIT without waiting for the reply; the connection closes on the reply or the timeout."""
        self.session.quit()
        self._advance(rearm=True)

    # -- internal -----------------------------------------------------------------------------------------------------

    async def _secure(self) -> None:
        """The handshake after the reply to STARTTLS (RFC 3207 §4)."""
        assert self._tls is not None, "a session that may use TLS has a context"
        session = self.session
        try:
            transport = await start_tls(
                self._transport, self, self._tls, self._server_name, timeout=self._timeouts[ClientStep.TLS]
            )
        except OSError as error:  # includes ssl.SSLError and TimeoutError
            session.not_secured(failure_text(error), failure_type(error))
            self._transport.abort()
            self.gone = True
            return
        self._transport = transport
        session.secured(*self._examine(transport.get_extra_info("ssl_object")))
        self._advance(rearm=True)

    def _examine(self, tls: ssl.SSLObject) -> tuple[dict[str, bytes], Verification]:
        """The channel bindings of the connection, which only a login needs, and its level."""
        chain = peer_chain(tls) if self.resumption is None else self.resumption.chain(tls)
        bindings = channel_bindings(tls, chain) if self._security.credentials is not None else {}
        return bindings, self._verifier.verify(chain)

    async def _pump(self, pieces: Pieces) -> None:
        session = self.session
        async for piece in pieces:
            await self._until_caller_needed()  # a chunk waits for its reply
            if session.state is not ClientState.CONTENT:
                return
            session.content(piece)
            self._advance(rearm=True)
            # Let the event loop run even if the kernel accepts everything, so that an early refusal is noticed.
            await asyncio.sleep(0)
            while self._paused and session.state is ClientState.CONTENT:
                await self._wait()
        await self._until_caller_needed()
        if session.state is ClientState.CONTENT:
            session.end_content()
            self._advance(rearm=True)

    async def _until_caller_needed(self) -> None:
        """Wait until the session waits for its caller (`_NEEDS_CALLER`)."""
        while self.session.state not in _NEEDS_CALLER:
            await self._wait()

    async def _wait(self) -> None:
        assert self._waiter is None, "one caller at a time may wait"
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _advance(self, *, rearm: bool) -> None:
        """Act on a change of the session: write its output, close, set the deadline, wake the caller."""
        self._flush()
        if self.session.state is ClientState.CLOSED:
            if self.session.ending is None or self._polite:
                self._transport.close()
            else:
                self._transport.abort()
        if rearm:
            self._arm()
        if self.session.state in _NEEDS_CALLER:
            self._wake()

    def _flush(self) -> None:
        octets = self.session.output()
        self._polite = bool(octets)
        if octets:
            self._transport.write(octets)

    def _arm(self) -> None:
        """Set the deadline of the current step. The one timer checks the deadline when it fires."""
        session = self.session
        step = ClientStep.QUIT if session.state is ClientState.CLOSED else session.step
        if step is ClientStep.CONTENT and not self._paused:
            step = None  # everything was written: the wait is for our content, not for the peer
        if step is None or self.gone:
            self._deadline = 0.0
            return
        self._deadline = deadline = self._loop.time() + self._timeouts[step]
        timer = self._timer
        if timer is None:
            self._timer = self._loop.call_at(deadline, self._tick)
        elif timer.when() > deadline:
            timer.cancel()
            self._timer = self._loop.call_at(deadline, self._tick)

    def _deadline_passed(self) -> None:
        """End the transaction, unless all of its content was sent."""
        if self.session.step not in (None, ClientStep.END, ClientStep.BDAT):
            self.session.expire()
            self._transport.abort()
            self._wake()

    def _tick(self) -> None:
        self._timer = None
        if not self._deadline:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._tick)
            return
        self.session.expire()
        self._transport.abort()
        self._wake()


async def connect(
    host: str,
    port: int,
    local_hostname: str | None,
    *,
    path: Path | None = None,
    remote: str = "",
    timeouts: Mapping[ClientStep, float] = TIMEOUTS,
    connect_timeout: float = CONNECT_TIMEOUT,
    dialect: Dialect = SMTP,
    chunking: bool = True,
    security: Security = NOTHING,
    tls: ssl.SSLContext | None = None,
    verifier: Verifier | None = None,
    implicit_tls: bool = False,
    server_name: str = "",
    tls_sessions: TlsSessions | None = None,
    source: str | None = None,
    tolerances: Collection[Tolerance] = TOLERANCES,
    metrics: Metrics | None = None,
) -> Connection:
    """Connect, and wait until the session is READY or CLOSED (`session.reason` says why).

    Args:
        host: name or IP address.
        port: TCP port.
        local_hostname: our name in EHLO; None for the address literal of the connection.
        path: a Unix socket to connect to instead of host and port.
        remote: the peer's name in outcomes; `host` if empty.
        timeouts: seconds by step; steps that are missing have their default.
        connect_timeout: seconds to wait for DNS and TCP.
        dialect: SMTP or LMTP.
        chunking: use BDAT for small content if the peer offers it.
        security: TLS and AUTH before the first transaction.
        tls: the context of the handshake; `context_for(verifier)` if None.
        verifier: decides the level of TLS after the handshake. If None: what `tls` verifies, or certificate and name by
            the system's authorities.
        implicit_tls: the connection starts with TLS (RFC 8314 §3).
        server_name: the name that the peer's certificate must have; `host` if empty.
        tls_sessions: sessions that may be resumed, and where that of this connection is kept; `host` must be an IP
            address. A connection with a login does not use them: channel bindings need a full handshake.
        source: the local IP address to connect from; None for the system's choice.
        tolerances: which protocol errors of the peer are tolerated.
        metrics: counts the tolerances used.

    Raises:
        OSError: the connection failed, or implicit TLS did. TimeoutError, ssl.SSLError and `reach.SourceUnusable` are
            subclasses.
        ValueError: `tls` does not verify what `verifier` relies on.
        wire.WireFault: `local_hostname` is neither a domain nor an address literal.
    """
    if local_hostname is not None:
        check_hostname(local_hostname)
    loop = asyncio.get_running_loop()
    if verifier is None:
        verifier = BY_AUTHORITIES if tls is None else verifier_for(tls)
    if tls is None and (implicit_tls or security.tries_tls):
        tls = context_for(verifier)
    if tls is not None and not suits(tls, verifier):
        raise ValueError("the verifier relies on authorities, but the TLS context does not verify certificate and name")
    name = server_name or host
    resumption = None
    if tls_sessions is not None and tls is not None and security.credentials is None:
        resumption = Resumption(tls_sessions, TlsPeer(host, port, name, tls, verifier))
    async with asyncio.timeout(connect_timeout):
        reached = await (reach(host, port, source) if path is None else reach_socket(path))
    handshake = {**TIMEOUTS, **timeouts}[ClientStep.TLS]
    connection = Connection(
        local_hostname, remote or host, timeouts,
        dialect=dialect, chunking=chunking, security=security, tls=tls, verifier=verifier, server_name=name,
        resumption=resumption, tolerances=tolerances, metrics=metrics,
    )  # fmt: skip
    with resuming(None if resumption is None else resumption.session):
        try:
            if implicit_tls:
                assert tls is not None
                await connect_tls(reached, connection, tls, name, timeout=handshake)
            else:
                await loop.create_connection(lambda: connection, sock=reached)
        except BaseException:
            reached.close()
            if resumption is not None:
                resumption.forget()
            raise
        await connection.opened()
    return connection
