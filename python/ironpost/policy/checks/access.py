"""Access by network: ordered rules, the first that matches decides (RFC 2505 §2.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.policy.settings import within
from ironpost.policy.verdict import NEUTRAL, Finding, Stage

if TYPE_CHECKING:
    from ironpost.policy.checks import Ports
    from ironpost.policy.settings import AccessRule, Settings
    from ironpost.policy.verdict import Facts

_NOTHING: Final = Finding(NEUTRAL)


class Access:
    """Asked when a client connects. A rule that accepts spares the client the other checks of the connection."""

    name: Final = "access"
    stage: Final = Stage.CONNECT

    def __init__(self, rules: tuple[AccessRule, ...]) -> None:
        self._rules = rules

    def judge(self, facts: Facts) -> Finding:
        """The verdict of the first rule that holds the client's address."""
        for number, rule in enumerate(self._rules, 1):
            network = within(facts.ip, rule.networks)
            if network is not None:
                return Finding(rule.verdict, f"rule {number}: {facts.ip} is in {network}")
        return _NOTHING


def build(settings: Settings, ports: Ports) -> Access | None:
    """The check, if there are rules."""
    del ports
    return Access(settings.access) if settings.access else None
