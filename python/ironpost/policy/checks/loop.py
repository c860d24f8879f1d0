"""Loop detection: a message with a hundred Received fields is in a mail loop (RFC 5321 §6.3, SECURITY R48).

The threshold is the RFC's, not an option.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.message.trace import MAX_RECEIVED
from ironpost.model.verdict import Verdict
from ironpost.policy.check import NOTHING, Check, Finding
from ironpost.protocol import replies

if TYPE_CHECKING:
    from ironpost.policy.facts import Facts

_LOOP: Final = Verdict.refuse(replies.LOOP_DETECTED)


class Loop(Check):
    """Runs when the content is complete."""

    name: Final = "loop"

    def content(self, facts: Facts) -> Finding:
        """Refuse a message in a loop."""
        hops = 0 if facts.header is None else facts.header.received
        return Finding(_LOOP, f"{hops} Received fields") if hops >= MAX_RECEIVED else NOTHING
