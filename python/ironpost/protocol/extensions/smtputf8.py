"""SMTPUTF8: addresses and header sections in UTF-8 (RFC 6531).

Whether a non-ASCII address came under SMTPUTF8 is judged where the address is (RFC 6531 §3.5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension, Outgoing, Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Reply
    from ironpost.protocol.server import ServerSession


def _flag(session: ServerSession, value: str | None) -> Reply | None:  # noqa: ARG001 - a Parse
    return None if value is None else replies.BAD_PARAMETER


class SmtpUtf8(Extension):
    keyword = "SMTPUTF8"
    extra_octets: ClassVar = {"MAIL": 10}  # RFC 6531 §3.1 (5)
    mail_parameters: ClassVar = {"SMTPUTF8": _flag}

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters | Reply:
        if not message.smtputf8:
            return {}
        return {"SMTPUTF8": None} if "SMTPUTF8" in offered else replies.PEER_LACKS_SMTPUTF8
