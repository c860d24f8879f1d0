"""SIZE: declaration of the message size before the content is sent (RFC 1870)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension, Offer, Outgoing, Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Reply, Value
    from ironpost.protocol.server.session import ServerSession

_DIGITS = 20
"""Maximum number of digits of a size (RFC 1870 §3)."""


def _size(session: ServerSession, value: str | None, given: dict[str, Value]) -> int | Reply:
    del given
    if value is None or len(value) > _DIGITS or not (value.isascii() and value.isdigit()):
        return replies.BAD_PARAMETER
    size = int(value)
    return replies.TOO_LARGE if size > session.settings.max_size else size  # RFC 1870 §6.1


class Size(Extension):
    keyword = "SIZE"
    extra_octets: ClassVar = {"MAIL": 26}  # RFC 1870 §3 (5)
    mail_parameters: ClassVar = {"SIZE": _size}
    stored: ClassVar = {"SIZE": int}

    def advertise(self, offer: Offer) -> str:
        return f"SIZE {offer.settings.max_size}"

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters | Reply:
        limit = offered.get("SIZE")
        if limit is None or message.size is None:
            return {}
        # RFC 1870 §4: 0, or the absence of a number, means that no fixed limit is known.
        if limit.isascii() and limit.isdigit() and 0 < int(limit[:_DIGITS]) < message.size:
            return replies.PEER_TOO_SMALL
        return {"SIZE": message.size}
