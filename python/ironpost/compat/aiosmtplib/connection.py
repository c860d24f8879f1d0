"""The settings of a client and its connection.

Promises: TLS verifies the server's certificate and name unless `validate_certs` is false. A connection on which a reply
is overdue is closed, because the reply would be taken for that to a later command.
Refuses: settings that exclude each other, and host names that would add to the EHLO line, with ValueError; AUTH without
TLS, except at this machine or with `login_without_tls`, with SMTPNotSupported (SECURITY R13).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final, TypedDict

from ironpost.compat.login import REFUSAL, is_this_machine

from .errors import (
    SMTPConnectError,
    SMTPConnectResponseError,
    SMTPConnectTimeoutError,
    SMTPNotSupported,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)
from .protocol import SMTPProtocol
from .typing import Default, SMTPStatus, SMTPTokenGenerator, SocketPathType

if TYPE_CHECKING:
    from .response import SMTPResponse

SMTP_PORT = 25
SMTP_TLS_PORT = 465
SMTP_STARTTLS_PORT = 587
DEFAULT_TIMEOUT = 60


class Settings(TypedDict, total=False):
    """The keyword arguments of a client besides the time limit: those of aiosmtplib, and `login_without_tls`."""

    hostname: str | None
    port: int | None
    username: str | bytes | None
    password: str | bytes | None
    oauth_token_generator: SMTPTokenGenerator | None
    local_hostname: str | None
    source_address: tuple[str, int] | None
    use_tls: bool | None
    start_tls: bool | None
    validate_certs: bool | None
    client_cert: str | None
    client_key: str | None
    tls_context: ssl.SSLContext | None
    cert_bundle: str | None
    socket_path: SocketPathType | None
    sock: socket.socket | None
    login_without_tls: bool


ATTRIBUTES: Final = {
    **{name: name for name in Settings.__annotations__},
    "username": "_login_username",
    "password": "_login_password",
    "oauth_token_generator": "_oauth_token_generator",
    "start_tls": "_start_tls_on_connect",
}
"""The attribute of a client in which each setting is kept."""


def validated_hostname(hostname: str) -> str:
    """Return the name for EHLO without white space around it.

    Raises:
        ValueError: it is empty, or contains white space or control characters.
    """
    hostname = hostname.strip()
    if not hostname:
        raise ValueError("The local_hostname param must not be empty")
    if any(char.isspace() or ord(char) < 32 or ord(char) == 127 for char in hostname):
        raise ValueError("The local_hostname param contains prohibited whitespace or control characters")
    return hostname


class Connection:
    """What a client has to do with its connection."""

    login_without_tls: bool = False
    """Allow a login at another machine without TLS; an eavesdropper can then read what the mechanism sends."""

    def __init__(self, timeout: float | None, settings: Settings) -> None:
        self.timeout = timeout
        self.hostname: str | None = None
        self.port: int | None = None
        self._login_username: str | bytes | None = None
        self._login_password: str | bytes | None = None
        self._oauth_token_generator: SMTPTokenGenerator | None = None
        self.local_hostname: str | None = None
        self.source_address: tuple[str, int] | None = None
        self.use_tls = False
        self._start_tls_on_connect: bool | None = None
        self.validate_certs = True
        self.client_cert: str | None = None
        self.client_key: str | None = None
        self.tls_context: ssl.SSLContext | None = None
        self.cert_bundle: str | None = None
        self.socket_path: SocketPathType | None = None
        self.sock: socket.socket | None = None
        self.protocol: SMTPProtocol | None = None
        self.transport: asyncio.BaseTransport | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._connect_lock: asyncio.Lock | None = None
        self._update(settings)

    def _update(self, settings: Settings) -> None:
        """Change settings; `use_tls` and `validate_certs` are kept if they are None."""
        if unknown := settings.keys() - ATTRIBUTES.keys():
            raise TypeError(f"unexpected keyword arguments: {', '.join(sorted(unknown))}")
        for name, value in settings.items():
            if value is not Default.token and not (value is None and name in {"use_tls", "validate_certs"}):
                setattr(self, ATTRIBUTES[name], value)
        self._validate()

    def _validate(self) -> None:
        given_socket = self.sock is not None or bool(self.socket_path)
        faults = {
            "password and oauth_token_generator are mutually exclusive": self._login_password is not None
            and self._oauth_token_generator is not None,
            "The start_tls and use_tls options are not compatible.": self._start_tls_on_connect and self.use_tls,
            "Either a TLS context or a certificate/key must be provided": self.tls_context is not None
            and self.client_cert is not None,
            "Either a socket or a socket path must be provided, not both": self.sock is not None
            and self.socket_path is not None,
            "If using a socket, port is not required": given_socket and self.port is not None,
            "If using a socket with TLS, hostname is required": given_socket and self.use_tls and self.hostname is None,
            "The hostname param contains prohibited newline characters": {"\r", "\n"} & {*(self.hostname or "")},
        }
        for text, found in faults.items():
            if found:
                raise ValueError(text)
        if self.local_hostname is not None:
            self.local_hostname = validated_hostname(self.local_hostname)

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open."""
        return self.protocol is not None and self.protocol.is_connected

    def get_transport_info(self, key: str) -> Any:
        """Return what asyncio's `get_extra_info` says about the connection.

        Raises:
            SMTPServerDisconnected: there is no connection.
        """
        if self.transport is None or not self.is_connected:
            raise SMTPServerDisconnected("Server not connected")
        return self.transport.get_extra_info(key)

    def _get_default_port(self) -> int:
        if self.use_tls:
            return SMTP_TLS_PORT
        return SMTP_STARTTLS_PORT if self._start_tls_on_connect else SMTP_PORT

    async def _get_default_local_hostname(self) -> str:
        return await asyncio.to_thread(socket.getfqdn)

    async def _get_tls_context(self) -> ssl.SSLContext:
        if self.tls_context is not None:
            return self.tls_context
        return await asyncio.to_thread(self._build_tls_context)

    def _build_tls_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if not self.validate_certs:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert_bundle is not None:
            context.load_verify_locations(self.cert_bundle)
        if self.client_cert is not None:
            context.load_cert_chain(self.client_cert, self.client_key)
        return context

    async def _create_connection(self, timeout: float | None) -> SMTPResponse:  # noqa: ASYNC109 - aiosmtplib's
        """Connect and return the greeting."""
        if self.loop is None:
            raise RuntimeError("No event loop set")
        protocol = SMTPProtocol(self.loop, self._on_connection_lost)
        secured: dict[str, Any] = {}
        if self.use_tls:
            secured = {"ssl": await self._get_tls_context(), "ssl_handshake_timeout": timeout}
            if self.sock is not None or self.socket_path is not None:
                secured["server_hostname"] = self.hostname
        hostname = self.hostname or "localhost"
        port = self._get_default_port() if self.port is None else self.port
        try:
            async with asyncio.timeout(timeout):
                if self.socket_path is not None:
                    path: Any = self.socket_path
                    transport, _ = await self.loop.create_unix_connection(lambda: protocol, path, **secured)
                elif self.sock is not None:
                    transport, _ = await self.loop.create_connection(lambda: protocol, sock=self.sock, **secured)
                else:
                    transport, _ = await self.loop.create_connection(
                        lambda: protocol, hostname, port, local_addr=self.source_address, **secured
                    )
        except TimeoutError as error:
            raise SMTPConnectTimeoutError(f"Timed out connecting to {hostname} on port {port}") from error
        except OSError as error:
            raise SMTPConnectError(f"Error connecting to {hostname} on port {port}: {error}") from error
        self.protocol = protocol
        self.transport = transport
        try:
            response = await protocol.read_response(timeout)
        except SMTPServerDisconnected as error:
            raise SMTPConnectError(f"Error connecting to {hostname} on port {port}: {error}") from error
        except SMTPTimeoutError as error:
            raise SMTPConnectTimeoutError("Timed out waiting for server ready message") from error
        if response.code != SMTPStatus.ready:
            raise SMTPConnectResponseError(*response)
        return response

    async def execute_command(
        self,
        *args: bytes,
        timeout: float | Default | None = Default.token,  # noqa: ASYNC109
    ) -> SMTPResponse:
        """Send a command of these words and return the reply; after 421, close the connection.

        Raises:
            ValueError: the command contains a control character.
            SMTPNotSupported: it is AUTH, which would be sent unencrypted to another machine.
            SMTPServerDisconnected, SMTPReadTimeoutError, SMTPResponseException: no reply arrived that can be read.
        """
        if self.protocol is None:
            raise SMTPServerDisconnected("Server not connected")
        if args and args[0][:4].upper() == b"AUTH" and not self._may_log_in():
            raise SMTPNotSupported(REFUSAL)
        try:
            response = await self.protocol.execute_command(*args, timeout=self._seconds(timeout))
        except (SMTPServerDisconnected, SMTPTimeoutError):
            self.close()
            raise
        if response.code == SMTPStatus.domain_unavailable:
            self.close()
        return response

    def _may_log_in(self) -> bool:
        if self.login_without_tls or self.get_transport_info("sslcontext") is not None:
            return True
        return is_this_machine(self.hostname or "", self.get_transport_info("peername"))

    def _seconds(self, timeout: float | Default | None) -> float | None:
        return self.timeout if isinstance(timeout, Default) else timeout

    def _on_connection_lost(self, protocol: SMTPProtocol) -> None:
        if protocol is self.protocol:
            self.close()

    def close(self) -> None:
        """Close the connection, without QUIT."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()
        if self._connect_lock is not None and self._connect_lock.locked():
            self._connect_lock.release()
        self.protocol = None
        self.transport = None
        self._reset_server_state()

    def _reset_server_state(self) -> None:
        """Forget what the server said."""
