"""The queue runner: asks the scheduler what to attempt, claims it from the store, and has it delivered.

Promises: one message is attempted separately for each destination (`Part`), and each attempt is recorded separately
(`recorder`). A newly committed message is attempted from memory, without reading it back; when too many wait, or their
destination is blocked, they are returned to the store. The store is scanned at start, after operators changed it, and
every `SCAN_SECONDS`. Messages expire, and deadlines are kept (`deadlines`), even if no attempt is possible at their
destination. A store that fails is retried after `STORE_WAIT`. A wall clock that is set back delays no mail: deferred
mail becomes due as soon as the change is noticed, within `SCAN_SECONDS`. While memory or descriptors are short, one
message is claimed and attempted at a time, so the queue still gets shorter; nothing waits in memory, except at most one
part of a claimed message for another destination. An attempt that is cancelled records nothing: its claim is returned,
so mail may be duplicated but is never lost.
If the route of a domain's mail depends on the sender, its destination is decided when the messages are claimed; those
whose destination is blocked wait in the store until it may be tried again.
Limitations: if a domain has several destinations by recipient, that of its postmaster represents its mail in the store:
while that is blocked, mail for the others is not claimed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ironpost.delivery import unreadable
from ironpost.model import Address, Disposition, Outcome
from ironpost.model.body import BodyDamaged
from ironpost.model.keyed_state import MemoryState
from ironpost.model.ports import Uncounted
from ironpost.mta.deadlines import EXPIRED, Deadlines, past_deadline
from ironpost.mta.delivery_metrics import count_results
from ironpost.mta.destinations import Destinations, Part, Parts, limits_of, resolved
from ironpost.mta.overdue import OverdueMail
from ironpost.mta.queue_requests import QueueRequests
from ironpost.mta.recorder import STORE_WAIT, Recorder, since
from ironpost.mta.signing import Signing
from ironpost.mta.suspended import SuspendedDestinations
from ironpost.protocol import replies
from ironpost.queue.concurrency import DEFAULT, ConcurrencyPolicy
from ironpost.queue.reply_rules import ReplyRules
from ironpost.queue.retry import RetryPolicy
from ironpost.queue.scheduler import CLAIMED, FOREVER, Claim, Queue, Result, Scheduler, Start
from ironpost.queue.selection import EVERYTHING
from ironpost.queue.store import QueuedMessage, QueuedRecipient, RecipientState, StoredQueue
from ironpost.queue.suspension import SUSPENDED, Suspensions
from ironpost.routing.directory import POSTMASTER, DirectoryError, refusal
from ironpost.routing.limits import DeliveryLimits
from ironpost.routing.route import Route
from ironpost.telemetry.events import record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ironpost.delivery import Agent, Agents
    from ironpost.model import Envelope
    from ironpost.model.ports import Clock, Metrics, Random
    from ironpost.queue.scheduler import Destination
    from ironpost.queue.store import Lease, Store
    from ironpost.routing.route import Routes

CONCURRENCY: Final = 200
"""Maximum number of parts in attempts to other systems; the same number applies to destinations not reached yet, and to
this system."""
WAITING_PARTS: Final = 4000
"""Maximum number of parts that wait in memory for a slot; more stay in the store, or return to it."""
WAITING_OCTETS: Final = 16 * 1024 * 1024
"""Maximum size of bodies that wait in memory, in octets, with the same effect."""
SCAN_SECONDS: Final = 300.0
"""Maximum interval between scans of the store, in seconds."""
BLOCKED_WAIT: Final = 60.0
"""Minimum delay, in seconds, of mail that shares a domain with mail for another destination."""
BLOCKED_LONGEST: Final = 900.0
"""Maximum delay, in seconds, of such mail: a suspension may end at any time."""
CROWDED_WAIT: Final = 5.0
"""Seconds until the next claim from a queue whose mail was for another destination and found no room in memory."""
CLOCK_STEP: Final = 60.0
"""Difference between the movements of wall clock and monotonic clock, in seconds, from which the wall clock counts as
set."""
STOP_SECONDS: Final = 10.0
"""Seconds for which `stop` lets running attempts finish."""

_NO_OUTCOME: Final = Outcome(
    Disposition.DEFERRED, replies.HOOK_FAILED.because("the delivery agent returned no outcome")
)
_LOOKUP_FAILED: Final = replies.reply(451, "3.0", "Recipient lookup failed")

_log: Final = logging.getLogger("ironpost.queue")


class QueueRunner:
    """Delivers the mail of one store."""

    def __init__(
        self,
        *,
        store: Store,
        routes: Routes,
        agents: Agents,
        clock: Clock,
        random: Random,
        reporting_mta: str,
        retry: RetryPolicy | None = None,
        concurrency: int = CONCURRENCY,
        destinations: ConcurrencyPolicy = DEFAULT,
        limits: DeliveryLimits | None = None,
        suspensions: Suspensions | None = None,
        metrics: Metrics | None = None,
        rules: ReplyRules | None = None,
        signing: Signing | None = None,
    ) -> None:
        """Create a runner; `start` starts it.

        Args:
            store: the queue.
            routes: the route of each recipient.
            agents: chooses the delivery agent of a route; the attribute may be replaced while the runner runs.
            clock: time.
            random: jitter, and the ids of bounces.
            reporting_mta: our own name in bounces, a domain or an address literal.
            retry: the retry schedule; the default one if None.
            concurrency: maximum number of parts attempted at a time, at least 1.
            destinations: the concurrency control of each destination.
            rules: change outcomes by their replies; none if None.
            signing: the keys with which bounces and other reports are signed; none if None.
            suspensions: destinations that operators suspended; shared with nobody if None.
            metrics: counts outcomes and attempts; nothing if None.
            limits: the limits of each destination; the maximum of `destinations` if None.
        """
        self.agents = agents
        self._store = store
        self._clock = clock
        self._retry = retry or RetryPolicy()
        self._metrics = metrics or Uncounted()
        self.scheduler: Scheduler[Part] = Scheduler(
            random,
            self._part_given_back,
            leaves=concurrency,
            stays=concurrency,
            concurrency=destinations,
            limits=partial(limits_of, limits or DeliveryLimits(destinations.maximum)),
        )
        self.suspended = SuspendedDestinations(
            self.scheduler,
            suspensions or Suspensions(MemoryState((SUSPENDED,), clock.now), clock.now),
            clock,
        )
        self.destinations = Destinations(routes, self.scheduler, self.suspended)
        self._recorder = Recorder(
            store, clock, random, directory=lambda: self.routes.directory, retry=self._retry,
            reporting_mta=reporting_mta, stored=self._recipient_stored, lease_lost=self._abandon,
            metrics=self._metrics, rules=rules or ReplyRules(), signing=signing or Signing(),
        )  # fmt: skip
        self._overdue = OverdueMail(
            store, self._retry, self._recorder, self._metrics,
            now=clock.now, decide=self.destinations.decide, give_back=self._give_back, unclaim=self._unclaim,
        )  # fmt: skip
        self._deadlines = Deadlines(
            store, self._recorder, self._metrics, now=clock.now, recall=self._recall, give_back=self._give_back
        )
        self.requests = QueueRequests(
            store, self._recorder, self._metrics, clock,
            destinations=self.destinations, suspended=self.suspended, wake=self.wake, probe=self._probe,
            recall=self._recall, give_back=self._give_back, stored=self._envelope_stored,
        )  # fmt: skip
        """What operators ask of the queue."""
        self._active: dict[asyncio.Task[Any], QueuedMessage | None] = {}
        """Tasks of this runner; those that are attempts with their message, others with None."""
        self._octets = 0
        """Size of the bodies that wait in memory, in octets."""
        self._given_back: list[QueuedMessage] = []
        self._feeder: asyncio.Task[None] | None = None
        self._wakeup: asyncio.Future[None] | None = None
        self._sleeps_until = 0.0
        self._unclaim_at = 0.0
        """Earliest time to return claims, after the store failed."""
        self._scan_at = 0.0
        self._offset = clock.now() - clock.monotonic()
        """Offset of the wall clock from the monotonic one at the last check of the feeder."""
        self._short = False
        self._stopping = False

    @property
    def routes(self) -> Routes:
        """The route of each recipient; may be replaced while the runner runs."""
        return self.destinations.routes

    @routes.setter
    def routes(self, routes: Routes) -> None:
        self.destinations.routes = routes

    @property
    def short(self) -> bool:
        """Whether memory or descriptors are short. Running attempts go on when that changes."""
        return self._short

    @short.setter
    def short(self, short: bool) -> None:
        self._short = short
        if short:
            self._given_back += [part.message for part in self._discard(lambda _: True)]
        _wake(self._wakeup)

    @property
    def active(self) -> int:
        """Number of parts that are being attempted, or wait in memory for a slot."""
        return sum(message is not None for message in self._active.values()) + self.scheduler.parts

    # -- called by other components

    def start(self) -> asyncio.Task[None]:
        """Start on the running event loop. The task ends after `stop`, or with an error that the caller must handle."""
        self._stopping = False
        self._feeder = asyncio.get_running_loop().create_task(self._feed())
        return self._feeder

    def accept(self, message: QueuedMessage) -> None:
        """Queue a message that `Store.commit` returned. One that is due later, or held, stays in the store.

        An error is logged, and not raised: the message is durable, so its sender must get a positive reply. It is
        attempted after the next start.
        """
        try:
            if message.recipients[0].state is RecipientState.HELD:
                return
            self._note_deadline(message.recipients[0])
            if message.not_before > message.accepted:
                for to in message.recipients:
                    self._recipient_stored(message.envelope, to, message.not_before)
            elif self._stopping:
                self._give_back(message)
            else:
                self._offer(message, octets=message.body.size)
        except Exception:  # noqa: BLE001 - see above
            _log.exception("the queue runner did not accept message %s", message.id)

    def attempt(self, message: QueuedMessage, agent: Agent) -> asyncio.Task[Any]:
        """Make one attempt, now, at a message that the caller has claimed (`Store.take`), with the caller's agent.

        The task ends when the outcome is recorded.
        """
        return self._run(message, self._deliver(message, Route.on_demand(), agent))

    def wake(self, *, probe: bool = False) -> None:
        """Scan the store now: something was changed there.

        Args:
            probe: also probe every destination that is down.
        """
        if probe:
            self._probe(self.scheduler.destinations())
        self._scan_at = 0.0
        _wake(self._wakeup)

    def _probe(self, destinations: Iterable[Destination]) -> None:
        for destination in destinations:
            if destination.window.down:
                self.scheduler.probe(destination, self._clock.now())
        self.pump()

    async def _recall(self, concerned: Callable[[QueuedMessage], bool]) -> None:
        messages = [part.message for part in self._discard(lambda part: concerned(part.message))]
        try:
            await self._store.unclaim(messages)
        except OSError:
            self._given_back += messages  # later, then
            raise
        self._all_stored(messages)

    def _discard(self, unwanted: Callable[[Part], bool]) -> list[Part]:
        """Remove and return the unwanted parts that wait in memory. The caller unclaims them."""
        parts = self.scheduler.discard(unwanted)
        self._octets -= sum(part.octets for part in parts)
        return parts

    def expires(self, message: QueuedMessage) -> float:
        """When a message is returned to its sender at the latest, in seconds since 1970."""
        by = message.envelope.deliver_by
        expiry = since(message) + self._retry.expiry
        return min(expiry, by.deadline) if by is not None and by.returned else expiry

    async def stop(self, deadline: float = STOP_SECONDS) -> None:
        """Start no more attempts, let running ones finish, cancel the rest, and return every claim.

        Args:
            deadline: seconds that running attempts have.
        """
        self._stopping = True
        if self._feeder is not None:
            self._feeder.cancel()
            await asyncio.wait([self._feeder])
            self._feeder = None
        self._given_back += [part.message for part in self._discard(lambda _: True)]
        if self._active:
            grace = asyncio.ensure_future(self._clock.sleep(deadline))
            while self._active and not grace.done():
                await asyncio.wait([grace, *self._active], return_when=asyncio.FIRST_COMPLETED)
            grace.cancel()
            for task in self._active:
                task.cancel()
            while self._active:
                await asyncio.wait(self._active)
                await asyncio.sleep(0)  # runs their callbacks
        await self._store.unclaim(self._given_back)
        self._given_back.clear()

    # -- feeding

    async def _feed(self) -> None:
        while True:
            now = self._clock.now()
            try:
                await self._watch_clock(now)
                if self._given_back and now >= self._unclaim_at:
                    await self._unclaim()
                if now >= min(self._scan_at, self._deadlines.next):
                    await self._keep_deadlines()
                if now >= self._scan_at:
                    self._scan_at = now + SCAN_SECONDS
                    self.suspended.refresh()
                    await self._scan_store()
                    await self._expire()
                    self._run(None, self._warn())
            except Exception as error:  # noqa: BLE001 - one bad row, or an error of the store, never stops the queue (R25)
                self._retry_later(error)
            self.pump()
            now = self._clock.now()
            unclaim_at = self._unclaim_at if self._given_back else FOREVER
            until = min(self._scan_at, self._deadlines.next, now + self._wait(now), unclaim_at)
            await self._pause(until - now)

    def _retry_later(self, error: Exception) -> None:
        self._scan_at = self._unclaim_at = self._clock.now() + STORE_WAIT
        self._report_fault(error)

    def _report_fault(self, error: Exception) -> None:
        if isinstance(error, OSError):
            record(_log, "store-fault", logging.ERROR, detail=str(error))
        else:
            _log.error("the queue runner cannot use the store", exc_info=error)

    async def _watch_clock(self, now: float) -> None:
        """Detect a wall clock that was set.

        Due times are wall-clock times, so after a step back they would come too late.
        """
        offset = now - self._clock.monotonic()
        step = offset - self._offset
        if abs(step) < CLOCK_STEP:
            self._offset = offset
            return
        record(_log, "clock-step", logging.WARNING, seconds=round(step, 3))
        if step < 0:
            await self._store.retry(EVERYTHING)
        self._scan_at = 0.0
        self._offset = offset  # only now, so that this is repeated if the store failed

    async def _unclaim(self) -> None:
        while self._given_back:
            back = list(self._given_back)
            await self._store.unclaim(back)
            del self._given_back[: len(back)]  # only now, so that they are returned later if this failed
            self._all_stored(back)

    def _all_stored(self, messages: Sequence[QueuedMessage]) -> None:
        """The claims on these messages have ended. Each queue is routed once, however many messages are in it."""
        earliest: dict[tuple[str, str, int], float] = {}
        for message in messages:
            self._overdue.claim_ended(message)
            tenant, priority = message.envelope.origin.tenant, message.envelope.priority
            for to in message.recipients:
                queue = to.recipient.address.key, tenant, priority
                earliest[queue] = min(to.due, earliest.get(queue, to.due))
        for queue, due in earliest.items():
            self._queue_stored(StoredQueue(*queue, due))

    async def _scan_store(self) -> None:
        """Report every queue in the store to the scheduler."""
        async for stored in self._store.queues():
            self._queue_stored(stored)
            self.pump()

    async def _keep_deadlines(self) -> None:
        try:
            await self._deadlines.act()
        except Exception as error:  # noqa: BLE001 - as in `_feed`; the scan does not depend on it
            self._report_fault(error)
            self._deadlines.next = self._clock.now() + STORE_WAIT

    async def _expire(self) -> None:
        try:
            await self._overdue.expire()
        except Exception as error:  # noqa: BLE001 - as in `_feed`; the search for delayed mail does not depend on it
            self._retry_later(error)

    async def _warn(self) -> None:
        try:
            await self._overdue.warn()
        except Exception as error:  # noqa: BLE001 - as in `_feed`
            self._report_fault(error)

    async def _pause(self, seconds: float) -> None:
        """Wait until `_wakeup` is set, at most `seconds`."""
        wakeup = self._wakeup = asyncio.get_running_loop().create_future()
        seconds = max(0.0, seconds)
        self._sleeps_until = self._clock.now() + seconds
        sleeper = asyncio.ensure_future(self._clock.sleep(seconds))
        # The timer gets this future: after its cancellation it must not set the next one.
        sleeper.add_done_callback(lambda _: _wake(wakeup))
        try:
            await wakeup
        finally:
            sleeper.cancel()

    # -- events for the scheduler

    def _recipient_stored(self, envelope: Envelope, to: QueuedRecipient, due: float) -> None:
        self._note_deadline(to)
        self._envelope_stored(envelope, to.recipient.address.key, due)

    def _note_deadline(self, to: QueuedRecipient) -> None:
        """Wake the feeder in time for the deadline of a recipient in the queue."""
        if to.deadline is not None and self._deadlines.note(to.deadline) and to.deadline < self._sleeps_until:
            _wake(self._wakeup)

    def _envelope_stored(self, envelope: Envelope, domain: str, due: float) -> None:
        self._queue_stored(StoredQueue(domain, envelope.origin.tenant, envelope.priority, due))

    def _queue_stored(self, queue: StoredQueue) -> None:
        """Report unclaimed mail of a queue in the store to the scheduler."""
        try:
            destination = self.destinations.of_mail(Address(POSTMASTER, queue.domain), queue.tenant)
        except Exception:  # noqa: BLE001 - decided when they are claimed, with their senders; or the attempt raises again
            destination = self.destinations.of(None, queue.domain)
        if isinstance(destination, Awaitable):
            self._run(None, self._queue_stored_later(queue, destination))
        else:
            self._stored_at(destination, queue)

    async def _queue_stored_later(self, queue: StoredQueue, pending: Awaitable[Destination]) -> None:
        try:
            destination = await pending
        except Exception:  # noqa: BLE001 - as in `_queue_stored`
            destination = self.destinations.of(None, queue.domain)
        self._stored_at(destination, queue)

    def _stored_at(self, destination: Destination, queue: StoredQueue) -> None:
        now = self._clock.now()
        domain, tenant, priority, due = queue
        self.scheduler.stored(self.scheduler.queue(domain, tenant, priority, destination), due, now)
        self._wake_in_time(now)

    def _part_given_back(self, _queue: Queue[Part], part: Part) -> None:
        self._octets -= part.octets
        self._give_back(part.message)

    def _give_back(self, message: QueuedMessage) -> None:
        self._given_back.append(message)
        _wake(self._wakeup)

    # -- decisions of the scheduler

    def pump(self) -> None:
        """Carry out what the scheduler decides now."""
        if self._stopping:
            return
        now = self._clock.now()
        while not self._busy and (decision := self.scheduler.next(now, self._claimed_at_once)) is not None:
            if isinstance(decision, Claim):
                self._run(None, self._claim(decision))
                continue
            self._start(decision)
        self._wake_in_time(now)

    def _start(self, start: Start[Part]) -> None:
        part = start.part
        self._octets -= part.octets
        task = self._run(part.message, self._attempt(part))
        task.add_done_callback(partial(self._attempt_ended, start))

    def _wake_in_time(self, now: float) -> None:
        """Wake the feeder if the scheduler may decide something before it would wake up by itself."""
        if now + self._wait(now) < self._sleeps_until:
            _wake(self._wakeup)

    @property
    def _claimed_at_once(self) -> int:
        """Maximum number of messages to claim at a time."""
        return 1 if self._short else CLAIMED

    @property
    def _busy(self) -> bool:
        """Whether nothing may be started before something that runs has ended."""
        return self._short and bool(self._active)

    def _wait(self, now: float) -> float:
        """Return the seconds until the scheduler may decide something; `FOREVER` if that depends on what runs."""
        return FOREVER if self._busy else self.scheduler.wait(now)

    async def _claim(self, claim: Claim[Part]) -> None:
        key = claim.queue.key
        messages: list[QueuedMessage] = []
        parts: list[Part] = []
        others: Parts = []
        due = self._clock.now() + STORE_WAIT
        try:
            messages, left = await self._store.claim(
                key.domain,
                key.tenant,
                key.priority,
                claim.limit,
                partial(self.destinations.may_be, claim.queue.destination, key.tenant),
            )
            due = FOREVER if left is None else left
            while messages:
                for queue, part in await resolved(self.destinations.parts(messages[0], 0)):
                    if queue.destination is claim.queue.destination:
                        parts.append(part)
                    else:
                        others.append((queue, part))
                del messages[0]
            others = [(queue, part) for queue, part in others if not self._take(queue, part)]
            if any(queue.destination.unavailable_until <= self._clock.now() for queue, _ in others):
                due = max(due, self._clock.now() + CROWDED_WAIT)
            done = await asyncio.gather(  # together, for one commit; all end before one that failed is given back
                *(
                    self._recorder.postpone(part.message, self._due_elsewhere(queue.destination, part.message))
                    for queue, part in others
                ),
                return_exceptions=True,
            )
            others = [other for other, error in zip(others, done, strict=True) if error is not None]
            for error in filter(None, done):
                raise error
        except Exception as error:  # noqa: BLE001 - one bad row, or an error of the store, never stops the queue (R25)
            self._report_fault(error)
        finally:
            for message in (*messages, *(part.message for _, part in others)):
                self._give_back(message)
            self._claim_ended(claim, parts, due)
        self.pump()

    def _due_elsewhere(self, destination: Destination, message: QueuedMessage) -> float:
        """Return the due time of a claimed message that is for another destination and cannot wait in memory."""
        now = self._clock.now()
        until = min(destination.blocked_until, since(message) + self._retry.expiry, now + BLOCKED_LONGEST)
        return max(until, now + BLOCKED_WAIT)

    def _claim_ended(self, claim: Claim[Part], parts: list[Part], due: float) -> None:
        """Pass claimed parts to the scheduler; in a shortage, attempt one if nothing else runs and return the rest."""
        now = self._clock.now()
        if not (self._stopping or self._short):
            self.scheduler.claimed(claim, parts, due, now)
            return
        alone = len(self._active) == 1  # only this claim
        if parts and alone and not self._stopping and claim.queue.destination.unavailable_until <= now:
            self._start(self.scheduler.start_claimed(claim, parts.pop(0), due, now))
        else:
            self.scheduler.claimed(claim, (), due, now)
        for part in parts:
            self._give_back(part.message)

    def _attempt_ended(self, start: Start[Part], task: asyncio.Task[tuple[Result, str]]) -> None:
        result, why = (Result.UNKNOWN, "") if task.cancelled() or task.exception() else task.result()
        now = self._clock.now()
        self.scheduler.ended(start, result, now, why)
        self._overdue.claim_ended(start.part.message)
        self.pump()

    # -- one message

    def _offer(self, message: QueuedMessage, *, octets: int) -> None:
        """Pass the claimed recipients of a message to the scheduler, or return them to the store.

        Args:
            message: a claimed message.
            octets: size of its body if it is in memory, else 0.
        """
        parts = self.destinations.parts(message, octets)
        if isinstance(parts, list):
            self._take_all(parts)
        else:
            self._run(message, self._offer_later(message, parts))

    async def _offer_later(self, message: QueuedMessage, pending: Awaitable[Parts]) -> None:
        """Like `_offer`, once the directory has answered."""
        parts = await pending
        if self._stopping:
            self._give_back(message)
        else:
            self._take_all(parts)

    def _take_all(self, parts: Parts) -> None:
        for queue, part in parts:
            if self._short or not self._take(queue, part):
                self._give_back(part.message)
        self.pump()

    def _take(self, queue: Queue[Part], part: Part) -> bool:
        scheduler = self.scheduler
        most = 1 if self._short else WAITING_PARTS
        if scheduler.parts >= most or self._octets + part.octets > WAITING_OCTETS:
            return False
        if not scheduler.offer(queue, part, self._clock.now()):
            return False
        self._octets += part.octets
        return True

    def _run(self, message: QueuedMessage | None, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._active[task] = message
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        message = self._active.pop(task)
        if task.cancelled():
            if message is not None:
                self._given_back.append(message)
        elif (error := task.exception()) is not None:
            # Errors of agents are caught elsewhere, so this is a bug. The claim is kept until a restart: another
            # attempt would fail as well.
            name = "" if message is None else f" over message {message.id}"
            _log.error("the queue runner failed%s", name, exc_info=error)
        if self._short:
            self.pump()

    async def _attempt(self, part: Part) -> tuple[Result, str]:
        """Attempt one part; return the result for its destination, and the reason for a failure."""
        message = part.message
        if part.route is not None:
            return await self._deliver(message, part.route)
        try:
            for to in message.recipients:
                await resolved(self.destinations.routed(message.envelope, to.recipient.address))
        except DirectoryError as error:
            outcome = Outcome(Disposition.DEFERRED, _LOOKUP_FAILED.because(str(error)))
            results = [(to, outcome) for to in message.recipients]
            self._count(message, None, await self._recorder.settle(message, results))
        except Exception as error:  # noqa: BLE001 - one bad message never stops the runner
            self._count(message, None, await self._recorder.crashed(message, error))
        else:
            self._give_back(message)  # routing works again: it is claimed with its routes
        return Result.UNKNOWN, ""

    async def _deliver(self, message: QueuedMessage, route: Route, agent: Agent | None = None) -> tuple[Result, str]:
        while (recovering := self._store.steady()) is not None:
            await recovering
        recipients = message.recipients
        if past_deadline(message, self._clock.now()):
            results = [(to, EXPIRED) for to in recipients]
            self._count(message, route, await self._recorder.settle(message, results, ruled=False))
            return Result.UNKNOWN, ""
        try:
            outcomes = {
                to.number: Outcome.of(why, asked=False)
                for to in recipients
                if (why := refusal(to.recipient)) is not None
            }
            if wanted := [to for to in recipients if to.number not in outcomes]:
                outcomes |= await (agent or self.agents(route)).deliver(message, wanted, route)
        except BodyDamaged as error:
            unread = [(to, unreadable(error)) for to in recipients]
            self._count(message, route, await self._recorder.settle(message, unread))
            return Result.UNKNOWN, ""
        except Exception as error:  # noqa: BLE001 - one bad message never stops the runner
            self._count(message, route, await self._recorder.crashed(message, error))
            return Result.UNKNOWN, ""
        results = [(to, outcomes.get(to.number, _NO_OUTCOME)) for to in recipients]
        self._count(message, route, await self._recorder.settle(message, results))
        unreachable = [outcome for _, outcome in results if outcome.unreachable]
        if unreachable:
            return Result.UNREACHABLE, str(unreachable[0].reply)
        if all(outcome.crash is not None for _, outcome in results):
            return Result.UNKNOWN, ""
        return Result.REACHED, ""

    def _count(
        self, message: QueuedMessage, route: Route | None, results: Sequence[tuple[QueuedRecipient, Outcome]]
    ) -> None:
        count_results(self._metrics, message, route, results, self._clock.now())

    def _abandon(self, lease: Lease) -> None:
        """Stop all work on a shard that another worker owns now; that worker attempts its messages."""
        self._discard(lambda part: part.message.lease == lease)
        current = asyncio.current_task()
        for task, message in self._active.items():
            if message is not None and message.lease == lease and task is not current:
                task.cancel()


def _wake(wakeup: asyncio.Future[None] | None) -> None:
    if wakeup is not None and not wakeup.done():
        wakeup.set_result(None)
