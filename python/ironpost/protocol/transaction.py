"""What a server session knows of its client and of the open mail transaction (RFC 5321 §3.3).

Promises: the values about the client are immutable; who trusts what is said in them is the caller's.
"""

from __future__ import annotations

from enum import Enum, auto
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from ironpost.model import BodyType, Envelope, Origin, Recipient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ironpost.model import Address, Value
    from ironpost.protocol.extensions.burl import Scanner
    from ironpost.protocol.server import ServerSession

_NO_BINDINGS: Mapping[str, bytes] = MappingProxyType({})


class Peer(NamedTuple):
    """The other end of the connection."""

    ip: str = ""
    """Its address as text, empty if it has none (a Unix socket)."""
    port: int = 0
    local_ip: str = ""
    """Our address that it connected to."""
    local_port: int = 0
    name: str = ""
    """Its host name as a trusted front end told it (XCLIENT); empty if nobody did."""
    via: str = ""
    """The address of the proxy that speaks for it; empty if it connected itself."""
    user: str = ""
    """The Unix user at the other end of a local socket; empty if it is none, or not known."""


class Tls(NamedTuple):
    """What protects the connection."""

    version: str
    """Such as `TLSv1.3`."""
    cipher: str = ""
    server_name: str = ""
    """The name that the client asked for (SNI), empty if none."""
    subject: str = ""
    """The subject of the client's verified certificate (RFC 4514), empty if there is none."""
    names: tuple[str, ...] = ()
    """E-mail and DNS names of the client's verified certificate."""
    bindings: Mapping[str, bytes] = _NO_BINDINGS
    """Channel bindings by their type: `tls-server-end-point` (RFC 5929 §4), `tls-exporter` (RFC 9266 §2)."""
    stated: bool = False
    """A trusted proxy says so; the handshake was not ours (SECURITY R16)."""


class Identity(NamedTuple):
    """Who authenticated (RFC 4954 §4)."""

    name: str
    """The authorization identity: who the client acts as."""
    mechanism: str
    login: str = ""
    """The authentication identity, if it is another."""


class Want(Enum):
    """What the outer ring must do with the connection once everything that was replied is written."""

    TLS = auto()
    """A TLS handshake as server, then `tls_started` or `tls_failed` (RFC 3207 §4)."""
    SWAP = auto()
    """Hand the connection to a client session: the peer is the server now (RFC 2645 §5.2)."""


class Transaction:
    """One open mail transaction: what was accepted so far."""

    __slots__ = ("dropped", "dropping", "fetch", "parameters", "quarantine", "recipients", "reverse_path", "scanner")

    def __init__(self, reverse_path: Address, parameters: Mapping[str, Value]) -> None:
        self.reverse_path = reverse_path
        self.parameters = parameters
        """ESMTP parameters of MAIL, keyword in upper case, each with its typed value."""
        self.recipients: list[Recipient] = []
        """In the order in which they were accepted."""
        self.dropped: tuple[int, ...] = ()
        """Where recipients that were dropped stand among all that the client believes to be accepted."""
        self.dropping = False
        """Recipients and content are taken and thrown away, and nobody is asked."""
        self.quarantine: tuple[str, ...] = ()
        """Why the message is to be kept apart; empty if it is not."""
        self.fetch: Callable[[ServerSession], None] | None = None
        """How the next part of the content is got, once there is a place for it (BURL)."""
        self.scanner: Scanner | None = None
        """Facts about content of which the framer sees a part only (BURL)."""

    @property
    def binary(self) -> bool:
        """Its content is any octets (RFC 3030 §3)."""
        return self.parameters.get("BODY") is BodyType.BINARY

    def envelope(self, origin: Origin) -> Envelope:
        """The frozen envelope of what was accepted."""
        return Envelope(self.reverse_path, tuple(self.recipients), self.parameters, origin)
