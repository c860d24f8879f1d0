"""EXPN: lists the members of a mailing list (RFC 5321 §3.5, §4.1.1.7).

The handler decides which clients may see a list; its reply has one member on each line (RFC 5321 §3.5.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from ironpost.protocol.extensions.base import Extension
from ironpost.protocol.extensions.vrfy import consult_about
from ironpost.protocol.server.states import Verb

if TYPE_CHECKING:
    from ironpost.protocol.server.handler import HookResult
    from ironpost.protocol.server.session import ServerSession
    from ironpost.wire.interface import Command


class ExpnHandler(Protocol):
    """The hook of a handler that offers EXPN."""

    def expand(self, session: ServerSession, argument: str) -> HookResult:
        """Return a reply with the members of the list that `argument` names. None: 252 2.1.5 (RFC 5321 §3.5.3)."""
        ...


def _expand(session: ServerSession, command: Command) -> None:
    consult_about(session, command, "expand")


class Expn(Extension):
    keyword = "EXPN"
    claimed = True
    hook = "expand"
    verbs: ClassVar = {"EXPN": Verb(_expand)}
