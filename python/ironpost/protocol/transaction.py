"""What a server session knows of its client and of the open mail transaction (RFC 5321 §3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ironpost.model import Envelope, Origin, Recipient

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Address


class Peer(NamedTuple):
    """The other end of the connection."""

    ip: str = ""
    """Its address as text, empty if it has none (a Unix socket)."""
    port: int = 0


class Transaction:
    """One open mail transaction: what was accepted so far."""

    __slots__ = ("parameters", "recipients", "reverse_path")

    def __init__(self, reverse_path: Address, parameters: Mapping[str, str | None]) -> None:
        self.reverse_path = reverse_path
        self.parameters = parameters
        """ESMTP parameters of MAIL, keyword in upper case."""
        self.recipients: list[Recipient] = []
        """In the order in which they were accepted."""

    def envelope(self, origin: Origin) -> Envelope:
        """The frozen envelope of what was accepted."""
        return Envelope(self.reverse_path, tuple(self.recipients), self.parameters, origin)
