"""CHUNKING: content in counted chunks by BDAT instead of DATA (RFC 3030 §2).

Promises: the octets of every BDAT with a valid size are consumed exactly, whether or not it is accepted, and get one
reply, at their end (SECURITY R4, R5). A BDAT with an invalid size ends the session with 421, because the end of its
octets is unknown. One that far exceeds the size limit (`ServerSettings.max_read`) ends it before its octets, with 552
and 421.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension
from ironpost.protocol.server import content
from ironpost.protocol.server.states import ESMTP, ServerState, Verb

if TYPE_CHECKING:
    from ironpost.model import Reply
    from ironpost.protocol.server.session import ServerSession
    from ironpost.wire.interface import Command


def _bdat(session: ServerSession, command: Command) -> None:
    if command.fault is not None:
        return session.refuse_unknown_chunk(replies.FAULT_REPLIES[command.fault.id])
    assert command.chunk is not None  # as there is no fault
    if not content.refuse_endless_chunk(session, command.chunk.size) and session.state is ServerState.RCPT:
        content.begin_chunks(session)
    return None


def _refuse(session: ServerSession, command: Command, reply: Reply) -> None:
    if command.fault is not None:
        # The session ends because of the invalid size, so that is reported, not the order of commands.
        session.refuse_unknown_chunk(replies.FAULT_REPLIES[command.fault.id] if reply.code == 503 else reply)
        return
    assert command.chunk is not None  # as there is no fault
    if not content.refuse_endless_chunk(session, command.chunk.size):
        session.refuse_chunk(reply)  # its octets follow even so (SECURITY R5)
        if session.transaction is not None and not command.chunk.last:
            # RFC 3030 §2 requires RSET now. The framer's facts about the next chunk would include this one.
            session.drop_transaction()


class Chunking(Extension):
    keyword = "CHUNKING"
    verbs: ClassVar = {
        "BDAT": Verb(
            _bdat,
            frozenset({ServerState.RCPT, ServerState.CONTENT}),
            needs=(ESMTP,),
            sequence={ServerState.MAIL: replies.RECIPIENT_FIRST},
            refuse=_refuse,
        )
    }
