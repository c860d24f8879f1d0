"""ETRN: a client asks for the mail that waits for its domain (RFC 1985). Offered only by a handler that claims it.

Promises: the handler gets a fully qualified domain, a domain with `@` in front (it and everything below it), or a queue
name with `#` in front: letters, digits, dots, hyphens and underscores, in lower case, so nothing in it can be more than
a name to whatever stores the queue (SECURITY R41). Who may ask for what is the handler's to say (§5.1).
Refuses: anything else (501), and ETRN inside a transaction (503, §5).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Final

from ironpost.protocol import replies
from ironpost.protocol.commands import State
from ironpost.protocol.dialect import SMTP
from ironpost.protocol.extensions.base import Extension

if TYPE_CHECKING:
    from ironpost.model import Reply
    from ironpost.protocol.server import ServerSession
    from ironpost.protocol.settings import Settings
    from ironpost.wire.interface import Command

_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
DOMAIN: Final = re.compile(rf"(?=.{{1,255}}\Z){_LABEL}(?:\.{_LABEL})+", re.ASCII)
"""A fully qualified domain name (RFC 1985 §5, RFC 2645 §5.2.1)."""
_QUEUE: Final = re.compile(r"#[A-Za-z0-9][A-Za-z0-9._-]{0,254}", re.ASCII)


def _etrn(session: ServerSession, command: Command) -> None:
    if session.state is not State.IDLE or not session.esmtp:
        return session.refuse(out_of_place(session))
    node = command.argument.decode("ascii", "replace").lower()
    if command.fault is not None or not node:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    if not (_QUEUE.fullmatch(node) or DOMAIN.fullmatch(node.removeprefix("@"))):
        return session.refuse(replies.BAD_NODE)
    try:
        answer = session.handler.etrn(session, node)
    except Exception as exc:  # noqa: BLE001 - R26: whatever a hook raises, the session goes on
        answer = session.raised(exc)
    return session.ask(answer, _started)


def _started(session: ServerSession, answer: Reply | None) -> None:
    session.reply(replies.QUEUE_STARTED if answer is None else answer)


def out_of_place(session: ServerSession) -> Reply:
    """Why a command that belongs between transactions, and behind EHLO, is refused here."""
    if session.state in {State.MAIL, State.RCPT}:
        return replies.IN_TRANSACTION
    if session.state is State.CONTENT:
        session.drop_transaction()  # see commands.interrupted
        return replies.BAD_SEQUENCE
    return replies.EHLO_FIRST


def between_servers(settings: Settings) -> bool:
    """Whether mail on demand has its place here: not where users submit (RFC 6409 §7), nor in front of a mail store."""
    return settings.dialect.name == SMTP.name


class Etrn(Extension):
    keyword = "ETRN"
    claimed = True

    verbs: ClassVar = {"ETRN": _etrn}

    def available(self, settings: Settings) -> bool:
        return between_servers(settings) and super().available(settings)
