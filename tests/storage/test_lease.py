"""The lease on a shard: an owner that lost it cannot change anything."""

from __future__ import annotations

import asyncio

import pytest
from store_kit import NOW, Clock, claim, deferred, delivered, failed, ids, new, opened, put

from ironpost.queue.selection import Selection
from ironpost.queue.store import UNCLAIMED, LeaseLost, RecipientState
from ironpost.testing.leased_store import LEASE_SECONDS, LeasedShard, LeasedStore


def test_a_claim_carries_the_lease_and_a_read_message_does_not(kind, tmp_path):
    async def scenario():
        async with opened(kind, tmp_path / "data") as store:
            kept = await put(store, "m1")
            assert kept.lease != UNCLAIMED
            assert (await put(store, "held", held="odd")).lease == UNCLAIMED
            assert (await put(store, "later", due=NOW + 60)).lease == UNCLAIMED
            assert (await store.get("m1")).lease == (await store.list())[0].lease == UNCLAIMED
            await store.unclaim([kept])
            (claimed,) = await claim(store, 10)
            assert claimed.lease == kept.lease
            await store.unclaim([claimed])
            assert (await store.take("m1", ["rcpt.example"])).lease == kept.lease

    asyncio.run(scenario())


def test_the_lease_of_an_earlier_owner_records_and_unclaims_nothing(kind, tmp_path):
    async def scenario():
        async with opened(kind, tmp_path / "data") as store:
            earlier = await put(store, "m1")
        async with opened(kind, tmp_path / "data") as store:
            if await store.get("m1") is None:
                await put(store, "m1")  # nothing survives in memory
            else:
                assert ids(await claim(store, 10)) == ["m1"]
            for lease in (earlier.lease, UNCLAIMED):
                report = await new(store, "r1", sender="", content=b"x" * 100_000)
                with pytest.raises(LeaseLost):
                    await store.record(lease, [failed("m1")], [report])
                report.content.discard()
            await store.unclaim([earlier])
            assert await claim(store, 10) == [], "the claim of the new owner stands"
            (message,) = await store.list()
            assert [each.state for each in message.recipients] == [RecipientState.QUEUED]

    asyncio.run(scenario())


def test_the_store_renews_its_lease_by_itself():
    async def scenario():
        clock, shard = Clock(), LeasedShard()
        store, other = LeasedStore(shard, clock), LeasedStore(shard, clock)
        kept = await put(store, "m1")
        for _ in range(10):
            clock.time += LEASE_SECONDS - 1
            assert await claim(store, 10) == []
            assert await claim(other, 10) == []
        await store.record(kept.lease, [delivered("m1")])
        assert await store.list() == []

    asyncio.run(scenario())


def test_a_stalled_owner_loses_its_lease_and_its_claims():
    async def scenario():
        clock, shard = Clock(), LeasedShard()
        store, other = LeasedStore(shard, clock), LeasedStore(shard, clock)
        await put(store, "m1")
        kept = await put(store, "m2")
        clock.time += LEASE_SECONDS
        taken = await claim(other, 10)
        assert ids(taken) == ["m1", "m2"], "claims are not written: the next owner starts without any"
        with pytest.raises(LeaseLost):
            await store.record(kept.lease, [delivered("m2")])
        with pytest.raises(LeaseLost):
            await store.commit(await new(store, "m3"))
        assert await store.drop(Selection.of("m1")) == 0
        assert await store.list() == []
        assert ids(await other.list()) == ["m1", "m2"]
        await other.record(taken[1].lease, [delivered("m2")])
        # The first gets the lease back: its old claims stay void.
        clock.time += LEASE_SECONDS
        (again,) = await claim(store, 10)
        with pytest.raises(LeaseLost):
            await store.record(kept.lease, [deferred("m1")])
        await store.unclaim([kept._replace(id="m1")])
        assert await claim(store, 10) == []
        await store.record(again.lease, [delivered("m1")])
        assert await store.list() == []

    asyncio.run(scenario())
