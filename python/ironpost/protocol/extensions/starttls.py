"""STARTTLS: TLS on a connection that began unencrypted (RFC 3207).

Promises: it is offered only if there is a certificate and no TLS yet (§4.2). After the 220 nothing is interpreted until
the driver has done the handshake; then everything learned before it is forgotten, including an open transaction (§4.2,
SECURITY R11). If other octets than a TLS handshake follow the command, the connection closes without a reply, and they
are not interpreted (SECURITY R9).
Refuses: an argument (501), STARTTLS under TLS (503), STARTTLS before EHLO (503).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension, Offer
from ironpost.protocol.server.states import ESMTP, TRANSACTION, UNENCRYPTED, ServerState, Verb
from ironpost.protocol.server.transaction import TlsHandshake

if TYPE_CHECKING:
    from ironpost.protocol.server.session import ServerSession
    from ironpost.protocol.server.settings import ServerSettings
    from ironpost.wire.interface import Command


def _starttls(session: ServerSession, command: Command) -> None:
    if command.fault is not None:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    if session.input_follows:
        return session.close()
    session.write(_READY)
    session.want = TlsHandshake()
    return None


class StartTls(Extension):
    keyword = "STARTTLS"
    verbs: ClassVar = {
        "STARTTLS": Verb(
            _starttls,
            frozenset({ServerState.READY, ServerState.IDLE}) | TRANSACTION,
            needs=(UNENCRYPTED, ESMTP),
            before_tls=True,
            before_auth=True,
        )
    }

    def available(self, settings: ServerSettings) -> bool:
        return settings.starttls

    def advertise(self, offer: Offer) -> str | None:
        return None if offer.secure else self.keyword


_READY = replies.READY_FOR_TLS.octets
