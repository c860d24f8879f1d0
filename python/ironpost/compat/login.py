"""Where the clients log in.

Refuses: AUTH on a connection without TLS to another machine (SECURITY R13), unless the program sets
`login_without_tls`. This includes CRAM-MD5: an eavesdropper can guess the password from its response.
"""

from __future__ import annotations

from typing import Any, Final

from ironpost.model.network import is_loopback

REFUSAL: Final = "a login needs TLS: call starttls first, or set login_without_tls = True"


def is_this_machine(host: str, peer: Any) -> bool:
    """Whether the server is this machine.

    Args:
        host: the name or address that the program gave; empty if it gave none. A connection to another host may have a
            proxy on this machine as its peer.
        peer: what `getpeername` of the socket returned.
    """
    if host and not is_loopback(host):
        return False
    if isinstance(peer, str | bytes):
        return True  # a socket of the file system
    return bool(peer) and is_loopback(str(peer[0]))
