"""RRVS: a message for whoever has had the mailbox since some time (RFC 7293).

Claimed: the handler must know since when a mailbox is its owner's, or hand the question on. Whether a recipient passes
is the handler's answer to RCPT (§5.1). A next hop without the extension gets the message only where the sender said `C`
(§5.1.1); the header field of the same name is nobody's here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.model.parameters import ValidSince
from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension, Outgoing, Parameters, typed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Recipient, Reply


class Rrvs(Extension):
    keyword = "RRVS"
    claimed = True
    extra_octets: ClassVar = {"RCPT": 33}  # RFC 7293 §3.1
    rcpt_parameters: ClassVar = {"RRVS": typed(ValidSince.parse)}
    stored: ClassVar = {"RRVS": ValidSince.parse}

    def outgoing_recipient(
        self, message: Outgoing, recipient: Recipient, offered: Mapping[str, str]
    ) -> Parameters | Reply:
        del message
        since = recipient.parameters.get("RRVS")
        if not isinstance(since, ValidSince):
            return {}
        if "RRVS" in offered:
            return {"RRVS": since}
        return {} if since.goes_on else replies.PEER_LACKS_RRVS
