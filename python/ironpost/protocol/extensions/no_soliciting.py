"""NO-SOLICITING: solicitation of which kinds a server does not want (RFC 3865).

There if `Settings.no_soliciting` says so, be it with no class at all: then nothing is refused, and SOLICIT is handed on
(§2.2). A message that says of itself that it belongs to an unwanted class is refused with that class (§2.3, §2.4); our
client does not offer it to a next hop that said so in EHLO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.model.parameters import SOLICIT_LENGTH, Solicitation
from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension, Offer, Outgoing, Parameters

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ironpost.model import Reply
    from ironpost.protocol.server import ServerSession
    from ironpost.protocol.settings import Settings


def _solicit(session: ServerSession, value: str | None) -> Solicitation | Reply:
    try:
        solicitation = Solicitation.parse(value or "")
    except ValueError as error:
        return replies.BAD_PARAMETER.because(str(error))
    unwanted = _common(session.settings.no_soliciting or (), solicitation)
    return replies.solicited(unwanted) if unwanted else solicitation


def _common(classes: Iterable[str], solicitation: Solicitation) -> list[str]:
    said = {each.lower() for each in solicitation.classes}
    return [each for each in classes if each.lower() in said]


class NoSoliciting(Extension):
    keyword = "NO-SOLICITING"
    on_request = True
    extra_octets: ClassVar = {"MAIL": len(" SOLICIT=") + SOLICIT_LENGTH}  # RFC 3865 §4.1 counts no space and no `=`
    mail_parameters: ClassVar = {"SOLICIT": _solicit}
    stored: ClassVar = {"SOLICIT": Solicitation.parse}

    def available(self, settings: Settings) -> bool:
        return settings.no_soliciting is not None

    def advertise(self, offer: Offer) -> str:
        classes = ",".join(offer.settings.no_soliciting or ())
        return f"NO-SOLICITING {classes}" if classes else "NO-SOLICITING"

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters | Reply:
        solicitation = message.envelope.parameters.get("SOLICIT")
        unwanted = offered.get("NO-SOLICITING")
        if not isinstance(solicitation, Solicitation) or unwanted is None:
            return {}
        found = _common(unwanted.split(","), solicitation)
        return replies.PEER_WANTS_NO_SOLICITING if found else {"SOLICIT": solicitation}
