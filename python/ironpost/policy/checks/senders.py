"""Rules about senders, by address or domain: the first that matches decides (RFC 2505 §2.7).

The null reverse-path is never matched: nobody may refuse it (RFC 2505 §2.6.1, RFC 5321 §4.5.5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.policy.verdict import NEUTRAL, Finding, Stage

if TYPE_CHECKING:
    from ironpost.policy.checks import Ports
    from ironpost.policy.settings import SenderRule, Settings
    from ironpost.policy.verdict import Facts

_NOTHING: Final = Finding(NEUTRAL)


class Senders:
    """Asked at MAIL."""

    name: Final = "senders"
    stage: Final = Stage.MAIL

    def __init__(self, rules: tuple[SenderRule, ...]) -> None:
        self._rules = rules

    def judge(self, facts: Facts) -> Finding:
        """The verdict of the first rule that matches the reverse-path."""
        sender = facts.reverse_path
        if sender is not None and sender.domain:
            for number, rule in enumerate(self._rules, 1):
                for pattern in rule.senders:
                    if pattern.matches(sender):
                        return Finding(rule.verdict, f"rule {number}: {sender} matches {pattern.text}")
        return _NOTHING


def build(settings: Settings, ports: Ports) -> Senders | None:
    """The check, if there are rules."""
    del ports
    return Senders(settings.senders) if settings.senders else None
