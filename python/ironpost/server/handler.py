"""Where a handler of one's own begins: the port of `protocol.handler` with an answer for every hook.

A handler is any object with some of these hooks, `def` or `async def`; docs/server-api.md shows them at work. Content
comes in one of two ways: whole, to `message(session, content, facts)`, or as it comes, to `data(session, body)`.

Promises: by itself it takes nothing: every recipient is refused (550 5.1.1), and so is a message that comes all the
same (554 5.3.2). A server is opened by overriding `recipient` and one of `message` and `data`, never by forgetting
something. A hook marked `@blocking` runs in the server's thread pool.
"""
# ruff: noqa: ARG002 - hooks that answer without looking

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ironpost.protocol import replies
from ironpost.server.body import Streamed
from ironpost.server.hooks import Hooks, blocks
from ironpost.server.spool import MemorySpool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ironpost.model import Address, Value
    from ironpost.model.body import Spool
    from ironpost.protocol.handler import Answer, ContentAnswer, Fetched, Handler, MessageAnswer
    from ironpost.protocol.server import ServerSession
    from ironpost.server.body import Body
    from ironpost.wire import BodyEnd

HOOKS = (
    *("connect", "hello", "mail", "recipient", "content", "message", "disconnect"),
    *("verify", "expand", "etrn", "turn", "burl"),
)


class BaseHandler:
    """Override what you need, as `def` or as `async def`; see `protocol.handler.Handler` for what each hook means."""

    claims: frozenset[str] = frozenset()

    def connect(self, session: ServerSession) -> Answer:
        """Greets."""
        return None

    def hello(self, session: ServerSession, verb: str, domain: str) -> Answer:
        """Accepts any name."""
        return None

    def mail(self, session: ServerSession, reverse_path: Address, parameters: Mapping[str, Value]) -> Answer:
        """Accepts any sender."""
        return None

    def recipient(self, session: ServerSession, forward_path: Address, parameters: Mapping[str, Value]) -> Answer:
        """Refuses every recipient."""
        return replies.NOT_ACCEPTED_HERE

    def content(self, session: ServerSession) -> ContentAnswer:
        """Content goes to memory, as much as the server's settings allow."""
        return MemorySpool(session.settings.max_size)

    def message(self, session: ServerSession, content: Spool, facts: BodyEnd) -> MessageAnswer:
        """Refuses the message."""
        content.discard()
        return replies.NOT_TAKEN

    def verify(self, session: ServerSession, argument: str) -> Answer:
        """Tells nothing."""
        return None

    def expand(self, session: ServerSession, argument: str) -> Answer:
        """Tells nothing."""
        return None

    def etrn(self, session: ServerSession, argument: str) -> Answer:
        """Allows it to nobody."""
        return replies.NODE_NOT_ALLOWED

    def turn(self, session: ServerSession, domains: tuple[str, ...]) -> Answer:
        """Allows it to nobody."""
        return replies.TURN_REFUSED

    def burl(self, session: ServerSession, url: str, last: bool) -> Fetched:
        """Follows no URL."""
        return replies.URL_NOT_FOLLOWED

    def disconnect(self, session: ServerSession) -> None:
        """Does nothing."""

    def pause(self, session: ServerSession, seconds: float, then: Any) -> Awaitable[Any]:
        """Waits on the event loop."""
        return asyncio.sleep(seconds, then)


class _Completed(BaseHandler):
    """A handler's hooks where it has them, the base's elsewhere; those that block or stream as the port wants them."""

    def __init__(self, handler: object, hooks: Hooks) -> None:
        self.claims = frozenset(getattr(handler, "claims", ()))
        for name in HOOKS:
            method = getattr(handler, name, None)
            if callable(method):
                setattr(self, name, hooks.pooled(method) if blocks(method) else method)
        if hasattr(handler, "pause"):
            self.pause = handler.pause  # type: ignore[method-assign]
        if asyncio.iscoroutinefunction(self.disconnect) or blocks(getattr(handler, "disconnect", None)):
            self.disconnect = hooks.apart(self.disconnect)  # type: ignore[method-assign,assignment]
        stream = getattr(handler, "data", None)
        if callable(stream):
            self.content = partial(_stream, stream, hooks)  # type: ignore[method-assign]
            self.message = _finish  # type: ignore[method-assign]


def _stream(hook: Callable[[ServerSession, Body], Any], hooks: Hooks, session: ServerSession) -> Streamed:
    return Streamed(session, hook, hooks.patience, hooks.keep)


def _finish(session: ServerSession, content: Spool, facts: BodyEnd) -> Any:
    del session
    assert isinstance(content, Streamed)
    return content.finish(facts)


def complete(handler: object, hooks: Hooks) -> Handler:
    """`handler` itself if it has every hook of the port, else one that answers the missing ones as `BaseHandler` does.

    Raises:
        TypeError: it has no hook at all, so it cannot have been meant as a handler; or it says in two ways what
            becomes of content.
    """
    if isinstance(handler, type):
        raise TypeError(f"{handler.__name__} is a class: Server wants an object, {handler.__name__}()")
    found = [getattr(handler, name) for name in (*HOOKS, "data") if callable(getattr(handler, name, None))]
    if not found:
        raise TypeError(f"{type(handler).__name__} is no handler: it has none of {', '.join(HOOKS)}, data")
    hooks.name(found)
    stream = getattr(handler, "data", None)
    if callable(stream):
        others = [name for name in ("content", "message") if _own(handler, name)]
        if others:
            raise TypeError(f"{type(handler).__name__} has data and {' and '.join(others)}: content goes one way")
        if blocks(stream):
            raise TypeError("a blocking data hook would hold a thread for as long as the client sends: use message")
    whole = (
        not callable(stream) and len(found) == len(HOOKS) and hasattr(handler, "claims") and hasattr(handler, "pause")
    )
    if not whole or any(map(blocks, found)) or asyncio.iscoroutinefunction(getattr(handler, "disconnect", None)):
        return cast("Handler", _Completed(handler, hooks))
    return cast("Handler", handler)


def _own(handler: object, name: str) -> bool:
    """Whether the hook is the handler's own, and not what `BaseHandler` has."""
    hook = getattr(handler, name, None)
    return hook is not None and getattr(hook, "__func__", hook) is not getattr(BaseHandler, name)
