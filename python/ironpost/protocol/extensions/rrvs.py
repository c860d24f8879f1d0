"""RRVS: deliver only if the mailbox has had the same owner since a given time (RFC 7293).

Claimed: the handler must know since when each mailbox has had its owner, or pass the parameter on. The `recipient` hook
accepts or refuses the recipient (§5.1). A next hop without the extension gets the message only if the sender specified
`C` (§5.1.1). The header field Require-Recipient-Valid-Since is not processed.
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
        return {} if since.continues else replies.PEER_LACKS_RRVS
