"""SMTPUTF8: addresses and header sections in UTF-8 (RFC 6531).

The commands MAIL and RCPT check that non-ASCII addresses are used only with SMTPUTF8 (RFC 6531 §3.5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension, Outgoing, Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Reply, Value
    from ironpost.protocol.server.session import ServerSession


def _flag(session: ServerSession, value: str | None, given: dict[str, Value]) -> Reply | None:
    del session, given
    return None if value is None else replies.BAD_PARAMETER


class SmtpUtf8(Extension):
    keyword = "SMTPUTF8"
    extra_octets: ClassVar = {"MAIL": 10}  # RFC 6531 §3.1 (5)
    mail_parameters: ClassVar = {"SMTPUTF8": _flag}

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters | Reply:
        if not message.smtputf8:
            return {}
        if "SMTPUTF8" in offered:
            return {"SMTPUTF8": None}
        # RFC 6531 §3.5: 5.6.7 is about addresses, 5.6.9 about the header section.
        ascii_sender = message.envelope.reverse_path.local_part.isascii()
        return replies.PEER_LACKS_UTF8_HEADER if ascii_sender else replies.PEER_LACKS_SMTPUTF8
