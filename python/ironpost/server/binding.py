"""Sockets bound to every address that a name has.

Promises: all of them or none, and all with the same port; an error names the address.
"""

from __future__ import annotations

import asyncio
import errno
import socket


async def bind(host: str | None, port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """Bound, not yet listening.

    Args:
        host: name or address; None for all interfaces.
        port: TCP port; 0 lets the system choose one, the same for every address.
        reuse_port: others that say so, too, may listen on the same port (SO_REUSEPORT).

    Raises:
        OSError: an address cannot be bound; the text names it.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as exc:
        raise OSError(exc.errno, f"cannot listen on {host}: {exc.strerror or exc}") from exc
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as exc:  # a family that this machine does not speak
            failure = exc
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address[0], port, *address[2:]))
        except OSError as exc:
            sock.close()
            failure = OSError(exc.errno, f"cannot listen on {address[0]} port {port}: {exc.strerror}")
            if exc.errno == errno.EADDRNOTAVAIL:
                continue  # localhost has an address that the machine has not
            for other in sockets:
                other.close()
            raise failure from exc
        port = sock.getsockname()[1]
        sockets.append(sock)
    if not sockets:
        raise failure or OSError(f"cannot listen on {host}: it has no address")
    return sockets
