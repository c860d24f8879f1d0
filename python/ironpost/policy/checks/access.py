"""Access by network: ordered rules, the first that matches decides (RFC 2505 §2.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from ironpost.model.network import Network, within
from ironpost.model.options import not_empty
from ironpost.policy.check import NOTHING, Check, Finding
from ironpost.policy.options import RuleAction, reply_text, rule_verdict

if TYPE_CHECKING:
    from ironpost.policy.context import Context
    from ironpost.policy.facts import Facts


@dataclass(frozen=True, slots=True)
class AccessRule:
    """The action on clients from some networks."""

    networks: Annotated[tuple[Network, ...], not_empty]
    """In `[[policy.access]]`: networks to whose clients `action` applies when they connect. The first matching rule
    decides."""
    action: RuleAction
    """`accept` (exempts the client from the other checks of a connection), `defer`, `reject`, `quarantine`, `drop` (the
    message is acknowledged with 250 and discarded), `tarpit`."""
    text: Annotated[str, reply_text] = ""
    """The reply text, or the reason in the log."""


class Access(Check):
    """Runs when a client connects. A rule that accepts skips the other checks of the connection."""

    name: Final = "access"

    @dataclass(frozen=True, slots=True)
    class Options:
        """The rules."""

        access: tuple[AccessRule, ...] = ()
        """Rules by client address."""

    def __init__(self, options: Options, context: Context) -> None:
        super().__init__(options, context)
        delay = context.common.delay
        self._rules = [(rule.networks, rule_verdict(rule.action, rule.text, delay)) for rule in options.access]

    @property
    def enabled(self) -> bool:
        """Whether there are rules."""
        return bool(self._rules)

    def connect(self, facts: Facts) -> Finding:
        """The verdict of the first rule whose networks contain the client's address."""
        for number, (networks, verdict) in enumerate(self._rules, 1):
            network = within(facts.ip, networks)
            if network is not None:
                return Finding(verdict, f"rule {number}: {facts.ip} is in {network}")
        return NOTHING
