"""What operators, and systems that fetch their mail, ask of the queue: to retry, to bounce, to redirect.

Promises: recipients that are being attempted are left alone. Mail that waits in memory is first given back to the
store, so that it is not attempted as it was before.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.model import Disposition, Outcome
from ironpost.mta.delivery_metrics import count_results
from ironpost.protocol import replies
from ironpost.queue.selection import EVERYTHING
from ironpost.queue.store import RecipientState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from ironpost.model import Address, Envelope
    from ironpost.model.ports import Clock, Metrics
    from ironpost.mta.destinations import Destinations
    from ironpost.mta.recorder import Recorder
    from ironpost.mta.suspended import SuspendedDestinations
    from ironpost.queue.scheduler import Destination
    from ironpost.queue.selection import Selection
    from ironpost.queue.store import QueuedMessage, Store
    from ironpost.queue.suspension import Suspension

PROBED: Final = 1000
"""Maximum number of messages whose destinations are probed at a time."""
LOOKUP_SECONDS: Final = 5.0
"""Seconds for which these destinations are looked up; the mail is due before that."""


class Retried(NamedTuple):
    """Result of `QueueRequests.retry`."""

    recipients: int
    """The number that became due."""
    suspended: tuple[Suspension, ...]
    """Their destinations at which nothing is attempted."""
    early: int
    """Selected messages that wait for the time their sender asked for, and were not selected by id."""


class QueueRequests:
    """Changes the mail of one queue runner."""

    def __init__(
        self,
        store: Store,
        recorder: Recorder,
        metrics: Metrics,
        clock: Clock,
        *,
        destinations: Destinations,
        suspended: SuspendedDestinations,
        wake: Callable[..., None],
        probe: Callable[[Iterable[Destination]], None],
        recall: Callable[[Callable[[QueuedMessage], bool]], Awaitable[None]],
        give_back: Callable[[QueuedMessage], None],
        stored: Callable[[Envelope, str, float], None],
    ) -> None:
        """Prepare for the requests to one runner.

        Args:
            store: the queue.
            recorder: records what is bounced.
            metrics: counts it.
            clock: time.
            destinations: those of the mail.
            suspended: those at which nothing is attempted.
            wake: `QueueRunner.wake`.
            probe: probes those of the destinations that are down.
            recall: gives messages that wait in memory, and for which the function is true, back to the store.
            give_back: returns the claim on a message.
            stored: called with an envelope, the domain of a recipient and its due time when that is durable.
        """
        self._store = store
        self._recorder = recorder
        self._metrics = metrics
        self._clock = clock
        self._destinations = destinations
        self._suspended = suspended
        self._wake = wake
        self._probe = probe
        self._recall = recall
        self._give_back = give_back
        self._stored = stored

    async def retry(self, selection: Selection) -> Retried:
        """Make the selected recipients due now, and probe their destinations that are down.

        If only part of the queue is selected, these are the destinations of the oldest `PROBED` messages that are found
        within `LOOKUP_SECONDS`.
        """
        now = self._clock.now()
        found: list[QueuedMessage] = []
        if selection.state is not RecipientState.HELD:
            found = await self._store.select(replace(selection, state=RecipientState.QUEUED), PROBED)
        ready = [each for each in found if selection.ids is not None or each.not_before <= max(now, each.accepted)]
        count = await self._store.retry(selection)
        everything = selection == EVERYTHING
        self._wake(probe=everything)
        destinations = await self._destinations.of_messages(ready, LOOKUP_SECONDS)
        if not everything:
            self._probe(destinations)
        suspensions = dict.fromkeys(filter(None, map(self._suspended.of, destinations)))
        return Retried(count, tuple(suspensions), len(found) - len(ready))

    async def recall(self, selection: Selection) -> None:
        """Give selected messages that wait in memory back to the store. Running attempts go on."""
        now = self._clock.now()
        await self._recall(lambda message: any(selection.matches(message, to, now) for to in message.recipients))

    async def bounce(self, selection: Selection, why: str) -> int:
        """Fail the selected recipients now, with a bounce where the sender wants one; return how many.

        Recipients that are being attempted are left out.

        Args:
            selection: which recipients.
            why: the reason, for the sender.
        """
        await self.recall(selection)
        outcome = Outcome(Disposition.FAILED, replies.returned(why))
        count = 0
        async for messages in self._store.claim_selected(selection):
            with self._claimed(messages):
                while messages:
                    results = [(to, outcome) for to in messages[-1].recipients]
                    settled = await self._recorder.settle(messages[-1], results, ruled=False)
                    count_results(self._metrics, messages[-1], None, settled, self._clock.now())
                    count += sum(outcome.disposition is Disposition.FAILED for _, outcome in settled)
                    messages.pop()
        return count

    async def redirect(self, selection: Selection, address: Address) -> int:
        """Replace the addresses of the selected recipients; return how many.

        Those in the queue are attempted now; held ones stay held. Recipients that are being attempted are left out.
        """
        await self.recall(selection)
        count = 0
        async for messages in self._store.claim_selected(selection):
            with self._claimed(messages):
                while messages:
                    await self._store.redirect(messages[-1], address)
                    message = messages.pop()
                    count += len(message.recipients)
                    self._stored(message.envelope, address.key, self._clock.now())
        return count

    @contextmanager
    def _claimed(self, messages: list[QueuedMessage]) -> Iterator[None]:
        """Return the claims on the messages that are left in the list, however the block ends."""
        try:
            yield
        finally:
            for message in messages:
                self._give_back(message)
