"""Addresses and content as aiosmtpd reads them: what the class `SMTP` here and the backend for the stock one share.

Promises: only addresses that the wire reads as aiosmtpd does are read by it. The reply to content that exceeds two
limits names the one that was exceeded first.
Standards: RFC 5321 §4.1.2 (paths), §4.5.3.1.6 (the length of a line).
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any, Final, Protocol

from ironpost import wire

ACCEPTED: Final = "250 OK"
START_CONTENT: Final = "354 End data with <CR><LF>.<CR><LF>"
NOT_ASCII: Final = "500 Error: strict ASCII mode"
CONTENT_LINE_TOO_LONG: Final = "500 Line too long (see RFC5321 4.5.3.1.6)"
CONTENT_TOO_LARGE: Final = "552 Error: Too much mail data"


class Server(Protocol):
    """What both classes have."""

    data_size_limit: int | None
    line_length_limit: int
    """Maximum octets of a line of content with its CRLF and a transparency dot."""
    enable_SMTPUTF8: bool  # noqa: N815 - aiosmtpd's name
    event_handler: Any
    session: Any
    envelope: Any
    _decode_data: bool


def plain_address(arg: str) -> tuple[str, str] | None:
    """Return the address of a path and what follows it; None for aiosmtpd's own parser.

    It reads quoted local parts, comments, address literals and source routes in its own way.
    """
    path, closed, rest = arg[1:].partition(">")
    if arg[:1] != "<" or not closed or '"' in path or "[" in path or "(" in rest:
        return None
    try:
        wire.parse_mailbox(path)
    except wire.WireFault:
        return None
    return path, rest.lstrip()


def data_refusal(server: Server, arg: str | None) -> str | None:
    """Return the refusal of DATA; None to read the content."""
    if not server.envelope.rcpt_tos:
        return "503 Error: need RCPT command"
    return "501 Syntax: DATA" if arg else None


def store_content(server: Server, octets: bytes, size: int, longest_line: int) -> str | None:
    """Put content into the envelope; return the refusal if it exceeds a limit, or cannot be decoded.

    Args:
        server: its limits, and its envelope.
        octets: at most `data_size_limit` octets of the content.
        size: octets of the content.
        longest_line: octets of the longest line without its CRLF.
    """
    limit, longest = server.data_size_limit, server.line_length_limit - len("\r\n")
    if limit and size > limit:
        too_long_first = longest_line > longest and _has_longer_line(octets, longest)
        return CONTENT_LINE_TOO_LONG if too_long_first else CONTENT_TOO_LARGE
    if longest_line > longest:
        return CONTENT_LINE_TOO_LONG
    content: str | bytes = octets
    if server._decode_data:
        try:
            content = octets.decode("utf-8", "surrogateescape") if server.enable_SMTPUTF8 else octets.decode("ascii")
        except UnicodeDecodeError:
            return NOT_ASCII
    server.envelope.content, server.envelope.original_content = content, octets
    return None


def _has_longer_line(octets: bytes, longest: int) -> bool:
    """Whether a line has more octets than `longest`, without its CRLF."""
    start = 0
    while len(octets) - start > longest:
        end = octets.rfind(b"\r\n", start, start + longest + len(b"\r\n"))  # all lines up to there are short enough
        if end < 0:
            return True
        start = end + len(b"\r\n")
    return False


async def process_message(server: Server) -> Any:
    """Return the reply of the hook that handlers of smtpd have: to accept without that hook, and if it returns None."""
    process = getattr(server.event_handler, "process_message", None)
    if process is None:
        return ACCEPTED
    warnings.warn("Use handler.handle_DATA() instead of .process_message()", DeprecationWarning, stacklevel=2)
    envelope = server.envelope
    status = process(server.session.peer, envelope.mail_from, envelope.rcpt_tos, envelope.content)
    if inspect.isawaitable(status):
        status = await status
    return ACCEPTED if status is None else status
