"""Loop detection: a message with a hundred Received fields goes in circles (RFC 5321 §6.3, SECURITY R48)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.message.trace import MAX_RECEIVED
from ironpost.model.verdict import Verdict
from ironpost.policy.verdict import NEUTRAL, Finding, Stage
from ironpost.protocol import replies

if TYPE_CHECKING:
    from ironpost.policy.checks import Ports
    from ironpost.policy.settings import Settings
    from ironpost.policy.verdict import Facts

_LOOP: Final = Verdict.refuse(replies.LOOP_DETECTED)
_NOTHING: Final = Finding(NEUTRAL)


class Loop:
    """Asked when the whole content is there."""

    name: Final = "loop"
    stage: Final = Stage.CONTENT

    def judge(self, facts: Facts) -> Finding:
        """Refuses a loop; says nothing else."""
        if facts.hops >= MAX_RECEIVED:
            return Finding(_LOOP, f"{facts.hops} Received fields")
        return _NOTHING


def build(settings: Settings, ports: Ports) -> Loop:
    """The check. The threshold is the RFC's, not the operator's."""
    del settings, ports
    return Loop()
