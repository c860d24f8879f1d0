"""Two workers that divide the limit of a destination, over a bus in memory and in virtual time."""

from __future__ import annotations

import heapq
import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.queue.simulation import START, Host, Simulation

from ironpost.processes.bus import WorkerBus
from ironpost.processes.shared_destinations import ROTATION_SECONDS, SharedDestinations, share
from ironpost.queue.concurrency import DEFAULT, ConcurrencyPolicy, DestinationLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ironpost.queue.scheduler import Destination


class Crew:
    """Workers with a simulated queue each, and one clock."""

    def __init__(
        self, count: int, *, concurrency: ConcurrencyPolicy = DEFAULT, limits: DestinationLimits | None = None
    ) -> None:
        self.now = START
        self.calls: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.workers = [Simulation(concurrency=concurrency, limits=limits) for _ in range(count)]
        self.running = 0
        self.buses = [WorkerBus(lambda note, n=n: self.publish(n, note), self.ask) for n in range(count)]
        self.shares = [
            SharedDestinations(
                number, count, self.buses[number], worker.scheduler,
                later=self.later, now=lambda: self.now, changed=lambda: None,
            )
            for number, worker in enumerate(self.workers)
        ]  # fmt: skip
        for worker in self.workers:
            worker.destination = lambda domain, w=worker: w.scheduler.destination(("mx", domain))  # type: ignore[method-assign]

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.calls, (self.now + seconds, self.count, call))

    def publish(self, sender: int, note: Mapping[str, Any]) -> None:
        for number, bus in enumerate(self.buses):
            if number != sender:
                bus.deliver(json.loads(json.dumps(note)))

    async def ask(self, _request: Mapping[str, Any]) -> Mapping[str, Any]:
        raise NotImplementedError

    def run(self, seconds: float, step: float = 0.05) -> None:
        """Let all workers run concurrently; return when the time is over."""
        end = self.now + seconds
        while self.now < end:
            self.now += step
            while self.calls and self.calls[0][0] <= self.now:
                heapq.heappop(self.calls)[2]()
            for worker in self.workers:
                worker.run(self.now - worker.now)
            self.running = max(self.running, sum(worker.busy["a.example"] for worker in self.workers))

    def destinations(self, domain: str = "a.example") -> list[Destination]:
        return [worker.destination(domain) for worker in self.workers]


@pytest.mark.parametrize(("total", "holders"), [(20, 1), (20, 3), (1, 2), (5, 5), (0, 3)])
def test_shares_add_up(total, holders):
    shares = [share(total, holders, place) for place in range(holders)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


def test_workers_divide_the_limit():
    crew = Crew(3)
    for worker in crew.workers:
        worker.add("a.example", many=100_000)
    crew.run(60)
    assert sum(each.limit for each in crew.destinations()) == DEFAULT.maximum
    assert sum(worker.busy["a.example"] for worker in crew.workers) == DEFAULT.maximum
    assert crew.running <= DEFAULT.maximum + 2, "a delivery may end after the shares rotated"


def test_workers_divide_the_limit_of_a_rule():
    crew = Crew(2, limits=DestinationLimits(7))
    for worker in crew.workers:
        worker.add("a.example", many=100_000)
    crew.run(60)
    assert sum(each.limit for each in crew.destinations()) == 7
    assert crew.running <= 7 + 1, "a delivery may end after the shares rotated"


@pytest.mark.parametrize(("connections", "least"), [(1, 0.3), (20, 0.9)])
def test_workers_divide_the_rate_of_a_rule(connections, least):
    crew = Crew(3, limits=DestinationLimits(connections, interval=6.0))
    for worker in crew.workers[:2]:
        worker.add("a.example", many=100_000)
    crew.run(1200)
    started = sum(len(worker.log) for worker in crew.workers)
    assert 200 * least <= started <= 200 + 2


def test_one_worker_with_mail_gets_all_of_it():
    crew = Crew(3)
    crew.workers[1].add("a.example", many=100_000)
    crew.run(60)
    assert crew.destinations()[1].limit == DEFAULT.maximum
    assert crew.workers[1].busy["a.example"] == DEFAULT.maximum


def test_a_limit_below_the_number_of_workers_rotates():
    crew = Crew(2, concurrency=ConcurrencyPolicy(initial=1, maximum=1))
    for worker in crew.workers:
        worker.add("a.example", many=1000)
    crew.run(6 * ROTATION_SECONDS)
    assert crew.running <= 2, "a delivery may end after its worker's turn"
    assert all(len(worker.delivered) >= 10 for worker in crew.workers)
    assert sum(each.limit for each in crew.destinations()) == 1


def test_a_destination_that_is_down_is_probed_by_one_worker():
    crew = Crew(2)
    for worker in crew.workers:
        worker.hosts["a.example"] = Host(up=lambda _: False)
        worker.add("a.example", many=1000)
    crew.run(7200, step=0.5)
    attempts = [len(worker.log) for worker in crew.workers]
    assert all(each.window.down for each in crew.destinations())
    assert sum(attempts) <= 2 * DEFAULT.initial + 7200 / DEFAULT.longest_wait + 8


def test_all_workers_hear_that_a_destination_is_back():
    crew = Crew(2)
    for worker in crew.workers:
        worker.hosts["a.example"] = Host(up=lambda since: since > 600)
        worker.add("a.example", many=100)
    crew.run(600, step=0.5)
    assert all(each.window.down for each in crew.destinations())
    crew.run(900, step=0.5)
    assert all(len(worker.delivered) >= 90 for worker in crew.workers)
    assert not any(each.window.down for each in crew.destinations())


def test_a_worker_that_is_gone_is_forgotten():
    crew = Crew(2)
    for worker in crew.workers:
        worker.add("a.example", many=1_000_000)
    crew.run(10)
    assert crew.destinations()[0].limit == DEFAULT.maximum // 2
    crew.buses[1]._send = lambda _: None  # it does not publish any more
    crew.run(200, step=0.5)
    assert crew.destinations()[0].limit == DEFAULT.maximum
