"""Decides what is attempted next: a queue for each domain, tenant and priority, a window for each destination.

A queue is the mail of one priority that one tenant sends to one domain. A destination is where the mail of one or more
queues goes: the exchangers of a domain, a smart host, this system. Most of a queue is in the store; the scheduler knows
when its next message is due, and holds a few claimed parts (the recipients of one message at one destination).

    scheduler.stored(queue, due)     unclaimed mail is in the store
    scheduler.offer(queue, part)     a part is claimed already
    scheduler.next(now)              -> Start(queue, part): attempt it; then `ended`
                                     -> Claim(queue, limit): claim up to `limit` messages; then `claimed`, or
                                        `start_claimed`, which starts the first part at once
                                     -> None: nothing to do for `wait(now)` seconds

Promises: tenants take turns, at each destination and over all of them: a tenant with ten messages beside one with a
million is attempted at every other turn. In the turn of a tenant its queues of the highest priority come first, and
queues of one priority take turns (RFC 6710 §5.1): priorities delay only mail of the same tenant.
A destination has at most the concurrency of its window (`concurrency`), and a lane (mail that leaves, mail that stays,
mail for destinations not reached yet) at most its limit. A destination that is down or suspended costs no work until
its next probe. The cost of a decision does not depend on the number of queues or messages, except for a heap of their
due times.
Limitations: nothing here is durable, and a due time is a lower bound: the store decides what is due.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Hashable  # noqa: TC003 - a NamedTuple reads its annotations
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from ironpost.queue.concurrency import DEFAULT, ConcurrencyPolicy, DestinationLimits, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ironpost.model.ports import Random

T = TypeVar("T")

FOREVER: Final = float("inf")
PARTS: Final = 1000
"""Maximum number of parts that one queue holds in memory; more stay in the store."""
CLAIMED: Final = 10
"""Maximum number of messages claimed from a queue at a time, unless the caller sets another."""
REMEMBERED: Final = 10_000
"""Maximum number of destinations without mail whose window is remembered."""


class QueueKey(NamedTuple):
    """Identifies a queue."""

    domain: str
    """In lower case; empty for addresses without one."""
    tenant: str
    """The sender of the mail: a login or a listener."""
    priority: int
    """Of the messages; higher is more urgent."""
    destination: Hashable
    """Key of the destination, equal for all mail that shares its connections."""


class Lane(Enum):
    """Destinations that compete for the same slots."""

    STAYS = "stays"
    """Delivered on this system."""
    LEAVES = "leaves"
    UNPROVEN = "unproven"
    """Leaves for a destination that has not been reached yet: hosts that do not respond must not take the slots of
    others."""


class Result(Enum):
    """Result of an attempt, for its destination."""

    REACHED = "reached"
    UNREACHABLE = "unreachable"
    """No host could be connected, or all refused service."""
    UNKNOWN = "unknown"
    """The attempt was cancelled, or failed for a local reason."""


class _Turns:
    """Queues that take turns: tenant by tenant, the highest priority first, then queue by queue."""

    __slots__ = ("_queues", "tenants")

    def __init__(self) -> None:
        self.tenants: deque[str] = deque()
        """Those with queues."""
        self._queues: dict[str, dict[int, deque[Queue[Any]]]] = {}
        """By tenant and priority."""

    def __iter__(self) -> Iterator[Queue[Any]]:
        return (queue for levels in self._queues.values() for queues in levels.values() for queue in queues)

    def push(self, queue: Queue[Any]) -> None:
        """Append a queue; it waits for its turn."""
        _, tenant, priority, _ = queue.key
        levels = self._queues.get(tenant)
        if levels is None:
            levels = self._queues[tenant] = {}
            self.tenants.append(tenant)
        if priority in levels:
            levels[priority].append(queue)
        else:
            levels[priority] = deque((queue,))

    def pop(self) -> Queue[Any]:
        """Remove and return the queue whose turn it is."""
        tenant = self.tenants.popleft()
        levels = self._queues[tenant]
        priority = max(levels)
        waiting = levels[priority]
        queue = waiting.popleft()
        if waiting:
            self.tenants.append(tenant)
        elif len(levels) > 1:
            del levels[priority]
            self.tenants.append(tenant)
        else:
            del self._queues[tenant]
        return queue


class _Slots:
    """The slots of a lane."""

    __slots__ = ("busy", "limit", "ready")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.busy = 0
        self.ready = _Turns()
        """Queues that have a slot at their destination and wait for one here."""


class Destination:
    """A destination, its limits, and the queues that wait for it."""

    __slots__ = (
        "busy", "interval", "key", "lane", "limit", "limits", "queues", "rate_until", "reason", "suspended_until",
        "timer", "waiting", "window",
    )  # fmt: skip

    def __init__(self, key: Hashable, lane: Lane, window: Window, limits: DestinationLimits) -> None:
        self.key = key
        self.lane = lane
        self.window = window
        self.limits = limits
        """The limits of the configuration, for all processes together."""
        self.limit = limits.deliveries
        """Maximum number of concurrent deliveries by this process."""
        self.interval = limits.interval
        """Seconds between the starts of two deliveries by this process; 0 without a rate limit."""
        self.rate_until = 0.0
        """Earliest start of the next delivery under the rate limit."""
        self.busy = 0
        """Number of slots in use or reserved."""
        self.queues = 0
        """Number of queues that have mail for it."""
        self.waiting = _Turns()
        """Queues with work that wait for a slot here."""
        self.suspended_until = 0.0
        """Time until which an operator suspended deliveries; `FOREVER` without an end."""
        self.reason = ""
        """Reason for the suspension, as the operator stated it."""
        self.timer = FOREVER
        """The time of its current entry in the heap."""

    @property
    def unavailable_until(self) -> float:
        """Seconds since 1970 until which it is down or suspended."""
        return max(self.window.blocked_until, self.suspended_until)

    @property
    def blocked_until(self) -> float:
        """No delivery may start earlier."""
        return max(self.unavailable_until, self.rate_until)

    def room(self, now: float) -> bool:
        """Whether one more delivery may start."""
        return self.busy < self.limit and self.busy < self.window.size and self.blocked_until <= now


class Queue(Generic[T]):
    """The mail of one tenant and priority for one domain at one destination."""

    __slots__ = ("active", "destination", "due", "key", "parts", "timer")

    def __init__(self, key: QueueKey, destination: Destination) -> None:
        self.key = key
        self.destination = destination
        self.parts: deque[T] = deque()
        """Claimed parts, in order."""
        self.due = FOREVER
        """Earliest due time of unclaimed mail in the store."""
        self.timer = FOREVER
        """The time of its current entry in the heap."""
        self.active = False
        """Whether it has work that is due and waits for its turn, or a claim on it is running."""


class Start(NamedTuple, Generic[T]):
    """Attempt this part now. A slot is taken until `Scheduler.ended`."""

    queue: Queue[T]
    part: T
    lane: Lane


class Claim(NamedTuple, Generic[T]):
    """Claim up to `limit` messages of this queue from the store. A slot is reserved until `Scheduler.claimed`."""

    queue: Queue[T]
    limit: int
    lane: Lane


class Scheduler(Generic[T]):
    """The queues and destinations of one process."""

    def __init__(
        self,
        random: Random,
        give_back: Callable[[Queue[T], T], None],
        *,
        leaves: int,
        stays: int,
        concurrency: ConcurrencyPolicy = DEFAULT,
        limits: Callable[[Hashable], DestinationLimits] | None = None,
    ) -> None:
        """Create a scheduler without mail.

        Args:
            random: jitter between probes.
            give_back: called with parts whose destination was blocked; they must be unclaimed and `stored`.
            leaves: maximum number of deliveries to other systems; the same number applies to destinations not reached
                yet.
            stays: maximum number of deliveries on this system.
            concurrency: parameters of the windows of destinations.
            limits: returns the limits of a destination by its key; None: the maximum of `concurrency`, and no rate.
        """
        self._random = random
        self._give_back = give_back
        self._concurrency = concurrency
        self._limits = limits or (lambda _: DestinationLimits(concurrency.maximum))
        self._stays = ConcurrencyPolicy(stays, stays)
        self._lanes = {
            Lane.STAYS: _Slots(stays),
            Lane.LEAVES: _Slots(leaves),
            Lane.UNPROVEN: _Slots(leaves),
        }
        self._destinations: dict[Hashable, Destination] = {}
        self._idle: OrderedDict[Hashable, None] = OrderedDict()
        """Destinations without mail, the longest idle first."""
        self._queues: dict[QueueKey, Queue[T]] = {}
        self._timers: list[tuple[float, int, Queue[T] | Destination]] = []
        """Heap of the times at which a queue is due or a destination may be tried again; outdated entries are
        skipped."""
        self._timed = 0
        self.parts = 0
        """Number of parts in memory that wait for their turn."""
        self.watch: Callable[[Destination], None] | None = None
        """Called when a destination gets its first queue, loses its last, goes down or comes back."""

    # -- queues and destinations

    def destination(self, key: Hashable, *, stays: bool = False) -> Destination:
        """Return the destination with this key; create it on first use.

        Args:
            key: identifies the destination.
            stays: whether it is this system.
        """
        found = self._destinations.get(key)
        if found is None:
            if stays:
                lane, limits, policy = Lane.STAYS, DestinationLimits(self._stays.maximum), self._stays
            else:
                lane, limits = Lane.UNPROVEN, self._limits(key)
                policy = self._concurrency.up_to(limits.deliveries)
            found = self._destinations[key] = Destination(key, lane, Window(policy), limits)
            self._set_idle(found)
        return found

    def destinations(self) -> Sequence[Destination]:
        """All destinations that are known."""
        return tuple(self._destinations.values())

    def queue(self, domain: str, tenant: str, priority: int, destination: Destination) -> Queue[T]:
        """Return the queue of this mail; create it on first use."""
        key = QueueKey(domain, tenant, priority, destination.key)
        found = self._queues.get(key)
        if found is None:
            found = self._queues[key] = Queue(key, destination)
            destination.queues += 1
            self._idle.pop(destination.key, None)
            if destination.queues == 1 and self.watch is not None:
                self.watch(destination)
        return found

    def __len__(self) -> int:
        """The number of queues."""
        return len(self._queues)

    def _set_idle(self, destination: Destination) -> None:
        """Remember the window of a destination without mail, until there are too many such."""
        if destination.queues or destination.busy:
            return
        self._idle[destination.key] = None
        self._idle.move_to_end(destination.key)
        for _ in range(len(self._idle) - REMEMBERED):
            key, _ = self._idle.popitem(last=False)
            if self._destinations[key].suspended_until:
                self._idle[key] = None  # a suspension outlasts the mail
            else:
                del self._destinations[key]

    # -- work

    def stored(self, queue: Queue[T], due: float, now: float) -> None:
        """Record that unclaimed mail of the queue is in the store, due at a time in seconds since 1970."""
        queue.due = min(queue.due, due)
        self._wake(queue, now)

    def offer(self, queue: Queue[T], part: T, now: float) -> bool:
        """Accept a claimed part; return False if the queue is full or its destination blocked.

        The caller then unclaims it and calls `stored`.
        """
        if len(queue.parts) >= PARTS or queue.destination.unavailable_until > now:
            return False
        queue.parts.append(part)
        self.parts += 1
        self._wake(queue, now)
        return True

    def _wake(self, queue: Queue[T], now: float) -> None:
        """Enter the queue for a turn if it has work, or set its timer; remove it if it is empty."""
        if queue.active:
            return
        if queue.parts or queue.due <= now:
            queue.active = True
            self._admit(queue, now)
        elif queue.due < queue.timer:
            queue.timer = queue.due
            self._time(queue.due, queue)
        elif queue.due == FOREVER and self._queues.get(queue.key) is queue:  # not a later queue of this key
            del self._queues[queue.key]
            queue.destination.queues -= 1
            self._set_idle(queue.destination)
            if not queue.destination.queues and self.watch is not None:
                self.watch(queue.destination)

    def _admit(self, queue: Queue[T], now: float) -> None:
        """Reserve a slot at the destination, or wait for one."""
        queue.destination.waiting.push(queue)
        self._fill(queue.destination, now)

    def _fill(self, destination: Destination, now: float) -> None:
        """Give the free slots of a destination to the queues that wait for them."""
        while destination.waiting.tenants and destination.room(now):
            destination.busy += 1
            if destination.interval:
                destination.rate_until = max(destination.rate_until, now) + destination.interval
            self._lanes[destination.lane].ready.push(destination.waiting.pop())
        if destination.waiting.tenants and now < destination.blocked_until < destination.timer:
            destination.timer = destination.blocked_until
            self._time(destination.timer, destination)

    def _time(self, at: float, what: Queue[T] | Destination) -> None:
        self._timed += 1
        heapq.heappush(self._timers, (at, self._timed, what))

    # -- decisions

    def next(self, now: float, limit: int = CLAIMED) -> Start[T] | Claim[T] | None:
        """Return the next decision, with at most `limit` messages to claim; None if nothing can be done now."""
        self._run_timers(now)
        for lane, slots in self._lanes.items():
            while slots.busy < slots.limit and slots.ready.tenants:
                queue = slots.ready.pop()
                destination = queue.destination
                if destination.unavailable_until > now:
                    destination.busy -= 1  # blocked since its slot was reserved
                    self._admit(queue, now)
                elif queue.parts:
                    slots.busy += 1
                    self.parts -= 1
                    start = Start(queue, queue.parts.popleft(), lane)
                    queue.active = False
                    self._wake(queue, now)
                    return start
                elif queue.due <= now:
                    slots.busy += 1
                    queue.due = FOREVER  # mail stored from now on sets it again
                    return Claim(queue, limit, lane)
                else:
                    queue.active = False
                    self._free(destination, now)
                    self._wake(queue, now)
        return None

    def claimed(self, claim: Claim[T], parts: Sequence[T], due: float, now: float) -> None:
        """Record the result of a claim.

        Args:
            claim: the decision.
            parts: the claimed parts of this queue, in the order of their due times.
            due: when the rest of the queue is due; `FOREVER` if nothing is left.
            now: seconds since 1970.
        """
        queue = claim.queue
        self._lanes[claim.lane].busy -= 1
        queue.parts.extend(parts)
        self.parts += len(parts)
        queue.due = min(queue.due, due)
        queue.active = False
        self._wake(queue, now)
        self._free(queue.destination, now)

    def start_claimed(self, claim: Claim[T], part: T, due: float, now: float) -> Start[T]:
        """Record the result of a claim whose only part is attempted now, in the slot that the claim reserved.

        Args:
            claim: the decision.
            part: the claimed part.
            due: as for `claimed`.
            now: seconds since 1970.

        Returns:
            The attempt; call `ended` at its end.
        """
        queue = claim.queue
        queue.due = min(queue.due, due)
        queue.active = False
        self._wake(queue, now)
        return Start(queue, part, claim.lane)

    def ended(self, start: Start[T], result: Result, now: float, why: str = "") -> None:
        """Record the end of an attempt.

        Args:
            start: the decision.
            result: the result for the destination.
            now: seconds since 1970.
            why: the failure, for operators.
        """
        self._lanes[start.lane].busy -= 1
        destination = start.queue.destination
        if destination.lane is not Lane.STAYS:
            down, blocked = destination.window.down, destination.window.blocked_until
            if result is Result.REACHED:
                destination.window.succeeded()
                destination.lane = Lane.LEAVES
            elif result is Result.UNREACHABLE:
                destination.window.failed(now, self._random, why)
                if destination.window.down:
                    destination.lane = Lane.UNPROVEN
                    self._empty(destination)
            if self.watch is not None and (down, blocked) != (
                destination.window.down, destination.window.blocked_until
            ):  # fmt: skip
                self.watch(destination)
        self._free(destination, now)

    def _free(self, destination: Destination, now: float) -> None:
        """Free a slot of the destination."""
        destination.busy -= 1
        self._fill(destination, now)
        self._set_idle(destination)

    def _empty(self, destination: Destination) -> None:
        """Return claimed parts to the store, since nothing can be attempted at the destination for some time."""
        for queue in tuple(destination.waiting):
            self.parts -= len(queue.parts)
            parts, queue.parts = queue.parts, deque()
            for part in parts:
                self._give_back(queue, part)

    def _run_timers(self, now: float) -> None:
        timers = self._timers
        while timers and timers[0][0] <= now:
            at, _, what = heapq.heappop(timers)
            if what.timer != at:
                continue
            what.timer = FOREVER
            if isinstance(what, Destination):
                self._fill(what, now)
            else:
                self._wake(what, now)

    def wait(self, now: float) -> float:
        """Return the seconds until `next` may decide something if nothing else is called; 0 for now."""
        for slots in self._lanes.values():
            if slots.busy < slots.limit and slots.ready.tenants:
                return 0.0
        return max(0.0, self._timers[0][0] - now) if self._timers else FOREVER

    # -- other workers

    def found_down(self, destination: Destination, until: float, why: str, now: float) -> None:
        """Block a destination that another worker found down, until a time."""
        destination.window.block(until, why)
        destination.lane = Lane.UNPROVEN
        self._empty(destination)
        self._fill(destination, now)

    def found_up(self, destination: Destination, now: float) -> None:
        """Unblock a destination that another worker reached."""
        if destination.window.down:
            destination.window.succeeded()
        self._fill(destination, now)

    def set_share(self, destination: Destination, limit: int, interval: float, now: float) -> None:
        """Change the share of the limits that this process has: `Destination.limit` and `Destination.interval`."""
        destination.limit, destination.interval = limit, interval
        self._fill(destination, now)

    # -- operators

    def suspend(self, destination: Destination, until: float, reason: str, now: float) -> None:
        """Suspend deliveries to a destination until a time (seconds since 1970). Running attempts finish."""
        destination.suspended_until, destination.reason = until, reason
        self._empty(destination)
        self._fill(destination, now)

    def resume(self, destination: Destination, now: float) -> None:
        """End a suspension, and probe the destination now if it is down."""
        destination.suspended_until, destination.reason = 0.0, ""
        self.probe(destination, now)

    def probe(self, destination: Destination, now: float) -> None:
        """Probe a destination that is down now instead of later."""
        destination.window.probe_now()
        self._fill(destination, now)

    def discard(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Remove and return the parts that wait and are unwanted."""
        found: list[T] = []
        for queue in self._queues.values():
            if any(map(unwanted, queue.parts)):
                found += filter(unwanted, queue.parts)
                queue.parts = deque(part for part in queue.parts if not unwanted(part))
        self.parts -= len(found)
        return found
