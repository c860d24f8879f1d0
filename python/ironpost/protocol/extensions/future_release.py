"""FUTURERELEASE: the client requests delivery at a later time (RFC 4865). Submission only (§4.2).

Claimed: the queue must not attempt delivery before the requested time. HOLDFOR is converted to HOLDUNTIL on receipt, so
that the queue has one value to honour; HOLDFOR is kept too, because a report repeats the request (§5.1.2). The latest
time in the EHLO reply changes every hour, so that it is never later than what is accepted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from ironpost.model.parameters import LONGEST, DeliverBy, HoldUntil, moment_text, parse_hold_for
from ironpost.protocol import replies
from ironpost.protocol.dialect import SUBMISSION
from ironpost.protocol.extensions.base import Extension, Offer, Outgoing, Parameters
from ironpost.protocol.extensions.deliver_by import held_too_long

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Reply, Value
    from ironpost.protocol.extensions.base import Parse
    from ironpost.protocol.server.session import ServerSession
    from ironpost.protocol.server.settings import ServerSettings

MAX_HOLD: Final = 30 * 24 * 3600
"""Default of `FutureRelease.max_hold`: 30 days, in seconds."""
_KEYWORDS: Final = frozenset({"HOLDFOR", "HOLDUNTIL"})


@dataclass(frozen=True, eq=False)
class FutureRelease(Extension):
    max_hold: int = MAX_HOLD
    """Maximum seconds for which a message may be held (RFC 4865 §3), from 1 to 999999999."""

    keyword = "FUTURERELEASE"
    claimed = True
    on_request = True
    timed = True
    extra_octets: ClassVar = {"MAIL": 34}  # RFC 4865 §3 (5)
    queue_parameters: ClassVar = _KEYWORDS
    stored: ClassVar = {"HOLDFOR": parse_hold_for, "HOLDUNTIL": HoldUntil.parse}

    def __post_init__(self) -> None:
        if not 1 <= self.max_hold <= LONGEST:
            raise ValueError(f"FutureRelease.max_hold is {self.max_hold}; expected 1 to {LONGEST} seconds")

    @property
    def mail_parameters(self) -> Mapping[str, Parse]:
        return {"HOLDFOR": self._hold_for, "HOLDUNTIL": self._hold_until}

    def _hold_for(self, session: ServerSession, value: str | None, given: dict[str, Value]) -> int | Reply:
        settings = session.settings
        assert settings.now is not None, "FUTURERELEASE is not available without a clock"
        try:
            seconds = parse_hold_for(value or "")
        except ValueError as error:
            return replies.BAD_PARAMETER.because(str(error))
        if seconds > self.max_hold:
            return replies.HELD_TOO_LONG
        hold = _consistent(HoldUntil(math.ceil(settings.now()) + seconds), given)
        if isinstance(hold, HoldUntil):
            given["HOLDUNTIL"] = hold
            return seconds
        return hold

    def _hold_until(self, session: ServerSession, value: str | None, given: dict[str, Value]) -> HoldUntil | Reply:
        try:
            hold = HoldUntil.parse(value or "")
        except ValueError as error:
            return replies.BAD_PARAMETER.because(str(error))
        if hold.at > self._latest(session.settings):
            return replies.HELD_TOO_LONG
        return _consistent(hold, given)

    def _latest(self, settings: ServerSettings) -> int:
        return int(settings.hour()) + self.max_hold

    def available(self, settings: ServerSettings) -> bool:
        submission = settings.dialect.name == SUBMISSION.name
        return submission and settings.now is not None and super().available(settings)

    def advertise(self, offer: Offer) -> str:
        return f"FUTURERELEASE {self.max_hold} {moment_text(self._latest(offer.settings))}"

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters | Reply:
        """Pass on a time in the future to a server that honours it; drop one that has passed."""
        hold = message.envelope.parameters.get("HOLDUNTIL")
        if not isinstance(hold, HoldUntil) or hold.at <= message.now:
            return {}
        _, _, latest = offered.get("FUTURERELEASE", "").partition(" ")
        try:
            within = hold.at <= HoldUntil.parse(latest).at
        except ValueError:  # not offered, or without its parameters (RFC 4865 §4.2 (3))
            return replies.PEER_LACKS_FUTURERELEASE
        return {"HOLDUNTIL": hold} if within else replies.PEER_LACKS_FUTURERELEASE

    def not_before(self, parameters: Parameters) -> float | None:
        hold = parameters.get("HOLDUNTIL")
        return hold.at if isinstance(hold, HoldUntil) else None

    def report_fields(self, parameters: Parameters) -> Mapping[str, str]:
        if "HOLDUNTIL" not in parameters:
            return {}
        request = f"for;{parameters['HOLDFOR']}" if "HOLDFOR" in parameters else f"until;{parameters['HOLDUNTIL']}"
        return {"Future-Release-Request": request}  # RFC 4865 §5.1.2


def _consistent(hold: HoldUntil, given: Mapping[str, Value]) -> HoldUntil | Reply:
    """Return `hold`, or a refusal if it contradicts the preceding parameters."""
    if not _KEYWORDS.isdisjoint(given):  # RFC 4865 §4.2 (9)
        return replies.BAD_PARAMETER
    by = given.get("BY")
    return replies.BAD_PARAMETER if isinstance(by, DeliverBy) and held_too_long(hold, by) else hold
