"""Content and addresses of stock aiosmtpd, read by `ironpost.wire`.

Promises: replies, hooks, attributes of the envelope and limits are aiosmtpd's: `data_size_limit`, `line_length_limit`,
`local_part_limit`, `decode_data`, `enable_SMTPUTF8`. Addresses that the wire does not read as aiosmtpd would (quoted
local parts, comments, literals, source routes) go to aiosmtpd's parser.

Differences: the size of a message is counted without transparency dots (RFC 1870 §5); lines of content are not logged
at level DEBUG.
Standards: RFC 5321 §4.1.1.4 and §4.5.2 (the end of DATA, transparency), §4.1.2 (paths).
"""

from __future__ import annotations

import asyncio
import warnings
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from aiosmtpd.smtp import MISSING, SMTP

from ironpost import wire
from ironpost.compat.backends import Replacement

if TYPE_CHECKING:
    from aiosmtpd.smtp import _Missing

READ: Final = 1 << 18
"""Maximum octets that are taken from the stream at a time."""
TOO_LONG: Final = "500 Line too long (see RFC5321 4.5.3.1.6)"
TOO_LARGE: Final = "552 Error: Too much mail data"

_stock_getaddr = SMTP._getaddr
_stock_data = SMTP.smtp_DATA


def replacements() -> list[Replacement]:
    """See `ironpost.compat.backends.install`."""
    return [Replacement(SMTP, "_getaddr", _getaddr), Replacement(SMTP, "smtp_DATA", _smtp_data)]


def _getaddr(self: SMTP, arg: str) -> tuple[str | None, str | None]:
    """Return the address of a path and what follows it; two times None if it is not an address."""
    path, closed, rest = arg[1:].partition(">")
    if arg[:1] != "<" or not closed or '"' in path or "[" in path or "(" in rest:
        return _stock_getaddr(self, arg)
    try:
        mailbox = wire.parse_mailbox(path)
    except wire.WireFault:
        return _stock_getaddr(self, arg)
    if self.local_part_limit and len(mailbox.local_part) > self.local_part_limit:
        return None, None
    return path, rest.lstrip()


@wraps(_stock_data)
async def _smtp_data(self: SMTP, arg: str | None) -> None:
    if await self.check_helo_needed() or await self.check_auth_needed("DATA"):
        return
    assert self.envelope is not None
    if not self.envelope.rcpt_tos:
        await self.push("503 Error: need RCPT command")
        return
    if arg:
        await self.push("501 Syntax: DATA")
        return
    await self.push("354 End data with <CR><LF>.<CR><LF>")
    octets, refusal = await _content(self)
    if refusal is not None:
        self._set_post_data_state()  # type: ignore[no-untyped-call]
        await self.push(refusal)
        return
    content: str | bytes = octets
    if self._decode_data:
        try:
            content = octets.decode("utf-8", "surrogateescape") if self.enable_SMTPUTF8 else octets.decode("ascii")
        except UnicodeDecodeError:
            await self.push("500 Error: strict ASCII mode")
            return
    self.envelope.content = content
    self.envelope.original_content = octets
    status = await _verdict(self)
    self._set_post_data_state()  # type: ignore[no-untyped-call]
    await self.push("250 OK" if status is MISSING else status)


async def _content(self: SMTP) -> tuple[bytes, str | None]:
    """Read up to the end of DATA; return the content, and the reply if a limit was exceeded."""
    limit = self.data_size_limit
    decoder = wire.DataDecoder(wire.Limits(content=limit) if limit else None, "accept")
    pieces = []
    finished = False
    while not finished:
        octets = await self._reader.read(READ)
        if not octets:  # aiosmtpd cancels this task at the end of the stream; never read it twice
            raise asyncio.IncompleteReadError(b"", None)
        piece, used, finished = decoder.feed(octets)
        pieces.append(piece)
        if used < len(octets):  # commands that the client sent without waiting
            self._reader._buffer[:0] = octets[used:]  # type: ignore[attr-defined]
    content = b"".join(pieces)  # at most `limit` octets
    longest = self.line_length_limit - len("\r\n")
    if limit and decoder.size > limit:
        # The reply names the limit that was exceeded first.
        return b"", TOO_LONG if any(len(line) > longest for line in content.split(b"\r\n")) else TOO_LARGE
    return content, TOO_LONG if decoder.longest_line > longest else None


async def _verdict(self: SMTP) -> Any | _Missing:
    """The reply of the handler; MISSING if it leaves it to aiosmtpd."""
    if "DATA" in self._handle_hooks:
        return await self._call_handler_hook("DATA")
    process = getattr(self.event_handler, "process_message", None)
    if process is None:
        return MISSING
    warnings.warn("Use handler.handle_DATA() instead of .process_message()", DeprecationWarning, stacklevel=2)
    assert self.session is not None
    assert self.envelope is not None
    status = process(self.session.peer, self.envelope.mail_from, self.envelope.rcpt_tos, self.envelope.content)
    if asyncio.iscoroutine(status):
        status = await status
    return MISSING if status is None else status
