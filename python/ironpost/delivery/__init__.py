"""Delivery: the agent port, and the agents behind it.

Promises: an agent answers for every recipient it was given, one `Outcome` each, and raises nothing for a fault of the
network or of a peer: that is an Outcome too. `DELIVERED` means that somebody else, or a file, holds the message.
Refuses: to guess. A recipient whose fate is unknown is `DEFERRED`, so that mail is doubled at worst, never lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from ironpost.model import Disposition, Outcome, Reply
from ironpost.model.body import BodyDamaged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.queue.store import QueuedMessage, QueuedRecipient
    from ironpost.routing.route import Route

__all__ = ["Agent", "Agents", "unreadable", "words"]

_UNREADABLE: Final = Reply(451, "4.3.0", ("The stored message cannot be read now",))
_DAMAGED: Final = Reply(451, "4.3.0", ("The stored message is damaged",))


class Agent(Protocol):
    """One way out of the queue."""

    async def deliver(
        self, message: QueuedMessage, recipients: Sequence[QueuedRecipient]
    ) -> Sequence[tuple[int, Outcome]]:
        """Attempts delivery of one message to these of its recipients.

        Returns:
            (`QueuedRecipient.number`, outcome) for each of `recipients`, in any order.
        """
        ...


class Agents(Protocol):
    """Which agent serves a route; what the queue runner is given."""

    def __call__(self, route: Route) -> Agent:
        """The agent for `route`. Equal routes may share one agent."""
        ...


def unreadable(error: OSError) -> Outcome:
    """What a body that cannot be read means for its recipients.

    Deferred, because the next reading may succeed; held if the stored content is damaged.
    """
    if isinstance(error, BodyDamaged):
        return Outcome(Disposition.HELD, _DAMAGED.because(words(error)))
    return Outcome(Disposition.DEFERRED, _UNREADABLE.because(words(error)))


def words(error: OSError) -> str:
    """The system's reason, for a log line."""
    text = error.strerror or str(error) or type(error).__name__
    return "".join(c if c.isprintable() else " " for c in text)
