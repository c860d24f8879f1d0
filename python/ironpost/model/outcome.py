"""What became of one recipient in one attempt."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ironpost.model.reply import Reply


class Disposition(Enum):
    """The ways an attempt can end."""

    DELIVERED = "delivered"
    """Somebody else is responsible now."""
    DEFERRED = "deferred"
    """Worth another attempt."""
    FAILED = "failed"
    """It will never work: report to the sender."""
    HELD = "held"
    """Our own copy is damaged: neither another attempt nor a report is right before an operator has looked."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The decision and its reason."""

    disposition: Disposition
    reply: Reply
    """The remote's reply, or the one that describes our own reason."""
    remote: str = ""
    """Who said so: `mx.example [192.0.2.1]`, empty if nobody was asked."""
    asked: bool = False
    """A remote was asked: only then does the retry counter rise (FEATURES, Queue)."""
    ours: bool = False
    """The fault is in our configuration, not in the mail: it is deferred, and an alarm is logged."""

    @classmethod
    def of(cls, reply: Reply, remote: str = "", *, asked: bool = True) -> Outcome:
        """Maps a reply's first digit (RFC 5321 §4.2.1): 2yz delivered, 4yz deferred, 5yz failed."""
        if reply.positive:
            return cls(Disposition.DELIVERED, reply, remote, asked)
        return cls(Disposition.DEFERRED if reply.transient else Disposition.FAILED, reply, remote, asked)
