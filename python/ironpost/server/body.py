"""The body of a message as a hook reads it while it comes: `async for chunk in body`.

    async def data(self, session, body):
        async for chunk in body:
            file.write(chunk)
        return accept(f"{body.facts.size} octets stored")

Promises: no more than `WINDOW` octets and one read wait for the hook, and while they do the client is not read
(back-pressure). The iteration ends only behind the true end of content that may be accepted; otherwise it raises
`BodyRefused` (something is wrong with the content, and the client has been told) or `BodyLost` (the client is gone,
gave up, or the server stops), so that the hook can undo what it did. A hook that returns earlier has its verdict given
at the true end; the rest is read and held by nobody. A hook that goes on without reading when the body is lost is
cancelled after `patience` seconds.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Self

    from ironpost.model import Reply
    from ironpost.protocol.server import ServerSession
    from ironpost.wire import BodyEnd

WINDOW: Final = 256 * 1024
"""Octets that may wait for the hook before the client is made to wait."""

_EAGER: Final = sys.version_info >= (3, 12)
_log: Final = logging.getLogger("ironpost.server")


class BodyError(Exception):
    """The body has no end that counts: nothing of it may be kept."""


class BodyRefused(BodyError):
    """The content came whole, and is refused for its form or its size. `reply` is what the client reads."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"the content is refused: {reply}")
        self.reply = reply


class BodyLost(BodyError):
    """The content did not come whole."""


class Body:
    """The octets of one message as they come: un-stuffed, line ends as they came. It is read once, by one reader."""

    __slots__ = ("_error", "_facts", "_loop", "_pieces", "_reader", "_waiting", "_writer", "size")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.size = 0
        """Octets that came so far, read or not."""
        self._loop = loop
        self._pieces: deque[bytes] = deque()
        self._waiting = 0
        """Octets in `_pieces`."""
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._facts: BodyEnd | None = None
        self._error: BodyError | None = None

    @property
    def facts(self) -> BodyEnd:
        """What was seen of the content: size, 8-bit octets, longest line and so on; once the iteration has ended.

        Raises:
            RuntimeError: it has not.
        """
        if self._facts is None:
            raise RuntimeError("the facts of a body are known when its iteration has ended")
        return self._facts

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next piece.

        Raises:
            BodyRefused, BodyLost: see there.
            RuntimeError: another reader waits.
        """
        while True:
            if self._error is not None:
                raise self._error
            if self._pieces:
                piece = self._pieces.popleft()
                self._waiting -= len(piece)
                if self._writer is not None and self._waiting <= WINDOW // 2:
                    self._let_write()
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
        """Everything that is still to come.

        Args:
            limit: octets at most; 0 or less for as many as the server's settings allow.

        Raises:
            BodyRefused, BodyLost: see there.
            ValueError: there is more than the limit.
        """
        pieces = []
        octets = 0
        async for piece in self:
            octets += len(piece)
            if 0 < limit < octets:
                raise ValueError(f"the body is larger than {limit} octets")
            pieces.append(piece)
        return b"".join(pieces)

    # The session's side, by `Streamed`

    def _put(self, piece: bytes) -> Awaitable[None] | None:
        self.size += len(piece)
        self._pieces.append(piece)
        self._waiting += len(piece)
        self._wake()
        if self._waiting <= WINDOW:
            return None
        self._writer = self._loop.create_future()
        return self._writer

    def _end(self, facts: BodyEnd) -> None:
        self._facts = facts
        self._wake()

    def _fail(self, error: BodyError) -> None:
        self._error = error
        self._forget()
        self._wake()

    def _forget(self) -> None:
        """What waits is held no longer."""
        self._pieces.clear()
        self._waiting = 0
        self._let_write()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _let_write(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None and not writer.done():
            writer.set_result(None)


class Streamed:
    """A `model.body.Spool` whose octets a hook reads while they come."""

    __slots__ = ("_answer", "_body", "_idle", "_patience", "_session", "_task")

    def __init__(
        self,
        session: ServerSession,
        hook: Callable[[ServerSession, Body], Any],
        patience: float,
        keep: Callable[[asyncio.Future[Any]], None],
    ) -> None:
        """Starts the hook.

        Args:
            session: whose content it is.
            hook: `def` or `async def`; whatever it raises before its first `await` comes through.
            patience: seconds that the hook has for undoing when the body is lost.
            keep: holds the task until it is done.
        """
        loop = asyncio.get_running_loop()
        self._session = session
        self._patience = patience
        self._body = Body(loop)
        self._task: asyncio.Future[Any] | None = None
        self._idle = False
        """Nobody reads any more."""
        self._answer: Any = hook(session, self._body)
        if hasattr(self._answer, "__await__"):
            self._task = _started(loop, self._answer)
            keep(self._task)
            self._task.add_done_callback(self._returned)
        else:
            self._idle = True

    @property
    def size(self) -> int:
        """Octets that came so far."""
        return self._body.size

    def write(self, piece: bytes) -> Awaitable[None] | None:
        """Hands a piece to the hook; what is returned is awaited until it has read enough."""
        if self._idle or (self._task is not None and self._task.done()):
            self._body.size += len(piece)
            return None
        return self._body._put(piece)

    def finish(self, facts: BodyEnd) -> Any:
        """The true end: the hook's answer, or the task that will give it."""
        self._body._end(facts)
        return self._answer if self._task is None else self._task

    def discard(self) -> None:
        """The content is nothing: tells the hook."""
        task, session = self._task, self._session
        if task is None:
            return
        if task.done():
            self._undone(task)
            return
        refusal = session.refusal
        error: BodyError
        if session.closing or refusal is None:
            error = BodyLost("the client is gone or gave the message up")
        else:
            error = BodyRefused(refusal)
        self._body._fail(error)
        timer = task.get_loop().call_later(self._patience, task.cancel)
        task.add_done_callback(lambda _: timer.cancel())
        task.add_done_callback(self._undone)

    def _returned(self, _task: asyncio.Future[Any]) -> None:
        self._idle = True
        self._body._forget()

    def _undone(self, task: asyncio.Future[Any]) -> None:
        """Nobody waits for what a hook answers to a body that was lost; but what it raised is told."""
        if task.cancelled():
            _log.warning("a data hook was cancelled: it did not end within %g s of its body's loss", self._patience)
        elif (exc := task.exception()) is not None and not isinstance(exc, BodyError):
            self._session.raised(exc)


def _started(loop: asyncio.AbstractEventLoop, pending: Awaitable[Any]) -> asyncio.Future[Any]:
    if _EAGER and asyncio.iscoroutine(pending):
        return asyncio.Task(pending, loop=loop, eager_start=True)  # type: ignore[call-arg,unused-ignore]
    return asyncio.ensure_future(pending)
