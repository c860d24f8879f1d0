"""STARTTLS: TLS on a connection that began in clear (RFC 3207).

Promises: it is offered only where there is a certificate and no TLS yet (§4.2). Behind 220 the session interprets
nothing until the outer ring says that the handshake is done; then everything that was learned in clear is forgotten,
an open transaction too (§4.2, SECURITY R11). Octets that came behind the command are no TLS: the connection closes
without a reply, and nothing of them is interpreted (SECURITY R9).
Refuses: an argument (501), TLS inside TLS (503), a client that never saw the offer (503 before EHLO).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol import replies
from ironpost.protocol.commands import State, interrupted
from ironpost.protocol.extensions.base import Extension, Offer
from ironpost.protocol.transaction import Want

if TYPE_CHECKING:
    from ironpost.protocol.server import ServerSession
    from ironpost.protocol.settings import Settings
    from ironpost.wire.interface import Command


def _starttls(session: ServerSession, command: Command) -> None:
    if session.state is State.CONTENT:
        return interrupted(session, command)
    if command.fault is not None:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    if session.secure:
        return session.refuse(replies.TLS_ALREADY)
    if not session.esmtp:
        return session.refuse(replies.EHLO_FIRST)
    if session.behind:
        return session.close()
    session.write(_READY)
    session.want = Want.TLS
    return None


class StartTls(Extension):
    keyword = "STARTTLS"
    verbs: ClassVar = {"STARTTLS": _starttls}

    def available(self, settings: Settings) -> bool:
        return settings.starttls

    def advertise(self, offer: Offer) -> str | None:
        return None if offer.secure else self.keyword


_READY = replies.READY_FOR_TLS.octets
