"""The commands of a client, one at a time.

Standards: RFC 5321 §4.1.1; RFC 3207 (STARTTLS); RFC 4954 (AUTH); RFC 6531 §3.7.4.2 (SMTPUTF8 in VRFY and EXPN).
"""
# ruff: noqa: ASYNC109 - the time limits are aiosmtplib's arguments

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, cast

from .auth import auth_crammd5_verify, auth_login_encode, auth_plain_encode, auth_xoauth2_encode
from .connection import Connection, Settings, validated_hostname
from .email import parse_address
from .errors import (
    SMTPAuthenticationError,
    SMTPException,
    SMTPHeloError,
    SMTPNotSupported,
    SMTPRecipientRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)
from .esmtp import parse_esmtp_extensions
from .typing import Default, SMTPStatus

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable
    from typing import TypeAlias, Unpack

    from ironpost.compat.content import Content, RawMessage

    from .response import SMTPResponse

    Limit: TypeAlias = float | Default | None
    """Seconds; None for no limit, and by default the client's `timeout`."""

OK = (SMTPStatus.completed,)


class TLSSettings(TypedDict, total=False):
    """The keyword arguments of `starttls` that are settings."""

    validate_certs: bool | None
    client_cert: str | None
    client_key: str | None
    tls_context: ssl.SSLContext | None
    cert_bundle: str | None


