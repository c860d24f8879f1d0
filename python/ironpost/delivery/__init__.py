"""Delivery: the agent port, and the agents behind it.

Promises: an agent answers for every recipient it was given, one `Outcome` each, and raises nothing for a fault of the
network or of a peer: that is an Outcome too. `DELIVERED` means that somebody else, or a file, holds the message.
Refuses: to guess. A recipient whose fate is unknown is `DEFERRED`, so that mail is doubled at worst, never lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.model import Outcome
    from ironpost.queue.store import QueuedMessage, QueuedRecipient
    from ironpost.routing.route import Route

__all__ = ["Agent", "Agents"]


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
