"""A sender of a local domain, from a client that is neither trusted nor authenticated.

RFC 2505 §2.6.2 forbids to refuse it, because of forwarding and mailing lists; many sites do all the same. It is off
unless the operator says otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.policy.settings import Measure
from ironpost.policy.verdict import NEUTRAL, Finding, Stage

if TYPE_CHECKING:
    from ironpost.policy.checks import Ports
    from ironpost.policy.settings import Settings
    from ironpost.policy.verdict import Facts

_NOTHING: Final = Finding(NEUTRAL)


class OwnSender:
    """Asked at MAIL."""

    name: Final = "own-sender"
    stage: Final = Stage.MAIL

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def judge(self, facts: Facts) -> Finding:
        """Whether a stranger sends in our name."""
        settings, sender = self._settings, facts.reverse_path
        if sender is None or sender.key not in settings.local_domains:
            return _NOTHING
        if facts.identity is not None or settings.knows(facts):
            return _NOTHING
        reason = f"{facts.ip} sends as {sender} and is a stranger"
        return settings.own_sender.finding(
            reason, text="Authenticate to send from this domain", status="7.1", delay=settings.delay
        )


def build(settings: Settings, ports: Ports) -> OwnSender | None:
    """The check, if it is wanted."""
    del ports
    return None if settings.own_sender is Measure.OFF else OwnSender(settings)
