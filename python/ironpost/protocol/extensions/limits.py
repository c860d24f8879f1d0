"""LIMITS: how much a server takes at once, said before it is too much (RFC 9422).

Our server says RCPTMAX, and MAILMAX where `Settings.max_transactions` has one; it takes at least as much as it says,
for refused recipients do not count. Our client keeps both: what is beyond them waits for the next transaction, or the
next connection. RCPTDOMAINMAX is not looked at.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.protocol.extensions.base import Extension, Offer

if TYPE_CHECKING:
    from collections.abc import Mapping

_LARGEST: Final = 999_999
"""RFC 9422 §4.1: six digits."""
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,5}")
_ITEM: Final = re.compile(r"([A-Za-z0-9_-]+)(?:=([!-:<-~]+))?")  # RFC 9422 §3


class PeerLimits(NamedTuple):
    """What a peer takes at most; None where it did not say."""

    transactions: int | None = None
    """MAIL commands in one session (RFC 9422 §4.1)."""
    recipients: int | None = None
    """RCPT commands in one transaction (RFC 9422 §4.2)."""


NO_LIMITS: Final = PeerLimits()


def peer_limits(offered: Mapping[str, str]) -> PeerLimits:
    """The limits of an EHLO reply. What cannot be read is as if it had not been said (RFC 9422 §3.7)."""
    said = offered.get("LIMITS")
    if said is None:
        return NO_LIMITS
    found: dict[str, int] = {}
    for item in said.split(" "):
        match = _ITEM.fullmatch(item)
        if match is None:
            return NO_LIMITS
        if match[2] is not None and _NUMBER.fullmatch(match[2]):
            found[match[1].upper()] = int(match[2])
    return PeerLimits(found.get("MAILMAX"), found.get("RCPTMAX"))


class LimitsAnnounced(Extension):
    keyword = "LIMITS"

    def advertise(self, offer: Offer) -> str | None:
        settings = offer.settings
        limits = {"RCPTMAX": settings.max_recipients, "MAILMAX": settings.max_transactions or 0}
        words = [f"{name}={limit}" for name, limit in limits.items() if 0 < limit <= _LARGEST]
        return " ".join(("LIMITS", *words)) if words else None
