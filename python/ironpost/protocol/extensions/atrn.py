"""ATRN: an authenticated customer fetches its mail over the connection that it opened (On-Demand Mail Relay, RFC 2645).

This is the provider's side. Promises: the connection is never reversed for a client that has not authenticated (530,
§5.2.1), nor if input follows the command, which would be taken for the customer's greeting (as SECURITY R9). After the
250 the session is over: `want` is the `HandOver` that the hook returned, and the driver hands the connection to the
protocol that it creates, which waits for the customer's greeting (§5.3).

Refuses: an argument that is not a list of domains (501), ATRN inside a transaction (503). It does not exist on
submission and LMTP listeners (RFC 6409 §7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from ironpost.model import Reply, Verdict
from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension
from ironpost.protocol.extensions.etrn import DOMAIN, between_servers
from ironpost.protocol.server.settle import HookStage, settle
from ironpost.protocol.server.states import AUTHENTICATED, ESMTP, ServerState, Verb
from ironpost.protocol.server.transaction import HandOver

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.protocol.server.session import ServerSession
    from ironpost.protocol.server.settings import ServerSettings
    from ironpost.wire.interface import Command


TurnResult: TypeAlias = "HandOver | Reply | Verdict | Awaitable[HandOver | Reply | Verdict]"


class AtrnHandler(Protocol):
    """The hook of a handler that offers ATRN."""

    def turn(self, session: ServerSession, domains: tuple[str, ...]) -> TurnResult:
        """Decide about ATRN from an authenticated client.

        Args:
            session: the client's session.
            domains: the domains that the client names, in lower case; empty for all of its domains (RFC 2645 §5.2.1).

        Returns:
            A `HandOver`, whose reply is sent before the connection is reversed (RFC 2645 §5.3); or a refusal, after
            which the session continues. Anything else is replied to with 451.
        """
        ...


def _atrn(session: ServerSession, command: Command) -> None:
    if command.fault is not None:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    argument = command.argument.decode("ascii", "replace").lower()
    domains = tuple(dict.fromkeys(argument.split(","))) if argument else ()
    if not all(DOMAIN.fullmatch(domain) for domain in domains):
        return session.refuse(replies.BAD_NODE)
    if session.input_follows:
        return session.close()
    return session.query("turn", domains, then=_turned)


def _turned(session: ServerSession, result: Any) -> None:
    if isinstance(result, Verdict):
        result = settle(session, result, HookStage.OTHER)
        if hasattr(result, "__await__"):
            return session.wait(result, _turned)
    if not isinstance(result, HandOver) and not (isinstance(result, Reply) and not result.positive):
        result = session.raised(TypeError(f"the turn hook returned {result!r:.60}, not a HandOver or a refusal"))
    if isinstance(result, Reply):
        return session.reply(result)
    if session.input_follows:  # it arrived while the hook was pending
        return session.close()
    session.reply(result.reply)
    session.want = result
    return None


class Atrn(Extension):
    keyword = "ATRN"
    claimed = True
    hook = "turn"
    verbs: ClassVar = {"ATRN": Verb(_atrn, frozenset({ServerState.IDLE}), needs=(AUTHENTICATED, ESMTP))}

    def available(self, settings: ServerSettings) -> bool:
        return between_servers(settings) and super().available(settings)
