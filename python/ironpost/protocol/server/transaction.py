"""The values of a server session: facts about the client, the open mail transaction, and actions for the driver.

Promises: the facts about the client are immutable. Limitations: the caller decides which of them to trust.

Standards: RFC 5321 §3.3 (transaction).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from ironpost.model import BodyType, Envelope, Origin, Recipient
from ironpost.protocol import replies

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ironpost.model import Address, Reply, Value

_BINARY: Final = BodyType.BINARY  # for the hot path: see `states.CONTENT`
_NO_BINDINGS: Mapping[str, bytes] = MappingProxyType({})


class Peer(NamedTuple):
    """The other end of the connection."""

    ip: str = ""
    """The client's IP address; empty for a Unix socket."""
    port: int = 0
    """The client's port; 0 if unknown."""
    local_ip: str = ""
    """The IP address that the client connected to, as stated by a proxy or front end; empty if unknown."""
    local_port: int = 0
    """The port that the client connected to, likewise; 0 if unknown."""
    name: str = ""
    """The client's host name, as stated by a trusted front end; empty if none was stated."""
    via: str = ""
    """The address of the proxy or front end that forwards the client; empty for a direct connection."""
    user: str = ""
    """The Unix user at the other end of a local socket; empty if unknown."""


class TlsInfo(NamedTuple):
    """The TLS parameters of a connection."""

    version: str
    """The TLS version, such as `TLSv1.3`."""
    cipher: str = ""
    """The cipher suite by its registered name."""
    server_name: str = ""
    """The server name that the client requested (SNI); empty if none."""
    subject: str = ""
    """The subject of the client's verified certificate (RFC 4514); empty if there is none."""
    names: tuple[str, ...] = ()
    """E-mail and DNS names of the client's verified certificate."""
    bindings: Mapping[str, bytes] = _NO_BINDINGS
    """Channel bindings by type: `tls-server-end-point` and `tls-unique` (RFC 5929), `tls-exporter` (RFC 9266 §2)."""
    stated: bool = False
    """The parameters are stated by a trusted proxy, which terminates TLS (SECURITY R16)."""


class Identity(NamedTuple):
    """The authenticated client (RFC 4954 §4)."""

    name: str
    """The authorization identity: the user that the client acts as."""
    mechanism: str
    """The SASL mechanism, or the command by which a front end named the user."""
    login: str = ""
    """The authentication identity, if it differs from `name`."""


@dataclass(frozen=True, slots=True)
class TlsHandshake:
    """The action of STARTTLS: a TLS handshake as server, then `tls_started` or `tls_failed` (RFC 3207 §4)."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """The action of ATRN: the roles are reversed, and another protocol takes over the connection (RFC 2645 §5.3)."""

    successor: Callable[[], Any]
    """Creates the protocol that takes over (`asyncio.Protocol` with an asyncio driver). Called at most once: not if the
    connection ends first."""
    reply: Reply = replies.REVERSING
    """The positive reply after which the connection is handed over."""

    def __post_init__(self) -> None:
        if not self.reply.positive:
            raise ValueError(f"HandOver.reply is {self.reply}; expected a positive reply")


PendingAction: TypeAlias = "TlsHandshake | HandOver"
"""An action that the driver of a session performs once all output is written."""


class Transaction:
    """An open mail transaction: the accepted reverse-path, recipients and parameters."""

    __slots__ = ("dropped", "dropping", "parameters", "quarantine", "recipients", "reverse_path")

    def __init__(self, reverse_path: Address, parameters: Mapping[str, Value]) -> None:
        self.reverse_path = reverse_path
        self.parameters = parameters
        """ESMTP parameters of MAIL: keyword in upper case to typed value."""
        self.recipients: list[Recipient] = []
        """The accepted recipients, in order."""
        self.dropped: tuple[int, ...] = ()
        """The positions of dropped recipients among all recipients with a positive reply, in rising order."""
        self.dropping = False
        """Further recipients and the content are accepted and discarded, without calling hooks."""
        self.quarantine: tuple[str, ...] = ()
        """The reasons for quarantine; empty if the message is not quarantined."""

    @property
    def binary(self) -> bool:
        """Whether the content may be arbitrary octets (RFC 3030 §3)."""
        return self.parameters.get("BODY") is _BINARY

    def envelope(self, origin: Origin) -> Envelope:
        """Return the immutable envelope of the transaction."""
        return Envelope(self.reverse_path, tuple(self.recipients), self.parameters, origin)
