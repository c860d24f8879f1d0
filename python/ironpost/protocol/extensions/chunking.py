"""CHUNKING: content in counted chunks by BDAT instead of DATA (RFC 3030 §2).

Promises: the octets of every BDAT whose size could be read are consumed exactly, accepted or not, and answered once,
behind them (SECURITY R4, R5). A BDAT whose size cannot be read ends the connection, after 421: nobody knows where its
octets end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol import replies
from ironpost.protocol.commands import State
from ironpost.protocol.extensions.base import Extension
from ironpost.protocol.extensions.burl import Burl, begin

if TYPE_CHECKING:
    from ironpost.protocol.server import ServerSession
    from ironpost.wire.interface import Command


def _bdat(session: ServerSession, command: Command) -> None:
    if command.fault is not None:
        return session.refuse_unknown_chunk(replies.FAULT_REPLIES[command.fault.id])
    if session.state is State.RCPT and Burl.keyword in session.settings.keywords:
        begin(session)
    return session.chunk()


class Chunking(Extension):
    keyword = "CHUNKING"
    verbs: ClassVar = {"BDAT": _bdat}
