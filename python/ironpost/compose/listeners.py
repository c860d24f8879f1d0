"""Composes listeners: a server for each address of each `[[listener]]`, of mail or of HTTP.

Promises: a reload applies new settings to new sessions and new certificates to new handshakes; open sessions are
unaffected. If TLS is enabled and no certificate is configured, a self-signed one is created in the data directory, and
replaced when it has expired.
Refuses: certificates that cannot be used, with `server.tls.TlsError`; inherited sockets that were not passed.
"""

from __future__ import annotations

import errno
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ironpost.compose.resources import permitted_connections
from ironpost.config.declared import options_of
from ironpost.config.quantities import Endpoint, Inherited, SocketPath
from ironpost.model.text import error_text
from ironpost.mta.http_resources import HttpResources, ReportReceipt
from ironpost.protocol.dialect import LMTP, SMTP, SUBMISSION
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import ConnectionLimits, Server, Timeouts
from ironpost.server.binding import inherited
from ironpost.server.self_signed import write_self_signed
from ironpost.server.tls import TlsContext, TlsError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from ironpost.config import Configuration, ListenerSection
    from ironpost.config.quantities import Where
    from ironpost.http.exchange import HttpHandler
    from ironpost.http.server import HttpServer
    from ironpost.model.ports import Metrics
    from ironpost.mta.http_resources import ReceiptLimits
    from ironpost.protocol.sasl import Authenticator
    from ironpost.protocol.sasl.backoff import LoginLimit
    from ironpost.protocol.server.handler import Handler
    from ironpost.server.acceptor import AcceptorOptions
    from ironpost.server.limits import Capacity, ConnectionLimiter

DIALECTS: Final = {"mx": SMTP, "submission": SUBMISSION, "lmtp": LMTP}
"""By role."""

log = logging.getLogger("ironpost.compose")


class SessionDefaults(NamedTuple):
    """Settings that the sessions of all listeners share, beside the configuration."""

    name: str
    """The host name of the server."""
    authenticator: Authenticator | None
    """Checks logins; None if no listener offers AUTH."""
    login_limit: LoginLimit
    """Delays logins after failures."""
    now: Callable[[], float]
    """Seconds since 1970."""


class ListenerProfile(NamedTuple):
    """The settings of a listener that a reload can change."""

    settings: ServerSettings | None
    """Of its sessions; None if it takes no mail."""
    timeouts: Timeouts
    limits: ConnectionLimits
    greeting_delay: float

    @classmethod
    def of(cls, configuration: Configuration, listener: ListenerSection, defaults: SessionDefaults, room: int) -> Self:
        """The profile that the configuration gives a listener.

        Args:
            configuration: has the settings that all listeners share.
            listener: has its own settings.
            defaults: other settings that all listeners share.
            room: the number of connections that the system permits (`compose.resources.room_for_connections`).
        """
        limits = configuration.limits_of(listener)
        connections = ConnectionLimits(exempt=configuration.smtp.trusted, **options_of(ConnectionLimits, limits))
        return cls(
            session_settings(configuration, listener, defaults) if listener.takes_mail else None,
            Timeouts(**options_of(Timeouts, limits)),
            replace(connections, connections=permitted_connections(configuration, listener, room)),
            listener.pause,
        )


class ListenError(Exception):
    """An address cannot be listened on; the cause is the OSError."""

    def __init__(self, place: Where) -> None:
        super().__init__(f"cannot listen on {place}")
        self.place = place


@dataclass(frozen=True, slots=True)
class BoundListener:
    """Component: one address of one listener, and its server."""

    listener: int
    """Index of the `[[listener]]` in the configuration, from 0."""
    role: str
    tls: str
    where: Where
    server: Server | HttpServer
    missing: bool = False
    """An inherited socket is configured but was not passed to this process."""

    async def start(self) -> None:
        """Bind the address and listen.

        Raises:
            ListenError: the address cannot be bound.
        """
        try:
            if self.missing:
                raise OSError(errno.ENOENT, "no socket of that name was passed (LISTEN_FDS)")
            await self.server.start()
        except OSError as error:
            raise ListenError(self.where) from error

    async def stop(self) -> None:
        """End every session, then return."""
        await self.server.stop()

    def apply(self, handler: Handler | HttpHandler, profile: ListenerProfile, tls: TlsContext | None) -> None:
        """Apply new settings to new sessions, and certificates to new handshakes."""
        server: Any = self.server  # its handler fits, because the role of a listener is fixed
        server.handler = handler
        server.timeouts = profile.timeouts
        server.limits = profile.limits
        if profile.settings is not None:
            server.settings = profile.settings
            server.greeting_delay = profile.greeting_delay
        if server.tls is not None:
            server.tls = tls

    @property
    def bound(self) -> list[Endpoint | SocketPath]:
        """The bound addresses, with actual ports for port 0."""
        return [Endpoint(name, port) if port else SocketPath(Path(name)) for name, port in self.server.addresses]


def place_of(name: Any) -> Endpoint | SocketPath:
    """Convert the result of `socket.getsockname` to an address as in the configuration."""
    return Endpoint(name[0], name[1]) if isinstance(name, tuple) else SocketPath(Path(name))


