"""The queue runner loses the lease on its shard: it stops that work and changes nothing."""

from __future__ import annotations

import asyncio
import logging

from tests.mta.runner_kit import NEVER, World
from tests.storage.store_kit import claim

from ironpost.queue.concurrency import DEFAULT
from ironpost.queue.store import RecipientState
from ironpost.testing.leased_store import LEASE_SECONDS, LeasedShard, LeasedStore


def test_all_work_under_a_lost_lease_stops_without_recording(caplog):
    async def main():
        shard = LeasedShard()
        gates: dict[str, asyncio.Event] = {}

        async def answer(message, recipient):
            await gates.setdefault(message.id, asyncio.Event()).wait()
            return NEVER

        world = World(answer)
        store = world.store = world.runner._store = LeasedStore(shard, world.clock.now)
        for number in range(DEFAULT.initial + 5):
            await world.put(f"m{number}")
        world.runner.start()
        await world.settle()
        assert (world.remote.running, world.runner.active) == (DEFAULT.initial, DEFAULT.initial + 5)

        world.clock.time += LEASE_SECONDS  # the node was stalled
        other = LeasedStore(shard, world.clock.now)
        claimed = await claim(other, 100)
        assert len(claimed) == DEFAULT.initial + 5

        gates["m0"].set()  # it fails: a bounce would be due
        await world.settle()
        assert (world.remote.running, world.runner.active) == (0, 0)
        assert len(world.remote.calls) == DEFAULT.initial, "those that waited for a slot were not attempted"
        kept = await other.list()
        assert len(kept) == DEFAULT.initial + 5, "no bounce"
        assert {(each.state, each.attempts) for message in kept for each in message.recipients} == {
            (RecipientState.QUEUED, 0)
        }
        await world.runner.stop()
        assert await claim(other, 100) == [], "the claims of the other owner stand"
        assert await store.list() == []

    asyncio.run(asyncio.wait_for(main(), 30))
    (lost,) = [each for each in caplog.records if getattr(each, "event", "") == "lease-lost"]
    assert (lost.levelno, lost.fields["shard"]) == (logging.WARNING, "shared")
