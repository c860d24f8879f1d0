"""Listening sockets: TCP sockets on every address of a host name, Unix sockets, sockets passed by a service manager.

Promises: either all addresses of a host name are bound, with the same port, or none; an error names the address. A
stale Unix socket, on which no process listens, is replaced; one that is in use, or a file of another kind, is not.

Standard: sd_listen_fds(3), for `inherited`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ironpost.model.text import error_text

if TYPE_CHECKING:
    from collections.abc import MutableMapping

FIRST_INHERITED: Final = 3
"""The first file descriptor that a service manager passes (sd_listen_fds(3))."""
UNIX_MODE: Final = 0o660
"""Permissions of a Unix socket: the server's user and its group may connect."""


async def bind(host: str | None, port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """Bind a TCP socket to each address of a host, without listening yet.

    Args:
        host: name or address; None for all interfaces.
        port: TCP port; 0 lets the system choose one, which is used for every address.
        reuse_port: share the port with other sockets that set this option (SO_REUSEPORT).

    Raises:
        OSError: an address cannot be bound; the text names it.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as exc:
        raise OSError(exc.errno, f"cannot listen on {host}: {error_text(exc)}") from exc
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as exc:  # an address family that this machine does not support
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
            failure = OSError(exc.errno, f"cannot listen on {address[0]} port {port}: {error_text(exc)}")
            if exc.errno == errno.EADDRNOTAVAIL:
                continue  # localhost resolves to an address that this machine does not have
            for other in sockets:
                other.close()
            raise failure from exc
        port = sock.getsockname()[1]
        sockets.append(sock)
    if not sockets:
        raise failure or OSError(f"cannot listen on {host}: it has no address")
    return sockets


def bind_unix(path: str | Path, mode: int = UNIX_MODE) -> socket.socket:
    """Bind a Unix socket, without listening yet.

    Args:
        path: the path of the socket; the system limits it to about 100 octets.
        mode: its permissions, which determine who may connect.

    Raises:
        OSError: the socket cannot be created; the text names the path. EADDRINUSE: a server listens there.
    """
    path = Path(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        old = os.umask(0o777 & ~mode)  # set at creation: a later chmod would leave a gap
        try:
            sock.bind(str(path))
        finally:
            os.umask(old)
    except OSError as exc:
        sock.close()
        raise OSError(exc.errno, f"cannot listen on {path}: {error_text(exc)}") from exc
    return sock


def _remove_stale(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise FileExistsError(errno.EEXIST, "the path exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its backlog is full: a server listens
    raise OSError(errno.EADDRINUSE, "another server listens there")


def unbind_unix(path: str | Path, created: os.stat_result) -> None:
    """Remove the file of a Unix socket, if it is still the one described by `created`."""
    with contextlib.suppress(OSError):
        now = Path(path).lstat()
        if (now.st_ino, now.st_dev) == (created.st_ino, created.st_dev):
            Path(path).unlink()


def inherited(environment: MutableMapping[str, str] = os.environ) -> dict[str, list[socket.socket]]:
    """Return the listening sockets that a service manager passed, in order, by name.

    The variables LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES are removed from the environment, so a second call returns
    nothing. A socket without a name is called `unknown`, as systemd does.

    Raises:
        OSError: a descriptor is not a listening stream socket; the text names it.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    found: dict[str, list[socket.socket]] = {}
    for number in range(int(count)):
        descriptor = FIRST_INHERITED + number
        try:
            sock = socket.socket(fileno=descriptor)
            sock.set_inheritable(False)
            listening = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as exc:
            raise OSError(exc.errno, f"descriptor {descriptor} of LISTEN_FDS: {error_text(exc)}") from exc
        if not listening:
            raise OSError(errno.EINVAL, f"descriptor {descriptor} of LISTEN_FDS is not a listening stream socket")
        found.setdefault((names[number] if number < len(names) else "") or "unknown", []).append(sock)
    return found
