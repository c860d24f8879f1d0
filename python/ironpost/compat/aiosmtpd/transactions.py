"""MAIL, RCPT and DATA of the class `SMTP`.

Promises: addresses that the wire does not read as aiosmtpd does (quoted local parts, comments, literals, source routes)
go to the parser of the standard library, as all do in aiosmtpd. The reply to content that exceeds two limits names the
one that was exceeded first.
Standards: RFC 5321 §4.1.1.2 to §4.1.1.4; RFC 1870; RFC 6152; RFC 6531.
"""

from __future__ import annotations

import inspect
import warnings
from email._header_value_parser import get_addr_spec, get_angle_addr
from email.errors import HeaderParseError
from typing import TYPE_CHECKING, Any, Final

from ironpost import wire
from ironpost.compat.aiosmtpd.values import MISSING, log, syntax

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ironpost.compat.aiosmtpd.connection import Connection
    from ironpost.compat.aiosmtpd.values import Envelope, Session
    from ironpost.wire import BodyEnd

CONTENT_LINE_TOO_LONG: Final = "500 Line too long (see RFC5321 4.5.3.1.6)"
CONTENT_TOO_LARGE: Final = "552 Error: Too much mail data"


class Transactions:
    """The part of `SMTP` that receives mail."""

    line_length_limit = 1001
    """Maximum octets of a line of content with its CRLF and a transparency dot (RFC 5321 §4.5.3.1.6)."""
    local_part_limit: int = 0
    """Maximum length of a local part; 0 for none."""
    replies_per_recipient = False
    """Whether the reply to the content is sent once for each recipient."""

    session: Session
    envelope: Envelope
    event_handler: Any
    enable_SMTPUTF8: bool  # noqa: N815 - aiosmtpd's name
    data_size_limit: int | None
    push: Callable[..., Awaitable[None]]
    check_helo_needed: Callable[..., Awaitable[bool]]
    check_auth_needed: Callable[..., Awaitable[bool]]
    _call_handler_hook: Callable[..., Awaitable[Any]]
    _set_post_data_state: Callable[[], None]
    _connection: Connection
    _decode_data: bool
    _handle_hooks: dict[str, Callable[..., Any]]

    @syntax("MAIL FROM: <address>", extended=" [SP <mail-parameters>]")
    async def smtp_MAIL(self, arg: str | None) -> None:
        """Begin a transaction."""
        if await self.check_helo_needed() or await self.check_auth_needed("MAIL"):
            return
        address, options, refusal = self._path("MAIL", "FROM:", arg)
        if refusal is None and self.envelope.mail_from:
            refusal = "503 Error: nested MAIL command"
        refusal = refusal or self._parameters_refused(options)
        if refusal is not None:
            await self.push(refusal)
            return
        status = await self._call_handler_hook("MAIL", address, options)
        if status is MISSING:
            self.envelope.mail_from = address
            self.envelope.mail_options.extend(options)
            status = "250 OK"
        log.info("%r sender: %s", self.session.peer, address)
        await self.push(status)

    @syntax("RCPT TO: <address>", extended=" [SP <mail-parameters>]")
    async def smtp_RCPT(self, arg: str | None) -> None:
        """Add a recipient."""
        if await self.check_helo_needed() or await self.check_auth_needed("RCPT"):
            return
        if not self.envelope.mail_from:
            await self.push("503 Error: need MAIL command")
            return
        address, options, refusal = self._path("RCPT", "TO:", arg)
        if refusal is None and options:
            refusal = "555 RCPT TO parameters not recognized or not implemented"
            if self._getparams(options) is None:
                refusal = self._syntax_error("RCPT", "TO:")
        if refusal is not None:
            await self.push(refusal)
            return
        status = await self._call_handler_hook("RCPT", address, options)
        if status is MISSING:
            assert address is not None
            self.envelope.rcpt_tos.append(address)
            self.envelope.rcpt_options.extend(options)
            status = "250 OK"
        log.info("%r recip: %s", self.session.peer, address)
        await self.push(status)

    def _syntax_error(self, verb: str, keyword: str) -> str:
        extended = " [SP <mail-parameters>]" if self.session.extended_smtp else ""
        return f"501 Syntax: {verb} {keyword} <address>{extended}"

    def _path(self, verb: str, keyword: str, arg: str | None) -> tuple[str | None, list[str], str | None]:
        """Return the address and the options of MAIL or RCPT, and the refusal if they are malformed."""
        text = None if arg is None else self._strip_command_keyword(keyword, arg)
        if text is None:
            return None, [], self._syntax_error(verb, keyword)
        address, rest = self._getaddr(text)
        if address is None or rest is None:
            return None, [], "553 5.1.3 Error: malformed address"
        if not address or (rest and not self.session.extended_smtp):
            return None, [], self._syntax_error(verb, keyword)
        return address, rest.upper().split(), None

    def _parameters_refused(self, options: list[str]) -> str | None:
        """The refusal of the parameters of MAIL; None if they are fine."""
        if not options:
            self.envelope.smtp_utf8 = False
            return None
        params = self._getparams(options)
        if params is None:
            return self._syntax_error("MAIL", "FROM:")
        if not self._decode_data and params.pop("BODY", "7BIT") not in {"7BIT", "8BITMIME"}:
            return "501 Error: BODY can only be one of 7BIT, 8BITMIME"
        utf8 = params.pop("SMTPUTF8", False)
        if not isinstance(utf8, bool):
            return "501 Error: SMTPUTF8 takes no arguments"
        if utf8 and not self.enable_SMTPUTF8:
            return "501 Error: SMTPUTF8 disabled"
        self.envelope.smtp_utf8 = utf8
        size = params.pop("SIZE", None)
        if size:
            if isinstance(size, bool) or not size.isdigit():
                return self._syntax_error("MAIL", "FROM:")
            if self.data_size_limit and int(size) > self.data_size_limit:
                return "552 Error: message size exceeds fixed maximum message size"
        return "555 MAIL FROM parameters not recognized or not implemented" if params else None

    def _strip_command_keyword(self, keyword: str, arg: str) -> str | None:
        if arg[: len(keyword)].upper() == keyword:
            return arg[len(keyword) :].strip()
        return None

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        """Return an address and what follows it; two times None if it is not an address."""
        if not arg:
            return "", ""
        path, closed, rest = arg[1:].partition(">")
        address = path
        simple = bool(closed) and arg[0] == "<" and '"' not in path and "[" not in path and "(" not in rest
        try:
            if simple:
                wire.parse_mailbox(path)
        except ValueError:
            simple = False
        if not simple:
            try:
                parse = get_angle_addr if arg.lstrip().startswith("<") else get_addr_spec
                parsed, rest = parse(arg)
                address = parsed.addr_spec
            except HeaderParseError:
                return None, None
        if self.local_part_limit and len(address.rpartition("@")[0]) > self.local_part_limit:
            return None, None
        return address, rest.lstrip() if simple else rest

    def _getparams(self, params: Sequence[str]) -> dict[str, str | bool] | None:
        """Return parameters by keyword, True without a value; None if one is malformed."""
        result: dict[str, str | bool] = {}
        for each in params:
            keyword, equals, value = each.partition("=")
            if not keyword.isalnum() or (equals and not value):
                return None
            result[keyword] = value if equals else True
        return result

    @syntax("DATA")
    async def smtp_DATA(self, arg: str | None) -> None:
        """Receive the content."""
        if await self.check_helo_needed() or await self.check_auth_needed("DATA"):
            return
        if not self.envelope.rcpt_tos:
            await self.push("503 Error: need RCPT command")
            return
        if arg:
            await self.push("501 Syntax: DATA")
            return
        await self.push("354 End data with <CR><LF>.<CR><LF>")
        content, facts = await self._connection.content(self.data_size_limit or None)
        octets = content.take()
        status = self._content_refused(octets, facts)
        if status is None:
            self.envelope.original_content = octets
            try:
                self.envelope.content = self._decoded_content(octets)
            except UnicodeDecodeError:
                status = "500 Error: strict ASCII mode"
            else:
                status = await self._verdict()
        recipients = len(self.envelope.rcpt_tos)
        self._set_post_data_state()
        for _ in range(recipients if self.replies_per_recipient else 1):
            await self.push(status)

    def _content_refused(self, octets: bytes, facts: BodyEnd) -> str | None:
        """The refusal of content that exceeds a limit, by the one that was exceeded first; None if it does not."""
        longest = self.line_length_limit - len("\r\n")
        if self.data_size_limit and facts.size > self.data_size_limit:
            return (
                CONTENT_LINE_TOO_LONG
                if any(len(line) > longest for line in octets.split(b"\r\n"))
                else CONTENT_TOO_LARGE
            )
        return CONTENT_LINE_TOO_LONG if facts.longest_line > longest else None

    def _decoded_content(self, octets: bytes) -> bytes | str:
        if not self._decode_data:
            return octets
        return octets.decode("utf-8", "surrogateescape") if self.enable_SMTPUTF8 else octets.decode("ascii")

    async def _verdict(self) -> str:
        """The reply of the handler to the content."""
        status: Any = MISSING
        if "DATA" in self._handle_hooks:
            status = await self._call_handler_hook("DATA")
        elif (process := getattr(self.event_handler, "process_message", None)) is not None:
            warnings.warn("Use handler.handle_DATA() instead of .process_message()", DeprecationWarning, stacklevel=2)
            envelope = self.envelope
            status = process(self.session.peer, envelope.mail_from, envelope.rcpt_tos, envelope.content)
            if inspect.isawaitable(status):
                status = await status
            status = MISSING if status is None else status
        return "250 OK" if status is MISSING else status
