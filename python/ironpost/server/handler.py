"""Where a handler of one's own begins: the port of `protocol.handler` with an answer for every hook.

Promises: by itself it takes nothing: every recipient is refused (550 5.1.1), and so is a message that comes all the
same (554 5.3.2). A server is opened by overriding `recipient` and `message`, never by forgetting something.
"""
# ruff: noqa: ARG002 - hooks that answer without looking

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ironpost.protocol import replies
from ironpost.server.spool import MemorySpool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Address, Value
    from ironpost.model.body import Spool
    from ironpost.protocol.handler import Answer, ContentAnswer, Handler, MessageAnswer
    from ironpost.protocol.server import ServerSession
    from ironpost.wire import BodyEnd

HOOKS = (
    *("connect", "hello", "mail", "recipient", "content", "message", "disconnect"),
    *("verify", "expand", "etrn", "turn"),
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
        return replies.NOT_ALLOWED

    def turn(self, session: ServerSession, domains: tuple[str, ...]) -> Answer:
        """Allows it to nobody."""
        return replies.NOT_ALLOWED

    def disconnect(self, session: ServerSession) -> None:
        """Does nothing."""


class _Completed(BaseHandler):
    """A handler's hooks where it has them, the base's elsewhere."""

    def __init__(self, handler: object) -> None:
        self.claims = frozenset(getattr(handler, "claims", ()))
        for hook in HOOKS:
            method = getattr(handler, hook, None)
            if method is not None:
                setattr(self, hook, method)


def complete(handler: object) -> Handler:
    """`handler` itself if it has every hook, else one that answers the missing hooks as `BaseHandler` does.

    Raises:
        TypeError: it has no hook at all, so it cannot have been meant as a handler.
    """
    found = [hook for hook in HOOKS if callable(getattr(handler, hook, None))]
    if not found:
        raise TypeError(f"{type(handler).__name__} is no handler: it has none of {', '.join(HOOKS)}")
    return cast("Handler", handler if len(found) == len(HOOKS) and hasattr(handler, "claims") else _Completed(handler))
