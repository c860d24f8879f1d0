"""Limits over several workers: as in one process but for what comes within one exchange."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.policy.buckets import Buckets
from ironpost.policy.options import Quota
from ironpost.processes.bus import WorkerBus
from ironpost.processes.shared_limits import CONNECTIONS, ConnectionLedger, SharedLimiter, SharedLimiters, SharedQuotas
from ironpost.server.limits import ConnectionLimits, Excess

if TYPE_CHECKING:
    from collections.abc import Callable

NET = "192.0.2.0/24"


class Crew:
    """Workers with their books, and the supervisor between them; time and exchanges pass when a test says so."""

    def __init__(self, workers: int) -> None:
        self.now = 1000.0
        self.ledger = ConnectionLedger()
        self.news: list[WorkerBus] = []
        self.quotas: list[SharedQuotas] = []
        self.waiting: list[Callable[[], None]] = []
        self.books = [self._worker(number, workers) for number in range(workers)]

    def _worker(self, number: int, workers: int) -> SharedLimiters:
        def send(note: Any) -> None:
            note = json.loads(json.dumps(note))  # as over the link
            self.ledger.apply(number, note.get(CONNECTIONS, {}))
            for other, news in enumerate(self.news):
                if other != number:
                    news.deliver(note)

        async def ask(_request: Any) -> Any:
            return {"answers": []}

        news = WorkerBus(send, ask)
        self.news[number : number + 1] = [news]
        self.quotas[number : number + 1] = [SharedQuotas(news, self.later)]
        return SharedLimiters(workers, news, self.later, lambda: self.now)

    def later(self, _seconds: float, call: Callable[[], None]) -> None:
        self.waiting.append(call)

    def monotonic(self) -> float:
        return self.now

    def book(self, number: int) -> SharedLimiter:
        return self.books[number].book(0)

    def exchange(self) -> None:
        """Everybody tells everybody."""
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            call()


def enter(crew: Crew, limits: ConnectionLimits, times: int, *, exchange: bool) -> int:
    """Open this number of connections, to the workers in turn; return the number admitted."""
    taken = 0
    for number in range(times):
        taken += crew.book(number % len(crew.books)).enter(limits) is None
        if exchange:
            crew.exchange()
    return taken


def enter_prefix(crew: Crew, limits: ConnectionLimits, times: int, worker: int | None = None) -> list[Excess | None]:
    found = []
    for number in range(times):
        book = crew.book(number % len(crew.books) if worker is None else worker)
        found.append(book.enter_prefix(NET, limits, crew.now))
        crew.exchange()
    return found


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_the_total_holds_for_all_workers_together(workers: int) -> None:
    crew = Crew(workers)
    assert enter(crew, ConnectionLimits(connections=20), 60, exchange=True) == 20
    crew.book(0).leave()
    crew.exchange()
    assert crew.book(1).enter(ConnectionLimits(connections=20)) is None, "what one gives back another may take"
    crew.exchange()
    assert crew.book(1).enter(ConnectionLimits(connections=20)) is Excess.TOTAL


@pytest.mark.parametrize("workers", [2, 3, 5])
@pytest.mark.parametrize("limit", [1, 2, 20])
def test_at_once_it_is_exceeded_by_less_than_one_for_each_worker(workers: int, limit: int) -> None:
    crew = Crew(workers)
    taken = enter(crew, ConnectionLimits(connections=limit), 200, exchange=False)
    assert limit <= taken < limit + workers
    crew.exchange()
    assert enter(crew, ConnectionLimits(connections=limit), 50, exchange=False) == 0


def test_one_worker_may_take_all_when_it_comes_bit_by_bit() -> None:
    crew = Crew(4)
    limits = ConnectionLimits(connections=100, connections_per_prefix=50, connection_rate=100)
    assert enter_prefix(crew, limits, 60, worker=2) == [None] * 50 + [Excess.PREFIX] * 10


def test_a_limit_lower_than_the_number_of_workers_shuts_nobody_out() -> None:
    for worker in range(4):
        crew = Crew(4)
        assert enter_prefix(crew, ConnectionLimits(connections_per_prefix=1), 2, worker) == [None, Excess.PREFIX]


def test_a_network_is_counted_over_all_workers() -> None:
    crew = Crew(3)
    limits = ConnectionLimits(connections_per_prefix=10, connection_rate=100)
    assert enter_prefix(crew, limits, 12).count(None) == 10
    crew.book(0).leave_prefix(NET)
    assert crew.book(1).enter_prefix("198.51.100.0/24", limits, crew.now) is None
    crew.exchange()
    assert crew.book(2).enter_prefix(NET, limits, crew.now) is None


def test_the_rate_is_counted_over_all_workers_and_comes_back_with_time() -> None:
    crew = Crew(3)
    limits = ConnectionLimits(connections_per_prefix=10_000, connection_rate=0.5)  # 30 at once
    found = enter_prefix(crew, limits, 40)
    assert found.count(None) == 30
    assert set(found[30:]) == {Excess.RATE}
    crew.now += 10
    assert enter_prefix(crew, limits, 20).count(None) == 5
    crew.now += 3600
    assert enter_prefix(crew, limits, 50, worker=0).count(None) == 30
    assert enter_prefix(crew, limits, 5, worker=1).count(None) == 0, "an hour of quiet is not credit for more"


def test_a_worker_that_ends_gives_back_what_it_held_and_one_that_begins_knows_of_the_others() -> None:
    crew = Crew(2)
    limits = ConnectionLimits(connections=6, connections_per_prefix=4, connection_rate=100)
    assert enter(crew, limits, 10, exchange=True) == 6
    assert enter_prefix(crew, limits, 10).count(None) == 4
    gone = crew.ledger.ended(0)
    crew.news[1].deliver({CONNECTIONS: gone})
    crew.books[0] = crew._worker(0, 2)
    for held in crew.ledger.others(0):
        crew.news[0].deliver({CONNECTIONS: held})
    assert enter(crew, limits, 10, exchange=True) == 3
    assert enter_prefix(crew, limits, 10).count(None) == 2
    assert crew.ledger.ended(7) == {}


def test_what_is_over_is_forgotten() -> None:
    crew = Crew(2)
    limits = ConnectionLimits()
    enter_prefix(crew, limits, 4)
    for number in (0, 1, 0, 1):
        crew.book(number).leave_prefix(NET)
    crew.exchange()
    for number in (0, 1):
        crew.book(number).sweep(crew.now)
        assert crew.book(number)._accounts, "its rate is remembered"
        crew.book(number).sweep(crew.now + 61)
        assert not crew.book(number)._accounts
    assert crew.ledger.ended(0) == crew.ledger.ended(1) == {}


def test_nothing_to_tell_is_not_told() -> None:
    crew = Crew(2)
    crew.book(0).enter(ConnectionLimits())
    crew.book(0).enter(ConnectionLimits())
    assert len(crew.waiting) == 1, "one exchange for any number of changes"
    crew.exchange()
    assert crew.waiting == []


def test_what_a_client_sent_to_one_worker_it_has_sent_to_all() -> None:
    crew = Crew(2)
    buckets = [Buckets(Quota(10, 3600), crew) for _ in range(2)]  # type: ignore[arg-type]
    for quotas, each in zip(crew.quotas, buckets, strict=True):
        quotas.share("messages", each)
        quotas.share("others", Buckets(Quota(1, 1), crew))  # type: ignore[arg-type]
    given = 0
    for number in range(30):
        given += not buckets[number % 2].take("ada")
        crew.exchange()
    assert given == 10
    assert buckets[1].take("bob") == 0.0
    crew.now += 360
    assert buckets[0].take("ada") == 0.0
    crew.exchange()
    assert buckets[1].take("ada") > 0
