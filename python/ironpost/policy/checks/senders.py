"""Sender rules, by address or domain: the first that matches decides (RFC 2505 §2.7).

Rules never match the null reverse-path, which must not be refused (RFC 2505 §2.6.1, RFC 5321 §4.5.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from ironpost.model.options import not_empty
from ironpost.model.patterns import AddressPattern  # noqa: TC001 - the types of options are read at run time
from ironpost.policy.check import NOTHING, Check, Finding
from ironpost.policy.options import RuleAction, reply_text, rule_verdict

if TYPE_CHECKING:
    from ironpost.policy.context import Context
    from ironpost.policy.facts import Facts


@dataclass(frozen=True, slots=True)
class SenderRule:
    """The action on mail from some senders."""

    senders: Annotated[tuple[AddressPattern, ...], not_empty]
    """In `[[policy.sender]]`: `jo@mail.example`, `mail.example` for all of the domain, `*.mail.example` for all names
    below it, `*`. Never matches the null sender. The first matching rule decides."""
    action: RuleAction
    """The action, as in `policy.access`."""
    text: Annotated[str, reply_text] = ""
    """The text, as in `policy.access`."""


class SenderRules(Check):
    """Runs at MAIL."""

    name: Final = "senders"

    @dataclass(frozen=True, slots=True)
    class Options:
        """The rules."""

        sender: tuple[SenderRule, ...] = ()
        """Rules by reverse-path."""

    def __init__(self, options: Options, context: Context) -> None:
        super().__init__(options, context)
        delay = context.common.delay
        self._rules = [(rule.senders, rule_verdict(rule.action, rule.text, delay)) for rule in options.sender]

    @property
    def enabled(self) -> bool:
        """Whether there are rules."""
        return bool(self._rules)

    def mail(self, facts: Facts) -> Finding:
        """The verdict of the first rule that matches the reverse-path."""
        sender = facts.reverse_path
        if sender is not None and sender.domain:
            for number, (patterns, verdict) in enumerate(self._rules, 1):
                for pattern in patterns:
                    if pattern.matches(sender):
                        return Finding(verdict, f"rule {number}: {sender} matches {pattern.text}")
        return NOTHING
