"""FUTURERELEASE: a message that is to leave later (RFC 4865). Submission only (§4.2).

Claimed: the queue must not release the message before its time. HOLDFOR is turned into HOLDUNTIL when it comes, so that
there is one thing to keep; HOLDFOR stays beside it because a report repeats what was asked (§5.1.2). The latest moment
that EHLO shows moves with the hours, so that it is never later than what is taken.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Final

from ironpost.model.parameters import DeliverBy, HoldUntil, moment_text, parse_hold_for
from ironpost.protocol import replies
from ironpost.protocol.dialect import SUBMISSION
from ironpost.protocol.extensions.base import Extension, Offer, Outgoing, Parameters
from ironpost.protocol.extensions.deliver_by import comes_too_late

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Envelope, Reply
    from ironpost.protocol.server import ServerSession
    from ironpost.protocol.settings import Settings

_OWN: Final = frozenset({"HOLDFOR", "HOLDUNTIL"})


def release_time(parameters: Parameters) -> float | None:
    """When a message with these parameters of MAIL may leave: `NewMessage.due`; None for at once."""
    hold = parameters.get("HOLDUNTIL")
    return hold.at if isinstance(hold, HoldUntil) else None


def released(envelope: Envelope) -> Envelope:
    """The envelope of a message whose queue lets go of it: its time has come, or somebody wants it sent before."""
    if "HOLDUNTIL" not in envelope.parameters:
        return envelope
    kept = {keyword: value for keyword, value in envelope.parameters.items() if keyword not in _OWN}
    return envelope._replace(parameters=kept)


def _hold_for(session: ServerSession, value: str | None) -> int | Reply:
    settings = session.settings
    assert settings.now is not None, "there is no FUTURERELEASE without a clock"
    try:
        seconds = parse_hold_for(value or "")
    except ValueError as error:
        return replies.BAD_PARAMETER.because(str(error))
    if seconds > settings.max_hold:
        return replies.HELD_TOO_LONG
    hold = _alone(session, HoldUntil(math.ceil(settings.now()) + seconds))
    if isinstance(hold, HoldUntil):
        session.candidate["HOLDUNTIL"] = hold
        return seconds
    return hold


def _hold_until(session: ServerSession, value: str | None) -> HoldUntil | Reply:
    try:
        hold = HoldUntil.parse(value or "")
    except ValueError as error:
        return replies.BAD_PARAMETER.because(str(error))
    if hold.at > _latest(session.settings):
        return replies.HELD_TOO_LONG
    return _alone(session, hold)


def _alone(session: ServerSession, hold: HoldUntil) -> HoldUntil | Reply:
    given = session.candidate
    if not _OWN.isdisjoint(given):  # RFC 4865 §4.2 (9)
        return replies.BAD_PARAMETER
    by = given.get("BY")
    return replies.BAD_PARAMETER if isinstance(by, DeliverBy) and comes_too_late(hold, by) else hold


def _latest(settings: Settings) -> int:
    return int(settings.hour()) + settings.max_hold


class FutureRelease(Extension):
    keyword = "FUTURERELEASE"
    claimed = True
    on_request = True
    timed = True
    extra_octets: ClassVar = {"MAIL": 34}  # RFC 4865 §3 (5)
    mail_parameters: ClassVar = {"HOLDFOR": _hold_for, "HOLDUNTIL": _hold_until}
    stored: ClassVar = {"HOLDFOR": parse_hold_for, "HOLDUNTIL": HoldUntil.parse}

    def available(self, settings: Settings) -> bool:
        submission = settings.dialect.name == SUBMISSION.name
        return submission and settings.now is not None and super().available(settings)

    def advertise(self, offer: Offer) -> str:
        return f"FUTURERELEASE {offer.settings.max_hold} {moment_text(_latest(offer.settings))}"

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters | Reply:
        """A time that has come is nobody's business any more; one that has not needs a server that waits for it."""
        hold = message.envelope.parameters.get("HOLDUNTIL")
        if not isinstance(hold, HoldUntil) or hold.at <= message.now:
            return {}
        _, _, latest = offered.get("FUTURERELEASE", "").partition(" ")
        try:
            within = hold.at <= HoldUntil.parse(latest).at
        except ValueError:  # no extension, or one without its parameters (RFC 4865 §4.2 (3))
            return replies.PEER_LACKS_FUTURERELEASE
        return {"HOLDUNTIL": hold} if within else replies.PEER_LACKS_FUTURERELEASE
