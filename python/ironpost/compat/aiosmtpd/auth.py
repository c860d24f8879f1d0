"""AUTH of the class `SMTP`: the command, the mechanisms PLAIN and LOGIN, and challenges for others.

Promises: a failed attempt is replied to once. Responses of clients are logged only with `log_client_response`.
Refuses: a challenge outside AUTH, with RuntimeError: the client's response would be read as a command.
Standards: RFC 4954 §4; RFC 4616 (PLAIN).
"""

from __future__ import annotations

import binascii
import re
import warnings
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ironpost.compat.aiosmtpd.values import MISSING, AuthResult, LoginPassword, _Missing, log, syntax

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ironpost.compat.aiosmtpd.connection import Connection
    from ironpost.compat.aiosmtpd.values import Envelope, Session

SUCCESSFUL: Final = "235 2.7.0 Authentication successful"
INVALID: Final = "535 5.7.8 Authentication credentials invalid"
NOT_BASE64: Final = "501 5.5.2 Can't decode base64"


class _AuthMechAttr(NamedTuple):
    """A mechanism: its method, and whether it belongs to the server."""

    method: Callable[..., Awaitable[Any]]
    is_builtin: bool


class Authentication:
    """The part of `SMTP` that authenticates clients."""

    AuthLoginUsernameChallenge = "User Name\x00"
    AuthLoginPasswordChallenge = "Password\x00"
    _334_PREFIX = re.compile(r"^334 ")

    session: Session
    envelope: Envelope
    push: Callable[..., Awaitable[None]]
    check_helo_needed: Callable[..., Awaitable[bool]]
    _call_handler_hook: Callable[..., Awaitable[Any]]
    _connection: Connection
    _auth_methods: dict[str, _AuthMechAttr]
    _auth_require_tls: bool
    _authenticator: Callable[..., AuthResult] | None
    _auth_callback: Callable[[str, bytes, bytes], bool] | None

    @property
    def _secure(self) -> bool:
        return self.session.ssl is not None

    @syntax("AUTH <mechanism>")
    async def smtp_AUTH(self, arg: str | None) -> None:
        """Authenticate the client."""
        if await self.check_helo_needed("EHLO"):
            return
        words = (arg or "").split()
        refusal = None
        if not self.session.extended_smtp:
            refusal = "500 Error: command 'AUTH' not recognized"
        elif self._auth_require_tls and not self._secure:
            refusal = "538 5.7.11 Encryption required for requested authentication mechanism"
        elif self.session.authenticated:
            refusal = "503 Already authenticated"
        elif not words:
            refusal = "501 Not enough value"
        elif len(words) > 2:
            refusal = "501 Too many values"
        elif words[0] not in self._auth_methods:
            refusal = "504 5.5.4 Unrecognized authentication type"
        if refusal is not None:
            await self.push(refusal)
            return
        status = await self._call_handler_hook("AUTH", words)
        if status is MISSING:
            status = self._status(await self._auth_methods[words[0]].method(self, words))
        if status is not None:
            await self.push(status)

    def _status(self, result: Any) -> str | None:
        """Record the result of a mechanism; return the reply, or None if the mechanism has replied."""
        session = self.session
        if isinstance(result, AuthResult):
            if result.success:
                session.authenticated = True
                session.auth_data = result.auth_data
                session.login_data = getattr(result.auth_data, "login", None)
                return result.message or SUCCESSFUL
            return None if result.handled else result.message or INVALID
        if result is None:
            return None
        if result is MISSING or result is False:
            return INVALID
        session.login_data = result
        return SUCCESSFUL

    async def challenge_auth(
        self, challenge: str | bytes, encode_to_b64: bool = True, log_client_response: bool = False
    ) -> _Missing | bytes:
        """Send a challenge; return the decoded response, or MISSING if it was refused.

        Args:
            challenge: without the code 334; text is sent as UTF-8.
            encode_to_b64: encode the challenge.
            log_client_response: log the response, which may be secret, at level DEBUG.

        Raises:
            RuntimeError: another command than AUTH, or a hook of one, called it.
        """
        if not self._connection.reads_lines:
            raise RuntimeError("challenge_auth can read a response only while AUTH runs")
        octets = challenge.encode() if isinstance(challenge, str) else challenge
        # The space is required even if the challenge is empty (RFC 4954 §4).
        await self.push(b"334 " + (b64encode(octets) if encode_to_b64 else octets))
        line = await self._connection.line()
        if log_client_response:
            warnings.warn("AUTH interaction logging is enabled!", stacklevel=2)
            warnings.warn("Sensitive information might be leaked!", stacklevel=2)
            log.debug("%r >> %r", self.session.peer, line)
        response = b"=" if line is None else line.strip()  # malformed, as base64 too
        if response == b"*":
            log.warning("%r aborted AUTH with '*'", self.session.peer)
            await self.push("501 5.7.0 Auth aborted")
            return MISSING
        try:
            return b64decode(response, validate=True)
        except binascii.Error:
            await self.push(NOT_BASE64)
            return MISSING

    async def _auth_interact(self, server_message: str) -> _Missing | bytes:
        warnings.warn(
            "_auth_interact will be deprecated in version 2.0. Please use challenge_auth() instead.",
            DeprecationWarning,
            stacklevel=2,
        )
        return await self.challenge_auth(self._334_PREFIX.sub("", server_message), encode_to_b64=False)

    def _authenticate(self, mechanism: str, auth_data: Any) -> AuthResult:
        if self._authenticator is not None:
            return self._authenticator(self, self.session, self.envelope, mechanism, auth_data)
        assert self._auth_callback is not None
        if self._auth_callback(mechanism, *auth_data):
            return AuthResult(success=True, auth_data=auth_data)
        return AuthResult(success=False, handled=False)

    async def _response(self, args: list[str], challenge: str) -> _Missing | bytes:
        """Return the initial response, or the response to the challenge; MISSING if it was refused."""
        if len(args) == 1:
            return await self.challenge_auth(challenge)
        try:
            return b64decode(args[1].encode(), validate=True)
        except ValueError:
            await self.push(NOT_BASE64)
            return MISSING

    async def auth_PLAIN(self, _: Any, args: list[str]) -> AuthResult:
        """Authenticate by PLAIN; the authorization identity is ignored."""
        response = await self._response(args, "")
        if isinstance(response, _Missing):
            return AuthResult(success=False)
        try:
            _, login, password = response.split(b"\x00")
        except ValueError:
            await self.push("501 5.5.2 Can't split auth value")
            return AuthResult(success=False)
        return self._authenticate("PLAIN", LoginPassword(login, password))

    async def auth_LOGIN(self, _: Any, args: list[str]) -> AuthResult:
        """Authenticate by LOGIN."""
        login = await self._response(args, self.AuthLoginUsernameChallenge)
        if isinstance(login, _Missing):
            return AuthResult(success=False)
        password = await self.challenge_auth(self.AuthLoginPasswordChallenge)
        if isinstance(password, _Missing):
            return AuthResult(success=False)
        return self._authenticate("LOGIN", LoginPassword(login, password))
