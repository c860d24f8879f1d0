"""One TCP connection driven by a client session: an asyncio `Protocol`, no streams, one write for each batch.

Promises: whatever ends a wait (a reply, a time-out, a lost connection, cancellation) leaves every recipient settled and
nothing behind: no timer, no task. A cancelled or failed transaction aborts the connection, so that a message is never
ended by accident.
Refuses: a second transaction while one runs (RuntimeError, from the session).
Standards: RFC 5321 §4.5.3.2 (time-outs; by the session's table), §4.1.1.10 (QUIT).
"""

from __future__ import annotations

import asyncio
from time import time
from typing import TYPE_CHECKING, Final

from ironpost.model import Reply
from ironpost.protocol.client import CHUNK_LIMIT, TIMEOUTS, ClientSession, State, Step, check_hostname

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Pieces
    from ironpost.protocol.client import Transaction

CONNECT_TIMEOUT: Final = 30.0
"""Seconds to wait for TCP; the RFC names no limit."""
HELD: Final = CHUNK_LIMIT
"""Octets up to which a caller should read content whole and let the transaction hold it: no pieces to wait for."""
_CALLERS_TURN: Final = frozenset({State.READY, State.CONTENT, State.CLOSED})
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
    ) -> None:
        """See `connect`."""
        self.remote = remote
        self._local_hostname = local_hostname
        self._timeouts = timeouts
        self._chunking = chunking
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
        self.session = ClientSession(local, self.remote, chunking=self._chunking)
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

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the session needs no cause
        """See `asyncio.BaseProtocol`."""
        self.gone = True
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
        """Waits for the greeting and EHLO. Afterwards the session is READY, or CLOSED with its reason."""
        try:
            await self._turn()
        except BaseException:
            self.abort()
            raise

    async def transact(self, transaction: Transaction, pieces: Pieces | None = None) -> None:
        """Runs one transaction to its end: afterwards every recipient has its outcome.

        Args:
            transaction: what to send.
            pieces: the content, when the transaction does not hold it. Closed at the end, used or not.

        Raises:
            RuntimeError: the session is not READY.
            Exception: what `pieces` raises; the connection is aborted and the recipients are deferred.
        """
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


def address_literal(ip: str) -> str:
    """The address literal of RFC 5321 §4.1.3 for an IP address (a zone is dropped)."""
    address = ip.partition("%")[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


async def connect(
    host: str,
    port: int,
    local_hostname: str | None,
    *,
    remote: str = "",
    timeouts: Mapping[Step, float] = TIMEOUTS,
    connect_timeout: float = CONNECT_TIMEOUT,
    chunking: bool = True,
) -> Connection:
    """Connects and waits until the session is READY or CLOSED (`session.reason` says why).

    Args:
        host: name or IP address.
        port: TCP port.
        local_hostname: what we say in EHLO; None for our address literal on this connection.
        remote: how outcomes call the peer; `host` if empty.
        timeouts: seconds by step.
        connect_timeout: seconds to wait for TCP.
        chunking: use BDAT for small content where the peer offers it.

    Raises:
        OSError: no connection (TimeoutError is one).
        wire.WireFault: `local_hostname` is neither a domain nor an address literal.
    """
    if local_hostname is not None:
        check_hostname(local_hostname)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(connect_timeout):
        _, connection = await loop.create_connection(
            lambda: Connection(local_hostname, remote or host, timeouts, chunking=chunking), host, port
        )
    await connection.opened()
    return connection
