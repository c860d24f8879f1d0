"""The client: connects, logs in, and sends messages.

Promises: `sendmail` sends MAIL, RCPT and DATA together where the server offers PIPELINING (RFC 2920 §3.1); results and
exceptions are as if it had sent one command at a time. A class that overrides `mail`, `rcpt`, `data` or
`execute_command` has them called. Content may also be a file or an iterable of bytes, which a thread reads; if it
cannot be read, the connection is closed, because a later command would become part of the content.
"""
# ruff: noqa: ASYNC109 - the time limits are aiosmtplib's arguments

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from ironpost.compat.content import Content, content_of

from .commands import Commands
from .connection import DEFAULT_TIMEOUT, SMTP_PORT, SMTP_STARTTLS_PORT, SMTP_TLS_PORT
from .email import extract_recipients, extract_sender, flatten_message, parse_address
from .errors import (
    SMTPException,
    SMTPNotSupported,
    SMTPRecipientRefused,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)
from .response import SMTPResponse
from .transaction import Transaction
from .typing import Default

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from email.message import EmailMessage, Message
    from types import TracebackType
    from typing import Self, TypeAlias, Unpack

    from ironpost.compat.content import RawMessage

    from .commands import Limit
    from .connection import Settings

    Outcome: TypeAlias = tuple[dict[str, SMTPResponse], str]
    """The replies to the recipients that were refused, and the text of the reply to the content."""

__all__ = ("SMTP", "SMTP_PORT", "SMTP_STARTTLS_PORT", "SMTP_TLS_PORT")


