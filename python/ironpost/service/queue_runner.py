"""The queue runner: takes what is due out of the store, has it delivered, and records what became of it.

Promises: at most `concurrency` messages leave this system at a time, `DESTINATION_MESSAGES` of them for one
destination, and as many are delivered here (`slots`). A freshly committed message is attempted from memory, without
reading it back; when too many wait for a slot, they are given back to the store. An outcome is recorded before anything
else is done about it, and again and again if the store fails. A recipient that failed, or expired (`queue.retry`), is
reported to the sender in the same commit, unless NOTIFY says otherwise (RFC 3461 §4.1); never to a null reverse-path
(RFC 5321 §4.5.5, §6.1). An agent that raises costs its message a deferral, counted; after `POISON_CRASHES` the message
is set aside for `POISON_WAIT` at a time, with an error in the journal, and everything else goes on (SECURITY R25).
A store that fails, in whatever way, is asked again after `STORE_WAIT`. A wall clock that is set back delays no mail:
what was deferred is tried again as soon as it is noticed, within `scheduler.LOOK_AGAIN`.
Refuses: to conclude from an attempt that was cut off: its claim is given back, and mail is doubled at worst.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ironpost.delivery import unreadable
from ironpost.model import Disposition, Outcome
from ironpost.model.body import BodyDamaged
from ironpost.protocol import replies
from ironpost.queue.retry import DAY, HOUR, RetryLaw, expired
from ironpost.queue.scheduler import Scheduler
from ironpost.queue.store import NewMessage, QueuedRecipient, State, Update
from ironpost.reports.dsn import RETURNED_OCTETS, failure_report, report_envelope, wanted
from ironpost.routing.route import Route
from ironpost.service.journal import record
from ironpost.service.slots import Slots, destination

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from ironpost.delivery import Agent, Agents
    from ironpost.model import Envelope
    from ironpost.model.ports import Clock, Random
    from ironpost.queue.store import QueuedMessage, Store
    from ironpost.routing.route import Routes
    from ironpost.service.slots import Key

CONCURRENCY: Final = 200
"""Messages that leave at a time; as many are delivered here."""
DESTINATION_MESSAGES: Final = 20
"""Of these, messages for one destination: what its connections can carry (`delivery.remote`)."""
WAITING_MESSAGES: Final = 4000
"""Messages that wait in memory for a slot; more stay in the store, or go back to it."""
WAITING_OCTETS: Final = 16 * 1024 * 1024
"""Octets of their bodies, for the same end."""
POISON_CRASHES: Final = 5
"""Crashes of agents over one message after which it is set aside."""
POISON_WAIT: Final = DAY
"""Seconds for which it is."""
UNREPORTED_WAIT: Final = HOUR
"""Seconds until the next attempt when a report could not be written."""
STORE_WAIT: Final = 5.0
"""Seconds after which a store that failed is asked again."""
CLOCK_STEP: Final = 60.0
"""Seconds by which the wall clock moves against the monotonic one before it counts as set."""
STOP_SECONDS: Final = 10.0
"""How long `stop` lets running attempts finish."""

_UNTIL_ROOM: Final = -1.0
"""The feeder waits for an attempt to end, not for a time."""

_log: Final = logging.getLogger("ironpost.queue")

Result = tuple[QueuedRecipient, Outcome]
Groups = dict[Route, list[QueuedRecipient]]
"""The recipients of a message by their way out."""


class QueueRunner:
    """One per store."""

    def __init__(
        self,
        *,
        store: Store,
        routes: Routes,
        agents: Agents,
        clock: Clock,
        random: Random,
        reporting_mta: str,
        law: RetryLaw | None = None,
        concurrency: int = CONCURRENCY,
        each: int = DESTINATION_MESSAGES,
    ) -> None:
        """Nothing runs before `start`.

        Args:
            store: the queue.
            routes: which way out a recipient takes; the attribute may be replaced while the runner runs.
            agents: which agent serves a route; likewise.
            clock: time.
            random: jitter, and the ids of reports.
            reporting_mta: our own name in reports, a domain or an address literal.
            law: when to try again; the default table if None.
            concurrency: messages that leave at a time, at least 1.
            each: those for one destination, at least 1.
        """
        self.routes = routes
        self.agents = agents
        self._store = store
        self._clock = clock
        self._random = random
        self._reporting_mta = reporting_mta
        self._law = law or RetryLaw()
        self._concurrency = concurrency
        self._scheduler = Scheduler()
        self._active: dict[asyncio.Task[None], QueuedMessage] = {}
        self._slots = Slots(concurrency, each)
        self._given_back: list[str] = []
        self._crashes: dict[tuple[str, int], int] = {}
        """By message and recipient: others of the message may go another way, and be well."""
        self._feeder: asyncio.Task[None] | None = None
        self._bell: asyncio.Future[None] | None = None
        self._sleeps_until = 0.0
        self._offset = clock.now() - clock.monotonic()
        """Of the wall clock from the monotonic one, when the feeder last looked."""
        self._stopping = False

    @property
    def active(self) -> int:
        """Messages that are being attempted, or wait in memory for a slot."""
        return len(self._active) + self._slots.waiting

    # -- from outside

    def start(self) -> asyncio.Task[None]:
        """Begins to work, on the running event loop. The task ends by `stop`, or by a fault that somebody must see."""
        self._stopping = False
        self._feeder = asyncio.get_running_loop().create_task(self._feed())
        return self._feeder

    def accept(self, message: QueuedMessage) -> None:
        """Takes a message that `Store.commit` returned. One that is due later, or held, waits in the store."""
        if message.released > message.accepted or message.recipients[0].state is State.HELD:
            self._note(message.released)
        elif self._stopping:
            self._give_back(message.id)
        else:
            self._offer(message, spare=WAITING_OCTETS - self._slots.octets)

    def attempt(self, message: QueuedMessage, agent: Agent) -> asyncio.Task[None]:
        """One attempt, now, at a message that the caller has claimed (`Store.take`), by an agent of the caller's.

        What becomes of it is recorded like that of every attempt; the task ends when it is.
        """
        return self._run(message, self._deliver(message, agent, message.recipients))

    def wake(self) -> None:
        """Something was made due from outside (`Store.retry`)."""
        self._note(self._clock.now())

    async def stop(self, deadline: float = STOP_SECONDS) -> None:
        """Takes nothing new, lets running attempts finish, cuts off the rest, gives back every claim.

        Args:
            deadline: seconds that running attempts have.
        """
        self._stopping = True
        if self._feeder is not None:
            self._feeder.cancel()
            await asyncio.wait([self._feeder])
            self._feeder = None
        self._given_back += [message.id for message in self._slots.clear()]
        if self._active:
            patience = asyncio.ensure_future(self._clock.sleep(deadline))
            while self._active and not patience.done():
                await asyncio.wait([patience, *self._active], return_when=asyncio.FIRST_COMPLETED)
            patience.cancel()
            for task in self._active:
                task.cancel()
            while self._active:
                await asyncio.wait(self._active)
                await asyncio.sleep(0)  # their callbacks
        await self._store.release(self._given_back)
        self._given_back.clear()

    # -- feeding

    async def _feed(self) -> None:
        while True:
            now = self._clock.now()
            try:
                await self._watch_clock(now)
                if self._given_back:
                    back = list(self._given_back)
                    await self._store.release(back)
                    del self._given_back[: len(back)]  # not before: what failed is given back the next time
                    self._scheduler.note(now)
                room = min(self._concurrency, WAITING_MESSAGES - self._slots.waiting)
                if room <= 0:
                    await self._pause(None)
                elif (wait := self._scheduler.wait(now)) > 0:
                    await self._pause(wait)
                else:
                    await self._claim(now, room)
            except OSError as error:
                record(_log, "store-fault", logging.ERROR, detail=str(error))
                await self._clock.sleep(STORE_WAIT)
                self._scheduler.note(now)
            except Exception:  # noqa: BLE001 - one bad row, or a fault in a store, never stops the queue (R25)
                _log.exception("the queue runner cannot take mail out of the store")
                await self._clock.sleep(STORE_WAIT)
                self._scheduler.note(now)

    async def _watch_clock(self, now: float) -> None:
        """Due times are wall-clock times: when the clock is set back, they would come that much later."""
        offset = now - self._clock.monotonic()
        step = offset - self._offset
        if abs(step) < CLOCK_STEP:
            self._offset = offset
            return
        record(_log, "clock-step", logging.WARNING, seconds=round(step, 3))
        if step < 0:
            await self._store.retry(None, now)
            self._scheduler.note(now)
        self._offset = offset  # only now: a store that failed is asked once more

    async def _claim(self, now: float, room: int) -> None:
        self._scheduler.asking(now)
        messages = await self._store.claim(now, room)
        for message in messages:
            self._offer(message)
        earliest = now if len(messages) == room else await self._store.next_due()
        if earliest is not None:
            self._scheduler.note(earliest)

    async def _pause(self, seconds: float | None) -> None:
        """Until the bell rings, or that long."""
        bell = self._bell = asyncio.get_running_loop().create_future()
        if seconds is None:
            self._sleeps_until = _UNTIL_ROOM
            await bell
            return
        self._sleeps_until = self._clock.now() + seconds
        sleeper = asyncio.ensure_future(self._clock.sleep(seconds))
        # It rings its own bell: cancelled below, it must not ring the next one.
        sleeper.add_done_callback(lambda _: _ring(bell))
        try:
            await bell
        finally:
            sleeper.cancel()

    def _note(self, due: float) -> None:
        self._scheduler.note(due)
        if due < self._sleeps_until:
            _ring(self._bell)

    def _give_back(self, identifier: str) -> None:
        self._given_back.append(identifier)
        _ring(self._bell)

    def _offer(self, message: QueuedMessage, *, spare: int | None = None) -> None:
        """Begins with a message, or has it wait for its slots, or gives it back to the store.

        `spare`: octets of bodies that may wait in memory; None if the body is not there.
        """
        groups: Groups | None
        try:
            groups = self._groups(message)
            keys = frozenset(
                destination(route, to.recipient.address.key) for route, found in groups.items() for to in found
            )
        except Exception:  # noqa: BLE001 - the attempt meets it again, and says so
            groups, keys = None, frozenset()
        if self._slots.take(keys):
            self._run(message, self._attempt(message, groups), keys)
        elif self._slots.waiting < WAITING_MESSAGES and (spare is None or spare > 0):
            self._slots.wait(message, keys)
        else:
            self._give_back(message.id)

    def _groups(self, message: QueuedMessage) -> Groups:
        groups: Groups = {}
        for to in message.recipients:
            groups.setdefault(self.routes.decide(to.recipient.address).route, []).append(to)
        return groups

    def _run(
        self, message: QueuedMessage, work: Coroutine[Any, Any, None], keys: frozenset[Key] = frozenset()
    ) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._active[task] = message
        task.add_done_callback(partial(self._ended, keys))
        return task

    def _ended(self, keys: frozenset[Key], task: asyncio.Task[None]) -> None:
        message = self._active.pop(task)
        if task.cancelled():
            self._given_back.append(message.id)
        elif (error := task.exception()) is not None:
            # Not an agent's fault: those are caught. The claim stays out until a restart rather than spin.
            _log.error("the queue runner failed over message %s", message.id, exc_info=error)
        following = self._slots.free(keys)
        if self._stopping:
            return
        for next_message, slots in following:
            self._run(next_message, self._attempt(next_message), slots)
        if self._sleeps_until == _UNTIL_ROOM:
            _ring(self._bell)

    # -- one message

    async def _attempt(self, message: QueuedMessage, groups: Groups | None = None) -> None:
        """`groups` is None for a message that had to wait: the routes may be others by now."""
        try:
            groups = groups or self._groups(message)
        except Exception as error:  # noqa: BLE001 - one bad message never stops the runner
            await self._settle(message, self._crashed(message, message.recipients, error), crashed=True)
            return
        if len(groups) == 1:
            for route, recipients in groups.items():
                await self._deliver(message, route, recipients)
            return
        async with asyncio.TaskGroup() as tasks:
            for route, recipients in groups.items():
                tasks.create_task(self._deliver(message, route, recipients))

    async def _deliver(self, message: QueuedMessage, way: Route | Agent, recipients: Sequence[QueuedRecipient]) -> None:
        while (known := self._store.steady()) is not None:
            await known
        try:
            agent = self.agents(way) if isinstance(way, Route) else way
            outcomes = dict(await agent.deliver(message, recipients))
        except BodyDamaged as error:
            await self._settle(message, [(to, unreadable(error)) for to in recipients])
            return
        except Exception as error:  # noqa: BLE001 - one bad message never stops the runner
            await self._settle(message, self._crashed(message, recipients, error), crashed=True)
            return
        silent = Outcome(Disposition.DEFERRED, replies.HOOK_FAILED.because("the agent said nothing about it"))
        await self._settle(message, [(to, outcomes.get(to.number, silent)) for to in recipients])

    def _crashed(self, message: QueuedMessage, recipients: Sequence[QueuedRecipient], error: Exception) -> list[Result]:
        count = 0
        for recipient in recipients:
            key = message.id, recipient.number
            self._crashes[key] = self._crashes.get(key, 0) + 1
            count = max(count, self._crashes[key])
        _log.error("an attempt at message %s crashed (%d)", message.id, count, exc_info=error)
        if count >= POISON_CRASHES:
            record(_log, "poison", logging.ERROR, id=message.id, crashes=count, wait=POISON_WAIT)
        reason = replies.HOOK_FAILED.because(f"{type(error).__name__}: {error}".encode("unicode_escape").decode())
        return [(recipient, Outcome(Disposition.DEFERRED, reason)) for recipient in recipients]

    async def _settle(self, message: QueuedMessage, results: Sequence[Result], *, crashed: bool = False) -> None:
        """Turns outcomes into rows, and failures into a report."""
        now = self._clock.now()
        if self._law.expired(_since(message), now):
            results = [
                (to, expired(outcome) if outcome.disposition is Disposition.DEFERRED else outcome)
                for to, outcome in results
            ]
        failed = (result for result in results if result[1].disposition is Disposition.FAILED)
        failures = [result for result in failed if wanted(result[0].recipient)]
        report: tuple[Envelope, bytes] | None = None
        unreported = False
        if failures:
            try:
                report = await self._report(message, failures, now)
            except Exception:  # noqa: BLE001 - one bad message never stops the runner
                _log.exception("the report about message %s cannot be written", message.id)
                unreported = True
        # RFC 5321 §4.5.4.1: one copy for all recipients at a host, so those who wait together are due together.
        waits = any(outcome.disposition is Disposition.DEFERRED for _, outcome in results)
        due = self._law.next_attempt(_since(message), now, self._random) if waits else now
        updates = [self._update(message, to, outcome, now, due, unreported, crashed) for to, outcome in results]
        await self._record(updates, report, now)
        for to, _ in results if not crashed else ():
            self._crashes.pop((message.id, to.number), None)
        for update in updates:
            if update.state is State.QUEUED:
                self._note(update.due)
        if report is not None:
            self._note(now)
        for remote, reply in dict.fromkeys(
            (outcome.remote, str(outcome.reply)) for _, outcome in results if outcome.ours
        ):
            record(_log, "route-fault", logging.ERROR, id=message.id, remote=remote, reply=reply)
        for (to, outcome), update in zip(results, updates, strict=True):
            level = logging.ERROR if update.state is State.HELD else logging.INFO
            if _log.isEnabledFor(level):
                _tell(level, message, to, outcome, update)

    def _update(
        self,
        message: QueuedMessage,
        to: QueuedRecipient,
        outcome: Outcome,
        now: float,
        due: float,
        unreported: bool,
        crashed: bool,
    ) -> Update:
        attempts = to.attempts + outcome.asked
        if outcome.disposition is Disposition.DELIVERED:
            return Update(message.id, to.number, State.DELIVERED, attempts, now, outcome)
        if outcome.disposition is Disposition.HELD:
            return Update(message.id, to.number, State.HELD, attempts, now, outcome)
        if outcome.disposition is Disposition.FAILED:
            if not unreported:
                return Update(message.id, to.number, State.FAILED, attempts, now, outcome)
            due = now + UNREPORTED_WAIT
        elif crashed and self._crashes.get((message.id, to.number), 0) >= POISON_CRASHES:
            due = now + POISON_WAIT
        return Update(message.id, to.number, State.QUEUED, attempts, due, outcome)

    async def _report(
        self, message: QueuedMessage, failures: Sequence[Result], now: float
    ) -> tuple[Envelope, bytes] | None:
        envelope = report_envelope(message)
        if envelope is None:
            record(
                _log,
                "unreportable",
                logging.WARNING,
                id=message.id,
                recipients=[str(to.recipient.address) for to, _ in failures],
            )
            return None
        try:
            head = await message.body.head(RETURNED_OCTETS)
        except OSError as error:
            record(_log, "body-fault", logging.ERROR, id=message.id, detail=str(error))
            head = b""
        token = self._random.token()
        content = failure_report(
            message, failures, reporting_mta=self._reporting_mta, now=now, message_id=token, head=head
        )
        return envelope, content

    async def _record(self, updates: Sequence[Update], report: tuple[Envelope, bytes] | None, now: float) -> None:
        """Until the store takes it: an outcome that is forgotten is a message sent twice."""
        while True:
            reports: list[NewMessage] = []
            try:
                if report is not None:
                    envelope, content = report
                    spool = self._store.spool()
                    reports.append(NewMessage(self._random.token(), envelope, now, b"", spool))
                    if (behind := spool.write(content)) is not None:
                        await behind
                # Shielded: what is on its way to the disk is not called back by `stop`.
                await asyncio.shield(asyncio.ensure_future(self._store.record(updates, reports)))
            except OSError as error:
                for each in reports:
                    each.content.discard()  # the next time it is written anew
                record(_log, "store-fault", logging.ERROR, detail=str(error))
                await self._clock.sleep(STORE_WAIT)
            else:
                return


def _since(message: QueuedMessage) -> float:
    return max(message.accepted, message.released)


def _ring(bell: asyncio.Future[None] | None) -> None:
    if bell is not None and not bell.done():
        bell.set_result(None)


def _tell(level: int, message: QueuedMessage, to: QueuedRecipient, outcome: Outcome, update: Update) -> None:
    record(
        _log,
        outcome.disposition.value,
        level,
        id=message.id,
        recipient=str(to.recipient.address),
        reply=str(outcome.reply),
        detail=outcome.reply.detail,
        remote=outcome.remote,
        attempts=update.attempts,
        due=update.due if update.state is State.QUEUED else None,
    )
