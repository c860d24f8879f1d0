"""EXPN: the members of a mailing list (RFC 5321 §3.5, §4.1.1.7). Offered only by a handler that claims it.

Who may see a list is the handler's to say; a member on each line is its reply (RFC 5321 §3.5.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol.extensions.base import Extension
from ironpost.protocol.extensions.vrfy import ask_about

if TYPE_CHECKING:
    from ironpost.protocol.server import ServerSession
    from ironpost.wire.interface import Command


def _expand(session: ServerSession, command: Command) -> None:
    ask_about(session, command, session.handler.expand)


class Expn(Extension):
    keyword = "EXPN"
    claimed = True
    verbs: ClassVar = {"EXPN": _expand}
