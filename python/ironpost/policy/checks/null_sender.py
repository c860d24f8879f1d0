"""A message from the null reverse-path for more than one recipient: reports have one.

Nobody may refuse it (RFC 2505 §2.6.1: a list may have several owners); it may be slowed down.
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


class NullSender:
    """Asked at RCPT."""

    name: Final = "null-sender"
    stage: Final = Stage.RECIPIENT

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def judge(self, facts: Facts) -> Finding:
        """Whether a report goes to several."""
        sender = facts.reverse_path
        if sender is None or not sender.is_null or not facts.recipients or self._settings.knows(facts):
            return _NOTHING
        reason = f"the null reverse-path has {facts.recipients} recipients already"
        return self._settings.null_sender.finding(reason, text="", status="5.3", delay=self._settings.delay)


def build(settings: Settings, ports: Ports) -> NullSender | None:
    """The check, if it is wanted.

    Raises:
        ValueError: the null reverse-path is to be refused.
    """
    del ports
    if settings.null_sender in {Measure.DEFER, Measure.REJECT}:
        raise ValueError("the null reverse-path is not refused, whatever its recipients (RFC 2505 §2.6.1)")
    return None if settings.null_sender is Measure.OFF else NullSender(settings)
