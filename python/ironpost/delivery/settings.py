"""Defaults of delivery to other systems; the configuration section `[delivery]` overrides them."""

from __future__ import annotations

from typing import Final

DESTINATION_LIMIT: Final = 20
"""Connections to one destination at a time."""
CONNECTION_MESSAGES: Final = 100
"""Messages sent over one connection before it is replaced, so that load spreads over equal hosts."""
CONNECT_TIMEOUT: Final = 30.0
"""Seconds to wait for TCP at each address; RFC 5321 names no limit."""
ATTEMPT_SECONDS: Final = 1800.0
"""Seconds for one message at one destination until its content is sent, over all hosts and transactions. Without this
limit, replies that each come just before their timeout could take days."""
LEAST_RATE: Final = 1000.0
"""Bytes of content per second: large content gets `size / LEAST_RATE` seconds more."""
IDLE_SECONDS: Final = 5.0
"""Seconds for which an idle connection is kept."""
