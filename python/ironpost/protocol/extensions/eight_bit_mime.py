"""8BITMIME: content may hold octets above 127 (RFC 6152). BINARYMIME (RFC 3030 §3) is not offered."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension, Outgoing, Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Reply
    from ironpost.protocol.server import ServerSession


def _body(session: ServerSession, value: str | None) -> Reply | None:  # noqa: ARG001 - a Check
    if value is not None and value.upper() in {"7BIT", "8BITMIME"}:
        return None
    return replies.BAD_PARAMETER


class EightBitMime(Extension):
    keyword = "8BITMIME"
    extra_octets: ClassVar = {"MAIL": len(" BODY=8BITMIME")}
    mail_parameters: ClassVar = {"BODY": _body}

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters | Reply:
        declared = message.envelope.body_type
        if declared == "BINARYMIME":
            return replies.PEER_LACKS_BINARY
        if not message.eight_bit and declared != "8BITMIME":
            return {}
        if "8BITMIME" in offered:
            return {"BODY": "8BITMIME"}
        # Declared 8-bit but plain ASCII needs no transport for 8 bits (RFC 6152 §3).
        return replies.PEER_LACKS_8BIT if message.eight_bit else {}
