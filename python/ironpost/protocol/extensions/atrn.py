"""ATRN: an authenticated customer takes its mail over the connection it opened (On-Demand Mail Relay, RFC 2645).

We are the provider. Promises: nothing is turned round for a client that did not authenticate (530, §5.2.1), nor if
anything came behind the command, which would be taken for the customer's greeting (as SECURITY R9). Behind the 250 the
session is over: `want` is `Want.SWAP`, and the outer ring gives the connection to what the handler's `turn` left in
`session.successor`, which waits for the customer's greeting (§5.3).
Refuses: what is no list of domains (501), and ATRN inside a transaction (503). Where users submit, and in LMTP, it does
not exist (RFC 6409 §7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol import replies
from ironpost.protocol.commands import State
from ironpost.protocol.extensions.base import Extension
from ironpost.protocol.extensions.etrn import DOMAIN, between_servers, out_of_place
from ironpost.protocol.transaction import Want

if TYPE_CHECKING:
    from ironpost.model import Reply
    from ironpost.protocol.server import ServerSession
    from ironpost.protocol.settings import Settings
    from ironpost.wire.interface import Command


def _atrn(session: ServerSession, command: Command) -> None:
    if session.identity is None:
        return session.refuse(replies.AUTHENTICATION_FIRST)
    if session.state is not State.IDLE or not session.esmtp:
        return session.refuse(out_of_place(session))
    if command.fault is not None:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    argument = command.argument.decode("ascii", "replace").lower()
    domains = tuple(dict.fromkeys(argument.split(","))) if argument else ()
    if not all(DOMAIN.fullmatch(domain) for domain in domains):
        return session.refuse(replies.BAD_NODE)
    if session.behind:
        return session.close()
    session.successor = None
    try:
        answer = session.handler.turn(session, domains)
    except Exception as exc:  # noqa: BLE001 - R26: whatever a hook raises, the session goes on
        answer = session.raised(exc)
    return session.ask(answer, _turned)


def _turned(session: ServerSession, answer: Reply | None) -> None:
    if answer is not None and not answer.positive:
        return session.reply(answer)
    if session.successor is None:
        return session.reply(replies.CANNOT_TURN)
    if session.behind:  # while the handler was thinking
        return session.close()
    session.reply(replies.REVERSING if answer is None else answer)
    session.want = Want.SWAP
    return None


class Atrn(Extension):
    keyword = "ATRN"
    claimed = True
    verbs: ClassVar = {"ATRN": _atrn}

    def available(self, settings: Settings) -> bool:
        return between_servers(settings) and super().available(settings)
