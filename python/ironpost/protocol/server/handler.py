"""The handler port: the hooks that a server session calls, and their results.

Promises: the session calls the hooks in the order of the transaction, one at a time; it does not call a hook whose
result cannot matter (for a command that cannot be parsed, for MAIL inside a transaction). A hook returns its result, or
an awaitable of it; only an awaitable costs an iteration of the event loop. If a hook raises, the reply is 451 4.3.0,
and the session continues (SECURITY R26).

    None                    the usual positive reply
    Reply                   that reply; 4yz and 5yz refuse
    Verdict                 see `model.verdict`
    an awaitable of these   the session waits, and reads nothing in the meantime

Under LMTP `message` may return one of the first three for each recipient (`MessageResult`).

Extensions may define further hooks, each as a protocol in the extension's file (`protocol.extensions`): a handler that
has the method offers the extension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from ironpost.model import Address, Reply, Value, Verdict
    from ironpost.model.body import Spool
    from ironpost.protocol.server.session import ServerSession
    from ironpost.wire import BodyEnd

Immediate: TypeAlias = "Verdict | Reply | None"
"""A result that is available at once."""
HookResult: TypeAlias = "Immediate | Awaitable[Immediate]"
"""The result of a hook."""
ContentResult: TypeAlias = "Spool | Verdict | Reply | Awaitable[Spool | Verdict | Reply]"
"""The result of the `content` hook: where to store the content, or a refusal."""
Each: TypeAlias = "Sequence[Immediate] | Mapping[Address, Immediate] | Mapping[str, Immediate]"
"""One result for each recipient: in their order, or by address."""
MessageResult: TypeAlias = "Immediate | Each | Awaitable[Immediate | Each]"
"""The result of the `message` hook. Results for single recipients may differ only in dialects with a reply for each."""


class Handler(Protocol):
    """The hooks of one server. The first argument of every hook is the session that calls it.

    A hook may read `session.peer`, `session.helo`, `session.tls`, `session.identity` and `session.transaction`
    (`reverse_path`, `recipients`, `parameters`).
    """

    claims: frozenset[str]
    """Keywords of the extensions that queue and delivery will honour; see `Extension.claimed`."""

    def connect(self, session: ServerSession) -> HookResult:
        """Decide about a new connection. A refusal is sent instead of the greeting, as 421 or 554 (RFC 5321 §3.1).

        After 421 the connection closes; after 554 the session accepts only QUIT.
        """
        ...

    def hello(self, session: ServerSession, verb: str, domain: str) -> HookResult:
        """Decide about EHLO, HELO or LHLO. None: the usual reply, to EHLO with the list of extensions."""
        ...

    def mail(self, session: ServerSession, reverse_path: Address, parameters: Mapping[str, Value]) -> HookResult:
        """Decide about MAIL. The parameters were checked and typed by the extensions that own them."""
        ...

    def recipient(self, session: ServerSession, forward_path: Address, parameters: Mapping[str, Value]) -> HookResult:
        """Decide about RCPT. To avoid an open relay, refuse every recipient that there is no reason to accept."""
        ...

    def content(self, session: ServerSession) -> ContentResult:
        """Return where to store the content, after DATA or the first BDAT. A refusal is sent instead of 354."""
        ...

    def message(self, session: ServerSession, content: Spool, facts: BodyEnd) -> MessageResult:
        """Decide about a message whose true end was reached and whose form is valid.

        A positive result accepts responsibility (RFC 5321 §4.2.5): return it only when the message is durable. The
        handler now owns `content`, and must commit or discard it. Under LMTP a single result applies to every
        recipient.
        """
        ...

    def pause(self, session: ServerSession, seconds: float, then: Any) -> Awaitable[Any]:
        """Return an awaitable of `then` that is done after `seconds`. Not a hook: the session uses it for tarpits."""
        ...

    def disconnect(self, session: ServerSession) -> None:
        """Handle the end of the connection. Content that was not passed to `message` has been discarded."""
        ...
