"""LIMITS: the server announces its limits in EHLO (RFC 9422).

Our server announces RCPTMAX, and MAILMAX if `ServerSettings.max_transactions` is set; refused recipients do not count,
so it accepts at least as many as it announces. Our client observes both: recipients and messages beyond them go into
the next transaction, or the next connection. RCPTDOMAINMAX is ignored.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.protocol.extensions.base import Extension, Offer

if TYPE_CHECKING:
    from collections.abc import Mapping

_LARGEST: Final = 999_999
"""The largest limit that can be announced: six digits (RFC 9422 §4.1)."""
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,5}")
_ITEM: Final = re.compile(r"([A-Za-z0-9_-]+)(?:=([!-:<-~]+))?")  # RFC 9422 §3


class PeerLimits(NamedTuple):
    """The limits of a peer; None where it announced none."""

    transactions: int | None = None
    """MAIL commands in one session (RFC 9422 §4.1)."""
    recipients: int | None = None
    """RCPT commands in one transaction (RFC 9422 §4.2)."""


NO_LIMITS: Final = PeerLimits()
"""The limits of a peer that announced none."""


def peer_limits(offered: Mapping[str, str]) -> PeerLimits:
    """Parse the limits in an EHLO reply. Malformed ones are ignored (RFC 9422 §3.7)."""
    announced = offered.get("LIMITS")
    if announced is None:
        return NO_LIMITS
    limits: dict[str, int] = {}
    for item in announced.split(" "):
        match = _ITEM.fullmatch(item)
        if match is None:
            return NO_LIMITS
        if match[2] is not None and _NUMBER.fullmatch(match[2]):
            limits[match[1].upper()] = int(match[2])
    return PeerLimits(limits.get("MAILMAX"), limits.get("RCPTMAX"))


class LimitsAnnounced(Extension):
    keyword = "LIMITS"

    def advertise(self, offer: Offer) -> str | None:
        settings = offer.settings
        limits = {"RCPTMAX": settings.max_recipients, "MAILMAX": settings.max_transactions or 0}
        words = [f"{name}={limit}" for name, limit in limits.items() if 0 < limit <= _LARGEST]
        return " ".join(("LIMITS", *words)) if words else None
