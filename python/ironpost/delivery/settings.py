"""What delivery to other systems takes for granted where the configuration (`[delivery]`) does not say otherwise."""

from __future__ import annotations

from typing import Final

DESTINATION_LIMIT: Final = 20
"""Connections to one destination at a time."""
CONNECTION_MESSAGES: Final = 100
"""Messages sent over one connection before it is replaced, so that load spreads over equal hosts."""
CONNECT_TIMEOUT: Final = 30.0
"""Seconds to wait for TCP, each address; the RFC names no limit."""
ATTEMPT_SECONDS: Final = 1800.0
"""Seconds for one message at one destination until its content is sent, over all hosts and transactions. Each reply
may come before its time-out, and all of them together still take days."""
LEAST_RATE: Final = 1000.0
"""Octets of content a second that are added to that."""
IDLE_SECONDS: Final = 5.0
"""How long a connection is kept without work."""
