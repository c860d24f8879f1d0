"""Who has authenticated uses senders of its own (RFC 6409 §6.1: submission rights).

A login that is an address may use that address; one that is a bare name may use it in each local domain; anything more
stands in the login-to-sender map. The null reverse-path is free: receipts and vacation notices use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.model.verdict import reject
from ironpost.policy.verdict import NEUTRAL, Finding, Stage

if TYPE_CHECKING:
    from ironpost.policy.checks import Ports
    from ironpost.policy.settings import Settings
    from ironpost.policy.verdict import Facts

_NOTHING: Final = Finding(NEUTRAL)
_REFUSED: Final = reject("You may not send as this address", code=553, status="7.1")
_EVERY: Final = "*"


class SenderLogin:
    """Asked at MAIL."""

    name: Final = "sender-login"
    stage: Final = Stage.MAIL

    def __init__(self, settings: Settings) -> None:
        self._local_domains = settings.local_domains
        self._senders = {login.lower(): patterns for login, patterns in settings.sender_login.items()}

    def judge(self, facts: Facts) -> Finding:
        """Refuses a sender that is not the login's (553 5.7.1)."""
        identity, sender = facts.identity, facts.reverse_path
        if identity is None or sender is None or sender.is_null:
            return _NOTHING
        login = identity.name.lower()
        if str(sender).lower() == login:
            return _NOTHING
        if sender.local_part.lower() == login and sender.key in self._local_domains:
            return _NOTHING
        for pattern in (*self._senders.get(login, ()), *self._senders.get(_EVERY, ())):
            if pattern.matches(sender):
                return Finding(NEUTRAL, f"{identity.name} may send as {pattern.text}")
        return Finding(_REFUSED, f"{identity.name} may not send as {sender}")


def build(settings: Settings, ports: Ports) -> SenderLogin:
    """The check; it is always made, so that one stolen password does not open every sender."""
    del ports
    return SenderLogin(settings)
