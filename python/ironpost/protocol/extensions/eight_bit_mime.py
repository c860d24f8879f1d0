"""8BITMIME: content may hold octets above 127 (RFC 6152).

BODY is this extension's; of its value BINARYMIME `binary_mime` knows the rules. What octets above 127 meet that were
not declared is judged at the end of the content (`Settings.eight_bit`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from ironpost.model import BodyType
from ironpost.protocol import replies
from ironpost.protocol.extensions import binary_mime
from ironpost.protocol.extensions.base import Extension, Outgoing, Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Reply
    from ironpost.protocol.server import ServerSession

_BODIES: Final = {body.value: body for body in BodyType}


def _body(session: ServerSession, value: str | None) -> BodyType | Reply:
    body = _BODIES.get(value.upper()) if value is not None and value.isascii() else None
    if body is None or (body is BodyType.BINARY and not binary_mime.taken(session.settings)):
        return replies.BAD_PARAMETER
    return body


class EightBitMime(Extension):
    keyword = "8BITMIME"
    extra_octets: ClassVar = {"MAIL": len(" BODY=8BITMIME")}
    mail_parameters: ClassVar = {"BODY": _body}
    stored: ClassVar = {"BODY": BodyType}

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters | Reply:
        declared = message.envelope.body_type
        if declared == BodyType.BINARY:
            return binary_mime.outgoing(offered)
        if not message.eight_bit and declared != BodyType.EIGHT_BIT:
            return {}
        if "8BITMIME" in offered:
            return {"BODY": BodyType.EIGHT_BIT}
        # Declared 8-bit but plain ASCII needs no transport for 8 bits (RFC 6152 §3).
        return replies.PEER_LACKS_8BIT if message.eight_bit else {}
