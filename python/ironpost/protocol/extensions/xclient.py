"""XCLIENT: a trusted front end names the client that it forwards (Postfix's XCLIENT_README).

Promises: it is accepted only from an address in `ServerSettings.front_ends` (550 otherwise, SECURITY R14); trust
depends on that address, not on the client that XCLIENT names. The session starts over as if the named client had
connected: EHLO, identity and transaction are forgotten, the `connect` hook is called for the new address, and the reply
is the greeting. LOGIN names the user who authenticated to the front end. An address unknown to the front end becomes
0.0.0.0, which must not be in any trusted network, so that such a client is not treated as a local one.
Refuses: a malformed attribute list (501), XCLIENT inside a transaction (503).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final

from ironpost.protocol import replies
from ironpost.protocol.extensions import attributes
from ironpost.protocol.extensions.attributes import FrontEndExtension
from ironpost.protocol.server.states import FRONT_END, ServerState, Verb
from ironpost.protocol.server.transaction import Identity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ironpost.protocol.server.session import ServerSession
    from ironpost.wire.interface import Command

UNKNOWN_IP: Final = "0.0.0.0"
"""The address of a client whose address the front end does not know."""
_KINDS: Final[Mapping[str, Callable[[str], str]]] = MappingProxyType(
    {
        "NAME": attributes.host,
        "ADDR": attributes.address,
        "PORT": attributes.port,
        "PROTO": attributes.protocol,
        "HELO": attributes.hello,
        "LOGIN": attributes.text,
        "DESTADDR": attributes.address,
        "DESTPORT": attributes.port,
    }
)


def _xclient(session: ServerSession, command: Command) -> None:
    if command.fault is not None or not command.argument:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    try:
        values = attributes.parse(command.argument, _KINDS)
    except ValueError:  # or its subclasses UnicodeDecodeError and wire.WireFault
        return session.refuse(replies.BAD_ATTRIBUTE)
    peer = session.peer
    session.restart()
    session.peer = peer._replace(
        ip=values["ADDR"] or UNKNOWN_IP if "ADDR" in values else peer.ip,
        port=int(values["PORT"] or 0) if "PORT" in values else peer.port,
        local_ip=values.get("DESTADDR", peer.local_ip),
        local_port=int(values["DESTPORT"] or 0) if "DESTPORT" in values else peer.local_port,
        name=values.get("NAME", "" if "ADDR" in values else peer.name),
        via=peer.via or peer.ip,
        user="",
    )
    if session.tls is not None:  # the certificate is the front end's, and must not authenticate its clients by EXTERNAL
        session.tls = session.tls._replace(subject="", names=())
    session.helo = values.get("HELO", "")  # until EHLO
    if values.get("LOGIN"):
        session.identity = Identity(values["LOGIN"], "XCLIENT")
    return session.greet()


class XClient(FrontEndExtension):
    keyword = "XCLIENT"
    verbs: ClassVar = {
        "XCLIENT": Verb(
            _xclient, frozenset({ServerState.READY, ServerState.IDLE}), needs=(FRONT_END,), before_auth=True
        )
    }
    attributes: ClassVar = tuple(_KINDS)
