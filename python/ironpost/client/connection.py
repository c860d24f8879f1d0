"""One TCP connection driven by a client session: an asyncio `Protocol`, no streams, one write for each batch.

Promises: whatever ends a wait (a reply, a time-out, a lost connection, cancellation) leaves every recipient settled and
nothing behind: no timer, no task. A cancelled or failed transaction aborts the connection, so that a message is never
ended by accident. TLS is used as the session's `Security` says; the peer's certificate and name are verified unless the
given context says otherwise.
Refuses: a second transaction while one runs (RuntimeError, from the session).
Standards: RFC 5321 §4.5.3.2 (time-outs; by the session's table), §4.1.1.10 (QUIT).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import ssl
from time import time
from typing import TYPE_CHECKING, Final

from ironpost.client.reach import reach
from ironpost.model import Reply
from ironpost.protocol.client import TIMEOUTS, ClientSession, Security, State, Step, check_hostname
from ironpost.protocol.client_envelope import CHUNK_LIMIT
from ironpost.protocol.client_name import address_literal
from ironpost.protocol.client_opening import NOTHING
from ironpost.protocol.client_tolerance import TOLERANCES
from ironpost.server.certificate import read

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ironpost.model import Pieces
    from ironpost.model.ports import Metrics
    from ironpost.protocol.client import Transaction
    from ironpost.protocol.client_tolerance import Tolerance

CONNECT_TIMEOUT: Final = 30.0
"""Seconds to wait for TCP; the RFC names no limit."""
HELD: Final = CHUNK_LIMIT
"""Octets up to which a caller should read content whole and let the transaction hold it: no pieces to wait for."""
UNREAD: Final = 65536
"""Octets that are read from a connection after it has failed."""
NONCE: Final = 18
"""Octets of chance in a nonce."""
_CALLERS_TURN: Final = frozenset({State.SECURING, State.READY, State.CONTENT, State.CLOSED})
_INTERRUPTED: Final = Reply(451, "4.3.0", ("The transaction was given up on this side",))


class Connection(asyncio.Protocol):
    """A connection and its session. Make it with `connect`."""

    def __init__(
        self,
        local_hostname: str | None,
        remote: str,
        timeouts: Mapping[Step, float] = TIMEOUTS,
        *,
        chunking: bool = True,
        security: Security = NOTHING,
        tls: ssl.SSLContext | None = None,
        server_name: str = "",
        tolerances: Collection[Tolerance] = TOLERANCES,
        metrics: Metrics | None = None,
    ) -> None:
        """See `connect`."""
        self.remote = remote
        self._local_hostname = local_hostname
        self._timeouts = timeouts if timeouts is TIMEOUTS else {**TIMEOUTS, **timeouts}
        self._chunking = chunking
        self._security = security
        self._tls = tls
        self._server_name = server_name
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
        self.gone = False
        """The transport has let go of the socket."""

    # -- asyncio calls these ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.BaseProtocol`."""
        self._transport = transport
        local = self._local_hostname or address_literal(transport.get_extra_info("sockname")[0])
        secure = transport.get_extra_info("ssl_object") is not None
        nonce = secrets.token_urlsafe(NONCE) if self._security.credentials is not None else ""
        self.session = ClientSession(
            local, self.remote,
            chunking=self._chunking, security=self._security, secure=secure, nonce=nonce,
            tolerances=self._tolerances, metrics=self._metrics,
        )  # fmt: skip
        if secure:
            self.session.bindings, self.session.verified = self._facts()
        self._arm()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        session = self.session
        before = session.replies, session.state
        session.receive(data)
        # Only whole replies move the deadline: a reply that trickles in does not.
        self._advance(rearm=(session.replies, session.state) != before)

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`."""
        self.session.eof()
        self._advance(rearm=True)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self.gone = True
        if exc is not None and not self.session.closed:
            self.session.receive(self._unread())
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

    # -- callers use these --------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """A transaction can begin."""
        return self.session.state is State.READY and not self._transport.is_closing()

    async def opened(self) -> None:
        """Waits for greeting, EHLO, TLS and AUTH. Afterwards the session is READY, or CLOSED with its reason."""
        try:
            await self._turn()
            if self.session.securing:
                await self._secure()
                await self._turn()
        except BaseException:
            self.abort()
            raise

    async def reset(self) -> bool:
        """Clears what a failed transaction may have left at the peer; False if the connection can no longer be used."""
        try:
            if self.ready:
                self.session.reset()
                self._advance(rearm=True)
                await self._turn()
        except BaseException:
            self.abort()
            raise
        return self.ready

    async def transact(
        self, transaction: Transaction, pieces: Pieces | None = None, *, deadline: float | None = None
    ) -> None:
        """Runs one transaction to its end: afterwards every recipient has its outcome.

        Args:
            transaction: what to send.
            pieces: the content, when the transaction does not hold it. Closed at the end, used or not.
            deadline: on the loop's clock: until then the content must have been sent to its end. The reply to it has
                the time-out of its step, because giving up there could duplicate the message (RFC 1047).

        Raises:
            RuntimeError: the session is not READY.
            Exception: what `pieces` raises; the connection is aborted and the recipients are deferred.
        """
        late = None if deadline is None else self._loop.call_at(deadline, self._too_late)
        try:
            session = self.session
            transaction.now = time()
            session.begin(transaction)
            self._flush()
            self._arm()
            await self._turn()
            if session.state is State.CONTENT and pieces is not None:
                await self._pump(pieces)
                await self._turn()
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
        """Says goodbye, waits a few seconds for the answer, closes."""
        self.session.quit()
        self._advance(rearm=True)
        try:
            while not self.gone:
                await self._wait()
        finally:
            self._transport.abort()

    def abort(self) -> None:
        """Closes at once; what is open is deferred."""
        self.session.abort(_INTERRUPTED)
        self._transport.abort()

    def close_soon(self) -> None:
        """Says QUIT and closes in the background: nobody waits for the answer, a timer bounds it."""
        self.session.quit()
        self._advance(rearm=True)

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _secure(self) -> None:
        """The handshake that STARTTLS was answered with (RFC 3207 §4)."""
        assert self._tls is not None, "a session that may use TLS has a context"
        session = self.session
        try:
            transport = await self._loop.start_tls(
                self._transport, self, self._tls, server_hostname=self._server_name,
                ssl_handshake_timeout=self._timeouts[Step.TLS],
            )  # fmt: skip
            if transport is None:
                raise ConnectionAbortedError("the connection was closed")
        except OSError as error:  # ssl.SSLError and TimeoutError are some
            session.not_secured(words(error))
            self._transport.abort()
            self.gone = True
            return
        self._transport = transport
        bindings, verified = self._facts()
        session.secured(bindings, verified=verified)
        self._advance(rearm=True)

    def _facts(self) -> tuple[dict[str, bytes], bool]:
        """Channel bindings, and whether the peer's certificate was verified for its name."""
        connection = self._transport.get_extra_info("ssl_object")
        certificate = connection.getpeercert(binary_form=True)
        end_point = read(certificate).end_point if certificate else b""
        bindings = {"tls-server-end-point": end_point} if end_point else {}
        if connection.version() == "TLSv1.2" and (unique := connection.get_channel_binding("tls-unique")):
            bindings["tls-unique"] = unique
        verified = connection.context.verify_mode is ssl.CERT_REQUIRED and connection.context.check_hostname
        return bindings, verified

    def _unread(self) -> bytes:
        """What the peer sent before a write failed and asyncio stopped reading; it is still in the socket's buffer.

        Under TLS those octets are ciphertext, and nothing is read.
        """
        transport = self._transport
        lost = transport.get_extra_info("socket")
        if lost is None or transport.get_extra_info("ssl_object") is not None:
            return b""
        try:
            # The transport closes its socket when this callback returns, and not before.
            with socket.socket(fileno=os.dup(lost.fileno())) as copy:
                copy.setblocking(False)
                return copy.recv(UNREAD)
        except OSError:  # there is nothing, or it is closed
            return b""

    async def _pump(self, pieces: Pieces) -> None:
        session = self.session
        async for piece in pieces:
            await self._turn()  # a chunk waits for its reply
            if session.state is not State.CONTENT:
                return
            session.content(piece)
            self._advance(rearm=True)
            # Let the loop run even when the kernel takes everything: an early refusal must be seen.
            await asyncio.sleep(0)
            while self._paused and session.state is State.CONTENT:
                await self._wait()
        await self._turn()
        if session.state is State.CONTENT:
            session.end_content()
            self._advance(rearm=True)

    async def _turn(self) -> None:
        """Waits until it is the caller's turn."""
        while self.session.state not in _CALLERS_TURN:
            await self._wait()

    async def _wait(self) -> None:
        assert self._waiter is None, "one caller at a time"
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
        """After anything that moved the session: write, watch the time, wake who waits."""
        self._flush()
        if self.session.state is State.CLOSED:
            if self.session.ending is None or self._polite:
                self._transport.close()
            else:
                self._transport.abort()
        if rearm:
            self._arm()
        if self.session.state in _CALLERS_TURN:
            self._wake()

    def _flush(self) -> None:
        octets = self.session.output()
        self._polite = bool(octets)
        if octets:
            self._transport.write(octets)

    def _arm(self) -> None:
        """Sets the deadline of the present wait. One timer serves the connection; it looks when it fires."""
        session = self.session
        step = Step.QUIT if session.state is State.CLOSED else session.step
        if step is Step.CONTENT and not self._paused:
            step = None  # the peer has taken everything: the wait is for our own content
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

    def _too_late(self) -> None:
        """The transaction has had its time."""
        if self.session.step not in (None, Step.END, Step.BDAT):
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


def words(error: OSError) -> str:
    """What the system or the TLS library says, for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate was not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "TLS failed").replace("_", " ").lower()
    return error.strerror or str(error) or type(error).__name__


def verifying(authorities: str | None = None) -> ssl.SSLContext:
    """A context that verifies the peer's certificate and name (SECURITY R13).

    Args:
        authorities: a PEM file of those that are trusted; the system's if None.

    Raises:
        OSError: the file cannot be read, or holds no certificates.
    """
    context = ssl.create_default_context(cafile=authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996 §4
    return context


async def connect(
    host: str,
    port: int,
    local_hostname: str | None,
    *,
    remote: str = "",
    timeouts: Mapping[Step, float] = TIMEOUTS,
    connect_timeout: float = CONNECT_TIMEOUT,
    chunking: bool = True,
    security: Security = NOTHING,
    tls: ssl.SSLContext | None = None,
    implicit_tls: bool = False,
    server_name: str = "",
    tolerances: Collection[Tolerance] = TOLERANCES,
    metrics: Metrics | None = None,
) -> Connection:
    """Connects and waits until the session is READY or CLOSED (`session.reason` says why).

    Args:
        host: name or IP address.
        port: TCP port.
        local_hostname: what we say in EHLO; None for our address literal on this connection.
        remote: how outcomes call the peer; `host` if empty.
        timeouts: seconds by step; steps that are not named keep their usual ones.
        connect_timeout: seconds to wait for TCP, the look-up of the name included.
        chunking: use BDAT for small content where the peer offers it.
        security: TLS and AUTH before the first transaction.
        tls: how the peer is verified; a context that verifies certificate and name by the system's authorities if None.
        implicit_tls: the connection begins with TLS (RFC 8314 §3).
        server_name: the name that the peer's certificate must have; `host` if empty.
        tolerances: which protocol errors of the peer are tolerated.
        metrics: counts the tolerances that were used.

    Raises:
        OSError: no connection (TimeoutError is one), or implicit TLS failed (ssl.SSLError is one).
        wire.WireFault: `local_hostname` is neither a domain nor an address literal.
    """
    if local_hostname is not None:
        check_hostname(local_hostname)
    loop = asyncio.get_running_loop()
    if tls is None and (implicit_tls or security.tries_tls):
        tls = verifying()
    name = server_name or host
    async with asyncio.timeout(connect_timeout):
        reached = await reach(host, port)
    handshake = {**TIMEOUTS, **timeouts}[Step.TLS]
    try:
        _, connection = await loop.create_connection(
            lambda: Connection(
                local_hostname, remote or host, timeouts,
                chunking=chunking, security=security, tls=tls, server_name=name,
                tolerances=tolerances, metrics=metrics,
            ),
            sock=reached,
            ssl=tls if implicit_tls else None,
            server_hostname=name if implicit_tls else None,
            ssl_handshake_timeout=handshake if implicit_tls else None,
        )  # fmt: skip
    except BaseException:
        reached.close()
        raise
    await connection.opened()
    return connection
