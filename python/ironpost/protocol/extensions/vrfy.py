"""VRFY: verifies a mailbox (RFC 5321 §3.5, §4.1.1.6).

It is always offered. A handler with a `verify` hook decides what to disclose; without one the reply is 252.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension
from ironpost.protocol.server.states import Verb

if TYPE_CHECKING:
    from ironpost.model import Reply
    from ironpost.protocol.server.handler import HookResult
    from ironpost.protocol.server.session import ServerSession
    from ironpost.wire.interface import Command

_SMTPUTF8: Final = " SMTPUTF8"


class VrfyHandler(Protocol):
    """The hook of a handler that verifies mailboxes."""

    def verify(self, session: ServerSession, argument: str) -> HookResult:
        """Return a reply about the mailbox or user in `argument`. None: 252 2.1.5 (RFC 5321 §3.5.3)."""
        ...


def consult_about(session: ServerSession, command: Command, hook: str) -> None:
    """Call a hook with the argument of VRFY or EXPN, without a trailing SMTPUTF8 (RFC 6531 §3.7.4.2)."""
    if command.fault is not None or not command.argument:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    try:
        argument = command.argument.decode()
    except UnicodeDecodeError:
        return session.refuse(replies.FAULT_REPLIES["utf8-malformed"])
    if argument[-len(_SMTPUTF8) :].upper() == _SMTPUTF8:
        argument = argument[: -len(_SMTPUTF8)]
    if not hasattr(session.handler, hook):
        return _reply(session, None)
    return session.consult(hook, argument, then=_reply)


def _reply(session: ServerSession, reply: Reply | None) -> None:
    session.reply(replies.CANNOT_VERIFY if reply is None else reply)


def _verify(session: ServerSession, command: Command) -> None:
    consult_about(session, command, "verify")


class Vrfy(Extension):
    keyword = "VRFY"
    hook = "verify"
    verbs: ClassVar = {"VRFY": Verb(_verify)}
