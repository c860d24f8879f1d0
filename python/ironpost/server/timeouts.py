"""The timeouts of a connection, in seconds, and the minimum data rate (RFC 5321 §4.5.3.2).

Promises: a timeout never expires early. Refuses: values that are not positive (a negative data rate), with ValueError.
Limitations: one periodic sweep checks all connections, so a timeout may expire late by up to a quarter of the shortest
timeout, and at most by 15 seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from ironpost.model.options import Unit, option


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The timeouts of every connection of a server."""

    handshake: float = option(60.0, "handshake_timeout", Unit.SECONDS)
    """Time for a TLS handshake or a PROXY header. Then the connection is closed (SECURITY R15). A TCP segment may have
    to be sent twice."""
    refused: float = 30.0
    """Time from a refusal in place of the greeting to QUIT, for which RFC 5321 §3.1 makes the server wait. Then 421
    4.4.2."""
    hello: float = option(300.0, "hello_timeout", Unit.SECONDS)
    """Time until EHLO or HELO is accepted, whatever other commands are sent. Then 421 4.4.2 (SECURITY R23)."""
    command: float = option(300.0, "command_timeout", Unit.SECONDS)
    """Time to wait for a command. Then 421 4.4.2 (RFC 5321 §4.5.3.2.7)."""
    data: float = option(180.0, "data_timeout", Unit.SECONDS)
    """Time to wait for more content. Then 421 4.4.2 (as RFC 5321 §4.5.3.2.5 for the sending side). Fewer than
    `DATA_QUANTUM` octets do not count."""
    data_rate: float = option(100.0, "data_rate", Unit.OCTETS_PER_SECOND)
    """Minimum rate of content in octets per second, averaged over the data timeout; 0 for no minimum. Below it, 421
    4.7.0 (SECURITY R23). Modems were ten times as fast."""
    hook: float = option(300.0, "hook_timeout", Unit.SECONDS)
    """Time for a hook, such as policy or the user database, to answer; then the reply is 451, and the session
    continues. See SECURITY R26."""
    write: float = option(300.0, "write_timeout", Unit.SECONDS)
    """Time that a client may leave replies unread. Then the connection is aborted (SECURITY R23)."""
    linger: float = 10.0
    """Time to read on after closing with an error, so that the client can read the reply."""
    session: float = option(86400.0, "session_time", Unit.SECONDS, minimum=60)
    """Maximum duration of a session. Then 421 4.7.0 (SECURITY R23). A day is enough for any queue."""

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
        """Seconds between two sweeps over the connections."""
        least: float = min(getattr(self, field.name) for field in fields(self) if field.name != "data_rate")
        return min(15.0, least / 4)
