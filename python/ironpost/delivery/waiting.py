"""Mail that is fetched: the agent of domains whose customer comes for it (RFC 2645).

Promises: nothing leaves; every attempt is deferred without anybody having been asked, so that mail which is not fetched
in time is reported to its sender as any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.model import Disposition, Outcome
from ironpost.protocol.replies import NOT_FETCHED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.queue.store import QueuedMessage, QueuedRecipient

_OUTCOME: Final = Outcome(Disposition.DEFERRED, NOT_FETCHED)


class Waiting:
    """Implements `ironpost.delivery.Agent`."""

    async def deliver(
        self,
        message: QueuedMessage,  # noqa: ARG002 - the agent port's
        recipients: Sequence[QueuedRecipient],
    ) -> Sequence[tuple[int, Outcome]]:
        """See `ironpost.delivery.Agent.deliver`."""
        return [(each.number, _OUTCOME) for each in recipients]
