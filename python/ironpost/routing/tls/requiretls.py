"""Messages that must not leave without TLS on any hop (RFC 8689 §4.2.1).

Promises: such a message is sent only to a host that proves its name, and only if that name is authenticated too: by
DNSSEC, by MTA-STS, or because no MX record was needed. Otherwise it fails permanently. Whether the host offers
REQUIRETLS is checked by the extension, after EHLO (`protocol.extensions.next_hop_refusal`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.model.tls import BY_AUTHORITIES
from ironpost.protocol.extensions import requires_tls
from ironpost.routing.tls.levels import MxLevel, TlsUse
from ironpost.routing.tls.policy import Requirement, TlsPolicy

if TYPE_CHECKING:
    from ironpost.model import Envelope

REQUIRED: Final = Requirement(
    TlsUse.VERIFY,
    BY_AUTHORITIES,
    mx=MxLevel.MTA_STS,
    permanent=True,
    reasons=("the message requires TLS on every hop (RFC 8689)",),
)


class RequireTls(TlsPolicy):
    """See the module."""

    def for_domain(self, domain: str, envelope: Envelope) -> Requirement | None:  # noqa: ARG002 - any domain
        """`REQUIRED` for messages with the tag, except reports."""
        return REQUIRED if requires_tls(envelope) else None
