"""The types of options that checks share; see `model.options` for the others."""

from __future__ import annotations

from enum import Enum
from typing import Literal, NamedTuple, TypeAlias

from ironpost.model import Reply
from ironpost.model.verdict import Verdict, accept, defer, drop, quarantine, reject, tarpit
from ironpost.policy.check import NEUTRAL, Finding

RuleAction: TypeAlias = Literal["accept", "defer", "reject", "quarantine", "drop", "tarpit"]
"""The action of an access or sender rule."""


def reply_text(text: str) -> str:
    """Refuse text that a reply cannot contain."""
    Reply(550, "5.7.1", (text,))
    return text


class Enforcement(Enum):
    """What to do about a finding of an optional check."""

    OFF = "off"
    """The check does not run."""
    RECORD = "record"
    """The finding is logged, and nothing else."""
    TARPIT = "tarpit"
    QUARANTINE = "quarantine"
    DEFER = "defer"
    REJECT = "reject"

    def finding(self, reason: str, *, text: str, status: str, delay: float, code: int = 550) -> Finding:
        """The finding for a reason; `text`, `status` and `code` form the reply of a permanent failure."""
        return Finding(self._verdict(reason, text, status, delay, code), reason, noted=True)

    def _verdict(self, reason: str, text: str, status: str, delay: float, code: int) -> Verdict | None:
        if self is Enforcement.TARPIT:
            return tarpit(delay)
        if self is Enforcement.QUARANTINE:
            return quarantine(reason)
        if self is Enforcement.DEFER:
            return defer(text, code=450, status=status)
        if self is Enforcement.REJECT:
            return reject(text, code=code, status=status)
        return NEUTRAL


Harmless: TypeAlias = Literal[Enforcement.OFF, Enforcement.RECORD, Enforcement.TARPIT, Enforcement.QUARANTINE]
"""The measures that refuse nothing, for findings that a standard forbids to refuse."""

Recorded: TypeAlias = Literal[Enforcement.OFF, Enforcement.RECORD]
"""The measures of a check that only finds something out, for other checks and for the message."""


class Quota(NamedTuple):
    """A number of items per period, `"100/h"` in a configuration."""

    many: int
    seconds: float


def rule_verdict(action: RuleAction, text: str, delay: float) -> Verdict:
    """The verdict of an access or sender rule; `text` is what the client reads, or the reason for the log."""
    words = text or "Access denied"
    if action == "accept":
        return accept()
    if action == "defer":
        return defer(words, code=450)
    if action == "reject":
        return reject(words)
    if action == "tarpit":
        return tarpit(delay)
    return quarantine(text or "by rule") if action == "quarantine" else drop(text or "by rule")