def create_listeners(
    configuration: Configuration,
    defaults: SessionDefaults,
    handlers: Sequence[Handler | HttpHandler],
    tls: TlsContext | None,
    metrics: Metrics,
    handed_over: Mapping[str, list[socket.socket]],
    ports: Sequence[int] | None,
    limiters: Callable[[int], ConnectionLimiter],
    capacity: Capacity,
    room: int,
) -> list[BoundListener]:
    """Create a server for each address; none is started.

    Args:
        configuration: defines the listeners.
        defaults: settings that all listeners share.
        handlers: the handler of each listener.
        tls: the result of `certificates`.
        metrics: the counters.
        handed_over: inherited sockets, by their name in the configuration.
        ports: for a worker: the port of each address, shared with other workers.
        limiters: returns the connection limiter of a listener, which all its addresses share.
        capacity: the resources for connections of this process.
        room: as in `ListenerProfile.of`.
    """
    found: list[BoundListener] = []
    for number, listener in enumerate(configuration.listener):
        profile = ListenerProfile.of(configuration, listener, defaults, room)
        limiter = limiters(number)
        for where in listener.listen:
            sockets = handed_over.get(str(where), [])
            host, port = (where.host, where.port) if isinstance(where, Endpoint) else (None, 0)
            if ports is not None:
                port = ports[len(found)]
            options: AcceptorOptions = {
                "reuse_port": ports is not None,
                "path": where.path if isinstance(where, SocketPath) and not sockets else None,
                "path_mode": listener.mode,
                "sockets": sockets,
                "timeouts": profile.timeouts,
                "limits": profile.limits,
                "limiter": limiter,
                "capacity": capacity,
                "tls": None if listener.tls == "none" else tls,
                "implicit_tls": listener.tls == "implicit",
                "proxy": listener.proxy,
                "metrics": metrics,
                "name": listener.role,
            }
            server = _server(handlers[number], host, port, profile, options)
            missing = isinstance(where, Inherited) and not sockets
            found.append(BoundListener(number, listener.role, listener.tls, where, server, missing))
    return found


def _server(
    handler: Any, host: str | None, port: int, profile: ListenerProfile, options: AcceptorOptions
) -> Server | HttpServer:
    """Create the server of one address, from its handler, address, profile and the options of every `Acceptor`."""
    if profile.settings is None:
        from ironpost.http.server import HttpServer  # aiohttp is slow to import

        return HttpServer(handler, host, port, **options)
    return Server(handler, host, port, settings=profile.settings, greeting_delay=profile.greeting_delay, **options)


def http_handler(
    configuration: Configuration, listener: ListenerSection, limits: ReceiptLimits, metrics: Metrics
) -> HttpHandler:
    """Create the handler of a listener with the role `http`; `limits` holds for the reports that it receives."""
    to = listener.tls_reports_to
    reserve = configuration.queue.reserve
    reports = None if to is None else ReportReceipt(to, configuration.drop, reserve, limits, metrics)
    return HttpResources(configuration.sts_policies, reports)


def handed_over(configuration: Configuration) -> dict[str, list[socket.socket]]:
    """Take the sockets of a service manager, by `fd:name`; those that no listener names are closed, with a warning."""
    found = {f"fd:{name}": sockets for name, sockets in inherited().items()}
    listed = {str(where) for listener in configuration.listener for where in listener.listen}
    for name in [name for name in found if name not in listed]:
        log.warning("no listener has %s: the sockets of that name (LISTEN_FDS) are closed", name)
        for sock in found.pop(name):
            sock.close()
    return found


def certificates(configuration: Configuration, name: str) -> TlsContext | None:
    """Load the certificates of TLS listeners; None if no listener uses TLS.

    Args:
        configuration: `[tls]`, and the data directory for a self-signed certificate.
        name: the host name of the server.

    Raises:
        TlsError: a certificate or key cannot be used; the text names the file and a remedy.
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
    return _loaded(configuration, [_self_signed(folder, name, replace=True)])


def configured_certificates(configuration: Configuration) -> TlsContext | None:
    """Load the certificates of `[tls]`; None if none is configured.

    Raises:
        TlsError: see `certificates`.
    """
    pairs = [(one.chain, one.key) for one in configuration.tls.certificates]
    return _loaded(configuration, pairs) if pairs else None


def _loaded(configuration: Configuration, pairs: list[tuple[Path, Path]]) -> TlsContext:
    tls = configuration.tls
    return TlsContext.load(pairs, minimum="TLSv1.3" if tls.minimum == "1.3" else "TLSv1.2", client_ca=tls.client_ca)


def _self_signed(folder: Path, name: str, *, replace: bool = False) -> tuple[Path, Path]:
    chain, key = folder / "self-signed.pem", folder / "self-signed.key"
    if replace or not (chain.exists() and key.exists()):
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            write_self_signed(chain, key, list(dict.fromkeys((name, "localhost", "127.0.0.1", "::1"))))
        except OSError as error:
            raise TlsError(chain, f"cannot be written: {error_text(error)}") from error
    return chain, key


def session_settings(
    configuration: Configuration, listener: ListenerSection, defaults: SessionDefaults
) -> ServerSettings:
    """Return the settings of a listener's sessions.

    Args:
        configuration: has the settings that all listeners share.
        listener: has its own settings.
        defaults: other settings that all listeners share.
    """
    smtp, limits = configuration.smtp, configuration.limits_of(listener)
    return ServerSettings(
        hostname=defaults.name,
        max_size=smtp.max_message,
        max_recipients=smtp.max_recipients,
        max_body_line=listener.max_line,
        long_lines=listener.long_lines,
        newlines=listener.newlines,
        lenient=listener.lenient,
        eight_bit=listener.eight_bit,
        hello=listener.hello,
        addresses=listener.addresses,
        dialect=DIALECTS[listener.role]._replace(authenticate=listener.auth == "required"),
        authenticator=None if listener.auth == "none" else defaults.authenticator,
        auth_without_tls=listener.auth_without_tls,
        login_limit=defaults.login_limit,
        now=defaults.now,
        front_ends=listener.xclient,
        **options_of(ServerSettings, limits),
    )
