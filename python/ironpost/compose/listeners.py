"""The part of the composition that receives: a server for each address of each `[[listener]]`, by its role.

Promises: what a listener's keys say is what its server does; a reload gives new sessions the new keys, new handshakes
the new certificates, and leaves open sessions alone. Where TLS is wanted and no certificate is configured, a
self-signed one is made, kept in the data directory, and made anew when it has expired.
Refuses: certificates that cannot be used, with `server.tls.TlsError`; sockets that nobody handed over.
"""

from __future__ import annotations

import errno
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ironpost.config.quantities import Endpoint, Inherited, SocketPath
from ironpost.protocol.dialect import LMTP, SMTP, SUBMISSION
from ironpost.protocol.settings import Settings
from ironpost.server import Limits, Server, Timeouts
from ironpost.server.binding import inherited
from ironpost.server.self_signed import write_self_signed
from ironpost.server.tls import TlsContext, TlsError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from ironpost.config import Configuration, Listener
    from ironpost.config.quantities import Where
    from ironpost.model.ports import Metrics
    from ironpost.protocol.handler import Handler
    from ironpost.protocol.sasl import Authenticator
    from ironpost.protocol.sasl.backoff import LoginLimit
    from ironpost.server.limits import LimitBook

DIALECTS: Final = {"mx": SMTP, "submission": SUBMISSION, "lmtp": LMTP}
"""By role."""

log = logging.getLogger("ironpost.compose")


class Common(NamedTuple):
    """What the sessions of all listeners share beside the configuration."""

    name: str
    """What the server calls itself."""
    authenticator: Authenticator | None
    """Who knows the users."""
    login_limit: LoginLimit
    """Who has to wait before the next login."""
    now: Callable[[], float]
    """Seconds since 1970."""


class Manner(NamedTuple):
    """How a listener treats its clients; what a reload may change."""

    settings: Settings
    timeouts: Timeouts
    limits: Limits
    pause: float

    @classmethod
    def of(cls, configuration: Configuration, listener: Listener, common: Common) -> Self:
        """As configured."""
        return cls(
            session_settings(configuration, listener, common),
            timeouts_of(configuration, listener),
            connection_limits(configuration, listener),
            listener.pause,
        )


class ListenError(Exception):
    """An address cannot be listened on; the cause is the OSError."""

    def __init__(self, place: Where) -> None:
        super().__init__(f"cannot listen on {place}")
        self.place = place


@dataclass(frozen=True, slots=True)
class Place:
    """One address of one listener, and its server: a part of the running system."""

    listener: int
    """Which `[[listener]]`, from 0."""
    role: str
    tls: str
    where: Where
    server: Server
    missing: bool = False
    """It is for inherited sockets, and there are none."""

    async def start(self) -> None:
        """Listens.

        Raises:
            ListenError: the address cannot be had.
        """
        try:
            if self.missing:
                raise OSError(errno.ENOENT, "no socket of that name was handed over (LISTEN_FDS)")
            await self.server.start()
        except OSError as error:
            raise ListenError(self.where) from error

    async def stop(self) -> None:
        """Ends every session, then returns."""
        await self.server.stop()

    def take_over(self, handler: Handler, manner: Manner, tls: TlsContext | None) -> None:
        """New sessions get these, new handshakes the certificates."""
        server = self.server
        server.handler = handler
        server.settings = manner.settings
        server.timeouts = manner.timeouts
        server.limits = manner.limits
        server.pause = manner.pause
        if server.tls is not None:
            server.tls = tls

    @property
    def bound(self) -> list[Endpoint | SocketPath]:
        """Where it listens, with the ports that were given for port 0."""
        return [Endpoint(name, port) if port else SocketPath(Path(name)) for name, port in self.server.addresses]


def place_of(name: Any) -> Endpoint | SocketPath:
    """What `socket.getsockname` says, as the configuration writes it."""
    return Endpoint(name[0], name[1]) if isinstance(name, tuple) else SocketPath(Path(name))


