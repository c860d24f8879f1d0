"""TCP connections to a host by name, connections to a Unix socket, and this host's name for EHLO.

Promises: every address of a host is tried (RFC 5321 §5.1): the next one starts when one has failed or has not answered
for `STAGGER` seconds, and the first connection is used, as in RFC 8305. No socket and no task is leaked. This host's
name is looked up once, in a daemon thread, so that a name server that does not answer cannot delay exit.
Refuses: invalid host names, with OSError.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import sys
import threading
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Final

from ironpost.model.idna import a_labels
from ironpost.model.text import error_text
from ironpost.protocol.client.name import full_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from typing import Any

STAGGER: Final = 0.25
"""Seconds to wait for a connection before the next address is tried as well."""

_NAMES: Final[dict[str, str | None]] = {}
"""Cache: this host's short name to its full name."""


def plain_host(host: str) -> str:
    """The form of a host name for DNS and TLS: no brackets around an IPv6 address, no trailing dot, A-labels.

    Raises:
        OSError: it is not a valid host name.
    """
    name = host.strip().removesuffix(".")
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
        name = name[5:] if name[:5].lower() == "ipv6:" else name
    try:
        return a_labels(name)
    except ValueError:
        raise OSError("not a valid host name") from None


class SourceUnusable(OSError):
    """A connection cannot be made from the local address that was given."""


async def reach(host: str, port: int, source: str | None = None) -> socket.socket:
    """A socket connected to the first address of `host` that answers.

    Args:
        host: name or IP address.
        port: TCP port.
        source: the local IP address to connect from; None for the system's choice. Addresses of the other family are
            not tried.

    Raises:
        SourceUnusable: `source` cannot be used.
        OSError: none answers; the first error, or the text of all of them if they differ.
    """
    loop = asyncio.get_running_loop()
    waiting = await _addresses(host, port)
    if source is not None:
        own = socket.AF_INET6 if ":" in source else socket.AF_INET
        waiting = [(family, address) for family, address in waiting if family == own]
        if not waiting:
            raise SourceUnusable(f"{host} has no address of the family of {source}")
    running: set[asyncio.Task[socket.socket]] = set()
    failures: list[OSError] = []
    try:
        while waiting or running:
            if waiting:
                family, address = waiting.pop(0)
                running.add(loop.create_task(_connected(family, address, source)))
            done, running = await asyncio.wait(
                running, timeout=STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            winners = []
            for task in done:
                failure = task.exception()
                if failure is None:
                    winners.append(task.result())
                elif isinstance(failure, OSError):
                    failures.append(failure)
                else:
                    raise failure
            for spare in winners[1:]:
                spare.close()
            if winners:
                return winners[0]
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_drop)
    if len({failure.errno for failure in failures}) == 1:
        raise failures[0]
    # The caller parses these numbers to show each error once.
    raise OSError("; ".join(f"[Errno {failure.errno}] {failure.strerror}" for failure in failures))


async def reach_socket(path: Path) -> socket.socket:
    """A socket connected to a Unix socket.

    Raises:
        OSError: it cannot be reached; the text says what to check.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, os.fspath(path))
    except OSError as error:
        connection.close()
        raise OSError(error.errno, f"{error_text(error)}{_ADVICE.get(error.errno or 0, '')}", str(path)) from None
    except BaseException:
        connection.close()
        raise
    return connection


_ADVICE: Final = {
    errno.ENOENT: ": there is no such socket; its server may not be running",
    errno.ECONNREFUSED: ": no server listens on the socket",
    errno.EACCES: ": owner or mode of the socket, or of a directory above it, do not allow it",
}
"""What follows from the errors that are usual for Unix sockets."""


def _drop(task: asyncio.Task[socket.socket]) -> None:
    """Close a connection that is not needed any more."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connected(family: int, address: Any, source: str | None) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        if source is not None:
            _bind(connection, source)
        await asyncio.get_running_loop().sock_connect(connection, address)
    except BaseException:
        connection.close()
        raise
    return connection


def _bind(connection: socket.socket, source: str) -> None:
    if sys.platform == "linux":  # else no two connections may share a port, even to different hosts (ip(7))
        connection.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
    try:
        connection.bind((source, 0))
    except OSError as error:
        raise SourceUnusable(error.errno, f"the source address {source} cannot be used: {error_text(error)}") from None


_BIND_ADDRESS_NO_PORT: Final = 24
"""IP_BIND_ADDRESS_NO_PORT of Linux, which `socket` does not name before Python 3.14."""


async def _addresses(host: str, port: int) -> list[tuple[int, Any]]:
    """Families and socket addresses, alternating between families, starting with the one that the system prefers."""
    try:
        version = ip_address(host).version
    except ValueError:
        pass
    else:
        if "%" not in host:  # getaddrinfo resolves zones
            return [(socket.AF_INET6, (host, port, 0, 0)) if version == 6 else (socket.AF_INET, (host, port))]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:  # of the codec for host names
        raise OSError("not a valid host name") from None
    return interleaved([(family, address) for family, _, _, _, address in found])


def interleaved(found: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """The same addresses with alternating families, so that a broken family does not delay the other."""
    first = found[0][0]
    own: Iterable[tuple[int, Any] | None] = (each for each in found if each[0] == first)
    other = (each for each in found if each[0] != first)
    return [each for each in chain.from_iterable(zip_longest(own, other)) if each is not None]


async def own_name(limit: float) -> str | None:
    """This host's full name for EHLO; None if none is found in `limit` seconds: then use an address literal."""
    short = socket.gethostname()
    if short not in _NAMES:
        name: str | None = short
        if "." not in short:
            try:
                async with asyncio.timeout(limit):
                    name = await _looked_up(short)
            except TimeoutError:
                name = None
        _NAMES[short] = None if name is None else full_name(name)
    return _NAMES[short]


async def _looked_up(short: str) -> str:
    """`socket.getfqdn` in a daemon thread: a name server that does not answer must not delay exit."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def resolve(name: str) -> None:
        if not answer.done():
            answer.set_result(name)

    def look_up() -> None:
        name = socket.getfqdn(short)
        try:
            loop.call_soon_threadsafe(resolve, name)
        except RuntimeError:  # the loop is closed
            return

    threading.Thread(target=look_up, name="ironpost-own-name", daemon=True).start()
    return await answer


def connect_text(error: OSError) -> str:
    """Return why a connection failed, in one line: `Connection refused`.

    asyncio's text has addresses instead of the reason, once for each address of a host.
    """
    text = str(error)
    if "Connect call failed" not in text:
        return error_text(error)
    numbers = [error.errno] if error.errno else map(int, re.findall(r"\[Errno ([0-9]+)\]", text))
    return " or ".join(dict.fromkeys(map(os.strerror, numbers))) or error_text(error)
