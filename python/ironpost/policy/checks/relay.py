"""Relay control: a recipient is ours, or the client is trusted or has authenticated, or the answer is no.

Promises: exactly five ways to yes: `<postmaster>` (RFC 5321 §4.5.1), a local mailbox, a customer's domain, a trusted
client, a client that has authenticated (RFC 5068 §3.1). A local part is compared and never interpreted:
`user%elsewhere`, `elsewhere!user` and `"user@elsewhere"` at a local domain are local mailboxes with odd names, and no
way through us (RFC 2505 §2.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.model.verdict import Verdict
from ironpost.policy.verdict import ACCEPT, Finding, Stage
from ironpost.protocol import replies

if TYPE_CHECKING:
    from ironpost.policy.checks import Ports
    from ironpost.policy.settings import Settings
    from ironpost.policy.verdict import Facts

_REFUSED: Final = Verdict.refuse(replies.RELAY_DENIED)
_UNKNOWN: Final = Verdict.refuse(replies.NOT_ACCEPTED_HERE)


class Relay:
    """Asked for each RCPT."""

    name: Final = "relay"
    stage: Final = Stage.RECIPIENT

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def judge(self, facts: Facts) -> Finding:
        """Accepts or refuses; never neutral."""
        settings = self._settings
        address = facts.forward_path
        if address is None:
            return Finding(_REFUSED, "no recipient")
        if not address.domain:
            return Finding(ACCEPT, "postmaster is always accepted")
        local = settings.local_domains.match(address.key)
        if local is not None:
            known = settings.local_recipients
            if known is None:
                by = "" if local == address.key else f" by {local}"
                return Finding(ACCEPT, f"{address.key} is local{by}")
            if address.local_part.lower() == "postmaster" or address in known:
                return Finding(ACCEPT, f"{address} is a local mailbox")
            return Finding(_UNKNOWN, f"{address.key} is local, and {address} is not listed")
        if address.key in settings.customer_domains:
            return Finding(ACCEPT, f"{address.key} is a customer's, who fetches its mail here")
        if facts.identity is not None:
            return Finding(ACCEPT, f"{facts.identity.name} is authenticated")
        if settings.trusts(facts.ip):
            return Finding(ACCEPT, f"{facts.ip} is in a trusted network")
        return Finding(_REFUSED, f"{address.key} is not local, and {facts.ip or 'the client'} is not trusted")


def build(settings: Settings, ports: Ports) -> Relay:
    """The check; there is no server without it."""
    del ports
    return Relay(settings)
