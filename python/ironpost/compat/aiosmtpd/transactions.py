"""MAIL, RCPT and DATA of the class `SMTP`.

Promises: addresses that the wire does not read as aiosmtpd does (quoted local parts, comments, literals, source routes)
go to the parser of the standard library, as all do in aiosmtpd. The reply to content that exceeds two limits names the
one that was exceeded first.
Standards: RFC 5321 §4.1.1.2 to §4.1.1.4; RFC 1870; RFC 6152; RFC 6531.
"""

from __future__ import annotations

import asyncio
from email._header_value_parser import get_addr_spec, get_angle_addr
from email.errors import HeaderParseError
from typing import TYPE_CHECKING, Any, TypeAlias

from ironpost.compat.aiosmtpd.connection import REPLIED
from ironpost.compat.aiosmtpd.input import (
    ACCEPTED,
    START_CONTENT,
    data_refusal,
    plain_address,
    process_message,
    store_content,
)
from ironpost.compat.aiosmtpd.values import MISSING, log, syntax

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ironpost.compat.aiosmtpd.connection import Connection, Content
    from ironpost.compat.aiosmtpd.values import Envelope, Session
    from ironpost.model import Reply
    from ironpost.wire import BodyEnd, Command, Mailbox


Path: TypeAlias = tuple[str, list[str]]
"""The argument of MAIL or RCPT: its address and its parameters."""


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
    _execute: Callable[..., Awaitable[Reply]]
    _report: Callable[[Exception], Awaitable[Reply]]
    _queue: Callable[[str], None]
    _set_post_data_state: Callable[[], None]
    _connection: Connection
    _decode_data: bool
    _has_verdict: bool
    _logs: bool
    _handle_hooks: dict[str, Callable[..., Any]]

    @syntax("MAIL FROM: <address>", extended=" [SP <mail-parameters>]")
    async def smtp_MAIL(self, arg: str | None) -> None:
        """Begin a transaction."""
        if await self.check_helo_needed() or await self.check_auth_needed("MAIL"):
            return
        path = self._mail_path(arg)
        if isinstance(path, str):
            await self.push(path)
            return
        status = await self._call_handler_hook("MAIL", *path)
        await self.push(self._accept_mail(path) if status is MISSING else status)

    def _mail_now(self, command: Command, arg: str | None) -> str:
        """The reply to MAIL without a hook."""
        path = self._mail_path(arg, command.path)
        return path if isinstance(path, str) else self._accept_mail(path)

    def _mail_path(self, arg: str | None, parsed: Mailbox | None = None) -> Path | str:
        """The path of MAIL, or its refusal."""
        path = self._path("MAIL", "FROM:", arg, parsed)
        if isinstance(path, str):
            return path
        if self.envelope.mail_from:
            return "503 Error: nested MAIL command"
        address, options = path
        if (refusal := self._parameters_refused(options)) is not None:
            return refusal
        if self._logs:
            log.info("%r sender: %s", self.session.peer, address)
        return path

    def _accept_mail(self, path: Path) -> str:
        self.envelope.mail_from, options = path
        self.envelope.mail_options.extend(options)
        return ACCEPTED

    @syntax("RCPT TO: <address>", extended=" [SP <mail-parameters>]")
    async def smtp_RCPT(self, arg: str | None) -> None:
        """Add a recipient."""
        if await self.check_helo_needed() or await self.check_auth_needed("RCPT"):
            return
        path = self._rcpt_path(arg)
        if isinstance(path, str):
            await self.push(path)
            return
        status = await self._call_handler_hook("RCPT", *path)
        await self.push(self._accept_rcpt(path) if status is MISSING else status)

    def _rcpt_now(self, command: Command, arg: str | None) -> str:
        """The reply to RCPT without a hook."""
        path = self._rcpt_path(arg, command.path)
        return path if isinstance(path, str) else self._accept_rcpt(path)

    def _rcpt_path(self, arg: str | None, parsed: Mailbox | None = None) -> Path | str:
        """The path of RCPT, or its refusal."""
        if not self.envelope.mail_from:
            return "503 Error: need MAIL command"
        path = self._path("RCPT", "TO:", arg, parsed)
        if isinstance(path, str):
            return path
        address, options = path
        if options:
            if self._getparams(options) is None:
                return self._syntax_error("RCPT", "TO:")
            return "555 RCPT TO parameters not recognized or not implemented"
        if self._logs:
            log.info("%r recip: %s", self.session.peer, address)
        return path

    def _accept_rcpt(self, path: Path) -> str:
        address, options = path
        self.envelope.rcpt_tos.append(address)
        self.envelope.rcpt_options.extend(options)
        return ACCEPTED

    def _syntax_error(self, verb: str, keyword: str) -> str:
        extended = " [SP <mail-parameters>]" if self.session.extended_smtp else ""
        return f"501 Syntax: {verb} {keyword} <address>{extended}"

    def _path(self, verb: str, keyword: str, arg: str | None, parsed: Mailbox | None) -> Path | str:
        """The path of MAIL or RCPT, which the wire may have parsed, or the refusal if it is malformed."""
        if arg is not None and parsed is not None and not self.local_part_limit:
            mailbox = f"{parsed.local_part}@{parsed.domain}"
            if arg[len(keyword) :] == f"<{mailbox}>" and "[" not in mailbox:  # neither quoted, nor followed by anything
                return mailbox, []
        text = None if arg is None else self._strip_command_keyword(keyword, arg)
        if text is None:
            return self._syntax_error(verb, keyword)
        address, rest = self._getaddr(text)
        if address is None or rest is None:
            return "553 5.1.3 Error: malformed address"
        if not address or (rest and not self.session.extended_smtp):
            return self._syntax_error(verb, keyword)
        return address, rest.upper().split()

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
        plain = plain_address(arg)
        if plain is not None:
            address, rest = plain
        else:
            try:
                parse = get_angle_addr if arg.lstrip().startswith("<") else get_addr_spec
                parsed, rest = parse(arg)
                address = parsed.addr_spec
            except HeaderParseError:
                return None, None
        if self.local_part_limit and len(address.rpartition("@")[0]) > self.local_part_limit:
            return None, None
        return address, rest

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
        refusal = data_refusal(self, arg)
        if refusal is not None:
            await self.push(refusal)
            return
        await self.push(START_CONTENT)
        content, facts = await self._connection.content(self.data_size_limit or None)
        status = store_content(self, content.take(), facts.size, facts.longest_line)
        for each in self._finish_content(await self._verdict() if status is None else status):
            await self.push(each)

    def _data_now(self, command: Command, arg: str | None) -> str:  # noqa: ARG002 - as the others
        """The reply to DATA; `_content_read` is called with the content."""
        refusal = data_refusal(self, arg)
        if refusal is None:
            self._connection.begin_content(self.data_size_limit or None)
        return START_CONTENT if refusal is None else refusal

    def _content_read(self, content: Content, facts: BodyEnd) -> Reply | Awaitable[Reply]:
        """Reply to content, at once unless the handler decides about it."""
        try:
            status = store_content(self, content.take(), facts.size, facts.longest_line)
            if status is None and self._has_verdict:
                return self._execute(self._reply_to_content)
            for each in self._finish_content(ACCEPTED if status is None else status):
                self._queue(each)
        except Exception as error:  # noqa: BLE001 - as `_execute`
            return self._report(error)
        return REPLIED

    async def _reply_to_content(self) -> None:
        try:
            status = await self._verdict()
        except asyncio.CancelledError:  # not because the client has gone: see `ServerConnection`
            self._connection.transport.abort()
            raise
        for each in self._finish_content(status):
            await self.push(each)

    def _finish_content(self, status: str) -> list[str]:
        """End the transaction; return the replies to its content."""
        recipients = len(self.envelope.rcpt_tos)
        self._set_post_data_state()
        return [status] * (recipients if self.replies_per_recipient else 1)

    async def _verdict(self) -> str:
        """The reply of the handler to the content."""
        has_hook = "DATA" in self._handle_hooks
        status = await (self._call_handler_hook("DATA") if has_hook else process_message(self))
        return ACCEPTED if status is MISSING else status
