"""Listening sockets: on every address that a name has, at a path, or handed over by a service manager.

Promises: all of a name's addresses or none, and all with the same port; an error names the address. A Unix socket that
nobody listens on any more is replaced; one that is in use, or a file of another kind, is not.

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

if TYPE_CHECKING:
    from collections.abc import MutableMapping

FIRST_INHERITED: Final = 3
"""The first descriptor that a service manager hands over (sd_listen_fds(3))."""
UNIX_MODE: Final = 0o660
"""Who may connect to a Unix socket: the server's user and its group."""


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


def bind_unix(path: str | Path, mode: int = UNIX_MODE) -> socket.socket:
    """A Unix socket, bound, not yet listening.

    Args:
        path: where its file goes; about 100 octets at most, as the system has it.
        mode: of the file, which says who may connect.

    Raises:
        OSError: it cannot be had; the text names it. EADDRINUSE: a server listens there.
    """
    path = Path(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        old = os.umask(0o777 & ~mode)  # from the first moment: nobody slips in before a chmod
        try:
            sock.bind(str(path))
        finally:
            os.umask(old)
    except OSError as exc:
        sock.close()
        raise OSError(exc.errno, f"cannot listen on {path}: {exc.strerror or exc}") from exc
    return sock


def _remove_stale(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise FileExistsError(errno.EEXIST, "a file that is no socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # its backlog is full: somebody is there
    raise OSError(errno.EADDRINUSE, "another server listens there")


def unbind_unix(path: str | Path, made: os.stat_result) -> None:
    """Removes the file of a Unix socket, if it is still the one that was made."""
    with contextlib.suppress(OSError):
        now = Path(path).lstat()
        if (now.st_ino, now.st_dev) == (made.st_ino, made.st_dev):
            Path(path).unlink()


def inherited(environment: MutableMapping[str, str] = os.environ) -> dict[str, list[socket.socket]]:
    """The listening sockets that a service manager handed over, by their names, in order. Once: the variables go.

    A socket without a name (LISTEN_FDNAMES) is called `unknown`, as systemd calls it.

    Raises:
        OSError: a descriptor is no listening stream socket; the text names it.
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
            raise OSError(exc.errno, f"descriptor {descriptor} of LISTEN_FDS: {exc.strerror}") from exc
        if not listening:
            raise OSError(errno.EINVAL, f"descriptor {descriptor} of LISTEN_FDS is no listening stream socket")
        found.setdefault((names[number] if number < len(names) else "") or "unknown", []).append(sock)
    return found
