"""REQUIRETLS: the message must be sent under TLS on every hop (RFC 8689 §2); and the header field TLS-Required (§3).

Claimed: queue and delivery must keep the parameter and pass the message on only under verified TLS, to a next hop that
offers REQUIRETLS (§4.2.1); `routing.tls.requiretls` makes delivery verify it. It is offered only under TLS. A report
about such a message has the parameter too, and does not return the content; because of its null reverse-path it is also
sent, without the parameter, to a next hop that does not support it (§5).

`TLS-Required: No` becomes a tag of the stored message, `model.envelope.TLS_REQUIRED`, unless MAIL has REQUIRETLS, which
precedes it (§4.1). A field with another value, or a second one, is invalid and has no effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from ironpost.model.envelope import TLS_REQUIRED
from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension, Offer, Outgoing, Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ironpost.model import Envelope, Reply, Value
    from ironpost.protocol.server.session import ServerSession

_FIELD: Final = "tls-required"


def _required(session: ServerSession, value: str | None, given: dict[str, Value]) -> Reply | None:
    del given
    if value is not None:
        return replies.BAD_PARAMETER
    return None if session.secure else replies.ENCRYPTION_NEEDED


class RequireTls(Extension):
    keyword = "REQUIRETLS"
    claimed = True
    on_request = True
    extra_octets: ClassVar = {"MAIL": 11}  # RFC 8689 §2 (5)
    mail_parameters: ClassVar = {"REQUIRETLS": _required}
    relay_parameters: ClassVar = frozenset({"REQUIRETLS"})
    report_parameters: ClassVar = frozenset({"REQUIRETLS"})  # RFC 8689 §5
    headers_only_parameters: ClassVar = frozenset({"REQUIRETLS"})  # RFC 8689 §5

    tag_fields: ClassVar = frozenset({_FIELD})

    def tags(self, fields: Mapping[str, Sequence[bytes]], parameters: Parameters) -> Parameters:
        values = [value.lower() for value in fields.get(_FIELD, ())]
        return {TLS_REQUIRED: "No"} if values == [b"no"] and self.keyword not in parameters else {}

    def advertise(self, offer: Offer) -> str | None:
        return self.keyword if offer.secure else None

    def requires_tls(self, envelope: Envelope) -> bool:
        return "REQUIRETLS" in envelope.parameters and not envelope.reverse_path.is_null

    def next_hop_refusal(self, envelope: Envelope, offered: Mapping[str, str], *, verified: bool) -> Reply | None:
        if not self.requires_tls(envelope):
            return None
        if "REQUIRETLS" not in offered:
            return replies.PEER_LACKS_REQUIRETLS
        return None if verified else replies.PEER_NOT_VERIFIED

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters | Reply:
        refusal = self.next_hop_refusal(message.envelope, offered, verified=message.verified)
        if refusal is not None:
            return refusal
        supported = "REQUIRETLS" in offered and message.verified  # reports are also sent without the parameter
        return {"REQUIRETLS": None} if supported else {}
