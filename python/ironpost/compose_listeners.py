"""The part of the composition that receives: a server for each address of each `[[listener]]`, by its role.

Promises: what a listener's keys say is what its server does; a reload gives new sessions the new keys and leaves open
sessions alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ironpost.config.quantities import Endpoint
from ironpost.protocol.dialect import LMTP, SMTP, SUBMISSION
from ironpost.protocol.settings import Settings
from ironpost.server import Limits, Server, Timeouts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ironpost.config import Configuration, Listener
    from ironpost.config.quantities import SocketPath
    from ironpost.protocol.handler import Handler
    from ironpost.server.limits import LimitBook

DIALECTS: Final = {"mx": SMTP, "submission": SUBMISSION, "lmtp": LMTP}
"""By role."""


class ListenError(Exception):
    """An address cannot be listened on; the cause is the OSError."""

    def __init__(self, place: Endpoint | SocketPath) -> None:
        super().__init__(f"cannot listen on {place}")
        self.place = place


@dataclass(frozen=True, slots=True)
class Place:
    """One address of one listener, and its server: a part of the running system."""

    listener: int
    """Which `[[listener]]`, from 0."""
    role: str
    tls: str
    where: Endpoint | SocketPath
    server: Server

    async def start(self) -> None:
        """Listens.

        Raises:
            ListenError: the address cannot be had.
        """
        try:
            await self.server.start()
        except OSError as error:
            raise ListenError(self.where) from error

    async def stop(self) -> None:
        """Ends every session, then returns."""
        await self.server.stop()

    @property
    def bound(self) -> list[Endpoint | SocketPath]:
        """Where it listens, with the ports that were given for port 0."""
        return [Endpoint(*address) for address in self.server.addresses]


def places(
    configuration: Configuration,
    name: str,
    handlers: Mapping[str, Handler],
    ports: Sequence[int] | None,
    books: Callable[[int], LimitBook],
) -> list[Place]:
    """A server for each address, not started.

    Args:
        configuration: whose listeners.
        name: what the server calls itself.
        handlers: of their sessions, by role.
        ports: for one of several processes: the port of each address, on which the others listen, too.
        books: where the connections of a listener are counted, however many addresses it has.
    """
    found: list[Place] = []
    for number, listener in enumerate(configuration.listener):
        settings, timeouts = session_settings(configuration, listener, name), timeouts_of(configuration, listener)
        book = books(number)
        for where in listener.listen:
            assert isinstance(where, Endpoint)
            server = Server(
                handlers[listener.role],
                where.host,
                where.port if ports is None else ports[len(found)],
                settings=settings,
                timeouts=timeouts,
                limits=connection_limits(configuration, listener),
                book=book,
                pause=listener.pause,
                proxy=listener.proxy,
                reuse_port=ports is not None,
            )
            found.append(Place(number, listener.role, listener.tls, where, server))
    return found


def session_settings(configuration: Configuration, listener: Listener, name: str) -> Settings:
    """What the sessions of a listener have in common.

    Args:
        configuration: for what all listeners share.
        listener: for its own keys.
        name: what the server calls itself.
    """
    smtp, limits = configuration.smtp, configuration.limits_of(listener)
    return Settings(
        hostname=name,
        max_size=smtp.max_message,
        max_recipients=smtp.max_recipients,
        max_errors=limits.errors,
        max_commands=limits.commands,
        max_body_line=listener.max_line,
        long_lines=listener.long_lines,
        newlines=listener.newlines,
        eight_bit=listener.eight_bit,
        dialect=DIALECTS[listener.role]._replace(authenticate=listener.auth == "required"),
        auth_in_clear=listener.auth_in_clear,
        xclient=listener.xclient,
    )


def timeouts_of(configuration: Configuration, listener: Listener) -> Timeouts:
    """How long the sessions of a listener may take for what."""
    limits = configuration.limits_of(listener)
    return Timeouts(
        handshake=limits.handshake_timeout,
        command=limits.command_timeout,
        data=limits.data_timeout,
        data_rate=limits.data_rate,
        write=limits.write_timeout,
        session=limits.session_time,
    )


def connection_limits(configuration: Configuration, listener: Listener) -> Limits:
    """How many connections a listener takes, from whom."""
    limits = configuration.limits_of(listener)
    return Limits(
        connections=limits.connections,
        connections_per_prefix=limits.connections_per_prefix,
        connection_rate=limits.connection_rate,
        exempt=configuration.smtp.trusted,
    )
