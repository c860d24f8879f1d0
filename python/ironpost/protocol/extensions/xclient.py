"""XCLIENT: a front end of our own says whom it speaks for (Postfix's XCLIENT_README).

Promises: only a client whose own address is in `Settings.xclient` is heard (550 else, SECURITY R14); trust stays with
that address, whatever it says. The session then starts anew as if that other client had connected: EHLO, identity and
transaction are forgotten, the handler's `connect` is asked about the new address, and its answer is the greeting.
LOGIN names who has authenticated at the front end. An address that the front end does not know becomes 0.0.0.0, which
no list of trusted networks holds: a client without an address must not pass for a local one.
Refuses: a list that is malformed (501), XCLIENT inside a transaction (503).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final

from ironpost.protocol import replies
from ironpost.protocol.commands import State, interrupted
from ironpost.protocol.extensions import attributes
from ironpost.protocol.extensions.attributes import FrontEndExtension
from ironpost.protocol.transaction import Identity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ironpost.protocol.server import ServerSession
    from ironpost.wire.interface import Command

UNKNOWN_IP: Final = "0.0.0.0"
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
    if session.state is State.CONTENT:
        return interrupted(session, command)
    if not session.trusted:
        return session.refuse(replies.NOT_ALLOWED)
    if session.state in {State.MAIL, State.RCPT}:
        return session.refuse(replies.IN_TRANSACTION)
    if command.fault is not None or not command.argument:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    try:
        said = attributes.parse(command.argument, _KINDS)
    except ValueError:  # UnicodeDecodeError and wire.WireFault are some
        return session.refuse(replies.BAD_ATTRIBUTE)
    peer = session.peer
    session.restart()
    session.peer = peer._replace(
        ip=said["ADDR"] or UNKNOWN_IP if "ADDR" in said else peer.ip,
        port=int(said["PORT"] or 0) if "PORT" in said else peer.port,
        local_ip=said.get("DESTADDR", peer.local_ip),
        local_port=int(said["DESTPORT"] or 0) if "DESTPORT" in said else peer.local_port,
        name=said.get("NAME", "" if "ADDR" in said else peer.name),
        via=peer.via or peer.ip,
        user="",
    )
    if session.tls is not None:  # the certificate is the front end's: EXTERNAL would let its clients in by it
        session.tls = session.tls._replace(subject="", names=())
    session.helo = said.get("HELO", "")  # until EHLO says it
    if said.get("LOGIN"):
        session.identity = Identity(said["LOGIN"], "XCLIENT")
    return session.greet()


class XClient(FrontEndExtension):
    keyword = "XCLIENT"
    verbs: ClassVar = {"XCLIENT": _xclient}
    attributes: ClassVar = tuple(_KINDS)
