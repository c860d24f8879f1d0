"""The exceptions of aiosmtplib, all of them `SMTPException`."""

from __future__ import annotations

__all__ = (
    "SMTPAuthenticationError",
    "SMTPConnectError",
    "SMTPConnectResponseError",
    "SMTPConnectTimeoutError",
    "SMTPDataError",
    "SMTPException",
    "SMTPHeloError",
    "SMTPNotSupported",
    "SMTPReadTimeoutError",
    "SMTPRecipientRefused",
    "SMTPRecipientsRefused",
    "SMTPResponseException",
    "SMTPSenderRefused",
    "SMTPServerDisconnected",
    "SMTPTimeoutError",
)


class SMTPException(Exception):
    """What goes wrong while mail is sent."""

    def __init__(self, message: str, /) -> None:
        super().__init__(message)
        self.message = message


class SMTPServerDisconnected(SMTPException, ConnectionError):
    """The connection was lost, or there is none yet."""


class SMTPConnectError(SMTPException, ConnectionError):
    """No connection could be made."""


class SMTPTimeoutError(SMTPException, TimeoutError):
    """The server took too long."""


class SMTPConnectTimeoutError(SMTPTimeoutError, SMTPConnectError):
    """The server took too long to accept the connection."""


class SMTPReadTimeoutError(SMTPTimeoutError):
    """The server took too long to reply."""


class SMTPNotSupported(SMTPException):
    """The server does not offer what the message needs."""


class SMTPResponseException(SMTPException):
    """The server refused something, with this reply."""

    def __init__(self, code: int, message: str, /) -> None:
        super().__init__(message)
        self.code = code
        self.args = (code, message)


class SMTPConnectResponseError(SMTPResponseException, SMTPConnectError):
    """The server refused the connection."""


class SMTPHeloError(SMTPResponseException):
    """The server refused EHLO or HELO."""


class SMTPDataError(SMTPResponseException):
    """The server refused the content."""


class SMTPAuthenticationError(SMTPResponseException):
    """The server refused the login."""


class SMTPSenderRefused(SMTPResponseException):
    """The server refused the sender."""

    def __init__(self, code: int, message: str, sender: str, /) -> None:
        super().__init__(code, message)
        self.sender = sender
        self.args = (code, message, sender)


class SMTPRecipientRefused(SMTPResponseException):
    """The server refused one recipient."""

    def __init__(self, code: int, message: str, recipient: str, /) -> None:
        super().__init__(code, message)
        self.recipient = recipient
        self.args = (code, message, recipient)


class SMTPRecipientsRefused(SMTPException):
    """The server refused all recipients."""

    def __init__(self, recipients: list[SMTPRecipientRefused], /) -> None:
        self.recipients = recipients
        self.args = (recipients,)
