"""Reply rules: how the queue treats certain replies of certain domains.

Promises: the first rule decides whose domains include the recipient's and whose text is found in the reply. `FAIL`
turns a deferral into a failure; `WAIT` defers the recipient, whether the reply is transient or permanent, and sets the
time until the next attempt. The reply that is recorded names the rule, and so do the log and a bounce.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.model import Disposition, Outcome
from ironpost.model.patterns import Domains
from ironpost.queue.retry import HOUR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.model import Address

SEARCHED: Final = 2000
"""Maximum number of characters of a reply that are searched: a peer chooses its length."""


class Action(Enum):
    """Effect of a rule."""

    WAIT = "wait"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class ReplyRule:
    """One rule."""

    domains: tuple[str, ...]
    """Patterns of recipient domains (`model.patterns`)."""
    text: str
    """A regular expression, found anywhere in `code enhanced text`, without regard to case."""
    action: Action
    wait: float = HOUR
    """Seconds until the next attempt, for WAIT."""
    _domains: Domains = field(init=False, repr=False, compare=False)
    _text: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_domains", Domains(self.domains))
        object.__setattr__(self, "_text", re.compile(self.text, re.IGNORECASE))

    def matches(self, address: Address, reply: str) -> bool:
        """Return whether the rule decides about a reply."""
        return address.key in self._domains and self._text.search(reply[:SEARCHED]) is not None


class Ruling(NamedTuple):
    """Result of the rules for an outcome."""

    outcome: Outcome
    rule: str = ""
    """The rule that decided, by its number; empty if none did."""
    wait: float | None = None
    """Seconds until the next attempt; None: the schedule decides."""


class ReplyRules:
    """The rules in their order."""

    __slots__ = ("_rules",)

    def __init__(self, rules: Sequence[ReplyRule] = ()) -> None:
        self._rules = tuple(rules)

    def apply(self, address: Address, outcome: Outcome) -> Ruling:
        """Return the outcome of a recipient after the rules, and the rule that changed it."""
        if self._rules and outcome.disposition in (Disposition.DEFERRED, Disposition.FAILED):
            reply = str(outcome.reply)
            for number, rule in enumerate(self._rules, 1):
                if rule.matches(address, reply):
                    return _ruling(rule, f"queue.reply[{number}]", outcome)
        return Ruling(outcome)


def _ruling(rule: ReplyRule, name: str, outcome: Outcome) -> Ruling:
    named = replace(outcome.reply, text=(*outcome.reply.text, f"({name}: {rule.action.value})"))
    if rule.action is Action.FAIL:
        return Ruling(replace(outcome, reply=named, disposition=Disposition.FAILED), name)
    return Ruling(replace(outcome, reply=named, disposition=Disposition.DEFERRED), name, rule.wait)