class SMTP(Commands):
    """A client; its keyword arguments are those of aiosmtplib."""

    def __init__(self, *, timeout: float | None = DEFAULT_TIMEOUT, **settings: Unpack[Settings]) -> None:
        super().__init__(timeout, settings)
        self._sendmail_lock: asyncio.Lock | None = None

    async def __aenter__(self) -> Self:
        if not self.is_connected:
            await self.connect()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if not isinstance(exc, ConnectionError | TimeoutError):
                with suppress(SMTPServerDisconnected, SMTPResponseException, SMTPTimeoutError):
                    await self.quit()
        finally:
            self.close()

    async def connect(self, *, timeout: Limit = Default.token, **settings: Unpack[Settings]) -> SMTPResponse:
        """Connect, start TLS if configured or offered, and log in; return the greeting.

        The settings are kept for later connections; the time limit is not.

        Raises:
            SMTPConnectError: the connection failed, or the server refused it.
            SMTPException: it is connected already, or TLS or the login failed.
        """
        self._update(settings)
        self.loop = asyncio.get_running_loop()
        self._connect_lock = self._connect_lock or asyncio.Lock()
        if self.is_connected:
            raise SMTPException("SMTP instance is already connected")
        await self._connect_lock.acquire()  # until `close`
        try:
            if self.local_hostname is None:
                self.local_hostname = await self._get_default_local_hostname()
            response = await self._create_connection(self._seconds(timeout))
            await self._maybe_start_tls_on_connect()
            await self._maybe_login_on_connect()
        except BaseException:
            self.close()
            raise
        return response

    async def _maybe_start_tls_on_connect(self) -> None:
        if self._start_tls_on_connect:
            await self.starttls()
        elif self._start_tls_on_connect is None and self.get_transport_info("sslcontext") is None:
            await self._ehlo_or_helo_if_needed()
            if self.supports_extension("starttls"):
                await self.starttls()

    async def _maybe_login_on_connect(self) -> None:
        if self._oauth_token_generator is not None:
            if self._login_username is None:
                raise SMTPException("username is required when using oauth_token_generator")
            await self._ehlo_or_helo_if_needed()
            if "xoauth2" not in self.server_auth_methods:
                raise SMTPException("oauth_token_generator provided but server does not support XOAUTH2")
            await self.auth_xoauth2(self._login_username, await self._oauth_token_generator())
        elif self._login_username is not None:
            await self.login(self._login_username, "" if self._login_password is None else self._login_password)

    async def sendmail(
        self,
        sender: str,
        recipients: str | Sequence[str],
        message: RawMessage,
        /,
        *,
        mail_options: Iterable[str] | None = None,
        rcpt_options: Iterable[str] | None = None,
        timeout: Limit = Default.token,
    ) -> Outcome:
        """Send a message; return the recipients that were refused, and the text of the reply to the content.

        Raises:
            ValueError: an address cannot be sent safely. Then nothing was sent.
            SMTPSenderRefused, SMTPDataError: the server refused the sender or the content.
            SMTPRecipientsRefused: it refused all recipients.
        """
        to = [recipients] if isinstance(recipients, str) else list(recipients)
        mail, rcpt = list(mail_options or ()), list(rcpt_options or ())
        cls: Any = type(self)  # mypy takes it for unhashable
        addresses = [sender, *to]
        mailboxes = [parse_address(address) for address in addresses]
        self._sendmail_lock = self._sendmail_lock or asyncio.Lock()
        async with self._sendmail_lock:
            await self._ehlo_or_helo_if_needed()
            encoding = self._encoding(mail)
            content = content_of(message)
            if isinstance(content, Content) and self.supports_extension("size"):
                mail.insert(0, f"size={content.size}")
            try:
                if self.protocol is not None and self.supports_extension("pipelining") and not _overrides(cls):
                    transaction = Transaction(self, addresses, mailboxes, content, mail, rcpt, encoding, timeout)
                    return await transaction.send()
                await self.mail(sender, options=mail, encoding=encoding, timeout=timeout)
                errors = await self._send_recipients(to, rcpt, encoding, timeout)
                given = content if cls.data is SMTP.data else message
                return errors, (await self.data(given, timeout=timeout)).message
            except (SMTPResponseException, SMTPRecipientsRefused):
                with suppress(ConnectionError, SMTPResponseException):
                    await self.rset(timeout=timeout)
                raise

    async def _send_recipients(
        self, recipients: Sequence[str], options: Iterable[str], encoding: str = "ascii", timeout: Limit = Default.token
    ) -> dict[str, SMTPResponse]:
        """Send RCPT for each recipient; return the replies to those that were refused."""
        errors: list[SMTPRecipientRefused] = []
        for recipient in recipients:
            try:
                await self.rcpt(recipient, options=options, encoding=encoding, timeout=timeout)
            except SMTPRecipientRefused as error:
                errors.append(error)
        if len(errors) == len(recipients):
            raise SMTPRecipientsRefused(errors)
        return {error.recipient: SMTPResponse(error.code, error.message) for error in errors}

    async def send_message(
        self,
        message: EmailMessage | Message[Any, Any],
        /,
        *,
        sender: str | None = None,
        recipients: str | Sequence[str] | None = None,
        mail_options: Iterable[str] | None = None,
        rcpt_options: Iterable[str] | None = None,
        timeout: Limit = Default.token,
    ) -> Outcome:
        """Send a message object without its Bcc fields; the addresses are those of its header unless given.

        Raises:
            ValueError: it has no sender or no recipients, or was resent more than once.
            SMTPNotSupported: an address is not ASCII, and the server does not offer SMTPUTF8.
            SMTPException: see `sendmail`.
        """
        options = list(mail_options or ())
        sender = extract_sender(message) if sender is None else sender
        if sender is None:
            raise ValueError("No From header provided in message")
        to = [recipients] if isinstance(recipients, str) else recipients
        to = extract_recipients(message) if to is None else to
        if not to:
            raise ValueError("No recipient headers provided in message")
        await self._ehlo_or_helo_if_needed()
        given = {option.lower() for option in options}
        utf8 = not all(address.isascii() for address in (sender, *to))
        if utf8 and not self.supports_extension("smtputf8"):
            raise SMTPNotSupported(
                "An address containing non-ASCII characters was provided, but SMTPUTF8 is not supported by this server"
            )
        if utf8 and "smtputf8" not in given:
            options.append("SMTPUTF8")
        eight_bit = self.supports_extension("8bitmime")
        if eight_bit and "body=8bitmime" not in given:
            options.append("BODY=8BITMIME")
        return await self.sendmail(
            sender,
            to,
            flatten_message(message, utf8=utf8, cte_type="8bit" if eight_bit else "7bit"),
            mail_options=options,
            rcpt_options=rcpt_options,
            timeout=timeout,
        )

    def sendmail_sync(self, *args: Any, **kwargs: Any) -> Outcome:
        """Connect, `sendmail` and disconnect, in an event loop that runs for that time."""

        async def run() -> Outcome:
            async with self:
                return await self.sendmail(*args, **kwargs)

        return asyncio.run(run())

    def send_message_sync(self, *args: Any, **kwargs: Any) -> Outcome:
        """Connect, `send_message` and disconnect, in an event loop that runs for that time."""

        async def run() -> Outcome:
            async with self:
                return await self.send_message(*args, **kwargs)

        return asyncio.run(run())


@cache
def _overrides(cls: type[SMTP]) -> bool:
    """Whether a class overrides a command."""
    names = ("mail", "rcpt", "data", "execute_command", "_send_recipients")
    return any(getattr(cls, name) is not getattr(SMTP, name) for name in names)
