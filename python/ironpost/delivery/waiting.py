"""The agent of mail on demand: messages wait in the queue until the customer fetches them (RFC 2645).

Promises: nothing is sent; every attempt is deferred without contacting a host, so that mail which is not fetched in
time is returned to its sender like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.delivery import NextHops
from ironpost.model import Disposition, Outcome
from ironpost.protocol.replies import NOT_FETCHED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.model import Address
    from ironpost.queue.store import QueuedMessage, QueuedRecipient
    from ironpost.routing.route import Route

_OUTCOME: Final = Outcome(Disposition.DEFERRED, NOT_FETCHED)
_NEXT_HOPS: Final = NextHops("waits in the queue until the customer fetches it (ATRN)")


class WaitingAgent:
    """Implements `ironpost.delivery.RouteAgent`."""

    async def deliver(
        self,
        message: QueuedMessage,  # noqa: ARG002 - the agent port's
        recipients: Sequence[QueuedRecipient],
        route: Route,  # noqa: ARG002
    ) -> Sequence[tuple[int, Outcome]]:
        """Defer all recipients."""
        return [(each.number, _OUTCOME) for each in recipients]

    async def preview(self, address: Address, route: Route) -> NextHops:  # noqa: ARG002 - the agent port's
        """Nothing is contacted, whatever the address."""
        return _NEXT_HOPS

    def close(self) -> None:
        """Nothing to release."""
