"""Levels of outgoing TLS: how much of it is used, and how far the name of the host can be trusted.

Promises: both are ordered, so answers of several policies combine by `max`. The level of a connection is
`model.tls.TlsLevel`.
"""

from __future__ import annotations

from enum import IntEnum

from ironpost.model.tls import TlsLevel


class TlsUse(IntEnum):
    """How TLS is used with a next hop."""

    NONE = 0
    """STARTTLS is not used."""
    MAY = 1
    """Opportunistic (RFC 7435): used if it works, with any certificate; if the handshake fails, unencrypted."""
    ENCRYPT = 2
    """Required, with any certificate."""
    VERIFY = 3
    """Required, with a peer that proves to be the host."""

    @property
    def level(self) -> TlsLevel:
        """The least level of a connection."""
        return _LEVELS[self]

    def __str__(self) -> str:
        return self.name.lower()


_LEVELS = {
    TlsUse.NONE: TlsLevel.NONE,
    TlsUse.MAY: TlsLevel.NONE,
    TlsUse.ENCRYPT: TlsLevel.ENCRYPTED,
    TlsUse.VERIFY: TlsLevel.AUTHENTICATED,
}


class MxLevel(IntEnum):
    """How far the host name can be trusted to serve the domain. A certificate proves only the host name."""

    UNVERIFIED = 0
    """From an MX record that an attacker on the network could have forged."""
    MTA_STS = 1
    """From an MX record that matches the policy which the domain publishes over HTTPS (RFC 8461 §4.1)."""
    DNSSEC = 2
    """From a signed MX record (RFC 7672 §2.2.1)."""
    GIVEN = 3
    """Not from an MX record: the recipient's domain itself (RFC 5321 §5.1), or a host from the configuration."""

    def __str__(self) -> str:
        return self.name.lower().replace("_", "-")
