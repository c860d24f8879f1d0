"""TCP to a host by name, and our own name for it.

Promises: every address of a host gets a chance (RFC 5321 §5.1): the next is tried when one has failed or stayed silent
for `STAGGER` seconds, and the first to answer wins, as in RFC 8305. No socket and no task is leaked. Our own name is
looked up once for each name of this host, in a daemon thread, so that a silent name server cannot delay exit.
Refuses: host names that DNS cannot hold, with OSError.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Final

from ironpost.model.idna import a_labels
from ironpost.protocol.client_name import full_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

STAGGER: Final = 0.25
"""Seconds for which an address may be silent before the next is tried as well."""

_NAMES: Final[dict[str, str | None]] = {}
"""What was found: this host's short name to its full one."""


def plain_host(host: str) -> str:
    """A host as the system and TLS know it: no brackets around an IPv6 address, no dot at the end, A-labels.

    Raises:
        OSError: DNS cannot hold it.
    """
    name = host.strip().removesuffix(".")
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
        name = name[5:] if name[:5].lower() == "ipv6:" else name
    try:
        return a_labels(name)
    except ValueError:
        raise OSError("this is no host name") from None


async def reach(host: str, port: int) -> socket.socket:
    """A connected socket to the first address of `host` that answers.

    Raises:
        OSError: none does; the first failure, or all of them in one sentence.
    """
    loop = asyncio.get_running_loop()
    waiting = await _addresses(host, port)
    running: set[asyncio.Task[socket.socket]] = set()
    failures: list[OSError] = []
    try:
        while waiting or running:
            if waiting:
                family, address = waiting.pop(0)
                running.add(loop.create_task(_connected(family, address)))
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
    # In words that name each: the caller shows one of them for each address.
    raise OSError("; ".join(f"[Errno {failure.errno}] {failure.strerror}" for failure in failures))


def _drop(task: asyncio.Task[socket.socket]) -> None:
    """One that came too late."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connected(family: int, address: Any) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, address)
    except BaseException:
        connection.close()
        raise
    return connection


async def _addresses(host: str, port: int) -> list[tuple[int, Any]]:
    """Families and socket addresses, IPv6 and IPv4 in turns, the one that the system prefers first."""
    try:
        version = ip_address(host).version
    except ValueError:
        pass
    else:
        if "%" not in host:  # a zone is the resolver's business
            return [(socket.AF_INET6, (host, port, 0, 0)) if version == 6 else (socket.AF_INET, (host, port))]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:  # of the codec for host names
        raise OSError("this is no host name") from None
    return interleaved([(family, address) for family, _, _, _, address in found])


def interleaved(found: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """The same addresses with the families alternating, so that a broken family cannot hold up the other."""
    first = found[0][0]
    own: Iterable[tuple[int, Any] | None] = (each for each in found if each[0] == first)
    other = (each for each in found if each[0] != first)
    return [each for each in chain.from_iterable(zip_longest(own, other)) if each is not None]


async def own_name(limit: float) -> str | None:
    """This host's full name for EHLO, None if it has none within `limit` seconds: then an address literal serves."""
    short = socket.gethostname()
    if short not in _NAMES:
        name: str | None = short
        if "." not in short:
            try:
                async with asyncio.timeout(limit):
                    name = await _asked(short)
            except TimeoutError:
                name = None
        _NAMES[short] = None if name is None else full_name(name)
    return _NAMES[short]


async def _asked(short: str) -> str:
    """`socket.getfqdn` in a thread of its own: a name server that is silent must not hold the end of the program."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def tell(name: str) -> None:
        if not answer.done():
            answer.set_result(name)

    def ask() -> None:
        name = socket.getfqdn(short)
        try:
            loop.call_soon_threadsafe(tell, name)
        except RuntimeError:  # the loop is closed
            return

    threading.Thread(target=ask, name="ironpost-own-name", daemon=True).start()
    return await answer
