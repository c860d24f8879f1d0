"""Deadlines of messages (DELIVERBY): what the queue does when one passes.

Promises: at the deadline a recipient that has not been delivered is returned to the sender with 5.4.7 (mode R), or the
sender gets one report that it is late and attempts go on (mode N), whether or not its destination is blocked and
whatever the time of its next attempt. An attempt that is running at the deadline decides first. A deadline that passed
while the server was stopped is acted on at the start. A bounce or report that cannot be written is tried again after
`UNREPORTED_WAIT`. The cause may be common to many messages and slow to show, such as a directory that does not answer,
so when nothing of a batch could be reported, the rest waits for `STORE_WAIT` and the queue runner does other work.
Limitations: mail that is held is left alone until it is released.
Standards: RFC 2852 §4.1.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.model import Disposition, Outcome
from ironpost.mta.delivery_metrics import count_results
from ironpost.mta.recorder import STORE_WAIT
from ironpost.protocol import replies
from ironpost.queue.scheduler import FOREVER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ironpost.model.ports import Metrics
    from ironpost.mta.recorder import Recorder
    from ironpost.queue.store import QueuedMessage, Store

AT_ONCE: Final = 100
"""Maximum number of messages claimed at a time."""

EXPIRED: Final = Outcome(Disposition.FAILED, replies.BY_EXPIRED)
_LATE: Final = Outcome(Disposition.DEFERRED, replies.BY_LATE)


def past_deadline(message: QueuedMessage, now: float) -> bool:
    """Whether no further attempt may be made: the deadline of mode R has passed."""
    by = message.envelope.deliver_by
    return by is not None and by.returned and now >= by.deadline


class Deadlines:
    """Acts on the deadlines of one store, for the queue runner."""

    def __init__(
        self,
        store: Store,
        recorder: Recorder,
        metrics: Metrics,
        *,
        now: Callable[[], float],
        recall: Callable[[Callable[[QueuedMessage], bool]], Awaitable[None]],
        give_back: Callable[[QueuedMessage], None],
    ) -> None:
        """Create it; the first call of `act` reads the store.

        Args:
            store: the queue.
            recorder: records outcomes and reports.
            metrics: counts outcomes.
            now: seconds since 1970.
            recall: returns messages that wait in memory to the store.
            give_back: called with messages whose claims must be returned to the store.
        """
        self._store = store
        self._recorder = recorder
        self._metrics = metrics
        self._now = now
        self._recall = recall
        self._give_back = give_back
        self.next = 0.0
        """When to call `act`, in seconds since 1970."""

    def note(self, deadline: float) -> bool:
        """Record that mail with a deadline is in the queue; return whether `next` is earlier now."""
        earlier = deadline < self.next
        if earlier:
            self.next = deadline
        return earlier

    async def act(self) -> None:
        """Act on the deadlines that have passed: on all, or until nothing of a batch could be reported.

        Raises:
            OSError: the store failed. Call this again later.
        """
        self.next = FOREVER
        now = self._now()
        await self._recall(lambda message: any(_passed(to.deadline, now) for to in message.recipients))
        while True:
            messages, following = await self._store.claim_late(AT_ONCE)
            if following is not None:
                self.note(following)
            if not messages:
                break
            settled = False
            try:
                while messages:
                    settled |= await self._act_on(messages[-1])
                    messages.pop()
            finally:
                for message in messages:
                    self._give_back(message)
            if not settled:
                self.note(self._now() + STORE_WAIT)
                break

    async def _act_on(self, message: QueuedMessage) -> bool:
        """Return or report late recipients; return whether that succeeded for any."""
        now = self._now()
        if not past_deadline(message, now):
            return await self._recorder.warn(message, [(to, _LATE) for to in message.recipients], late=True)
        results = await self._recorder.settle(message, [(to, EXPIRED) for to in message.recipients], ruled=False)
        count_results(self._metrics, message, None, results, now)
        return any(outcome.disposition is Disposition.FAILED for _, outcome in results)


def _passed(deadline: float | None, now: float) -> bool:
    return deadline is not None and deadline <= now
