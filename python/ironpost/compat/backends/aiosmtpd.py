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
from functools import wraps
from io import BytesIO
from typing import Any, Final

from aiosmtpd.smtp import MISSING, SMTP

from ironpost import wire
from ironpost.compat.aiosmtpd.input import (
    ACCEPTED,
    NOT_ASCII,
    START_CONTENT,
    data_refusal,
    plain_address,
    process_message,
    store_content,
)
from ironpost.compat.backends import Replacement

READ: Final = 1 << 18
"""Maximum octets that are taken from the stream at a time."""
_stock_getaddr = SMTP._getaddr
_stock_data = SMTP.smtp_DATA


def replacements() -> list[Replacement]:
    """See `ironpost.compat.backends.install`."""
    return [Replacement(SMTP, "_getaddr", _getaddr), Replacement(SMTP, "smtp_DATA", _smtp_data)]


def _getaddr(self: SMTP, arg: str) -> tuple[str | None, str | None]:
    """Return the address of a path and what follows it; two times None if it is not an address."""
    plain = plain_address(arg)
    if plain is None:
        return _stock_getaddr(self, arg)
    if self.local_part_limit and len(plain[0].rpartition("@")[0]) > self.local_part_limit:
        return None, None
    return plain


@wraps(_stock_data)
async def _smtp_data(self: SMTP, arg: str | None) -> None:
    if await self.check_helo_needed() or await self.check_auth_needed("DATA"):
        return
    refusal = data_refusal(self, arg)
    if refusal is not None:
        await self.push(refusal)
        return
    await self.push(START_CONTENT)
    octets, decoder = await _content(self)
    status: Any = store_content(self, octets, decoder.size, decoder.longest_line)
    if status == NOT_ASCII:  # aiosmtpd keeps the transaction
        await self.push(status)
        return
    if status is None:
        has_hook = "DATA" in self._handle_hooks
        status = await (self._call_handler_hook("DATA") if has_hook else process_message(self))
    self._set_post_data_state()  # type: ignore[no-untyped-call]
    await self.push(ACCEPTED if status is MISSING else status)


async def _content(self: SMTP) -> tuple[bytes, wire.DataDecoder]:
    """Read up to the end of DATA; return at most `data_size_limit` octets of content, and the facts about all of it."""
    limit = self.data_size_limit
    decoder = wire.DataDecoder(wire.Limits(content=limit) if limit else None, "accept")
    content = BytesIO()
    finished = False
    while not finished:
        octets = await self._reader.read(READ)
        if not octets:  # aiosmtpd cancels this task at the end of the stream; never read it twice
            raise asyncio.IncompleteReadError(b"", None)
        piece, used, finished = decoder.feed(octets)
        content.write(piece)
        if used < len(octets):  # commands that the client sent without waiting
            self._reader._buffer[:0] = octets[used:]  # type: ignore[attr-defined]
    return content.getvalue(), decoder
