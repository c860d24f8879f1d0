"""The commands of the class `SMTP` but AUTH, MAIL, RCPT and DATA.

Promises: EHLO offers STARTTLS only before TLS, and AUTH only where it would be accepted.
Standards: RFC 5321 §4.1.1; RFC 3207 §4.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from ironpost.compat.aiosmtpd.values import MISSING, syntax
from ironpost.protocol.server.transaction import TlsHandshake

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from ironpost.compat.aiosmtpd.auth import _AuthMechAttr
    from ironpost.compat.aiosmtpd.connection import Connection
    from ironpost.compat.aiosmtpd.values import Session


class Commands:
    """The part of `SMTP` that replies to commands outside transactions."""

    command_size_limit = 512

    session: Session
    hostname: str
    data_size_limit: int | None
    enable_SMTPUTF8: bool  # noqa: N815 - aiosmtpd's name
    tls_context: ssl.SSLContext | None
    command_size_limits: dict[str, int]
    ehlo_hook: Callable[[], Awaitable[None]]
    rset_hook: Callable[[], Awaitable[None]]
    push: Callable[..., Awaitable[None]]
    check_auth_needed: Callable[..., Awaitable[bool]]
    _call_handler_hook: Callable[..., Awaitable[Any]]
    _close: Callable[[], None]
    _connection: Connection
    _getaddr: Callable[[str], tuple[str | None, str | None]]
    _set_rset_state: Callable[[], None]
    _decode_data: bool
    _auth_methods: dict[str, _AuthMechAttr]
    _auth_require_tls: bool
    _ehlo_hook_ver: str | None
    _smtp_methods: dict[str, Any]

    @syntax("HELO hostname")
    async def smtp_HELO(self, hostname: str | None) -> None:
        """Greet without extensions."""
        if not hostname:
            await self.push("501 Syntax: HELO hostname")
            return
        self._set_rset_state()
        self.session.extended_smtp = False
        status = await self._call_handler_hook("HELO", hostname)
        if status is MISSING:
            self.session.host_name = hostname
            status = f"250 {self.hostname}"
        await self.push(status)

    @syntax("EHLO hostname")
    async def smtp_EHLO(self, hostname: str | None) -> None:
        """Greet with the extensions."""
        if not hostname:
            await self.push("501 Syntax: EHLO hostname")
            return
        self._set_rset_state()
        self.session.extended_smtp = True
        response = [f"250-{self.hostname}", *self._extensions()]
        if hasattr(self, "ehlo_hook"):
            warnings.warn("Use handler.handle_EHLO() instead of .ehlo_hook()", DeprecationWarning, stacklevel=2)
            await self.ehlo_hook()
        if self._ehlo_hook_ver is None:
            self.session.host_name = hostname
            response.append("250 HELP")
        elif self._ehlo_hook_ver == "old":
            for line in response:
                await self.push(line)
            response = [await self._call_handler_hook("EHLO", hostname)]
        else:
            response.append("250 HELP")
            response = await self._call_handler_hook("EHLO", hostname, response)
        for line in response:
            await self.push(line)

    def _extensions(self) -> list[str]:
        lines = []
        extra = 0
        secure = self.session.ssl is not None
        if self.data_size_limit:
            lines.append(f"250-SIZE {self.data_size_limit}")
            extra += 26
        if not self._decode_data:
            lines.append("250-8BITMIME")
        if self.enable_SMTPUTF8:
            lines.append("250-SMTPUTF8")
            extra += 10
        self.command_size_limits.setdefault("MAIL", self.command_size_limit + extra)
        if self.tls_context and not secure:
            lines.append("250-STARTTLS")
        if not self._auth_require_tls or secure:
            lines.append("250-AUTH " + " ".join(sorted(self._auth_methods)))
        return lines

    @syntax("NOOP [ignored]")
    async def smtp_NOOP(self, arg: str | None) -> None:
        """Do nothing."""
        status = await self._call_handler_hook("NOOP", arg)
        await self.push("250 OK" if status is MISSING else status)

    @syntax("QUIT")
    async def smtp_QUIT(self, arg: str | None) -> None:
        """End the session."""
        if arg:
            await self.push("501 Syntax: QUIT")
            return
        status = await self._call_handler_hook("QUIT")
        await self.push("221 Bye" if status is MISSING else status)
        self._close()

    @syntax("STARTTLS", when="tls_context")
    async def smtp_STARTTLS(self, arg: str | None) -> None:
        """Begin TLS."""
        if arg:
            await self.push("501 Syntax: STARTTLS")
        elif not self.tls_context:
            await self.push("454 TLS not available")
        else:
            session = self._connection.session
            if session.input_follows:  # it would be read as if it had been protected (RFC 3207 §6)
                self._close()
                return
            await self.push("220 Ready to start TLS")
            session.want = TlsHandshake()

    @syntax("HELP [command]")
    async def smtp_HELP(self, arg: str | None) -> None:
        """List the commands, or show the syntax of one."""
        if await self.check_auth_needed("HELP"):
            return
        code = 250
        if arg:
            method = self._smtp_methods.get(arg.upper())
            if method and self._syntax_available(method):
                text = method.__smtp_syntax__
                if self.session.extended_smtp and method.__smtp_syntax_extended__:
                    text += method.__smtp_syntax_extended__
                await self.push(f"250 Syntax: {text}")
                return
            code = 501
        commands = sorted(name for name, method in self._smtp_methods.items() if self._syntax_available(method))
        await self.push(f"{code} Supported commands: {' '.join(commands)}")

    def _syntax_available(self, method: Any) -> bool:
        if not hasattr(method, "__smtp_syntax__"):
            return False
        when = method.__smtp_syntax_when__
        return bool(getattr(self, when)) if when else True

    @syntax("VRFY <address>")
    async def smtp_VRFY(self, arg: str | None) -> None:
        """Verify an address."""
        if await self.check_auth_needed("VRFY"):
            return
        if not arg:
            await self.push("501 Syntax: VRFY <address>")
            return
        address, _ = self._getaddr(arg)
        if address is None:
            await self.push(f"502 Could not VRFY {arg}")
            return
        status = await self._call_handler_hook("VRFY", address)
        default = "252 Cannot VRFY user, but will accept message and attempt delivery"
        await self.push(default if status is MISSING else status)

    async def smtp_EXPN(self, arg: str | None) -> None:  # noqa: ARG002 - a hook
        """Refuse EXPN."""
        await self.push("502 EXPN not implemented")

    @syntax("RSET")
    async def smtp_RSET(self, arg: str | None) -> None:
        """Forget the transaction."""
        if arg:
            await self.push("501 Syntax: RSET")
            return
        self._set_rset_state()
        if hasattr(self, "rset_hook"):
            warnings.warn("Use handler.handle_RSET() instead of .rset_hook()", DeprecationWarning, stacklevel=2)
            await self.rset_hook()
        status = await self._call_handler_hook("RSET")
        await self.push("250 OK" if status is MISSING else status)
