"""The values that hooks of aiosmtpd get and return, and the decorators of commands and mechanisms.

Promises: credentials are not in the `repr` of any of them. Refuses: an invalid name of a mechanism, with ValueError.
"""

from __future__ import annotations

import enum
import logging
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from ironpost.compat.aiosmtpd.proxy_protocol import ProxyData

log = logging.getLogger("mail.log")

VALID_AUTHMECH: Final = re.compile(r"[A-Z0-9_-]+\Z")
"""The name of a mechanism, in upper case."""
CLIENT_AUTH_B: Final = re.compile(rb"(?P<authm>\s*AUTH\s+\S+[^\S\r\n]+)(\S+)(?P<crlf>(?:\r\n)?)", re.IGNORECASE)
"""AUTH with an initial response, which is secret."""

F = TypeVar("F", bound="Callable[..., Any]")


class _Missing(enum.Enum):
    MISSING = object()


MISSING: Final = _Missing.MISSING
"""A hook that the handler does not have; a failed authentication."""


class AuthResult:
    """The result of an authentication, for `SMTP.smtp_AUTH`."""

    def __init__(
        self, *, success: bool, handled: bool = True, message: str | None = None, auth_data: Any = None
    ) -> None:
        """
        Args:
            success: the client is authenticated.
            handled: a failure was already replied to.
            message: the reply instead of the usual one.
            auth_data: what `Session.auth_data` becomes; usually a `LoginPassword`.
        """
        self.success = success
        self.handled = handled
        self.message = message
        self.auth_data = auth_data

    def __repr__(self) -> str:
        return (
            f"AuthResult(success={self.success!r}, handled={self.handled!r}, message={self.message!r}, auth_data=...)"
        )

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if isinstance(other, AuthResult) else NotImplemented

    __hash__ = None  # type: ignore[assignment] # mutable


class LoginPassword(NamedTuple):
    """The credentials of PLAIN and LOGIN."""

    login: bytes
    password: bytes

    def __str__(self) -> str:
        return f"LoginPassword(login='{self.login.decode()}', password=...)"

    def __repr__(self) -> str:
        return str(self)


class Session:
    """What is known about one client."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.peer: Any = None
        """The address of the client, as the socket reports it."""
        self.ssl: dict[str, Any] | None = None
        """The facts about TLS; None without TLS."""
        self.host_name: str | None = None
        """The name in HELO or EHLO; None before."""
        self.extended_smtp = False
        self.loop = loop
        self.proxy_data: ProxyData | None = None
        """The PROXY header; None if there was none."""
        self.auth_data: Any = None
        """`AuthResult.auth_data` of a successful authentication."""
        self.authenticated: bool | None = None
        self._login_data: Any = None

    @property
    def login_data(self) -> Any:
        """The login name: deprecated."""
        log.warning("Session.login_data is deprecated and will be removed in version 2.0")
        return self._login_data

    @login_data.setter
    def login_data(self, value: Any) -> None:
        log.warning("Session.login_data is deprecated and will be removed in version 2.0")
        self._login_data = value


class Envelope:
    """One transaction."""

    def __init__(self) -> None:
        self.mail_from: str | None = None
        self.mail_options: list[str] = []
        self.smtp_utf8 = False
        self.content: bytes | str | None = None
        """The content, as text with `decode_data`; None before DATA."""
        self.original_content: bytes | None = None
        self.rcpt_tos: list[str] = []
        self.rcpt_options: list[str] = []


def syntax(text: str, extended: str | None = None, when: str | None = None) -> Callable[[F], F]:
    """Decorate a `smtp_` method with its syntax, for HELP.

    Args:
        text: the syntax.
        extended: what follows it after EHLO.
        when: the attribute of the server without which HELP does not list the command.
    """

    def decorate(method: F) -> F:
        method.__smtp_syntax__ = text  # type: ignore[attr-defined]
        method.__smtp_syntax_extended__ = extended  # type: ignore[attr-defined]
        method.__smtp_syntax_when__ = when  # type: ignore[attr-defined]
        return method

    return decorate


def auth_mechanism(actual_name: str) -> Callable[[F], F]:
    """Decorate an `auth_` method with the name of its mechanism.

    Raises:
        ValueError: the name has characters other than letters, digits, hyphen and underscore (RFC 4422 §3.1).
    """
    name = actual_name.upper()
    if not VALID_AUTHMECH.match(name):
        raise ValueError(f"Invalid AUTH mechanism name: {name}")

    def decorate(method: F) -> F:
        method.__auth_mechanism_name__ = name  # type: ignore[attr-defined]
        return method

    return decorate


def sanitize(text: bytes) -> bytes:
    """Return a line without the initial response of AUTH."""
    found = CLIENT_AUTH_B.match(text)
    return text if found is None else found["authm"] + b"********" + found["crlf"]


def sanitized_log(func: Callable[..., None], msg: str | bytes, *args: object, **kwargs: Any) -> None:
    """Call a function of a logger with arguments that contain no initial response of AUTH."""
    func(msg, *(sanitize(each) if isinstance(each, bytes) else each for each in args), **kwargs)
