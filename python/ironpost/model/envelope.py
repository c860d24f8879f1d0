"""The envelope: who sent a message, to whom, and how it came (RFC 5321 §2.3.1).

Named tuples, as in `queue.store`: several are made for each message, and a frozen dataclass costs three times as much.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model.address import Address

Value: TypeAlias = Any
"""A parameter's typed value: any frozen value whose `str` is the form on the wire; None for a keyword without `=`."""

_NONE: Mapping[str, Value] = MappingProxyType({})


class BodyType(StrEnum):
    """The value of BODY."""

    SEVEN_BIT = "7BIT"
    EIGHT_BIT = "8BITMIME"  # RFC 6152 §2
    BINARY = "BINARYMIME"  # RFC 3030 §3


class Recipient(NamedTuple):
    """One forward-path with the parameters of its RCPT."""

    address: Address
    parameters: Mapping[str, Value] = _NONE
    """ESMTP parameters of RCPT, keyword in upper case."""


class Origin(NamedTuple):
    """Where a message came from: what Received says (RFC 5321 §4.4)."""

    ip: str = ""
    """The client's address, empty for a message made here."""
    helo: str = ""
    """What the client called itself."""
    protocol: str = "ESMTP"
    """The `with` keyword (RFC 5321 §4.4, RFC 6531 §4.3, RFC 3848)."""
    cipher: str = ""
    """The TLS cipher suite by its registered name (RFC 8314 §4.3); empty if it came in clear, or is not known."""
    identity: str = ""
    """Who the client was authenticated as; for the log and the queue, never for the message."""


class Envelope(NamedTuple):
    """One transaction that was accepted, or is to be."""

    reverse_path: Address
    recipients: tuple[Recipient, ...]
    parameters: Mapping[str, Value] = _NONE
    """ESMTP parameters of MAIL, keyword in upper case (BODY, SMTPUTF8, ...)."""
    origin: Origin = Origin()

    @property
    def smtputf8(self) -> bool:
        """MAIL carried SMTPUTF8 (RFC 6531 §3.4)."""
        return "SMTPUTF8" in self.parameters

    @property
    def body_type(self) -> str:
        """`7BIT`, `8BITMIME` (RFC 6152 §2) or `BINARYMIME` (RFC 3030 §3), upper case; `7BIT` if MAIL said nothing."""
        return str(self.parameters.get("BODY") or BodyType.SEVEN_BIT).upper()
