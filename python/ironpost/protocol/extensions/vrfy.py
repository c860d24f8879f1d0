"""VRFY: ask about a mailbox (RFC 5321 §3.5, §4.1.1.6). The handler decides what may be told; by itself it is 252."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension

if TYPE_CHECKING:
    from ironpost.model import Reply
    from ironpost.protocol.server import ServerSession
    from ironpost.wire.interface import Command

_SMTPUTF8 = " SMTPUTF8"


def _verify(session: ServerSession, command: Command) -> None:
    if command.fault is not None:
        return session.refuse(replies.FAULT_REPLIES[command.fault.id])
    try:
        argument = command.argument.decode()
    except UnicodeDecodeError:
        return session.refuse(replies.FAULT_REPLIES["utf8-malformed"])
    if argument[-len(_SMTPUTF8) :].upper() == _SMTPUTF8:  # RFC 6531 §3.7.4.2
        argument = argument[: -len(_SMTPUTF8)]
    try:
        answer = session.handler.verify(session, argument)
    except Exception as exc:  # noqa: BLE001 - R26: whatever a hook raises, the session goes on
        answer = session.raised(exc)
    return session.ask(answer, _verified)


def _verified(session: ServerSession, answer: Reply | None) -> None:
    session.reply(replies.CANNOT_VERIFY if answer is None else answer)


class Vrfy(Extension):
    keyword = "VRFY"
    verbs: ClassVar = {"VRFY": _verify}
