"""XFORWARD: a filter or front end of our own says where the mail came from, for the log (Postfix's XFORWARD_README).

Promises: only a client whose own address is in `Settings.xclient` is heard (550 else). What it says is kept in
`session.forwarded` for the next transaction and forgotten with it; it decides nothing: no policy reads it. Several
commands add up.
Refuses: a list that is malformed (501), XFORWARD inside a transaction (503).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final

from ironpost.protocol import replies
from ironpost.protocol.commands import State
from ironpost.protocol.extensions import attributes
from ironpost.protocol.extensions.attributes import FrontEndExtension
from ironpost.protocol.extensions.etrn import out_of_place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ironpost.protocol.server import ServerSession
    from ironpost.wire.interface import Command

_KINDS: Final[Mapping[str, Callable[[str], str]]] = MappingProxyType(
    {
        "NAME": attributes.host,
        "ADDR": attributes.address,
        "PORT": attributes.port,
        "PROTO": attributes.protocol,
        "HELO": attributes.text,
        "IDENT": attributes.text,
        "SOURCE": attributes.source,
    }
)


def _xforward(session: ServerSession, command: Command) -> None:
    if not session.trusted:
        return session.refuse(replies.NOT_ALLOWED)
    if session.state not in {State.READY, State.IDLE}:
        return session.refuse(out_of_place(session))
    if command.fault is not None or not command.argument:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    try:
        said = attributes.parse(command.argument, _KINDS)
    except ValueError:  # UnicodeDecodeError and wire.WireFault are some
        return session.refuse(replies.BAD_ATTRIBUTE)
    session.forwarded = {**session.forwarded, **said}
    return session.write(_OK)


class XForward(FrontEndExtension):
    keyword = "XFORWARD"
    verbs: ClassVar = {"XFORWARD": _xforward}
    attributes: ClassVar = tuple(_KINDS)


_OK: Final = replies.NOTHING_DONE.octets
