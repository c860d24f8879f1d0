"""Where the clients log in.

Refuses: AUTH on a connection without TLS to another machine (SECURITY R13), unless the program sets
`login_without_tls`. This includes CRAM-MD5: an eavesdropper can guess the password from its response.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any, Final

REFUSAL: Final = "a login needs TLS: call starttls first, or set login_without_tls = True"


def is_this_machine(peer: Any) -> bool:
    """Whether a socket is connected to this machine, by what its `getpeername` returned."""
    if isinstance(peer, str | bytes):
        return True  # a socket of the file system
    try:
        return ip_address(peer[0]).is_loopback
    except (TypeError, ValueError, LookupError):
        return False
