"""DSN: when the sender wants to hear of a message, and what (RFC 3461).

Claimed: whoever takes the message must send, or not send, the reports it asks for (RFC 3461 §5.2). What was asked is
carried on as it came (§5.2.1): NOTIFY, ORCPT, RET and ENVID are never made up, changed or dropped where the next hop
knows them, and never sent where it does not (§5.2.2). Only the form in which ORCPT writes UTF-8 depends on the next hop
(RFC 6533 §3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.model.parameters import ENVID_LENGTH, ORCPT_LENGTH, EnvelopeId, Notify, OriginalRecipient, Return
from ironpost.protocol.extensions import deliver_by
from ironpost.protocol.extensions.base import Extension, Outgoing, Parameters, typed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Recipient, Reply, Value


class Dsn(Extension):
    keyword = "DSN"
    claimed = True
    on_request = True
    extra_octets: ClassVar = {
        "MAIL": len(" RET=FULL ENVID=") + ENVID_LENGTH,
        "RCPT": len(" NOTIFY=SUCCESS,FAILURE,DELAY ") + ORCPT_LENGTH,
    }
    mail_parameters: ClassVar = {"RET": typed(Return.parse), "ENVID": typed(EnvelopeId.parse)}
    rcpt_parameters: ClassVar = {"NOTIFY": typed(Notify.parse), "ORCPT": typed(OriginalRecipient.parse)}
    stored: ClassVar = {
        "RET": Return.parse,
        "ENVID": EnvelopeId.parse,
        "NOTIFY": Notify.parse,
        "ORCPT": OriginalRecipient.parse,
    }

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters | Reply:
        asked = message.envelope.parameters
        return {key: asked[key] for key in ("RET", "ENVID") if key in asked} if "DSN" in offered else {}

    def outgoing_recipient(
        self, message: Outgoing, recipient: Recipient, offered: Mapping[str, str]
    ) -> Parameters | Reply:
        if "DSN" not in offered:
            return {}
        parameters: dict[str, Value] = {}
        notify = deliver_by.notify(message, recipient, offered)
        if notify is not None:
            parameters["NOTIFY"] = notify
        original = recipient.parameters.get("ORCPT")
        if isinstance(original, OriginalRecipient) and not message.smtputf8:
            try:
                original = original.seven_bit()
            except ValueError:  # its escapes do not fit: better no report of it than no message
                original = None
        if original is not None:
            parameters["ORCPT"] = original
        return parameters
