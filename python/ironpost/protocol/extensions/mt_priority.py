"""MT-PRIORITY: how urgent a message is, from -9 to 9 (RFC 6710).

Claimed: the queue must prefer the more urgent (§5.1), and the value is handed on to a next hop that knows it (§4.2).
Nobody makes their mail more urgent without saying who they are: from a client that did not authenticate, a priority
above 0 counts as 0 (§4.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.model.parameters import parse_priority
from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension, Offer, Outgoing, Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Reply
    from ironpost.protocol.server import ServerSession


def _priority(session: ServerSession, value: str | None) -> int | Reply:
    try:
        priority = parse_priority(value or "")
    except ValueError as error:
        return replies.BAD_PARAMETER.because(str(error))
    return priority if session.identity is not None else min(priority, 0)


class MtPriority(Extension):
    keyword = "MT-PRIORITY"
    claimed = True
    on_request = True
    extra_octets: ClassVar = {"MAIL": 15}  # RFC 6710 §3 (6)
    mail_parameters: ClassVar = {"MT-PRIORITY": _priority}
    stored: ClassVar = {"MT-PRIORITY": parse_priority}

    def advertise(self, offer: Offer) -> str:
        policy = offer.settings.priority_policy
        return f"MT-PRIORITY {policy}" if policy else "MT-PRIORITY"

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters | Reply:
        asked = message.envelope.parameters
        known = "MT-PRIORITY" in asked and "MT-PRIORITY" in offered
        return {"MT-PRIORITY": asked["MT-PRIORITY"]} if known else {}  # RFC 6710 §4.3: dropped, not refused
