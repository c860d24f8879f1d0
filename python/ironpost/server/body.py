"""Streaming of a message's content to a `data` hook while it is received: `async for chunk in body`.

    async def data(self, session, body):
        async for chunk in body:
            file.write(chunk)
        return accept(f"{body.facts.size} octets stored")

Promises: at most `WINDOW` octets and one read are buffered for the hook; when the buffer is full, the server stops
reading from the client (back-pressure). The iteration ends normally only at the true end of content that may be
accepted. Otherwise it raises `BodyRefused` (the content is invalid; the client gets a reply) or `BodyLost` (the client
disconnected or abandoned the message, or the server stops), so that the hook can undo its work. If a hook returns
before the end, the rest of the content is discarded, and its verdict is sent at the true end. A hook that keeps running
after its body was lost is cancelled after `cleanup_timeout` seconds.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from ironpost.server.hooks import failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Self

    from ironpost.model import Reply
    from ironpost.protocol.server.session import ServerSession
    from ironpost.wire import BodyEnd

WINDOW: Final = 256 * 1024
"""Octets buffered for the hook before the server stops reading from the client."""

_EAGER: Final = sys.version_info >= (3, 12)
_log: Final = logging.getLogger("ironpost.server")


class BodyError(Exception):
    """The body did not end validly: the hook must discard what it has read."""


class BodyRefused(BodyError):
    """The content is refused: at its end if its form is invalid, at once if it exceeds the size limit.

    `reply` is the reply that the client gets.
    """

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"the content is refused: {reply}")
        self.reply = reply


class BodyLost(BodyError):
    """The content is incomplete: the client disconnected or abandoned the message, or the server stops."""


class IncomingBody:
    """The content of one message, without transparency dots, with the received line ends. One reader, one iteration."""

    __slots__ = ("_buffered", "_error", "_facts", "_loop", "_pieces", "_reader", "_writer", "size")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.size = 0
        """Octets received so far, whether or not the hook has read them."""
        self._loop = loop
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        """Octets in `_pieces`."""
        self._reader: asyncio.Future[None] | None = None
        """Resolved when the reader can continue; None if it is not waiting."""
        self._writer: asyncio.Future[None] | None = None
        """Resolved when the session can continue to read from the client; None if it is not waiting."""
        self._facts: BodyEnd | None = None
        self._error: BodyError | None = None

    @property
    def facts(self) -> BodyEnd:
        """The facts about the content, such as size and longest line; available once the iteration has ended.

        Raises:
            RuntimeError: the iteration has not ended.
        """
        if self._facts is None:
            raise RuntimeError("the facts about a body are available once its iteration has ended")
        return self._facts

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece.

        Raises:
            BodyRefused: the content is invalid or too large.
            BodyLost: the content is incomplete.
            RuntimeError: another reader is waiting.
        """
        while True:
            if self._error is not None:
                raise self._error
            if self._pieces:
                piece = self._pieces.popleft()
                self._buffered -= len(piece)
                if self._writer is not None and self._buffered <= WINDOW // 2:
                    self._resume_writer()
                return piece
            if self._facts is not None:
                raise StopAsyncIteration
            if self._reader is not None:
                raise RuntimeError("a body has one reader")
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    async def read(self, limit: int = -1) -> bytes:
        """Return the rest of the body as one `bytes`.

        Args:
            limit: maximum octets; 0 or less for no limit but the server's `ServerSettings.max_size`.

        Raises:
            BodyRefused: the content is invalid or too large.
            BodyLost: the content is incomplete.
            ValueError: the rest is larger than `limit`.
        """
        pieces = []
        octets = 0
        async for piece in self:
            octets += len(piece)
            if 0 < limit < octets:
                raise ValueError(f"the body is larger than {limit} octets")
            pieces.append(piece)
        return b"".join(pieces)

    # Called by `StreamingSpool`

    def _put(self, piece: bytes) -> Awaitable[None] | None:
        self.size += len(piece)
        self._pieces.append(piece)
        self._buffered += len(piece)
        self._resume_reader()
        if self._buffered <= WINDOW:
            return None
        self._writer = self._loop.create_future()
        return self._writer

    def _end(self, facts: BodyEnd) -> None:
        self._facts = facts
        self._resume_reader()

    def _fail(self, error: BodyError) -> None:
        self._error = error
        self._discard()
        self._resume_reader()

    def _discard(self) -> None:
        """Discard the buffered pieces."""
        self._pieces.clear()
        self._buffered = 0
        self._resume_writer()

    def _resume_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _resume_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None and not writer.done():
            writer.set_result(None)


