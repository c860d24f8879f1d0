"""How long one connection may take for what (RFC 5321 §4.5.3.2). In seconds, but for the rate."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Timeouts:
    """A time-out is kept by a sweep over all connections, so it may come late by a part of itself, never early."""

    handshake: float = 60.0
    """For a PROXY header, and for a TLS handshake: the connection is closed (SECURITY R15). A TCP segment may
    have to come twice."""
    refused: float = 30.0
    """From a refusal in place of the greeting to QUIT, for which RFC 5321 §3.1 has us wait: 421 4.4.2."""
    hello: float = 300.0
    """From the greeting to an accepted EHLO or HELO, whatever else is said: 421 4.4.2 (SECURITY R23)."""
    command: float = 300.0
    """Without a whole command: 421 4.4.2 (RFC 5321 §4.5.3.2.7)."""
    data: float = 180.0
    """Without `DATA_QUANTUM` octets of content: 421 4.4.2 (as RFC 5321 §4.5.3.2.5 for the sending side)."""
    data_rate: float = 100.0
    """Octets of content a second, averaged over `data`; slower is 421 4.7.0 (SECURITY R23). Modems did ten times that;
    0: any."""
    hook: float = 300.0
    """Without an answer from an awaited hook: 451 4.3.0 (SECURITY R26)."""
    write: float = 300.0
    """With replies that the client does not read: the connection is aborted (SECURITY R23)."""
    linger: float = 10.0
    """How long we read on after closing with an error, so that the client can read the reply."""
    session: float = 86400.0
    """For everything: 421 4.7.0 (SECURITY R23). A day is enough for any queue."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "data_rate":
                if not value >= 0:
                    raise ValueError(f"Timeouts.data_rate must be 0 octets a second or more, not {value}")
            elif not value > 0:
                raise ValueError(f"Timeouts.{field.name} must be more than 0 seconds, not {value}")

    @property
    def sweep(self) -> float:
        """How often connections are looked at."""
        least: float = min(getattr(self, field.name) for field in fields(self) if field.name != "data_rate")
        return min(15.0, least / 4)
