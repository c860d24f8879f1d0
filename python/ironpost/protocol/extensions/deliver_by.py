"""DELIVERBY: a message that is worth delivering until some time only (RFC 2852).

Claimed: whoever takes the message must give it up in time (mode R), or report that it is late (mode N). By-time counts
seconds when it comes and when it goes; between the two it is a moment in time (`DeliverBy`). In mode R a next hop
without the extension, or with a least by-time that is longer than what is left, cannot have the message (§4.1.4.1). In
mode N it can, and then DELAY is asked for, where it knows DSN (§4.1.4.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.model.parameters import DeliverBy, HoldUntil, Notify
from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension, Offer, Outgoing, Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Recipient, Reply, Value
    from ironpost.protocol.server import ServerSession
    from ironpost.protocol.settings import Settings


def _by(session: ServerSession, value: str | None) -> DeliverBy | Reply:
    settings = session.settings
    assert settings.now is not None, "there is no DELIVERBY without a clock"
    now = settings.now()
    try:
        by = DeliverBy.parse_seconds(value or "", now)
    except ValueError as error:
        return replies.BAD_PARAMETER.because(str(error))
    if by.returned and by.remaining(now) < settings.deliver_by_minimum:
        return replies.BY_TOO_SHORT
    hold = session.candidate.get("HOLDUNTIL")
    return replies.BAD_PARAMETER if hold is not None and comes_too_late(hold, by) else by


def comes_too_late(hold: HoldUntil, by: DeliverBy) -> bool:
    """It would be released when it should have been delivered (RFC 4865 §5.2.2)."""
    return hold.at > by.deadline


def notify(message: Outgoing, recipient: Recipient, offered: Mapping[str, str]) -> Value:
    """NOTIFY for a next hop with DSN: as it came, with DELAY where mode N meets a next hop without DELIVERBY."""
    asked = recipient.parameters.get("NOTIFY")
    by = message.envelope.parameters.get("BY")
    if not isinstance(by, DeliverBy) or by.returned or "DELIVERBY" in offered or asked is Notify.NEVER:
        return asked
    return (Notify.FAILURE if not isinstance(asked, Notify) else asked) | Notify.DELAY


class DeliverByTime(Extension):
    keyword = "DELIVERBY"
    claimed = True
    on_request = True
    extra_octets: ClassVar = {"MAIL": 17}  # RFC 2852 §2 (5)
    mail_parameters: ClassVar = {"BY": _by}
    stored: ClassVar = {"BY": DeliverBy.parse}

    def available(self, settings: Settings) -> bool:
        return settings.now is not None and super().available(settings)

    def advertise(self, offer: Offer) -> str:
        least = offer.settings.deliver_by_minimum
        return f"DELIVERBY {least}" if least else "DELIVERBY"

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters | Reply:
        by = message.envelope.parameters.get("BY")
        if not isinstance(by, DeliverBy):
            return {}
        least = offered.get("DELIVERBY")
        if by.returned:
            left = by.remaining(message.now)
            if left <= 0:  # RFC 2852 §4.1.3
                return replies.BY_EXPIRED
            if least is None or left < _minimum(least):
                return replies.PEER_LACKS_DELIVERBY
        return {} if least is None else {"BY": by.seconds_text(message.now)}


def _minimum(parameter: str) -> int:
    """min-by-time (RFC 2852 §2); 0 if the peer says nothing about it, or nothing that can be read."""
    first = parameter.partition(",")[0]
    return int(first) if first.isascii() and first.isdigit() and len(first) <= 9 else 0
