"""Bounces with more than one recipient: a genuine one has one.

They must not be refused (RFC 2505 §2.6.1: a list may have several owners), but may be delayed or quarantined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ironpost.model.text import counted
from ironpost.policy.check import NOTHING, Check, Finding
from ironpost.policy.options import Enforcement, Harmless

if TYPE_CHECKING:
    from ironpost.policy.context import Context
    from ironpost.policy.facts import Facts


class NullSender(Check):
    """Runs at RCPT."""

    name: Final = "null-sender"

    @dataclass(frozen=True, slots=True)
    class Options:
        """What to do about such bounces."""

        null_sender: Harmless = Enforcement.OFF
        """A message from the null sender has several recipients: `off`, `record`, `tarpit` or `quarantine`; it may not
        be refused for that."""

    options: Options

    def __init__(self, options: Options, context: Context) -> None:
        """See `Check`.

        Raises:
            ValueError: the options refuse the null reverse-path.
        """
        super().__init__(options, context)
        if options.null_sender in {Enforcement.DEFER, Enforcement.REJECT}:
            raise ValueError("the null reverse-path must not be refused, whatever its recipients (RFC 2505 §2.6.1)")

    @property
    def enabled(self) -> bool:
        """Whether the check is not off."""
        return self.options.null_sender is not Enforcement.OFF

    def recipient(self, facts: Facts) -> Finding:
        """Object to the second and later recipients of a bounce."""
        sender = facts.reverse_path
        if sender is None or not sender.is_null or not facts.recipients or self.context.system.trusts(facts):
            return NOTHING
        reason = f"the null reverse-path has {counted(facts.recipients, 'recipient')} already"
        return self.options.null_sender.finding(reason, text="", status="5.3", delay=self.context.common.delay)
