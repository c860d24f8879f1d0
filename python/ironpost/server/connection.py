"""One connection: moves octets between an asyncio transport and a `ServerSession`, and awaits what hooks return.

Promises: the replies to the commands of one read are written with one `write`. A task is created only for a hook that
returned a coroutine, and then one for all awaits of that batch; a Future costs a callback. While a hook is pending, or
the client does not read the replies, at most one more read is buffered and no further replies are produced. An
exception in our own code closes this connection with 421 and affects no other (SECURITY R22, R24). A `message` hook is
not cancelled when the client disconnects, so what it commits, it commits completely. A client that sends before the
greeting is detected even if its octets are still in the kernel's buffer when the greeting is due (SECURITY R7). After
STARTTLS all input is decrypted.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket
import struct
import sys
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, cast

from ironpost.model.network import unmapped
from ironpost.protocol import replies
from ironpost.protocol.server.session import FLUSHED, ServerSession
from ironpost.protocol.server.states import ServerState
from ironpost.protocol.server.transaction import HandOver, Peer, TlsInfo
from ironpost.server.fairness import DEFERRED_READS, LARGE
from ironpost.server.tls_transport import TlsTransport

try:
    import fcntl
    import pwd
    import termios
except ImportError:  # Windows, where the client, which imports this package, works too
    _POSIX = False
else:
    _POSIX = True

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.model import Reply
    from ironpost.protocol.server.session import Pending
    from ironpost.protocol.server.transaction import PendingAction
    from ironpost.server.host import Host

LOG = logging.getLogger("ironpost.server")

DATA_QUANTUM = 1024
"""Octets of content that must arrive within `Timeouts.data`; fewer do not count as progress."""

LINGER = 16 * 1024 * 1024
"""Maximum octets that are discarded after the last reply; then reading stops, and the TCP window closes."""

WINDOW = 65536
"""Octets of replies produced before the session checks whether the client reads them."""

_EAGER = sys.version_info >= (3, 12)


class ServerConnection(asyncio.BufferedProtocol, asyncio.Protocol):
    """One client's connection, as the asyncio protocol of its transport."""

    __slots__ = (
        "_awaited",
        "_deferred_data",
        "_discarded",
        "_drained",
        "_greeted",
        "_input_forbidden",
        "_last_progress",
        "_lingering",
        "_progress",
        "_rate_window",
        "_read_deferred",
        "_reading_paused",
        "_started",
        "_timed_out",
        "_writing_paused",
        "host",
        "network",
        "session",
        "transport",
    )

    def __init__(self, host: Host) -> None:
        self.host = host
        self.session: ServerSession
        """The session, created by `begin`."""
        self.transport: asyncio.Transport
        """The TCP or Unix transport, or the `TlsTransport` on top of it."""
        self.network = ""
        """The network for which the host counts the client; empty if it is not counted."""
        self._awaited: asyncio.Future[Any] | None = None
        """The Future or Task of the pending hook."""
        self._timed_out = False
        """The pending hook's task was cancelled because it took too long."""
        self._reading_paused = False
        """The transport's `pause_reading` is in effect."""
        self._read_deferred = False
        """A large read is in the host's `read_queue`."""
        self._deferred_data = b""
        """The octets of the queued read, and of any reads that followed it."""
        self._writing_paused = False
        """The transport's write buffer is full, because the client does not read."""
        self._drained: asyncio.Future[None] | None = None
        """The result of a `flush` that left the write buffer full."""
        self._lingering = False
        """The last reply is written; input is discarded until the client closes."""
        self._discarded = 0
        """Octets discarded while lingering."""
        self._input_forbidden = False
        """The greeting delay, or a TLS handshake, is in progress: no plaintext may arrive."""
        self._progress = -1
        """The session's work at its last progress: commands, plus content in units of `DATA_QUANTUM`; see `sweep`."""
        self._last_progress = 0.0
        """The time of the session's last progress. All times here are by `loop.time()`, in seconds."""
        self._started = 0.0
        """The time at which the session began."""
        self._greeted = 0.0
        """The time at which the session was last seen outside READY: the start of `Timeouts.hello`, after the greeting
        and again after STARTTLS and XCLIENT."""
        self._rate_window: tuple[float, int] | None = None
        """The start of the interval over which the rate of content is measured, and `session.octets` at that time."""

    # -----------------------------------------------------------------------------------------------------------------
    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept or refuse a client that uses neither implicit TLS nor a proxy."""
        self.transport = accepted = cast("asyncio.Transport", transport)
        host = self.host
        refusal = host.admit(self)
        if refusal is None:
            peer = peer_of(accepted)
            network, refusal = host.admit_client(peer.ip)
            if refusal is None:
                self.begin(accepted, peer, network, None)
                return
            host.release(self)
        accepted.set_protocol(asyncio.Protocol())
        accepted.write(refusal.octets)
        accepted.close()

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
        """Start the session: send the greeting, at once or after the greeting delay.

        Args:
            transport: the connection, possibly a `TlsTransport`.
            peer: the client.
            network: the network for which the host counts the client; empty for none.
            tls: the TLS parameters; None if the connection is unencrypted.
            received: input that was read already.
            early: more input was read, and will be passed to `data_received` when this method returns.
        """
        host = self.host
        self.transport, self.network = transport, network
        self._started = self._greeted = host.loop.time()
        self.session = session = ServerSession(host.handler, host.settings, peer, host.overrides, tls)
        session.window = WINDOW
        session.on_flush = self._flush
        try:
            if host.greeting_delay is None:
                self._advance(session.start())
                if received:
                    self.data_received(received)
            elif early or received:
                self._refuse_early()
            elif host.greeting_delay > 0:
                self._input_forbidden = True
                host.greet_later(self.greet)
            else:
                self.greet()
            if host.stopping:
                self.shutdown()
        except BaseException as exc:  # noqa: BLE001 - a Rust panic is a BaseException
            self._fail(exc)

    def greet(self) -> None:
        """Send the greeting, unless the client sent something first or has gone."""
        session = self.session
        if session.closing or self.transport.is_closing():
            return
        self._input_forbidden = False
        try:
            if self._deferred_data or unread(self.transport):
                self._refuse_early()
            else:
                self._advance(session.start())
        except BaseException as exc:  # noqa: BLE001 - a Rust panic is a BaseException
            self._fail(exc)

    def _refuse_early(self) -> None:
        self._count_early()
        self.session.early()
        self._advance(None)

    def _count_early(self) -> None:
        self.host.metrics.count("connections_refused", "early")
        LOG.info("%s sent data before the greeting", self.session.peer.ip)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where the transport reads to; for `data_received` asyncio would allocate 256 KiB for each read."""
        return self.host.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Handle input that is in the buffer."""
        self.data_received(self.host.read_buffer[:nbytes].tobytes())

    def data_received(self, data: bytes, *, now: bool = False) -> None:
        """Pass input to the session and write its replies; a large read is queued, unless `now` is set."""
        if self._lingering:
            self._discard(data)
            return
        if (len(data) >= LARGE or self._read_deferred) and not now:
            self._defer(data)
            return
        session = self.session
        try:
            pending = session.receive(data)
            if pending is None and self._awaited is None and not session.full:
                out = session.output()
                if out:
                    self.transport.write(out)
                if session.closing:
                    if self._input_forbidden:
                        self._count_early()
                    self._close()
                elif session.want is not None:
                    self._perform(session.want)
            else:
                if self._awaited is not None and not session.closing:
                    self._pause_reading()  # not earlier: only reading shows that the client has disconnected
                self._advance(pending)
        except BaseException as exc:  # noqa: BLE001 - a Rust panic is a BaseException
            self._fail(exc)

    def eof_received(self) -> bool:
        """Handle the end of the client's input; the client may still read."""
        if self._deferred_data:
            self._read_now()
        self.session.eof()
        return not self.session.closing

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Handle the end of the connection: cancel the pending hook, unless it is `message`."""
        awaited, session = self._awaited, self.session
        committing = session.committing
        session.close()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if awaited is not None and not committing and isinstance(awaited, asyncio.Task):
            awaited.cancel()
            # If the task is cancelled before its first step, it never awaits this coroutine.
            pending = session.pending
            if inspect.iscoroutine(pending) and inspect.getcoroutinestate(pending) == inspect.CORO_CREATED:
                pending.close()
        self.host.close_queue.add(self._release)

    def _release(self) -> None:
        session = self.session
        session.lost()
        self.host.release(self, self.network, session.failures)

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read our replies (back-pressure)."""
        self._writing_paused = True
        self._pause_reading()

    def resume_writing(self) -> None:
        """Continue after the client has read our replies."""
        self._writing_paused = False
        if self._drained is not None:
            self._write_flushed(self._drained)
        if self.session.full and self._awaited is None:
            try:
                self._advance(None)
            except BaseException as exc:  # noqa: BLE001 - see data_received
                self._fail(exc)
        self._resume_reading()

    def _flush(self) -> Awaitable[None]:
        """See `ServerSession.flush`."""
        if not self._writing_paused:
            out = self.session.output()
            if out:
                self.transport.write(out)
            if not self._writing_paused:
                return FLUSHED
        if self._drained is None or self._drained.done():
            self._drained = self.host.loop.create_future()
        return self._drained

    def _write_flushed(self, drained: asyncio.Future[None]) -> None:
        """Write the replies that a `flush` left queued; resolve its result unless the write buffer is full again."""
        out = self.session.output() if self.session.want is None else b""
        if out:
            self.transport.write(out)
        if not self._writing_paused:
            self._drained = None
            if not drained.done():
                drained.set_result(None)

    # -----------------------------------------------------------------------------------------------------------------
    # HostedConnection

    def shutdown(self) -> None:
        """See `HostedConnection`. During a TLS handshake no reply can be sent, and the connection is closed."""
        if self.session.want is not None:
            self.session.tls_failed()
            self.transport.abort()
            return
        self.session.shutdown()
        self._advance(None)

    def retire(self) -> None:
        """See `HostedConnection`."""
        self.session.retire()
        if self.session.want is None:
            self._advance(None)

    def abort(self) -> None:
        """See `HostedConnection`."""
        if self._awaited is not None and isinstance(self._awaited, asyncio.Task):
            self._awaited.cancel()
        self.transport.abort()

    def sweep(self, now: float) -> None:
        """See `HostedConnection`. A session makes progress by a command or by `DATA_QUANTUM` octets of content."""
        session, timeouts = self.session, self.host.timeouts
        progress = session.commands + session.octets // DATA_QUANTUM
        if progress != self._progress:
            self._progress, self._last_progress = progress, now
        idle = now - self._last_progress
        if session.state is not ServerState.READY:
            self._greeted = now
        if self._lingering:
            if idle > timeouts.linger:
                self.transport.abort()
        elif self._writing_paused:
            if idle > timeouts.write:
                self.host.metrics.count("sessions_ended", "write")
                LOG.warning("%s does not read our replies, aborted", session.peer.ip)
                self.abort()
        elif self._awaited is not None:
            self._rate_window = None  # the client is waiting for us
            if idle > timeouts.hook:
                self._last_progress = now
                self._abandon_hook()
        elif session.want is not None:
            if idle > timeouts.handshake:
                self.handshake_failed("timed out")
                self.transport.abort()
        elif now - self._started > timeouts.session:
            self._expire(replies.SESSION_TOO_LONG, "session")
        elif session.state is not ServerState.CONTENT:
            self._rate_window = None
            if idle > timeouts.command:
                self._expire(replies.TIMED_OUT, "command")
            elif session.state is ServerState.READY:
                if session.refused:
                    if now - self._greeted > timeouts.refused:
                        self._expire(replies.NO_QUIT, "refused")
                elif now - self._greeted > timeouts.hello:
                    self._expire(replies.NO_HELLO, "hello")
        elif idle > timeouts.data:
            self._expire(replies.TIMED_OUT, "data")
        elif self._rate_window is None:
            self._rate_window = now, session.octets
        elif now - self._rate_window[0] > timeouts.data:
            start, octets = self._rate_window
            if session.octets - octets < timeouts.data_rate * (now - start):
                self._expire(replies.TOO_SLOW, "data rate")
            else:
                self._rate_window = now, session.octets

    def _expire(self, reply: Reply, limit: str) -> None:
        session = self.session
        self.host.metrics.count("sessions_ended", limit)
        LOG.info("session with %s ended: %s", session.peer.ip, reply)
        self._progress = -1
        session.expire(reply)
        self._advance(None)

    # -----------------------------------------------------------------------------------------------------------------
    # Pending actions of the session

    def _perform(self, action: PendingAction) -> None:
        """Perform the session's pending action. All output has been written."""
        if self._deferred_data:  # input after the command that asked for the action (SECURITY R9)
            self.session.close()
            self._close()
            return
        if isinstance(action, HandOver):
            self._hand_over(action)
            return
        tls = self.host.tls
        if tls is None:  # removed by a reload
            self.session.tls_failed()
            self._close()
            return
        self._progress, self._input_forbidden = -1, True
        self.transport = TlsTransport(self, self.transport, tls, self.host.read_buffer)
        if self._reading_paused:
            self._resume_reading()

    def _hand_over(self, action: HandOver) -> None:
        """Reverse the roles (RFC 2645 §5.3). For the session and the host, the connection has ended."""
        transport, successor = self.transport, action.successor()
        self.session.close()
        self._release()  # not by the queue: until then the host could still close the transport
        paused, self._reading_paused = self._reading_paused, False
        transport.set_protocol(successor)
        successor.connection_made(transport)
        if paused:
            transport.resume_reading()

    def handshake_done(self, transport: TlsTransport, tls: TlsInfo, *, early: bool) -> None:  # noqa: ARG002 - TlsOwner
        """See `TlsOwner`. The client sends first, so input that arrived with the handshake is legal (RFC 3207 §4.2)."""
        self._input_forbidden = False
        self.host.metrics.count("handshakes", tls.version)
        self.session.tls_started(tls)
        self._advance(None)

    def handshake_failed(self, reason: str) -> None:
        """See `TlsOwner`."""
        self.host.metrics.count("handshakes", "failed")
        LOG.info("TLS handshake with %s failed: %s", self.session.peer.ip, reason)
        self.session.tls_failed()

    # -----------------------------------------------------------------------------------------------------------------
    # Pending hooks

    def _advance(self, pending: Pending) -> None:
        """Write the session's output; then wait for the pending hook, close, perform an action, or resume reading."""
        session = self.session
        while True:
            out = session.output()
            if out:
                self.transport.write(out)
            if pending is None:
                if not session.full or session.closing:
                    break
                if self._writing_paused:
                    return  # `resume_writing` continues
                pending = session.proceed()
                continue
            if isinstance(pending, asyncio.Future):
                if not pending.done():
                    self._awaited = pending
                    pending.add_done_callback(self._future_done)
                    break
                pending = self._result(pending)
            else:
                self._start_task(pending)
                return
        if session.closing:
            self._close()
        elif session.want is not None:
            if not self._input_forbidden:
                self._perform(session.want)
        elif self._reading_paused:
            self._resume_reading()

    def _result(self, future: asyncio.Future[Any]) -> Pending:
        timed_out, self._timed_out = self._timed_out, False
        if future.cancelled():
            return self.session.fail(TimeoutError("a hook timed out") if timed_out else asyncio.CancelledError())
        exc = future.exception()
        return self.session.answer(future.result()) if exc is None else self.session.fail(exc)

    def _future_done(self, future: asyncio.Future[Any]) -> None:
        if self._awaited is not future:  # abandoned
            if not future.cancelled():
                future.exception()
            return
        self._awaited = None
        try:
            self._advance(self._result(future))
        except BaseException as exc:  # noqa: BLE001 - see data_received
            self._fail(exc)

    def _start_task(self, pending: Awaitable[Any]) -> None:
        """Start one task for this hook and those that follow it in the batch."""
        loop = self.host.loop
        coroutine = self._await_hooks(pending)
        if _EAGER:
            task = asyncio.Task(coroutine, loop=loop, eager_start=True)  # type: ignore[call-arg,unused-ignore]
            if not task.done():
                self._awaited = task
        else:
            self._awaited = loop.create_task(coroutine)

    async def _await_hooks(self, pending: Pending) -> None:
        try:
            while pending is not None:
                pending = await self._await_hook(pending)
                if pending is not None:
                    out = self.session.output()
                    if out:
                        self.transport.write(out)
            self._awaited = None
            self._advance(None)
        except asyncio.CancelledError:
            self._awaited = None
            self.transport.abort()  # if it is still open, nothing else would continue the session
            raise
        except BaseException as exc:  # noqa: BLE001 - see data_received
            self._awaited = None
            self._fail(exc)

    async def _await_hook(self, pending: Awaitable[Any]) -> Pending:
        session = self.session
        value, failure = None, None
        try:
            value = await pending
        except (Exception, asyncio.CancelledError) as exc:  # noqa: BLE001 - R26: whatever a hook raises
            failure = exc
        task = asyncio.current_task()
        assert task is not None
        timed_out, self._timed_out = self._timed_out, False
        if timed_out:
            task.uncancel()
        if isinstance(failure, asyncio.CancelledError):
            if task.cancelling():  # the client disconnected or the program ends: the hook did not fail
                session.close()  # an open session would take None as acceptance, and run the commands that follow
                session.answer(None)
                raise failure
            if timed_out:
                failure = TimeoutError("a hook timed out")
        return session.answer(value) if failure is None else session.fail(failure)

    def _abandon_hook(self) -> None:
        """Abandon a hook that has timed out: reply 451 and continue the session (SECURITY R26)."""
        self.host.metrics.count("hook_timeouts")
        awaited = self._awaited
        if isinstance(awaited, asyncio.Task):
            self._timed_out = True
            awaited.cancel()
        elif awaited is not None:
            self._awaited = None  # not cancelled: other code may await the hook's Future too
            if self.session.opening:
                awaited.add_done_callback(_discard_spool)
            self._advance(self.session.fail(TimeoutError("a hook timed out")))

    # -----------------------------------------------------------------------------------------------------------------
    # Reading and closing

    def _defer(self, data: bytes) -> None:
        """Queue a large read, or handle it at once if too many are queued, and pause reading until it is handled."""
        if self._read_deferred:  # the event loop, or TLS, had already read more
            self._deferred_data += data
            return
        self._read_deferred = True
        self._pause_reading()
        read_queue = self.host.read_queue
        if len(read_queue) >= DEFERRED_READS:
            self.data_received(data, now=True)
        else:
            self._deferred_data = data
        read_queue.add(self._read_now)

    def _read_now(self) -> None:
        """Handle the queued read, and resume reading."""
        data, self._deferred_data = self._deferred_data, b""
        self._read_deferred = False
        if data and not self.transport.is_closing():
            self.data_received(data, now=True)
        self._resume_reading()

    def _pause_reading(self) -> None:
        if not self._reading_paused and not self.transport.is_closing():
            self._reading_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        """Resume reading if it was paused and no reason to pause is left."""
        wanted = (self._awaited is None and not self.session.full) or self.session.closing
        wanted = wanted and self._discarded <= LINGER and not self._writing_paused and not self._read_deferred
        if self._reading_paused and wanted and not self.transport.is_closing():
            self._reading_paused = False
            self.transport.resume_reading()

    def _discard(self, data: bytes) -> None:
        """Discard input after the last reply: the client may finish writing before it reads that reply."""
        self._discarded += len(data)
        if self._discarded > LINGER:
            self._pause_reading()  # the TCP window closes; `sweep` ends the connection

    def _close(self) -> None:
        """Close the connection after all replies were written.

        Closing a socket with unread input makes the kernel discard the last reply, so if there may be some, close only
        the write side, and keep reading.
        """
        transport = self.transport
        if self.session.input_drained or not transport.can_write_eof():
            transport.close()
        elif not self._lingering and not transport.is_closing():
            self._lingering = True
            self._progress = -1
            try:
                transport.write_eof()
                self._resume_reading()
            except OSError:  # the client closed first
                transport.abort()

    def _fail(self, exc: BaseException) -> None:
        """Handle an exception in our own code: log it, and close this connection with 421."""
        if isinstance(exc, KeyboardInterrupt | SystemExit):
            self.transport.abort()  # an interrupt must not wait for this client
            raise exc
        LOG.critical("internal error in the session with %s", self.session.peer.ip, exc_info=exc)
        try:
            self.session.broken()
            self._advance(None)
        except BaseException:  # noqa: BLE001 - closing is all that is left
            self.transport.abort()


def _discard_spool(future: asyncio.Future[Any]) -> None:
    """Discard a spool that the `content` hook returned after its timeout."""
    spool = None if future.cancelled() or future.exception() is not None else future.result()
    if spool is not None and hasattr(spool, "discard"):
        spool.discard()


def peer_of(transport: asyncio.Transport) -> Peer:
    """Return the other end of a transport; for a Unix socket with its user, where the system provides it (Linux)."""
    name = transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        return Peer(user=_user_of(transport))
    ip = name[0]
    return Peer(str(unmapped(ip_address(ip))) if ":" in ip else ip, name[1])


def _user_of(transport: asyncio.Transport) -> str:
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return ""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a user of another container
        return ""


def unread(transport: asyncio.Transport) -> bool:
    """Whether the kernel has buffered input that was not read yet; False on systems without this information."""
    if not _POSIX:
        return False
    count = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4))
    return bool(struct.unpack("i", count)[0])