class Commands(Connection):
    """A client's commands."""

    AUTH_METHODS: tuple[str, ...] = ("cram-md5", "plain", "login")
    """The mechanisms of `login`, in the order in which they are tried."""

    def __init__(self, timeout: float | None, settings: Settings) -> None:
        self._reset_server_state()
        super().__init__(timeout, settings)

    def _reset_server_state(self) -> None:
        self.last_helo_response: SMTPResponse | None = None
        self._last_ehlo_response: SMTPResponse | None = None
        self.esmtp_extensions: dict[str, str] = {}
        self.supports_esmtp = False
        self.server_auth_methods: list[str] = []

    @property
    def last_ehlo_response(self) -> SMTPResponse | None:
        """The reply to EHLO; setting it sets what the server offers."""
        return self._last_ehlo_response

    @last_ehlo_response.setter
    def last_ehlo_response(self, response: SMTPResponse) -> None:
        self.esmtp_extensions, self.server_auth_methods = parse_esmtp_extensions(response.message)
        self._last_ehlo_response = response
        self.supports_esmtp = True

    @property
    def is_ehlo_or_helo_needed(self) -> bool:
        """Whether the server has answered neither EHLO nor HELO."""
        return self.last_ehlo_response is None and self.last_helo_response is None

    @property
    def supported_auth_methods(self) -> list[str]:
        """The mechanisms that both sides have."""
        return [method for method in self.AUTH_METHODS if method in self.server_auth_methods]

    def supports_extension(self, extension: str, /) -> bool:
        """Return whether the server offers an extension."""
        return extension.lower() in self.esmtp_extensions

    async def _command(
        self, *words: bytes, timeout: Limit, codes: tuple[int, ...] = OK, error: type[SMTPResponseException]
    ) -> SMTPResponse:
        """Send a command; raise the error for a reply with another code."""
        response = await self.execute_command(*words, timeout=timeout)
        if response.code not in codes:
            raise error(*response)
        return response

    async def _hello(self, verb: bytes, hostname: str | None, timeout: Limit) -> SMTPResponse:
        if hostname is not None:
            name = validated_hostname(hostname)
        else:
            name = self.local_hostname = self.local_hostname or await self._get_default_local_hostname()
        return await self._command(verb, name.encode("ascii"), timeout=timeout, error=SMTPHeloError)

    async def ehlo(self, *, hostname: str | None = None, timeout: Limit = Default.token) -> SMTPResponse:
        """Send EHLO; SMTPHeloError if it is refused."""
        self.last_ehlo_response = response = await self._hello(b"EHLO", hostname, timeout)
        return response

    async def helo(self, *, hostname: str | None = None, timeout: Limit = Default.token) -> SMTPResponse:
        """Send HELO; SMTPHeloError if it is refused."""
        self.last_helo_response = response = await self._hello(b"HELO", hostname, timeout)
        return response

    async def _ehlo_or_helo_if_needed(self) -> None:
        if not self.is_ehlo_or_helo_needed:
            return
        try:
            await self.ehlo()
        except SMTPHeloError:
            if not self.is_connected:
                raise
            await self.helo()

    async def help(self, *, timeout: Limit = Default.token) -> str:
        """Send HELP and return the text; SMTPResponseException if it is refused."""
        await self._ehlo_or_helo_if_needed()
        codes = (SMTPStatus.system_status_ok, SMTPStatus.help_message, SMTPStatus.completed)
        return (await self._command(b"HELP", timeout=timeout, codes=codes, error=SMTPResponseException)).message

    async def rset(self, *, timeout: Limit = Default.token) -> SMTPResponse:
        """Send RSET; SMTPResponseException if it is refused."""
        await self._ehlo_or_helo_if_needed()
        return await self._command(b"RSET", timeout=timeout, error=SMTPResponseException)

    async def noop(self, *, timeout: Limit = Default.token) -> SMTPResponse:
        """Send NOOP; SMTPResponseException if it is refused."""
        await self._ehlo_or_helo_if_needed()
        return await self._command(b"NOOP", timeout=timeout, error=SMTPResponseException)

    async def quit(self, *, timeout: Limit = Default.token) -> SMTPResponse:
        """Send QUIT and close the connection; SMTPResponseException if it is refused."""
        response = await self._command(
            b"QUIT", timeout=timeout, codes=(SMTPStatus.closing,), error=SMTPResponseException
        )
        self.close()
        return response

    async def vrfy(
        self, address: str, /, *, options: Iterable[str] | None = None, timeout: Limit = Default.token
    ) -> SMTPResponse:
        """Send VRFY; SMTPResponseException if it is refused."""
        words = await self._query(b"VRFY", address, options)
        codes = (SMTPStatus.completed, SMTPStatus.will_forward, SMTPStatus.cannot_vrfy)
        return await self._command(*words, timeout=timeout, codes=codes, error=SMTPResponseException)

    async def expn(
        self, address: str, /, *, options: Iterable[str] | None = None, timeout: Limit = Default.token
    ) -> SMTPResponse:
        """Send EXPN; SMTPResponseException if it is refused."""
        words = await self._query(b"EXPN", address, options)
        return await self._command(*words, timeout=timeout, error=SMTPResponseException)

    async def _query(self, verb: bytes, address: str, options: Iterable[str] | None) -> list[bytes]:
        await self._ehlo_or_helo_if_needed()
        options = list(options or ())
        return [
            verb,
            parse_address(address).encode(self._encoding(options)),
            *(each.encode("ascii") for each in options),
        ]

    def _encoding(self, options: Iterable[str]) -> str:
        """How addresses with these options are encoded."""
        if not any(option.lower() == "smtputf8" for option in options):
            return "ascii"
        if not self.supports_extension("smtputf8"):
            raise SMTPNotSupported("SMTPUTF8 is not supported by this server")
        return "utf-8"

    async def mail(
        self,
        sender: str,
        /,
        *,
        options: Iterable[str] | None = None,
        encoding: str = "ascii",
        timeout: Limit = Default.token,
    ) -> SMTPResponse:
        """Send MAIL; SMTPSenderRefused if it is refused."""
        await self._ehlo_or_helo_if_needed()
        words = envelope_words(b"MAIL FROM:", parse_address(sender), options or (), encoding)
        response = await self.execute_command(*words, timeout=timeout)
        if response.code != SMTPStatus.completed:
            raise SMTPSenderRefused(*response, sender)
        return response

    async def rcpt(
        self,
        recipient: str,
        /,
        *,
        options: Iterable[str] | None = None,
        encoding: str = "ascii",
        timeout: Limit = Default.token,
    ) -> SMTPResponse:
        """Send RCPT; SMTPRecipientRefused if it is refused."""
        await self._ehlo_or_helo_if_needed()
        words = envelope_words(b"RCPT TO:", parse_address(recipient), options or (), encoding)
        response = await self.execute_command(*words, timeout=timeout)
        if response.code not in (SMTPStatus.completed, SMTPStatus.will_forward):
            raise SMTPRecipientRefused(*response, recipient)
        return response

    async def data(self, message: Content | RawMessage, /, *, timeout: Limit = Default.token) -> SMTPResponse:
        """Send DATA and the content; SMTPDataError if it is refused."""
        if self.protocol is None:
            raise SMTPServerDisconnected("Connection lost")
        await self._ehlo_or_helo_if_needed()
        try:
            return await self.protocol.execute_data_command(message, timeout=self._seconds(timeout))
        except (SMTPServerDisconnected, SMTPTimeoutError):
            self.close()
            raise

    async def starttls(
        self, *, server_hostname: str | None = None, timeout: Limit = Default.token, **settings: Unpack[TLSSettings]
    ) -> SMTPResponse:
        """Encrypt the connection; the settings are those of the client unless given.

        Raises:
            SMTPException: it is encrypted already, or the server does not offer STARTTLS or refuses it.
        """
        if self.protocol is None:
            raise SMTPServerDisconnected("Server not connected")
        if self.get_transport_info("sslcontext") is not None:
            raise SMTPException("Connection already using TLS")
        if unknown := settings.keys() - TLSSettings.__annotations__.keys():
            raise TypeError(f"unexpected keyword arguments: {', '.join(sorted(unknown))}")
        self._update(cast("Settings", settings))
        await self._ehlo_or_helo_if_needed()
        context = await self._get_tls_context()
        if not self.supports_extension("starttls"):
            raise SMTPException("SMTP STARTTLS extension not supported by server.")
        try:
            response = await self.protocol.start_tls(context, server_hostname or self.hostname, self._seconds(timeout))
        except (SMTPServerDisconnected, SMTPTimeoutError):
            self.close()
            raise
        self.transport = self.protocol.transport
        self._reset_server_state()
        return response

    async def login(
        self, username: str | bytes, password: str | bytes, /, timeout: Limit = Default.token
    ) -> SMTPResponse:
        """Log in with the first mechanism that succeeds.

        Raises:
            SMTPAuthenticationError: the last mechanism failed.
            SMTPException: the server offers none that the client has.
        """
        await self._ehlo_or_helo_if_needed()
        if not self.supports_extension("auth"):
            text = "The SMTP AUTH extension is not supported by this server."
            if self.is_connected and self.get_transport_info("sslcontext") is None:
                text += " Try connecting via TLS (or STARTTLS)."
            raise SMTPException(text)
        failure = SMTPException("No suitable authentication method found.")
        for method in self.supported_auth_methods:
            authenticate = getattr(self, f"auth_{method.replace('-', '')}", None)
            if authenticate is None:
                raise RuntimeError(f"Missing handler for auth method {method}")
            try:
                response: SMTPResponse = await authenticate(username, password, timeout=timeout)
            except SMTPAuthenticationError as error:
                failure = error
            else:
                return response
        raise failure

    async def _auth(self, *words: bytes, timeout: Limit, code: int = SMTPStatus.auth_successful) -> SMTPResponse:
        return await self._command(*words, timeout=timeout, codes=(code,), error=SMTPAuthenticationError)

    async def auth_crammd5(
        self, username: str | bytes, password: str | bytes, /, *, timeout: Limit = Default.token
    ) -> SMTPResponse:
        """Log in with CRAM-MD5; SMTPAuthenticationError if it is refused."""
        challenge = await self._auth(b"AUTH", b"CRAM-MD5", timeout=timeout, code=SMTPStatus.auth_continue)
        return await self._auth(auth_crammd5_verify(username, password, challenge.message), timeout=timeout)

    async def auth_plain(
        self, username: str | bytes, password: str | bytes, /, *, timeout: Limit = Default.token
    ) -> SMTPResponse:
        """Log in with PLAIN; SMTPAuthenticationError if it is refused."""
        return await self._auth(b"AUTH", b"PLAIN", auth_plain_encode(username, password), timeout=timeout)

    async def auth_login(
        self, username: str | bytes, password: str | bytes, /, *, timeout: Limit = Default.token
    ) -> SMTPResponse:
        """Log in with LOGIN; SMTPAuthenticationError if it is refused."""
        name, secret = auth_login_encode(username, password)
        await self._auth(b"AUTH", b"LOGIN", name, timeout=timeout, code=SMTPStatus.auth_continue)
        return await self._auth(secret, timeout=timeout)

    async def auth_xoauth2(
        self, username: str | bytes, access_token: str | bytes, /, *, timeout: Limit = Default.token
    ) -> SMTPResponse:
        """Log in with XOAUTH2; SMTPAuthenticationError if it is refused."""
        await self._ehlo_or_helo_if_needed()
        words = (b"AUTH", b"XOAUTH2", auth_xoauth2_encode(username, access_token))
        response = await self.execute_command(*words, timeout=timeout)
        if response.code == SMTPStatus.auth_continue:  # with the reason; the refusal follows an empty response
            response = await self.execute_command(b"", timeout=timeout)
        if response.code != SMTPStatus.auth_successful:
            raise SMTPAuthenticationError(*response)
        return response


def envelope_words(start: bytes, mailbox: str, options: Iterable[str], encoding: str) -> list[bytes]:
    """Return the words of MAIL or RCPT for an address that `parse_address` returned.

    Raises:
        ValueError: the address is not ASCII as the encoding demands.
    """
    words = [start + f"<{mailbox}>".encode(encoding)]
    if options:  # there are rarely any
        words += [option.encode("ascii") for option in options]
    return words