class StreamingSpool:
    """A `model.body.Spool` that passes content to a `data` hook while it is received."""

    __slots__ = ("_body", "_cleanup_timeout", "_result", "_returned", "_session", "_task")

    def __init__(
        self,
        session: ServerSession,
        hook: Callable[[ServerSession, IncomingBody], Any],
        cleanup_timeout: float,
        keep: Callable[[asyncio.Future[Any]], None],
    ) -> None:
        """Start the hook.

        Args:
            session: the session that receives the content.
            hook: `def` or `async def`; an exception that it raises before its first `await` is passed on.
            cleanup_timeout: seconds for the hook to undo its work after the body was lost.
            keep: holds a reference to the hook's task until it is done.
        """
        loop = asyncio.get_running_loop()
        self._session = session
        self._cleanup_timeout = cleanup_timeout
        self._body = IncomingBody(loop)
        self._task: asyncio.Future[Any] | None = None
        """The hook's task; None for a `def` hook."""
        self._returned = False
        """The hook has returned, so the rest of the content is discarded."""
        self._result: Any = hook(session, self._body)
        if hasattr(self._result, "__await__"):
            self._task = _start(loop, self._result)
            keep(self._task)
            self._task.add_done_callback(self._hook_returned)
        else:
            self._returned = True

    @property
    def size(self) -> int:
        """Octets received so far."""
        return self._body.size

    def write(self, piece: bytes) -> Awaitable[None] | None:
        """Pass a piece to the hook; a returned awaitable is done when the hook has read enough (back-pressure)."""
        if self._returned or (self._task is not None and self._task.done()):
            self._body.size += len(piece)
            return None
        return self._body._put(piece)

    def finish(self, facts: BodyEnd) -> Any:
        """Report the true end of the content; return the hook's result, or the task that will return it."""
        self._body._end(facts)
        return self._result if self._task is None else self._task

    def discard(self) -> None:
        """Discard the content; the hook's next read raises `BodyRefused` or `BodyLost`."""
        task, session = self._task, self._session
        if task is None:
            return
        if task.done():
            self._log_failure(task)
            return
        refusal = session.refusal
        error: BodyError
        if session.closing or refusal is None:
            error = BodyLost("the client disconnected or abandoned the message")
        else:
            error = BodyRefused(refusal)
        self._body._fail(error)
        timer = task.get_loop().call_later(self._cleanup_timeout, task.cancel)
        task.add_done_callback(lambda _: timer.cancel())
        task.add_done_callback(self._log_failure)

    def _hook_returned(self, _task: asyncio.Future[Any]) -> None:
        self._returned = True
        self._body._discard()

    def _log_failure(self, task: asyncio.Future[Any]) -> None:
        """Log an exception of the hook after its body was lost; its result no longer matters."""
        exc = failure(task)
        if exc is None:
            if task.cancelled():
                _log.warning(
                    "a data hook was cancelled: it was still running %g s after its body was lost",
                    self._cleanup_timeout,
                )
        elif not isinstance(exc, BodyError):
            self._session.raised(exc)


def _start(loop: asyncio.AbstractEventLoop, pending: Awaitable[Any]) -> asyncio.Future[Any]:
    if _EAGER and asyncio.iscoroutine(pending):
        return asyncio.Task(pending, loop=loop, eager_start=True)  # type: ignore[call-arg,unused-ignore]
    return asyncio.ensure_future(pending)
