"""One connection: moves octets between an asyncio transport and a `ServerSession`, and awaits what hooks return.

Promises: what one read holds is answered with one write. No task is made unless a hook returned a coroutine that must
be awaited, and then one for everything that suspends in that batch; a Future costs a callback. While a question is out,
or the client does not read our replies, at most one more read is taken in. An exception in our own code closes this
connection with 421 and no other (SECURITY R22, R24). A hook that was asked to take a message is never cancelled because
the client went away: what it commits, it commits whole.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Any, cast

from ironpost.protocol.commands import State
from ironpost.protocol.replies import TOO_MANY_CONNECTIONS
from ironpost.protocol.server import ServerSession
from ironpost.protocol.transaction import Peer

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.protocol.server import Pending
    from ironpost.server.listener import Server

LOG = logging.getLogger("ironpost.server")

DATA_QUANTUM = 1024
"""Octets of content that must come within `Timeouts.data`: fewer are no progress."""

_EAGER = sys.version_info >= (3, 12)


class Connection(asyncio.Protocol):
    """One client."""

    __slots__ = (
        "_lingering",
        "_mark",
        "_paused",
        "_question",
        "_since",
        "_unwritten",
        "server",
        "session",
        "transport",
    )

    def __init__(self, server: Server) -> None:
        self.server = server
        self.session: ServerSession
        self.transport: asyncio.Transport
        self._question: asyncio.Future[Any] | None = None
        """What the session waits for."""
        self._paused = False
        """We asked the transport not to read."""
        self._unwritten = False
        """The client does not read what we write."""
        self._lingering = False
        """Everything is said; what comes is dropped until the client closes."""
        self._mark = -1
        """How far the session was when it last got on, and since when."""
        self._since = 0.0

    # -----------------------------------------------------------------------------------------------------------------
    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets, or refuses one connection too many."""
        self.transport = cast("asyncio.Transport", transport)
        server = self.server
        if not server.admit(self):
            transport.set_protocol(asyncio.Protocol())
            self.transport.write(TOO_MANY_CONNECTIONS.octets)
            self.transport.close()
            return
        name = transport.get_extra_info("peername")
        peer = Peer(name[0], name[1]) if isinstance(name, tuple) else Peer()
        self.session = ServerSession(server.handler, server.settings, peer, server.overrides)
        try:
            self._go_on(self.session.start())
        except BaseException as exc:  # noqa: BLE001 - a Rust panic is a BaseException
            self._broken(exc)
        if server.stopping:
            self.shutdown()

    def data_received(self, data: bytes) -> None:
        """Answers what can be answered."""
        session = self.session
        try:
            pending = session.receive(data)
            if pending is None and self._question is None:
                out = session.output()
                if out:
                    self.transport.write(out)
                if session.closing:
                    self._finish()
            else:
                if self._question is not None and not session.closing:
                    self._pause()  # only now: while nothing comes, reading tells us that the client went away
                self._go_on(pending)
        except BaseException as exc:  # noqa: BLE001 - a Rust panic is a BaseException
            self._broken(exc)

    def eof_received(self) -> bool:
        """The client sends no more; it may still read."""
        self.session.eof()
        return not self.session.closing

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """However it ended."""
        question, session = self._question, self.session
        committing = session.committing
        session.lost()
        if question is not None and not committing and isinstance(question, asyncio.Task):
            question.cancel()
        self.server.forget(self)

    def pause_writing(self) -> None:
        """The client does not read: we read no more of it (back-pressure)."""
        self._unwritten = True
        self._pause()

    def resume_writing(self) -> None:
        """It reads again."""
        self._unwritten = False
        self._resume()

    # -----------------------------------------------------------------------------------------------------------------
    # The listener's side

    def shutdown(self) -> None:
        """The server stops: 421 when nothing is going on."""
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
            return
        quiet = now - self._since
        if self._lingering:
            if quiet > timeouts.linger:
                self.transport.abort()
        elif self._unwritten:
            if quiet > timeouts.write:
                LOG.warning("%s does not read our replies, aborted", session.peer.ip)
                self.abort()
        elif self._question is not None:
            if quiet > timeouts.hook:
                self._since = now
                self._give_up()
        elif quiet > (timeouts.data if session.state is State.CONTENT else timeouts.command):
            self._since = now
            session.expire()
            self._go_on(None)

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
                break
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
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if session.closing or task is None:
                session.fail(exc)
                raise
            task.uncancel()
            return session.fail(TimeoutError("a hook was cancelled or took too long"))
        except Exception as exc:  # noqa: BLE001 - R26: whatever a hook raises
            return session.fail(exc)
        return session.answer(value)

    def _give_up(self) -> None:
        """The hook takes too long: 451, and the session goes on (SECURITY R26)."""
        question = self._question
        if isinstance(question, asyncio.Task):
            question.cancel()
        elif question is not None:
            self._question = None  # somebody else's future: not ours to cancel
            self._go_on(self.session.fail(TimeoutError("a hook took too long")))

    # -----------------------------------------------------------------------------------------------------------------
    # Reading, writing, ending

    def _pause(self) -> None:
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def _resume(self) -> None:
        wanted = self._question is None or self.session.closing
        if self._paused and wanted and not self._unwritten and not self.transport.is_closing():
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
