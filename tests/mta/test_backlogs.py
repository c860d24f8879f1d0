"""The queue runner with many thousand messages in the SQLite store, in virtual time: connections, order, attempts."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest
from tests.mta.backlog_kit import Mail, with_backlog
from tests.mta.runner_kit import NOW, OK

from ironpost.model import Disposition, Outcome, Reply
from ironpost.queue.concurrency import DEFAULT
from ironpost.queue.retry import DAY, HOUR, MINUTE

DEAD = Outcome(
    Disposition.DEFERRED, Reply(451, "4.4.1", ("Cannot connect: connection refused",)), "host.example [192.0.2.1]",
    asked=True, unreachable=True,
)  # fmt: skip


def test_120_000_messages_for_a_dead_host_cost_one_connection_for_each_probe_and_do_not_delay_local_mail(tmp_path):
    async def act(world):
        seconds = []
        await world.settle()
        for number in range(100):
            begun = time.perf_counter()
            await world.put(f"here{number}", "me@local.example")
            while len(world.local.calls) <= number:
                await asyncio.sleep(0)
            seconds.append(time.perf_counter() - begun)
            assert world.local.calls[-1][0] == world.clock.time, "at once, though all the others are due"
            await world.run(30.0)
        assert sorted(seconds)[98] < 1.0, "the 99th percentile, in real seconds"

        await world.run(11 * HOUR)
        connections, hours = len(world.remote.calls), (world.clock.time - NOW) / HOUR
        # Probes after 60, 120, 240 and 480 seconds, and then at the longest wait, without jitter.
        probes = hours * HOUR / DEFAULT.longest_wait
        assert probes <= connections <= probes + 2 * DEFAULT.initial + 4
        assert world.remote.most <= DEFAULT.initial
        asked = Counter(identifier for _, identifier, *_ in world.remote.calls)
        rows = world.attempts()
        assert len(rows) == 120_000
        assert {identifier: count for identifier, count in rows if count} == asked, "attempts are counted for probes"
        assert world.runner.scheduler.parts == 0, "what was claimed went back to the store"

    with_backlog(tmp_path, [Mail("dead", 120_000)], lambda message, recipient: DEAD, act)


def test_10_000_messages_are_delivered_in_order_when_their_destination_is_back_after_a_day(tmp_path):
    back = NOW + DAY

    async def act(world):
        await world.run(DAY)
        probes = len(world.remote.calls)
        assert DAY / DEFAULT.longest_wait <= probes <= DAY / DEFAULT.longest_wait + 2 * DEFAULT.initial + 5
        never = {identifier for identifier, count in world.attempts() if not count}
        assert len(never) >= 10_000 - probes

        await world.run(DEFAULT.longest_wait + 10_000 / DEFAULT.maximum + MINUTE)
        calls = world.remote.calls[probes:]
        ready = next(at for at, *_ in calls if at >= back) + world.seconds(None)
        starts = Counter(at for at, *_ in calls if at >= ready)
        grown = [starts[ready + second] for second in range(DEFAULT.maximum)]
        assert grown[0] == DEFAULT.initial, "after the probe, the window is the initial one"
        assert grown == sorted(grown), "and grows"
        assert max(starts.values()) == DEFAULT.maximum == world.remote.most
        names = [identifier for at, identifier, *_ in calls if identifier in never]
        assert names == sorted(never, key=lambda name: int(name.removeprefix("back"))), "in the order of acceptance"
        await world.run(3 * HOUR)
        assert world.attempts() == []
        delivered = Counter(identifier for at, identifier, *_ in world.remote.calls if at + 1 > back)
        assert len(delivered) == 10_000
        assert set(delivered.values()) == {1}

    def remote(message, recipient):
        return OK if worlds[0].clock.time > back else DEAD

    worlds = []

    async def start(world):
        worlds.append(world)
        await act(world)

    with_backlog(tmp_path, [Mail("back", 10_000)], remote, start)


def test_one_slow_destination_does_not_delay_a_thousand_others(tmp_path):
    async def act(world):
        world.seconds = lambda address: 300.0 if address.domain == "d0.slow.example" else 1.0
        await world.run(10.0)
        names = [identifier for _, identifier, *_ in world.remote.calls]
        quick = [name for name in names if name.startswith("quick")]
        assert len(quick) == len(set(quick)) == 1000
        assert len(names) - len(quick) == DEFAULT.initial, "nothing grows before the first results"
        await world.run(HOUR)
        slow = [(at, name) for at, name, *_ in world.remote.calls if name.startswith("slow")]
        assert [name for _, name in slow] == [f"slow{number}" for number in range(len(slow))], "in order"
        assert max(Counter(at for at, _ in slow).values()) <= DEFAULT.maximum
        assert world.attempts()[0] == (f"slow{len(slow) - world.remote.running}", 0)

    with_backlog(tmp_path, [Mail("slow", 2000), Mail("quick", 1000, 1000)], lambda message, recipient: OK, act)


@pytest.mark.parametrize("under", ["small", "large"])
def test_a_tenant_with_ten_messages_is_served_beside_one_with_50_000(tmp_path, under):
    async def act(world):
        await world.run(10.0)
        first = [identifier for _, identifier, *_ in world.remote.calls[:100]]
        assert sum(name.startswith("small") for name in first) == 10
        assert world.remote.most <= 2 * 20, "as many again at destinations that have not been reached yet"
        assert Counter(name for _, name, *_ in world.remote.calls).most_common(1)[0][1] == 1

    mail = [Mail("large", 50_000, 1000, "large"), Mail("small", 10, 10, "small", under=under)]
    with_backlog(tmp_path, mail, lambda message, recipient: OK, act, concurrency=20)
