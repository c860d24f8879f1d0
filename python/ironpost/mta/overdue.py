"""Old mail: expires what cannot be attempted, and warns the senders of what is delayed.

Promises: a message that is overdue and whose destination is blocked is returned to its sender; another one still gets
its last attempt. A sender gets one warning for each delayed recipient, whether or not its destination is blocked.
Standards: RFC 5321 §4.5.4.1 (giving up), RFC 3461 §4.1 (NOTIFY=DELAY).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ironpost.model import Disposition, Outcome, Reply
from ironpost.mta.delivery_metrics import count_results
from ironpost.mta.recorder import since
from ironpost.queue.retry import HOUR
from ironpost.queue.scheduler import FOREVER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ironpost.model import Address, Envelope
    from ironpost.model.ports import Metrics
    from ironpost.mta.recorder import Recorder
    from ironpost.queue.retry import RetryPolicy
    from ironpost.queue.scheduler import Destination
    from ironpost.queue.store import QueuedMessage, QueuedRecipient, Store
    from ironpost.routing.route import Route, RouteDecision

WARN_OVERLAP: Final = HOUR
"""Seconds by which searches for delayed messages overlap; longer than an attempt."""

_REPLY: Final = re.compile(r"([245]\d\d) (?:([245]\.\d{1,3}\.\d{1,3}) )?(.*)", re.DOTALL)
_NO_ATTEMPT: Final = Reply(451, "4.4.1", ("No attempt was possible",))


class OverdueMail:
    """Searches one store for old messages, for the queue runner."""

    def __init__(
        self,
        store: Store,
        retry: RetryPolicy,
        recorder: Recorder,
        metrics: Metrics,
        *,
        now: Callable[[], float],
        decide: Callable[[Envelope, Address], Awaitable[tuple[RouteDecision, Destination]]],
        give_back: Callable[[QueuedMessage], None],
        unclaim: Callable[[], Awaitable[None]],
    ) -> None:
        """Create the search.

        Args:
            store: the queue.
            retry: when messages expire and are delayed.
            recorder: records outcomes and warnings.
            metrics: counts outcomes.
            now: seconds since 1970.
            decide: returns the route of a recipient and its destination; may raise.
            give_back: called with messages whose claims must be returned to the store.
            unclaim: returns them.
        """
        self._store = store
        self._retry = retry
        self._recorder = recorder
        self._metrics = metrics
        self._now = now
        self._decide = decide
        self._give_back = give_back
        self._unclaim = unclaim
        self._warning = False
        """A search for delayed messages is running."""
        self._warned_until = 0.0
        """Delayed messages up to this time of acceptance have been found; 0 after a start."""
        self._missed = FOREVER
        """The earliest time of acceptance of a delayed message that was claimed, so perhaps not found."""

    async def expire(self) -> None:
        """Expire messages that are overdue and whose destination is blocked.

        Raises:
            OSError: the store failed.
        """
        now = self._now()
        async for messages in self._store.claim_old(now - self._retry.expiry):
            kept: list[QueuedMessage] = []
            try:
                while messages:
                    waits = await self._expire_one(messages[-1], now)
                    messages.pop()
                    kept += [] if waits is None else [waits]
            finally:
                for message in (*kept, *messages):
                    self._give_back(message)
            await self._unclaim()

    async def _expire_one(self, message: QueuedMessage, now: float) -> QueuedMessage | None:
        """Expire the recipients whose destination is blocked; return the message with the others, if there are any."""
        results: list[tuple[QueuedRecipient, Outcome]] = []
        routes: dict[int, Route] = {}
        kept: list[QueuedRecipient] = []
        for to in message.recipients:
            blocked = await self._if_blocked(message, to)
            if blocked is None:
                kept.append(to)
            else:
                routes[to.number], outcome = blocked
                results.append((to, outcome))
        for result in await self._recorder.settle(message, results) if results else ():
            count_results(self._metrics, message, routes[result[0].number], [result], now)
        return message._replace(recipients=tuple(kept)) if kept else None

    async def warn(self) -> None:
        """Warn the senders of delayed messages, unless a search is running or warnings are turned off.

        A message that is being attempted is found by a later search: see `claim_ended`, and `WARN_OVERLAP` for attempts
        by other workers. The first search goes through all messages that have not expired.

        Raises:
            OSError: the store failed.
        """
        if self._warning or self._retry.warn_after is None:
            return
        self._warning = True
        now = self._now()
        end = now - self._retry.warn_after
        start, self._missed = min(self._missed, self._warned_until or now - self._retry.expiry), FOREVER
        complete = False
        try:
            async for messages in self._store.claim_old(end, after=start - WARN_OVERLAP, unwarned=True):
                try:
                    while messages:
                        delays = [(to, await self._delay(messages[-1], to)) for to in messages[-1].recipients]
                        if not await self._recorder.warn(messages[-1], delays):
                            return
                        messages.pop()
                finally:
                    for message in messages:
                        self._give_back(message)
            self._warned_until, complete = end, True
        finally:
            self._warning = False
            if not complete:
                self._missed = min(self._missed, start)

    def claim_ended(self, message: QueuedMessage) -> None:
        """Search for the message again if it is delayed, because a search does not find what is claimed."""
        accepted, warn_after = since(message), self._retry.warn_after
        if warn_after is None or accepted > self._now() - warn_after:
            return
        if not all(to.warned for to in message.recipients):
            self._missed = min(self._missed, accepted)

    async def _delay(self, message: QueuedMessage, to: QueuedRecipient) -> Outcome:
        """Return why a recipient is delayed, as an outcome for the warning."""
        reply = _last_reply(to.reply)
        if reply is None:
            blocked = await self._if_blocked(message, to)
            reply = _NO_ATTEMPT if blocked is None else blocked[1].reply
        return Outcome(Disposition.DEFERRED, reply, to.remote)

    async def _if_blocked(self, message: QueuedMessage, to: QueuedRecipient) -> tuple[Route, Outcome] | None:
        """Return the route and the outcome for a recipient whose destination is blocked; None for others."""
        try:
            decision, destination = await self._decide(message.envelope, to.recipient.address)
        except Exception:  # noqa: BLE001 - the attempt raises again, and defers the recipient
            return None
        if destination.unavailable_until <= self._now():
            return None
        replied = _last_reply(to.reply) is not None  # why policy held the message is not for its sender
        text = to.reply if replied else destination.window.failure or destination.reason
        reply = Reply(451, "4.4.1", (text,)) if text else _NO_ATTEMPT
        return decision.route, Outcome(Disposition.DEFERRED, reply, to.remote)


def _last_reply(text: str) -> Reply | None:
    """Parse the last reply of a recipient; None if there was none."""
    match = _REPLY.match(text)
    return Reply(int(match[1]), match[2], (match[3],)) if match is not None else None
