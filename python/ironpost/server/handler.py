"""The base class for handlers: the port of `protocol.server.handler` with a default for every hook.

A handler is any object with some of these hooks, `def` or `async def`; docs/server-api.md has examples. Content is
passed in one of two ways: complete, to `message(session, content, facts)`, or while it is received, to
`data(session, body)`.

Promises: the defaults accept no mail: every recipient is refused (550 5.1.1), and so is every message (554 5.3.2). A
server is opened by overriding `recipient` and one of `message` and `data`, never by forgetting something. A hook marked
`@blocking` runs in the server's thread pool.
"""
# ruff: noqa: ARG002 - defaults that ignore their arguments

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from ironpost.model.blocking import blocks
from ironpost.model.memory import MemorySpool
from ironpost.protocol import replies
from ironpost.protocol.extensions import EXTENSIONS
from ironpost.server.body import StreamingSpool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from ironpost.model import Address, Value
    from ironpost.model.body import Spool
    from ironpost.protocol.extensions import Extension
    from ironpost.protocol.server.handler import ContentResult, Handler, HookResult, MessageResult
    from ironpost.protocol.server.session import ServerSession
    from ironpost.server.body import IncomingBody
    from ironpost.server.hooks import Hooks
    from ironpost.wire import BodyEnd

HOOKS = ("connect", "hello", "mail", "recipient", "content", "message", "disconnect")
"""The hooks of the port, in the order in which a session calls them."""


class BaseHandler:
    """Override the hooks that you need, as `def` or `async def`; `protocol.server.handler.Handler` documents each."""

    claims: frozenset[str] = frozenset()

    def connect(self, session: ServerSession) -> HookResult:
        """Send the usual greeting."""
        return None

    def hello(self, session: ServerSession, verb: str, domain: str) -> HookResult:
        """Accept any name."""
        return None

    def mail(self, session: ServerSession, reverse_path: Address, parameters: Mapping[str, Value]) -> HookResult:
        """Accept any sender."""
        return None

    def recipient(self, session: ServerSession, forward_path: Address, parameters: Mapping[str, Value]) -> HookResult:
        """Refuse every recipient."""
        return replies.NOT_ACCEPTED_HERE

    def content(self, session: ServerSession) -> ContentResult:
        """Store content in memory, up to the size limit of the server's settings."""
        return MemorySpool(session.settings.max_size)

    def message(self, session: ServerSession, content: Spool, facts: BodyEnd) -> MessageResult:
        """Refuse the message."""
        content.discard()
        return replies.NOT_TAKEN

    def disconnect(self, session: ServerSession) -> None:
        """Do nothing."""

    def pause(self, session: ServerSession, seconds: float, then: Any) -> Awaitable[Any]:
        """Wait without blocking the event loop."""
        return asyncio.sleep(seconds, then)


class _CompletedHandler(BaseHandler):
    """A handler with the defaults of `BaseHandler`; blocking and streaming hooks are adapted to the port."""

    def __init__(self, handler: object, hooks: Hooks) -> None:
        self.claims = frozenset(getattr(handler, "claims", ()))
        self._handler = handler
        self._hooks = hooks
        for name in HOOKS:
            method = getattr(handler, name, None)
            if callable(method):
                setattr(self, name, hooks.pooled(method) if blocks(method) else method)
        if hasattr(handler, "pause"):
            self.pause = handler.pause  # type: ignore[method-assign]
        if asyncio.iscoroutinefunction(self.disconnect) or blocks(getattr(handler, "disconnect", None)):
            self.disconnect = hooks.detached(self.disconnect)  # type: ignore[method-assign,assignment]
        stream = getattr(handler, "data", None)
        if callable(stream):
            self.content = partial(_open_stream, stream, hooks)  # type: ignore[method-assign]
            self.message = _finish_stream  # type: ignore[method-assign]

    def __getattr__(self, name: str) -> Any:
        """Return the hook of an extension."""
        if name.startswith("_"):
            raise AttributeError(name)
        method = getattr(self._handler, name)
        return self._hooks.pooled(method) if blocks(method) else method


def _open_stream(
    hook: Callable[[ServerSession, IncomingBody], Any], hooks: Hooks, session: ServerSession
) -> StreamingSpool:
    return StreamingSpool(session, hook, hooks.cleanup_timeout, hooks.keep)


def _finish_stream(session: ServerSession, content: Spool, facts: BodyEnd) -> Any:
    del session
    assert isinstance(content, StreamingSpool)
    return content.finish(facts)


def complete(handler: object, hooks: Hooks, extensions: Iterable[Extension] = EXTENSIONS) -> Handler:
    """Return `handler` itself if it implements the whole port, else a wrapper with the defaults of `BaseHandler`.

    Args:
        handler: any object with hooks.
        hooks: runs its blocking and streaming hooks.
        extensions: the extensions of the server, which may have further hooks.

    Raises:
        TypeError: `handler` is a class, has no hook at all, has both `data` and `content` or `message`, or its `data`
            hook is marked `@blocking`.
    """
    if isinstance(handler, type):
        raise TypeError(f"{handler.__name__} is a class; pass an instance: Server({handler.__name__}())")
    names = (*HOOKS, *(extension.hook for extension in extensions if extension.hook), "data")
    found = [getattr(handler, name) for name in names if callable(getattr(handler, name, None))]
    if not found:
        raise TypeError(f"{type(handler).__name__} is not a handler: it has none of {', '.join(HOOKS)}, data")
    hooks.add_names(found)
    stream = getattr(handler, "data", None)
    if callable(stream):
        others = [name for name in ("content", "message") if _overrides_default(handler, name)]
        if others:
            raise TypeError(
                f"{type(handler).__name__} has the hooks data and {' and '.join(others)}: "
                "define either data, or content and message"
            )
        if blocks(stream):
            raise TypeError(
                "a data hook cannot be @blocking, as it would occupy a thread while the client sends; use message"
            )
    is_complete = (
        not callable(stream)
        and all(callable(getattr(handler, name, None)) for name in HOOKS)
        and hasattr(handler, "claims")
        and hasattr(handler, "pause")
    )
    if not is_complete or any(map(blocks, found)) or asyncio.iscoroutinefunction(getattr(handler, "disconnect", None)):
        return cast("Handler", _CompletedHandler(handler, hooks))
    return cast("Handler", handler)


def _overrides_default(handler: object, name: str) -> bool:
    hook = getattr(handler, name, None)
    return hook is not None and getattr(hook, "__func__", hook) is not getattr(BaseHandler, name)