def places(
    configuration: Configuration,
    common: Common,
    handlers: Mapping[str, Handler],
    tls: TlsContext | None,
    metrics: Metrics,
    handed_over: Mapping[str, list[socket.socket]],
    ports: Sequence[int] | None,
    books: Callable[[int], LimitBook],
) -> list[Place]:
    """A server for each address, not started.

    Args:
        configuration: whose listeners.
        common: what they share.
        handlers: of their sessions, by role.
        tls: what `certificates` gave.
        metrics: what is counted.
        handed_over: sockets to listen on that are there already, by what the configuration calls the address.
        ports: for one of several processes: the port of each address, on which the others listen, too.
        books: where the connections of a listener are counted, however many addresses it has.
    """
    found: list[Place] = []
    for number, listener in enumerate(configuration.listener):
        manner = Manner.of(configuration, listener, common)
        book = books(number)
        for where in listener.listen:
            sockets = handed_over.get(str(where), [])
            port = where.port if isinstance(where, Endpoint) else 0
            if ports is not None:
                port = ports[len(found)]
            server = Server(
                handlers[listener.role],
                where.host if isinstance(where, Endpoint) else None,
                port,
                reuse_port=ports is not None,
                path=where.path if isinstance(where, SocketPath) and not sockets else None,
                path_mode=listener.mode,
                sockets=sockets,
                settings=manner.settings,
                timeouts=manner.timeouts,
                limits=manner.limits,
                pause=manner.pause,
                book=book,
                tls=None if listener.tls == "none" else tls,
                implicit_tls=listener.tls == "implicit",
                proxy=listener.proxy,
                metrics=metrics,
                name=listener.role,
            )
            missing = isinstance(where, Inherited) and not sockets
            found.append(Place(number, listener.role, listener.tls, where, server, missing))
    return found


def handed_over(configuration: Configuration) -> dict[str, list[socket.socket]]:
    """The sockets of a service manager, by `fd:name`; those that no listener names are closed, with a warning."""
    found = {f"fd:{name}": sockets for name, sockets in inherited().items()}
    listed = {str(where) for listener in configuration.listener for where in listener.listen}
    for name in [name for name in found if name not in listed]:
        log.warning("no listener has %s: the sockets of that name (LISTEN_FDS) are closed", name)
        for sock in found.pop(name):
            sock.close()
    return found


def certificates(configuration: Configuration, name: str) -> TlsContext | None:
    """What TLS listeners show, read from disk; None if there is no such listener.

    Args:
        configuration: `[tls]`, and the data directory for a self-signed certificate.
        name: what the server calls itself.

    Raises:
        TlsError: a certificate or key cannot be used; the text names the file and what to do.
    """
    if all(listener.tls == "none" for listener in configuration.listener):
        return None
    found = configured_certificates(configuration)
    if found is not None:
        return found
    folder = configuration.data / "tls"
    own = _loaded(configuration, [_self_signed(folder, name)])
    if own.expires > time.time():
        return own
    return _loaded(configuration, [_self_signed(folder, name, anew=True)])


def configured_certificates(configuration: Configuration) -> TlsContext | None:
    """Those of `[tls]`; None if there are none.

    Raises:
        TlsError: see `certificates`.
    """
    pairs = [(one.chain, one.key) for one in configuration.tls.certificates]
    return _loaded(configuration, pairs) if pairs else None


def _loaded(configuration: Configuration, pairs: list[tuple[Path, Path]]) -> TlsContext:
    tls = configuration.tls
    return TlsContext.load(pairs, minimum="TLSv1.3" if tls.minimum == "1.3" else "TLSv1.2", client_ca=tls.client_ca)


def _self_signed(folder: Path, name: str, *, anew: bool = False) -> tuple[Path, Path]:
    chain, key = folder / "self-signed.pem", folder / "self-signed.key"
    if anew or not (chain.exists() and key.exists()):
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            write_self_signed(chain, key, list(dict.fromkeys((name, "localhost", "127.0.0.1", "::1"))))
        except OSError as error:
            raise TlsError(chain, f"cannot be written: {error.strerror}") from error
    return chain, key


def session_settings(configuration: Configuration, listener: Listener, common: Common) -> Settings:
    """What the sessions of a listener have in common.

    Args:
        configuration: for what all listeners share.
        listener: for its own keys.
        common: what listeners share beside that.
    """
    smtp, limits = configuration.smtp, configuration.limits_of(listener)
    return Settings(
        hostname=common.name,
        max_size=smtp.max_message,
        max_recipients=smtp.max_recipients,
        max_errors=limits.errors,
        max_commands=limits.commands,
        max_body_line=listener.max_line,
        long_lines=listener.long_lines,
        newlines=listener.newlines,
        lenient=listener.lenient,
        eight_bit=listener.eight_bit,
        hello=listener.hello,
        dialect=DIALECTS[listener.role]._replace(authenticate=listener.auth == "required"),
        authenticator=None if listener.auth == "none" else common.authenticator,
        auth_in_clear=listener.auth_in_clear,
        login_limit=common.login_limit,
        now=common.now,
        xclient=listener.xclient,
    )


def timeouts_of(configuration: Configuration, listener: Listener) -> Timeouts:
    """How long the sessions of a listener may take for what."""
    limits = configuration.limits_of(listener)
    return Timeouts(
        handshake=limits.handshake_timeout,
        hello=limits.hello_timeout,
        command=limits.command_timeout,
        data=limits.data_timeout,
        data_rate=limits.data_rate,
        hook=limits.hook_timeout,
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
        ipv4_prefix=limits.ipv4_prefix,
        ipv6_prefix=limits.ipv6_prefix,
        exempt=configuration.smtp.trusted,
    )
