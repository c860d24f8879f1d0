"""8BITMIME: content may contain octets above 127 (RFC 6152).

It owns the parameter BODY; `binary_mime` has the rules for the value BINARYMIME. Content with octets above 127 that
were not declared is accepted or refused at its end (`ServerSettings.eight_bit`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from ironpost.model import BodyType
from ironpost.protocol import replies
from ironpost.protocol.extensions import binary_mime
from ironpost.protocol.extensions.base import Extension, Outgoing, Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Reply, Value
    from ironpost.protocol.server.session import ServerSession

_BODIES: Final = {body.value: body for body in BodyType}


def _body(session: ServerSession, value: str | None, given: dict[str, Value]) -> BodyType | Reply:
    del given
    body = _BODIES.get(value.upper()) if value is not None and value.isascii() else None
    if body is None or (body is BodyType.BINARY and not binary_mime.accepted(session.settings)):
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
        # Content that was declared 8-bit but is ASCII can be sent as 7-bit (RFC 6152 §3).
        return replies.PEER_LACKS_8BIT if message.eight_bit else {}
