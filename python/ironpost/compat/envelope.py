"""Envelopes as the clients send them, with PIPELINING.

Promises: a plain address means the same to the wire, to `email.utils.parseaddr` and to the server.
Standards: RFC 5321 §4.1.2 (addresses); RFC 2920 §3.1 (pipelining).
"""

from __future__ import annotations

from typing import Final

from ironpost import wire

WINDOW: Final = 100
"""Maximum commands that wait for their replies; all these replies fit into the buffers of a socket (RFC 2920 §3.1)."""
_SPECIAL: Final = frozenset('"<(,')
"""Characters of a display name, a comment, a quoted local part or a list."""


def is_plain(address: str) -> bool:
    """Whether this is an address and nothing else, without quotes: the libraries send it unchanged."""
    if not _SPECIAL.isdisjoint(address):
        return False
    try:
        wire.parse_mailbox(address)
    except wire.WireFault:
        return False
    return True
