"""DELIVERBY: a deadline for the delivery of a message (RFC 2852).

Claimed: queue and delivery must return the message at the deadline (mode R), or report that it is late (mode N). On the
wire the by-time is a number of seconds; in the queue it is a point in time (`DeliverBy`). In mode R the message is not
sent to a next hop without the extension, or with a minimum by-time longer than the time left (§4.1.4.1). In mode N it
is, and NOTIFY=DELAY is requested if the next hop supports DSN (§4.1.4.2); a next hop without the extension cannot keep
the deadline, so the sender gets a report that the message was relayed, as in every case with by-trace (§4.1.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ironpost.message.dates import date_time
from ironpost.model.parameters import LONGEST, DeliverBy, HoldUntil, Notify
from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension, Offer, Outgoing, Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Envelope, Recipient, Reply, Value
    from ironpost.protocol.extensions.base import Parse
    from ironpost.protocol.server.session import ServerSession
    from ironpost.protocol.server.settings import ServerSettings


def held_too_long(hold: HoldUntil, by: DeliverBy) -> bool:
    """Whether the message would be held beyond its deadline (RFC 4865 §5.2.2)."""
    return hold.at > by.deadline


@dataclass(frozen=True, eq=False)
class DeliverByTime(Extension):
    minimum: int = 0
    """Minimum by-time that is accepted in mode R, in seconds (RFC 2852 §3); 0 for no limit."""

    keyword = "DELIVERBY"
    claimed = True
    on_request = True
    every_recipient = True
    extra_octets: ClassVar = {"MAIL": 17}  # RFC 2852 §2 (5)
    relay_parameters: ClassVar = frozenset({"BY"})
    stored: ClassVar = {"BY": DeliverBy.parse}

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= LONGEST:
            raise ValueError(f"DeliverByTime.minimum is {self.minimum}; expected 0 to {LONGEST} seconds")

    @property
    def mail_parameters(self) -> Mapping[str, Parse]:
        return {"BY": self._by}

    def _by(self, session: ServerSession, value: str | None, given: dict[str, Value]) -> DeliverBy | Reply:
        settings = session.settings
        assert settings.now is not None, "DELIVERBY is not available without a clock"
        now = settings.now()
        try:
            by = DeliverBy.parse_seconds(value or "", now)
        except ValueError as error:
            return replies.BAD_PARAMETER.because(str(error))
        if by.returned and by.remaining(now) < self.minimum:
            return replies.BY_TOO_SHORT
        hold = given.get("HOLDUNTIL")
        return replies.BAD_PARAMETER if isinstance(hold, HoldUntil) and held_too_long(hold, by) else by

    def available(self, settings: ServerSettings) -> bool:
        return settings.now is not None and super().available(settings)

    def advertise(self, offer: Offer) -> str:
        del offer
        return f"DELIVERBY {self.minimum}" if self.minimum else "DELIVERBY"

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters | Reply:
        by = message.envelope.parameters.get("BY")
        if not isinstance(by, DeliverBy):
            return {}
        minimum = offered.get("DELIVERBY")
        if by.returned:
            left = by.remaining(message.now)
            if left <= 0:  # RFC 2852 §4.1.3
                return replies.BY_EXPIRED
            if minimum is None or left < _minimum(minimum):
                return replies.PEER_LACKS_DELIVERBY
        return {} if minimum is None else {"BY": by.seconds_text(message.now)}

    def outgoing_recipient(
        self, message: Outgoing, recipient: Recipient, offered: Mapping[str, str]
    ) -> Parameters | Reply:
        by = message.envelope.parameters.get("BY")
        if not isinstance(by, DeliverBy) or by.returned or "DELIVERBY" in offered or "DSN" not in offered:
            return {}
        notify = recipient.parameters.get("NOTIFY")
        if notify is Notify.NEVER:
            return {}
        return {"NOTIFY": (notify if isinstance(notify, Notify) else Notify.FAILURE) | Notify.DELAY}

    def relay_reported(self, envelope: Envelope, offered: Mapping[str, str], now: float) -> bool:
        by = envelope.deliver_by
        if by is None:
            return False
        return by.trace or (not by.returned and "DELIVERBY" not in offered and by.remaining(now) > 0)

    def report_fields(self, parameters: Parameters) -> Mapping[str, str]:
        by = parameters.get("BY")
        return {"Deliver-By-Date": date_time(by.deadline)} if isinstance(by, DeliverBy) else {}  # RFC 2852 §5


def _minimum(parameter: str) -> int:
    """Parse min-by-time (RFC 2852 §2); return 0 if it is missing or not a number."""
    first = parameter.partition(",")[0]
    return int(first) if first.isascii() and first.isdigit() and len(first) <= 9 else 0
