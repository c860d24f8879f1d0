"""VRFY: ask about a mailbox (RFC 5321 §3.5, §4.1.1.6). The handler decides what may be told; by itself it is 252."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension

if TYPE_CHECKING:
    from collections.abc import Callable

    from ironpost.model import Reply
    from ironpost.protocol.handler import Answer
    from ironpost.protocol.server import ServerSession
    from ironpost.wire.interface import Command

_SMTPUTF8 = " SMTPUTF8"


def ask_about(session: ServerSession, command: Command, hook: Callable[[ServerSession, str], Answer]) -> None:
    """Asks the hook about the argument, with the SMTPUTF8 behind it taken off (RFC 6531 §3.7.4.2)."""
    if command.fault is not None or not command.argument:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    try:
        argument = command.argument.decode()
    except UnicodeDecodeError:
        return session.refuse(replies.FAULT_REPLIES["utf8-malformed"])
    if argument[-len(_SMTPUTF8) :].upper() == _SMTPUTF8:
        argument = argument[: -len(_SMTPUTF8)]
    try:
        answer = hook(session, argument)
    except Exception as exc:  # noqa: BLE001 - R26: whatever a hook raises, the session goes on
        answer = session.raised(exc)
    return session.ask(answer, _told)


def _told(session: ServerSession, answer: Reply | None) -> None:
    session.reply(replies.CANNOT_VERIFY if answer is None else answer)


def _verify(session: ServerSession, command: Command) -> None:
    ask_about(session, command, session.handler.verify)


class Vrfy(Extension):
    keyword = "VRFY"
    verbs: ClassVar = {"VRFY": _verify}
