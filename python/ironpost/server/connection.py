"""One connection: moves octets between an asyncio transport and a `ServerSession`, and awaits what hooks return.

Promises: what one read holds is answered with one write. No task is made unless a hook returned a coroutine that must
be awaited, and then one for everything that suspends in that batch; a Future costs a callback. While a question is out,
or the client does not read our replies, at most one more read is taken in, and no more replies are made. An exception
in our own code closes this connection with 421 and no other (SECURITY R22, R24). A hook that was asked to take a
message is never cancelled because the client went away: what it commits, it commits whole. A client that speaks before
the greeting is found out, also if its octets wait in the kernel when the greeting is due (SECURITY R7). Behind
STARTTLS, whatever comes is cipher text.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, cast

from ironpost.protocol import replies
from ironpost.protocol.commands import State
from ironpost.protocol.server import ServerSession
from ironpost.protocol.transaction import Peer, Tls, Want
from ironpost.server.tls_transport import TlsTransport
from ironpost.server.turns import LARGE

try:
    import fcntl
    import pwd
    import termios
except ImportError:  # Windows; our client imports this package, too
    _POSIX = False
else:
    _POSIX = True

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.model import Reply
    from ironpost.protocol.server import Pending
    from ironpost.server.listener import Server

LOG = logging.getLogger("ironpost.server")

DATA_QUANTUM = 1024
"""Octets of content that must come within `Timeouts.data`: fewer are no progress."""

WINDOW = 65536
"""Octets of replies that are made before anybody looks whether the client reads them."""

_EAGER = sys.version_info >= (3, 12)


class Connection(asyncio.Protocol):
    """One client."""

    __slots__ = (
        "_between",
        "_born",
        "_kept",
        "_lingering",
        "_mark",
        "_paused",
        "_question",
        "_ready",
        "_resting",
        "_since",
        "_unwritten",
        "_window",
        "prefix",
        "server",
        "session",
        "transport",
    )

    def __init__(self, server: Server) -> None:
        self.server = server
        self.session: ServerSession
        self.transport: asyncio.Transport
        self.prefix = ""
        """The network that the client is counted by; empty for none."""
        self._question: asyncio.Future[Any] | None = None
        """What the session waits for."""
        self._paused = False
        """We asked the transport not to read."""
        self._resting = False
        """It sent much and waits for its turn,"""
        self._kept = b""
        """with this, which is not worked on yet."""
        self._unwritten = False
        """The client does not read what we write."""
        self._lingering = False
        """Everything is said; what comes is dropped until the client closes."""
        self._between = False
        """In the pause before the greeting, or in a handshake."""
        self._mark = -1
        """How far the session was when it last got on, and since when."""
        self._since = 0.0
        self._born = 0.0
        self._ready = 0.0
        """When the session was last seen not to wait for its first EHLO; STARTTLS and XCLIENT make it wait again."""
        self._window: tuple[float, int] | None = None
        """While content comes: since when its pace is measured, and how many octets there were then."""

    # -----------------------------------------------------------------------------------------------------------------
    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client in clear that no proxy speaks for: takes it in, or refuses it."""
        self.transport = found = cast("asyncio.Transport", transport)
        server = self.server
        refusal = server.enter(self)
        if refusal is None:
            peer = peer_of(found)
            prefix, refusal = server.enter_client(peer.ip)
            if refusal is None:
                self.begin(found, peer, prefix, None)
                return
            server.forget(self)
        found.set_protocol(asyncio.Protocol())
        found.write(refusal.octets)
        found.close()

    def begin(
        self,
        transport: asyncio.Transport,
        peer: Peer,
        prefix: str,
        tls: Tls | None,
        rest: bytes = b"",
        *,
        early: bool = False,
    ) -> None:
        """Greets, at once or after the pause.

        Args:
            transport: the connection, perhaps under TLS.
            peer: who it is.
            prefix: the network that it is counted by.
            tls: what protects it.
            rest: what was read of the client's already.
            early: more of it was read, and comes when this returns.
        """
        server = self.server
        self.transport, self.prefix = transport, prefix
        self._born = self._ready = server.loop.time()
        self.session = session = ServerSession(server.handler, server.settings, peer, server.overrides, tls)
        session.window = WINDOW
        try:
            if server.pause is None:
                self._go_on(session.start())
                if rest:
                    self.data_received(rest)
            elif early or rest:
                self._early()
            elif server.pause > 0:
                self._between = True
                server.greet_later(self)
            else:
                self.greet()
            if server.stopping:
                self.shutdown()
        except BaseException as exc:  # noqa: BLE001 - a Rust panic is a BaseException
            self._broken(exc)

    def greet(self) -> None:
        """The pause is over."""
        session = self.session
        if session.closing or self.transport.is_closing():
            return
        self._between = False
        try:
            if self._kept or unread(self.transport):
                self._early()
            else:
                self._go_on(session.start())
        except BaseException as exc:  # noqa: BLE001 - a Rust panic is a BaseException
            self._broken(exc)

    def _early(self) -> None:
        self._count_early()
        self.session.early()
        self._go_on(None)

    def _count_early(self) -> None:
        self.server.metrics.count("connections_refused", "early")
        LOG.info("%s spoke before the greeting", self.session.peer.ip)

    def data_received(self, data: bytes, *, now: bool = False) -> None:
        """Answers what can be answered; a large piece when it is its turn, or `now`."""
        if (len(data) >= LARGE or self._resting) and not now:
            self._rest(data)
            return
        session = self.session
        try:
            pending = session.receive(data)
            if pending is None and self._question is None and not session.full:
                out = session.output()
                if out:
                    self.transport.write(out)
                if session.closing:
                    if self._between and not self._lingering:
                        self._count_early()
                    self._finish()
                elif session.want is not None:
                    self._change(session.want)
            else:
                if self._question is not None and not session.closing:
                    self._pause()  # only now: while nothing comes, reading tells us that the client went away
                self._go_on(pending)
        except BaseException as exc:  # noqa: BLE001 - a Rust panic is a BaseException
            self._broken(exc)

    def eof_received(self) -> bool:
        """The client sends no more; it may still read."""
        if self._kept:
            self.take_turn()
        self.session.eof()
        return not self.session.closing

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """However it ended."""
        question, session = self._question, self.session
        committing = session.committing
        session.close()
        if question is not None and not committing and isinstance(question, asyncio.Task):
            question.cancel()
            # Cancelled before its first step, the task never gets to await this.
            pending = session.pending
            if inspect.iscoroutine(pending) and inspect.getcoroutinestate(pending) == inspect.CORO_CREATED:
                pending.close()
        self.server.partings.end(self)

    def part(self) -> None:
        """What is left to do for a client that is gone, when it is its turn."""
        session, server = self.session, self.server
        session.lost()
        server.hooks.counts.raised += session.failures
        if self.prefix:
            server.leave_client(self.prefix)
        server.forget(self)

    def pause_writing(self) -> None:
        """The client does not read: we read no more of it (back-pressure)."""
        self._unwritten = True
        self._pause()

    def resume_writing(self) -> None:
        """It reads again."""
        self._unwritten = False
        if self.session.full and self._question is None:
            try:
                self._go_on(None)
            except BaseException as exc:  # noqa: BLE001 - see data_received
                self._broken(exc)
        self._resume()

    # -----------------------------------------------------------------------------------------------------------------
    # The listener's side

    def shutdown(self) -> None:
        """The server stops: 421 when nothing is going on; during a handshake there is nobody to say it to."""
        if self.session.want is not None:
            self.session.tls_failed()
            self.transport.abort()
            return
        self.session.shutdown()
        self._go_on(None)

    def abort(self) -> None:
        """Closes at once; unread replies are lost."""
        if self._question is not None and isinstance(self._question, asyncio.Task):
            self._question.cancel()
        self.transport.abort()

    def sweep(self, now: float) -> None:
        """Looks whether the session got on since the last look, and ends what takes too long."""
        session, timeouts = self.session, self.server.timeouts
        mark = session.commands + session.octets // DATA_QUANTUM
        if mark != self._mark:
            self._mark, self._since = mark, now
        quiet = now - self._since
        if session.state is not State.READY:
            self._ready = now
        if self._lingering:
            if quiet > timeouts.linger:
                self.transport.abort()
        elif self._unwritten:
            if quiet > timeouts.write:
                self.server.metrics.count("sessions_ended", "write")
                LOG.warning("%s does not read our replies, aborted", session.peer.ip)
                self.abort()
        elif self._question is not None:
            self._window = None  # it waits for us
            if quiet > timeouts.hook:
                self._since = now
                self._give_up()
        elif session.want is not None:
            if quiet > timeouts.handshake:
                self.handshake_failed("it took too long")
                self.transport.abort()
        elif now - self._born > timeouts.session:
            self._expire(replies.SESSION_TOO_LONG, "session")
        elif session.state is not State.CONTENT:
            self._window = None
            if quiet > timeouts.command:
                self._expire(replies.TIMED_OUT, "command")
            elif session.state is State.READY:
                if session.refused:
                    if now - self._ready > timeouts.refused:
                        self._expire(replies.NO_QUIT, "refused")
                elif now - self._ready > timeouts.hello:
                    self._expire(replies.NO_HELLO, "hello")
        elif quiet > timeouts.data:
            self._expire(replies.TIMED_OUT, "data")
        elif self._window is None:
            self._window = now, session.octets
        elif now - self._window[0] > timeouts.data:
            since, octets = self._window
            if session.octets - octets < timeouts.data_rate * (now - since):
                self._expire(replies.TOO_SLOW, "data rate")
            else:
                self._window = now, session.octets

    def _expire(self, reply: Reply, limit: str) -> None:
        session = self.session
        self.server.metrics.count("sessions_ended", limit)
        LOG.info("session with %s ended: %s", session.peer.ip, reply)
        self._mark = -1
        session.expire(reply)
        self._go_on(None)

    # -----------------------------------------------------------------------------------------------------------------
    # What the session wants of the connection

    def _change(self, want: Want) -> None:
        """Everything that was replied is written, and nothing was read behind it: the connection changes."""
        if self._kept:  # but something was, and waits for its turn (SECURITY R9)
            self.session.close()
            self._finish()
            return
        if want is Want.SWAP:
            self._hand_over()
            return
        if want is Want.TLS:
            tls = self.server.tls
            if tls is None:  # a reload took it away
                self.session.tls_failed()
                self._finish()
                return
            self._mark, self._between = -1, True
            self.transport = TlsTransport(self, self.transport, tls, self.server.buffer)
        if self._paused:
            self._resume()

    def _hand_over(self) -> None:
        """The peer is the server now (RFC 2645 §5.3). For the session and for us, the connection is over."""
        transport, successor = self.transport, self.session.successor()
        self.session.close()
        self.part()  # now, not when it is its turn: nothing may look at the transport as ours any more
        paused, self._paused = self._paused, False
        transport.set_protocol(successor)
        successor.connection_made(transport)
        if paused:
            transport.resume_reading()

    def secured(self, transport: TlsTransport, tls: Tls, *, early: bool) -> None:  # noqa: ARG002 - TlsTransport's owner
        """The handshake is done. The client speaks first, and may have (RFC 3207 §4.2)."""
        self._between = False
        self.server.metrics.count("handshakes", tls.version)
        self.session.tls_started(tls)
        self._go_on(None)

    def handshake_failed(self, reason: str) -> None:
        """It failed; the transport closes."""
        self.server.metrics.count("handshakes", "failed")
        LOG.info("TLS handshake with %s failed: %s", self.session.peer.ip, reason)
        self.session.tls_failed()

    # -----------------------------------------------------------------------------------------------------------------
    # Questions

    def _go_on(self, pending: Pending) -> None:
        """Writes what there is, then waits for the question, or reads on."""
        session = self.session
        while True:
            out = session.output()
            if out:
                self.transport.write(out)
            if pending is None:
                if not session.full or session.closing:
                    break
                if self._unwritten:
                    return  # `resume_writing` goes on
                pending = session.proceed()
                continue
            if isinstance(pending, asyncio.Future):
                if not pending.done():
                    self._question = pending
                    pending.add_done_callback(self._future_done)
                    break
                pending = self._result(pending)
            else:
                self._start(pending)
                return
        if session.closing:
            self._finish()
        elif session.want is not None:
            if not self._between:
                self._change(session.want)
        elif self._paused:
            self._resume()

    def _result(self, future: asyncio.Future[Any]) -> Pending:
        if future.cancelled():
            return self.session.fail(asyncio.CancelledError())
        exc = future.exception()
        return self.session.answer(future.result()) if exc is None else self.session.fail(exc)

    def _future_done(self, future: asyncio.Future[Any]) -> None:
        if self._question is not future:  # given up
            if not future.cancelled():
                future.exception()
            return
        self._question = None
        try:
            self._go_on(self._result(future))
        except BaseException as exc:  # noqa: BLE001 - see data_received
            self._broken(exc)

    def _start(self, pending: Awaitable[Any]) -> None:
        """One task for this question and those that follow it in the batch."""
        loop = self.server.loop
        driver = self._drive(pending)
        if _EAGER:
            task = asyncio.Task(driver, loop=loop, eager_start=True)  # type: ignore[call-arg,unused-ignore]
            if not task.done():
                self._question = task
        else:
            self._question = loop.create_task(driver)

    async def _drive(self, pending: Pending) -> None:
        try:
            while pending is not None:
                pending = await self._ask(pending)
                if pending is not None:
                    out = self.session.output()
                    if out:
                        self.transport.write(out)
            self._question = None
            self._go_on(None)
        except asyncio.CancelledError:
            raise  # the connection is gone
        except BaseException as exc:  # noqa: BLE001 - see data_received
            self._question = None
            self._broken(exc)

    async def _ask(self, pending: Awaitable[Any]) -> Pending:
        session = self.session
        try:
            value = await pending
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if session.closing or task is None:
                session.answer(None)  # the client left, the hook did not fail
                raise
            task.uncancel()
            return session.fail(TimeoutError("a hook was cancelled or took too long"))
        except Exception as exc:  # noqa: BLE001 - R26: whatever a hook raises
            return session.fail(exc)
        return session.answer(value)

    def _give_up(self) -> None:
        """The hook takes too long: 451, and the session goes on (SECURITY R26)."""
        self.server.metrics.count("hook_timeouts")
        question = self._question
        if isinstance(question, asyncio.Task):
            question.cancel()
        elif question is not None:
            self._question = None  # somebody else's future: not ours to cancel
            if self.session.opening:
                question.add_done_callback(_discard)
            self._go_on(self.session.fail(TimeoutError("a hook took too long")))

    # -----------------------------------------------------------------------------------------------------------------
    # Reading, writing, ending

    def _rest(self, data: bytes) -> None:
        if self._resting:  # the loop had read on, or TLS had more
            self._kept += data
            return
        self._resting = True
        self._pause()
        if self.server.turns.full:
            self.data_received(data, now=True)
        else:
            self._kept = data
        self.server.turns.wait(self)

    def take_turn(self) -> None:
        """The others had their turn."""
        data, self._kept = self._kept, b""
        self._resting = False
        if data and not self.transport.is_closing():
            self.data_received(data, now=True)
        self._resume()

    def _pause(self) -> None:
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def _resume(self) -> None:
        wanted = (self._question is None and not self.session.full) or self.session.closing
        if self._paused and wanted and not self._unwritten and not self._resting and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    def _finish(self) -> None:
        """Everything is said. Closing with unread octets in the socket would make the kernel throw our reply away."""
        transport = self.transport
        if self.session.heard_out or not transport.can_write_eof():
            transport.close()
        elif not self._lingering and not transport.is_closing():
            self._lingering = True
            self._mark = -1
            try:
                transport.write_eof()
                self._resume()
            except OSError:  # the client was faster
                transport.abort()

    def _broken(self, exc: BaseException) -> None:
        if isinstance(exc, KeyboardInterrupt | SystemExit):
            raise exc
        LOG.critical("session with %s broke", self.session.peer.ip, exc_info=exc)
        try:
            self.session.broken()
            self._go_on(None)
        except BaseException:  # noqa: BLE001 - nothing is left but to close
            self.transport.abort()


def _discard(future: asyncio.Future[Any]) -> None:
    """A place for content that came when nobody waited for it any more."""
    spool = None if future.cancelled() or future.exception() is not None else future.result()
    if spool is not None and hasattr(spool, "discard"):
        spool.discard()


def peer_of(transport: asyncio.Transport) -> Peer:
    """The other end of a transport; of a Unix socket the user, where the system tells (Linux)."""
    name = transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        return Peer(user=_user_of(transport))
    ip = name[0]
    # An IPv4 client on a socket for both families is what it is, for networks and limits.
    return Peer(ip[7:] if ip.startswith("::ffff:") and "." in ip else ip, name[1])


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
    """Whether octets of the client's wait in the kernel."""
    if not _POSIX:
        return False
    count = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4))
    return bool(struct.unpack("i", count)[0])
