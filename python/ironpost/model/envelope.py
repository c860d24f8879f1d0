"""The envelope: reverse-path, recipients, parameters and origin of a message (RFC 5321 §2.3.1).

Promises: values are immutable. They are named tuples, as in `queue.store`, because several are created for each message
and a frozen dataclass takes three times as long.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from ironpost.model.network import within
from ironpost.model.parameters import DeliverBy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model.address import Address
    from ironpost.model.network import Network

Value: TypeAlias = Any
"""The typed value of a parameter: immutable, and its `str` is the form on the wire; None for a keyword without `=`."""

_NONE: Mapping[str, Value] = MappingProxyType({})


TLS_REQUIRED: Final = "TLS-REQUIRED"
"""The tag of a message with the header field `TLS-Required: No` (RFC 8689 §4.1), kept among the parameters of MAIL. It
is not a parameter: no client can give it, and it is not sent on, because the next hop reads the header field."""
REFUSED: Final = "REFUSED"
"""The tag of a recipient to which an alias led although it takes no mail, kept among the parameters of RCPT: its value
is the enhanced status code of the failure. It is not a parameter: no client can give it, and it is not sent on."""
_OF_THIS_SYSTEM: Final = frozenset({"", "sendmail"})
"""`Origin.listener` of mail that was created here, and of mail from `ironpost sendmail`."""


class BodyType(StrEnum):
    """The values of the parameter BODY."""

    SEVEN_BIT = "7BIT"
    EIGHT_BIT = "8BITMIME"  # RFC 6152 §2
    BINARY = "BINARYMIME"  # RFC 3030 §3


class Recipient(NamedTuple):
    """A forward-path with the parameters of its RCPT."""

    address: Address
    parameters: Mapping[str, Value] = _NONE
    """ESMTP parameters of RCPT: keyword in upper case to typed value."""
    original: Address | None = None
    """The forward-path of RCPT, if an alias, a rule of rewriting or an operator replaced it by `address`."""

    def readdressed(self, address: Address) -> Recipient:
        """Return the recipient with another address, which the tag `REFUSED` says nothing about."""
        parameters = {name: value for name, value in self.parameters.items() if name != REFUSED}
        return Recipient(address, MappingProxyType(parameters), self.original or self.address)


class Origin(NamedTuple):
    """The origin of a message, for the Received field (RFC 5321 §4.4), the log and the queue."""

    ip: str = ""
    """The client's IP address; empty for a message created here."""
    helo: str = ""
    """The client's name in EHLO or HELO."""
    protocol: str = "ESMTP"
    """The `with` keyword (RFC 5321 §4.4, RFC 6531 §4.3, RFC 3848)."""
    cipher: str = ""
    """The TLS cipher suite by its registered name (RFC 8314 §4.3); empty if unencrypted or not known."""
    identity: str = ""
    """The name of the authenticated user; for the log and the queue, never for the message."""
    listener: str = ""
    """The listener that accepted it; empty for a message created here."""

    @property
    def tenant(self) -> str:
        """The tenant among whom the queue divides attempts fairly: the authenticated user, else the listener."""
        return self.identity or self.listener

    def is_own(self, trusted: tuple[Network, ...]) -> bool:
        """Whether the message is this system's, or of a client that has authenticated or is in a trusted network."""
        if self.identity or self.listener in _OF_THIS_SYSTEM:
            return True
        # A front server that speaks LMTP passes on the mail of others.
        return self.listener != "lmtp" and within(self.ip, trusted) is not None


class Envelope(NamedTuple):
    """The envelope of one transaction."""

    reverse_path: Address
    recipients: tuple[Recipient, ...]
    parameters: Mapping[str, Value] = _NONE
    """ESMTP parameters of MAIL (BODY, SMTPUTF8, ...): keyword in upper case to typed value."""
    origin: Origin = Origin()

    @property
    def smtputf8(self) -> bool:
        """Whether MAIL had the parameter SMTPUTF8 (RFC 6531 §3.4)."""
        return "SMTPUTF8" in self.parameters

    @property
    def priority(self) -> int:
        """The value of MT-PRIORITY, from -9 to 9; higher is more urgent (RFC 6710 §5). 0 without it."""
        value = self.parameters.get("MT-PRIORITY")
        return value if isinstance(value, int) else 0

    @property
    def tls_optional(self) -> bool:
        """Whether the sender prefers delivery to the TLS policy of the recipient's domain (RFC 8689 §4.2.2)."""
        return TLS_REQUIRED in self.parameters

    @property
    def deliver_by(self) -> DeliverBy | None:
        """The deadline of DELIVERBY (RFC 2852 §4); None without it."""
        value = self.parameters.get("BY")
        return value if isinstance(value, DeliverBy) else None

    @property
    def body_type(self) -> str:
        """`7BIT`, `8BITMIME` (RFC 6152 §2) or `BINARYMIME` (RFC 3030 §3), upper case; `7BIT` without BODY."""
        return str(self.parameters.get("BODY") or BodyType.SEVEN_BIT).upper()
