"""DSN: the sender's requests for delivery status notifications (RFC 3461).

Claimed: queue and delivery must send, or not send, the requested reports (RFC 3461 §5.2). NOTIFY, ORCPT, RET and ENVID
are passed on unchanged to a next hop that supports the extension (§5.2.1), and not sent to others (§5.2.2). Only the
encoding of UTF-8 in ORCPT depends on the next hop (RFC 6533 §3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.model.parameters import ENVID_LENGTH, ORCPT_LENGTH, EnvelopeId, Notify, OriginalRecipient, Return
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
        parameters = message.envelope.parameters
        if "DSN" not in offered:
            return {}
        return {keyword: parameters[keyword] for keyword in ("RET", "ENVID") if keyword in parameters}

    def outgoing_recipient(
        self, message: Outgoing, recipient: Recipient, offered: Mapping[str, str]
    ) -> Parameters | Reply:
        if "DSN" not in offered:
            return {}
        parameters: dict[str, Value] = {}
        notify = recipient.parameters.get("NOTIFY")
        if notify is not None:
            parameters["NOTIFY"] = notify
        original = recipient.parameters.get("ORCPT")
        if isinstance(original, OriginalRecipient) and not message.smtputf8:
            try:
                original = original.seven_bit()
            except ValueError:  # too long when escaped: deliver the message without it
                original = None
        if original is not None:
            parameters["ORCPT"] = original
        return parameters
