"""REQUIRETLS: a message that must not travel without TLS, on no part of its way (RFC 8689 §2).

Claimed: whoever takes the message must keep the tag and hand it on only under verified TLS, to a next hop that promises
the same (§4.2.1). Offered only under TLS. A report about such a message carries the tag too, but is not lost for it:
with the null reverse-path it also goes where the tag cannot (§5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension, Offer, Outgoing, Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Envelope, Reply
    from ironpost.protocol.server import ServerSession


def _required(session: ServerSession, value: str | None) -> Reply | None:
    if value is not None:
        return replies.BAD_PARAMETER
    return None if session.secure else replies.ENCRYPTION_NEEDED


def refusal(envelope: Envelope, offered: Mapping[str, str], *, verified: bool) -> Reply | None:
    """Why this peer cannot have a message with this envelope; then another host is tried (RFC 8689 §4.2.1)."""
    if "REQUIRETLS" not in envelope.parameters or envelope.reverse_path.is_null:
        return None
    if "REQUIRETLS" not in offered:
        return replies.PEER_LACKS_REQUIRETLS
    return None if verified else replies.PEER_NOT_VERIFIED


class RequireTls(Extension):
    keyword = "REQUIRETLS"
    claimed = True
    on_request = True
    extra_octets: ClassVar = {"MAIL": 11}  # RFC 8689 §2 (5)
    mail_parameters: ClassVar = {"REQUIRETLS": _required}

    def advertise(self, offer: Offer) -> str | None:
        return self.keyword if offer.secure else None

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters | Reply:
        refused = refusal(message.envelope, offered, verified=message.verified)
        if refused is not None:
            return refused
        promised = "REQUIRETLS" in offered and message.verified  # not of each report: those go without, too
        return {"REQUIRETLS": None} if promised else {}
