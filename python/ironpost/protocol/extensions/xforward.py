"""XFORWARD: a trusted filter or front end names the origin of a message, for the log (Postfix's XFORWARD_README).

Promises: it is accepted only from an address in `ServerSettings.front_ends` (550 otherwise). Its attributes are kept in
`ForwardedOrigin` until the end of the next transaction; several commands are combined. No policy reads them.
Refuses: a malformed attribute list (501), XFORWARD inside a transaction (503).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final

from ironpost.protocol import replies
from ironpost.protocol.extensions import attributes
from ironpost.protocol.extensions.attributes import FrontEndExtension
from ironpost.protocol.server.extension_state import ExtensionState, Lifetime
from ironpost.protocol.server.states import FRONT_END, ServerState, Verb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ironpost.protocol.extensions.base import LogValue
    from ironpost.protocol.server.session import ServerSession
    from ironpost.protocol.server.settings import ServerSettings
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


class ForwardedOrigin(ExtensionState):
    """The origin of the next message, as named by a trusted front end."""

    lifetime = Lifetime.TRANSACTION

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(settings)
        self.attributes: dict[str, str] = {}
        """Attribute to value; an empty value is unknown."""


def _xforward(session: ServerSession, command: Command) -> None:
    if command.fault is not None or not command.argument:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    try:
        values = attributes.parse(command.argument, _KINDS)
    except ValueError:  # or its subclasses UnicodeDecodeError and wire.WireFault
        return session.refuse(replies.BAD_ATTRIBUTE)
    session.state_of(ForwardedOrigin).attributes.update(values)
    return session.write(_OK)


class XForward(FrontEndExtension):
    keyword = "XFORWARD"
    state = ForwardedOrigin
    verbs: ClassVar = {
        "XFORWARD": Verb(
            _xforward, frozenset({ServerState.READY, ServerState.IDLE}), needs=(FRONT_END,), before_auth=True
        )
    }
    attributes: ClassVar = tuple(_KINDS)

    def message_fields(self, session: ServerSession) -> Mapping[str, LogValue]:
        if not session.has_state(ForwardedOrigin):
            return {}
        origin = session.state_of(ForwardedOrigin).attributes
        return {"forwarded": [f"{name}={value}" for name, value in origin.items()]}


_OK: Final = replies.NOTHING_DONE.octets
