"""ETRN: a client asks for delivery of the mail queued for its domain (RFC 1985).

Promises: the handler gets a fully qualified domain, a domain with the prefix `@` (for the domain and all its
subdomains), or a queue name with the prefix `#`. These consist of letters in lower case, digits, dots, hyphens and
underscores, so that they are safe in file names and queries (SECURITY R41). The handler decides which client may
request which queue (§5.1).
Refuses: any other argument (501), ETRN inside a transaction (503, §5).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from ironpost.protocol import replies
from ironpost.protocol.dialect import SMTP
from ironpost.protocol.extensions.base import Extension
from ironpost.protocol.server.states import ESMTP, ServerState, Verb

if TYPE_CHECKING:
    from ironpost.model import Reply
    from ironpost.protocol.server.handler import HookResult
    from ironpost.protocol.server.session import ServerSession
    from ironpost.protocol.server.settings import ServerSettings
    from ironpost.wire.interface import Command

_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
DOMAIN: Final = re.compile(rf"(?=.{{1,255}}\Z){_LABEL}(?:\.{_LABEL})+", re.ASCII)
"""A fully qualified domain name (RFC 1985 §5, RFC 2645 §5.2.1). Underscores are accepted, because some mail domains
have them (`wire.TOLERATED`)."""
_QUEUE: Final = re.compile(r"#[A-Za-z0-9][A-Za-z0-9._-]{0,254}", re.ASCII)


class EtrnHandler(Protocol):
    """The hook of a handler that offers ETRN."""

    def etrn(self, session: ServerSession, argument: str) -> HookResult:
        """Start delivery for a node, if the client may request it.

        Args:
            session: the client's session.
            argument: the node with its option character, in lower case; see the module.

        Returns:
            None for 250: delivery was started (RFC 1985 §5).
        """
        ...


def _etrn(session: ServerSession, command: Command) -> None:
    node = command.argument.decode("ascii", "replace").lower()
    if command.fault is not None or not node:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    if not (_QUEUE.fullmatch(node) or DOMAIN.fullmatch(node.removeprefix("@"))):
        return session.refuse(replies.BAD_NODE)
    return session.consult("etrn", node, then=_started)


def _started(session: ServerSession, reply: Reply | None) -> None:
    session.reply(replies.QUEUE_STARTED if reply is None else reply)


def between_servers(settings: ServerSettings) -> bool:
    """Whether the dialect is SMTP: mail on demand is not offered for submission (RFC 6409 §7) and LMTP."""
    return settings.dialect.name == SMTP.name


class Etrn(Extension):
    keyword = "ETRN"
    claimed = True
    hook = "etrn"
    verbs: ClassVar = {"ETRN": Verb(_etrn, frozenset({ServerState.IDLE}), needs=(ESMTP,))}

    def available(self, settings: ServerSettings) -> bool:
        return between_servers(settings) and super().available(settings)
