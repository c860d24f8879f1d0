"""How long one connection may take for what (RFC 5321 §4.5.3.2). All in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """A time-out is kept by a sweep over all connections, so it may come late by a part of itself, never early."""

    command: float = 300.0
    """Without a whole command: 421 4.4.2 (RFC 5321 §4.5.3.2.7)."""
    data: float = 180.0
    """Without `DATA_QUANTUM` octets of content: 421 4.4.2 (as RFC 5321 §4.5.3.2.5 for the sending side)."""
    hook: float = 300.0
    """Without an answer from an awaited hook: 451 4.3.0 (SECURITY R26)."""
    write: float = 300.0
    """With replies that the client does not read: the connection is aborted."""
    linger: float = 10.0
    """How long we read on after closing with an error, so that the client can read the reply."""

    def __post_init__(self) -> None:
        for name in ("command", "data", "hook", "write", "linger"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Timeouts.{name} must be more than 0 seconds, not {getattr(self, name)}")

    @property
    def sweep(self) -> float:
        """How often connections are looked at."""
        return min(15.0, min(self.command, self.data, self.hook, self.write, self.linger) / 4)
