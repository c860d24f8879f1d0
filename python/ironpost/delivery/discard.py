"""The agent that delivers nowhere: for addresses whose mail nobody reads, such as `noreply@`.

Promises: every recipient is DELIVERED, with a reply that says where the mail went; nothing is read or written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ironpost.delivery import NextHops
from ironpost.model import Disposition, Outcome, Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.model import Address
    from ironpost.queue.store import QueuedMessage, QueuedRecipient
    from ironpost.routing.route import Route

_OUTCOME: Final = Outcome(Disposition.DELIVERED, Reply(250, "2.0.0", ("Discarded",)))


@dataclass(frozen=True, slots=True)
class DiscardOptions:
    """`[[local.delivery]] discard = {}`: accept the mail and throw it away."""

    def __str__(self) -> str:
        return ""


class Discard:
    """Implements `ironpost.delivery.RouteAgent`."""

    async def deliver(
        self,
        message: QueuedMessage,  # noqa: ARG002 - the agent port's
        recipients: Sequence[QueuedRecipient],
        route: Route,  # noqa: ARG002
    ) -> Sequence[tuple[int, Outcome]]:
        """Count all recipients as delivered."""
        return [(each.number, _OUTCOME) for each in recipients]

    async def preview(self, address: Address, route: Route) -> NextHops:  # noqa: ARG002 - the agent port's
        """The mail is thrown away, whatever the address."""
        return NextHops("discarded")

    def close(self) -> None:
        """Nothing to release."""
