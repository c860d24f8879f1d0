"""A queue in virtual time: the scheduler drives scripted destinations over a store that is a list per queue."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from random import Random as Chance
from typing import TYPE_CHECKING, Final

from ironpost.queue.concurrency import DEFAULT, ConcurrencyPolicy, DestinationLimits
from ironpost.queue.scheduler import FOREVER, Claim, Destination, Queue, Result, Scheduler, Start

if TYPE_CHECKING:
    from collections.abc import Callable

START: Final = 1_700_000_000.0


class Random:
    """Repeatable."""

    def __init__(self) -> None:
        self._chance = Chance(1)

    def uniform(self, low: float, high: float) -> float:
        return self._chance.uniform(low, high)

    def shuffle(self, items: list[str]) -> None:
        self._chance.shuffle(items)

    def token(self) -> str:
        return f"t{self._chance.getrandbits(64):x}"


@dataclass
class Host:
    """How a destination behaves."""

    seconds: float = 1.0
    """An attempt takes so long."""
    up: Callable[[float], bool] = lambda _: True
    """Whether it can be reached, by the seconds since the start."""


@dataclass(order=True)
class Mail:
    """One message for one destination."""

    due: float
    number: int
    domain: str = field(compare=False)
    tenant: str = field(compare=False)
    priority: int = field(default=0, compare=False)
    attempts: int = field(default=0, compare=False)
    many: int = field(default=1, compare=False)
    """A count of stored messages that differ only in their numbers."""


class Simulation:
    """Plays the runner and the store."""

    def __init__(
        self,
        *,
        leaves: int = 200,
        stays: int = 200,
        retry: float = 900.0,
        concurrency: ConcurrencyPolicy = DEFAULT,
        limits: DestinationLimits | None = None,
    ) -> None:
        self.now = START
        self.retry = retry
        self.hosts: defaultdict[str, Host] = defaultdict(Host)
        self.scheduler: Scheduler[Mail] = Scheduler(
            Random(),
            self._give_back,
            leaves=leaves,
            stays=stays,
            concurrency=concurrency,
            limits=None if limits is None else lambda _: limits,
        )
        self._store: defaultdict[tuple[str, str, int], list[Mail]] = defaultdict(list)
        self._running: list[tuple[float, int, Start[Mail]]] = []
        self._numbers = 0
        self.log: list[Mail] = []
        """Attempts in the order of their starts."""
        self.times: list[float] = []
        self.delivered: dict[int, float] = {}
        self.busy: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        """Most attempts at a time, by domain."""

    # -- the store

    def add(
        self, domain: str, tenant: str = "t", many: int = 1, *, due: float | None = None, priority: int = 0
    ) -> None:
        """Mail in the store."""
        due = self.now if due is None else due
        mail = self.mail(domain, tenant, due=due, many=many, priority=priority)
        heapq.heappush(self._store[domain, tenant, priority], mail)
        self._numbers += many - 1
        self.scheduler.stored(self.queue(domain, tenant, priority), due, self.now)

    def mail(
        self, domain: str = "a.example", tenant: str = "t", *, due: float = START, many: int = 1, priority: int = 0
    ) -> Mail:
        """Mail that is not in the store."""
        self._numbers += 1
        return Mail(due, self._numbers, domain, tenant, priority, many=many)

    def _claim(self, domain: str, tenant: str, priority: int, limit: int) -> tuple[list[Mail], float]:
        stored, found = self._store[domain, tenant, priority], []
        while stored and stored[0].due <= self.now and len(found) < limit:
            first = stored[0]
            if first.many == 1:
                found.append(heapq.heappop(stored))
            else:
                found.append(replace(first, many=1))
                stored[0] = replace(first, number=first.number + 1, many=first.many - 1)
        return found, stored[0].due if stored else FOREVER

    def queue(self, domain: str, tenant: str, priority: int = 0) -> Queue[Mail]:
        return self.scheduler.queue(domain, tenant, priority, self.destination(domain))

    def destination(self, domain: str) -> Destination:
        return self.scheduler.destination(domain, stays=domain.startswith("local"))

    def _give_back(self, queue: Queue[Mail], mail: Mail) -> None:
        heapq.heappush(self._store[mail.domain, mail.tenant, mail.priority], mail)
        self.scheduler.stored(queue, mail.due, self.now)

    # -- the runner

    def run(self, seconds: float, *, stop: Callable[[], bool] = lambda: False) -> None:
        """Let time pass."""
        end = self.now + seconds
        while not stop():
            while (decision := self.scheduler.next(self.now)) is not None:
                self._carry_out(decision)
            following = min(self.now + self.scheduler.wait(self.now), self._running[0][0] if self._running else FOREVER)
            if following > end:
                break
            self.now = max(self.now, following)
            while self._running and self._running[0][0] <= self.now:
                self._end(heapq.heappop(self._running)[2])
        if not stop():
            self.now = end

    def _carry_out(self, decision: Start[Mail] | Claim[Mail]) -> None:
        if isinstance(decision, Claim):
            domain, tenant, priority, _ = decision.queue.key
            self.scheduler.claimed(decision, *self._claim(domain, tenant, priority, decision.limit), self.now)
            return
        mail = decision.part
        self.log.append(mail)
        self.times.append(self.now - START)
        self.busy[mail.domain] += 1
        self.peak[mail.domain] = max(self.peak[mail.domain], self.busy[mail.domain])
        heapq.heappush(self._running, (self.now + self.hosts[mail.domain].seconds, len(self.log), decision))

    def _end(self, start: Start[Mail]) -> None:
        mail = start.part
        self.busy[mail.domain] -= 1
        if self.hosts[mail.domain].up(self.now - START):
            self.delivered[mail.number] = self.now - START
            self.scheduler.ended(start, Result.REACHED, self.now)
            return
        mail.attempts += 1
        mail.due = self.now + self.retry
        heapq.heappush(self._store[mail.domain, mail.tenant, mail.priority], mail)
        self.scheduler.stored(self.queue(mail.domain, mail.tenant, mail.priority), mail.due, self.now)
        self.scheduler.ended(start, Result.UNREACHABLE, self.now, "connection refused")
