"""The states, steps and timeouts of a client session (RFC 5321 §4.5.3.2)."""

from __future__ import annotations

from enum import Enum
from typing import Final


class ClientStep(Enum):
    """A step of the session: a command or content, and the reply to it. The value is its name in reasons."""

    GREETING = "the greeting"
    EHLO = "EHLO"
    HELO = "HELO"
    LHLO = "LHLO"
    STARTTLS = "STARTTLS"
    TLS = "the TLS handshake"
    AUTH = "AUTH"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    CONTENT = "the content"
    END = "the end of the content"
    BDAT = "BDAT"
    CHUNK = "a chunk"
    RSET = "RSET"
    QUIT = "QUIT"

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a Python call


class ClientState(Enum):
    """The state of a client session."""

    OPENING = "opening"
    """Waiting for replies to the greeting, EHLO, STARTTLS or AUTH."""
    SECURING = "securing"
    """Waiting for the driver to do the TLS handshake."""
    READY = "ready"
    """Waiting for the caller to begin a transaction."""
    ENVELOPE = "envelope"
    """Waiting for replies to MAIL, RCPT and DATA, or to RSET."""
    CONTENT = "content"
    """Waiting for the caller to provide content."""
    CHUNK = "chunk"
    """Waiting for the reply to a chunk that is not the last."""
    FINAL = "final"
    """Waiting for the reply to the end of the content; in LMTP for one reply for each recipient."""
    QUITTING = "quitting"
    """Waiting for the reply to QUIT."""
    CLOSED = "closed"
    """The session has ended."""


class Ending(Enum):
    """The kind of reason for which a session closed before `quit`."""

    REFUSED = "refused"
    """The peer refused the session or a transaction with a reply."""
    LOST = "lost"
    """The connection was lost."""
    EXPIRED = "expired"
    """A timeout expired."""
    FAULT = "fault"
    """The peer violated the protocol."""
    ABORTED = "aborted"
    """The caller aborted the session."""
    INSECURE = "insecure"
    """The peer does not offer the required security, or did not prove its identity."""


TIMEOUTS: Final[dict[ClientStep, float]] = {
    ClientStep.GREETING: 300.0,  # RFC 5321 §4.5.3.2.1
    ClientStep.EHLO: 300.0,  # not named by the RFC: like MAIL
    ClientStep.HELO: 300.0,
    ClientStep.LHLO: 300.0,
    ClientStep.STARTTLS: 300.0,  # not named by the RFC either
    ClientStep.TLS: 60.0,  # the handshake takes a few round trips
    ClientStep.AUTH: 300.0,
    ClientStep.MAIL: 300.0,  # RFC 5321 §4.5.3.2.2
    ClientStep.RCPT: 300.0,  # RFC 5321 §4.5.3.2.3
    ClientStep.DATA: 120.0,  # RFC 5321 §4.5.3.2.4
    ClientStep.CONTENT: 180.0,  # RFC 5321 §4.5.3.2.5: until the peer has read the last octets
    ClientStep.END: 600.0,  # RFC 5321 §4.5.3.2.6
    ClientStep.BDAT: 600.0,  # like END
    ClientStep.CHUNK: 180.0,  # RFC 5321 §4.5.3.2.5, the closest: a chunk and its reply
    ClientStep.RSET: 300.0,
    ClientStep.QUIT: 5.0,  # nothing can be lost (RFC 5321 §4.1.1.10 has no limit)
}
"""The timeout of each step, in seconds."""
