"""NO-SOLICITING: classes of solicitation that a server refuses (RFC 3865).

It is offered if `classes` is set, even to an empty tuple, with which nothing is refused, and SOLICIT is passed on
(§2.2). A message that declares an unwanted class is refused, and the reply names the class (§2.3, §2.4). Our client
does not send it to a next hop that lists the class in EHLO.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ironpost.model.parameters import SOLICIT_LENGTH, Solicitation
from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension, Offer, Outgoing, Parameters

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ironpost.model import Reply, Value
    from ironpost.protocol.extensions.base import Parse
    from ironpost.protocol.server.session import ServerSession
    from ironpost.protocol.server.settings import ServerSettings


def _common(classes: Iterable[str], solicitation: Solicitation) -> list[str]:
    declared = {each.lower() for each in solicitation.classes}
    return [each for each in classes if each.lower() in declared]


@dataclass(frozen=True, eq=False)
class NoSoliciting(Extension):
    classes: tuple[str, ...] | None = None
    """Classes of solicitation that are refused (RFC 3865 §2.2); None: the extension is not offered."""

    keyword = "NO-SOLICITING"
    on_request = True
    extra_octets: ClassVar = {"MAIL": len(" SOLICIT=") + SOLICIT_LENGTH}  # RFC 3865 §4.1 counts no space and no `=`
    stored: ClassVar = {"SOLICIT": Solicitation.parse}

    def __post_init__(self) -> None:
        if self.classes:
            Solicitation(self.classes)

    @property
    def mail_parameters(self) -> Mapping[str, Parse]:
        return {"SOLICIT": self._solicit}

    def _solicit(self, session: ServerSession, value: str | None, given: dict[str, Value]) -> Solicitation | Reply:
        del session, given
        try:
            solicitation = Solicitation.parse(value or "")
        except ValueError as error:
            return replies.BAD_PARAMETER.because(str(error))
        unwanted = _common(self.classes or (), solicitation)
        return replies.solicited(unwanted) if unwanted else solicitation

    def available(self, settings: ServerSettings) -> bool:
        del settings
        return self.classes is not None

    def advertise(self, offer: Offer) -> str:
        del offer
        classes = ",".join(self.classes or ())
        return f"NO-SOLICITING {classes}" if classes else "NO-SOLICITING"

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters | Reply:
        solicitation = message.envelope.parameters.get("SOLICIT")
        unwanted = offered.get("NO-SOLICITING")
        if not isinstance(solicitation, Solicitation) or unwanted is None:
            return {}
        refused = _common(unwanted.split(","), solicitation)
        return replies.PEER_WANTS_NO_SOLICITING if refused else {"SOLICIT": solicitation}
