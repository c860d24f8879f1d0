"""The queue runner while memory or descriptors are short, in virtual time."""

from __future__ import annotations

import asyncio

from tests.mta.runner_kit import LATER, OK, scenario
from tests.storage.store_kit import claim

from ironpost.mta.queue_runner import SCAN_SECONDS
from ironpost.routing.directory import Mailbox, NotLocal
from ironpost.routing.route import Routes


def test_during_a_shortage_one_attempt_is_made_at_a_time_and_nothing_waits_in_memory():
    async def act(world):
        gate = world.hold()
        for number in range(6):
            await world.put(f"m{number}", f"to@d{number}.example")
        await world.settle()
        assert world.remote.running == world.remote.most == 6
        for number in range(20):
            await world.put(f"n{number}", "to@d0.example")
        await world.settle()
        assert world.runner.scheduler.parts > 0
        world.runner.short = True
        await world.settle()
        assert world.runner.scheduler.parts == world.runner._octets == 0
        assert world.remote.running == len({name for _, name, *_ in world.remote.calls}) < 26, "those go to their end"
        running = world.remote.running
        await world.put("late", "to@late.example")
        await world.run(2 * SCAN_SECONDS)
        assert (world.remote.running, world.runner.scheduler.parts) == (running, 0)
        world.remote.most = 0
        gate.set()
        await world.settle()
        await world.run(60)
        assert world.remote.most == 1
        assert await world.store.list() == [], "the queue gets shorter"
        assert len(world.remote.calls) == 27

    scenario({}, act)


def test_after_a_shortage_attempts_are_made_at_once():
    async def act(world):
        gate = world.hold()
        world.runner.short = True
        for number in range(10):
            await world.put(f"m{number}", f"to@d{number}.example")
        await world.settle()
        assert world.remote.running == 1
        world.runner.short = False
        await world.settle()
        assert world.remote.running == 10
        gate.set()
        await world.settle()
        assert await world.store.list() == []

    scenario({}, act)


def test_a_shortage_does_not_keep_the_runner_busy():
    async def act(world):
        world.runner.short = True
        await world.put("m1")
        await world.settle()
        assert len(world.remote.calls) == 1
        looked = 0
        real = world.runner.scheduler.wait

        def wait(now):
            nonlocal looked
            looked += 1
            return real(now)

        world.runner.scheduler.wait = wait
        gate = world.hold(LATER)
        for number in range(5):
            await world.put(f"n{number}", f"to@d{number}.example")
        await world.settle()
        before = looked
        for _ in range(10):
            await world.settle()
        assert looked == before, "it waits for the attempt"
        gate.set()
        await world.settle()
        assert len(world.remote.calls) == 6

    scenario({"remote": lambda message, recipient: LATER}, act)


def test_the_runner_stops_during_a_shortage_and_returns_every_claim():
    async def act(world):
        world.remote.answer = lambda message, recipient: asyncio.get_running_loop().create_future()
        await world.put("m1")
        await world.put("m2", "to@other.test")
        await world.settle()
        world.runner.short = True
        await world.settle()
        await world.stop()
        assert {message.id for message in await claim(world.store)} == {"m1", "m2"}

    scenario({}, act)


def watched(world) -> list[int]:
    """The number of parts that wait in memory, at each attempt."""
    waiting = []

    async def slow():
        waiting.append(world.runner.scheduler.parts)
        await world.clock.sleep(1.0)
        return OK

    world.remote.answer = world.local.answer = lambda message, recipient: slow()
    return waiting


def test_during_a_shortage_one_message_is_claimed_at_a_time():
    async def act(world):
        waiting = watched(world)
        limits, claim = [], world.store.claim

        def limited(domain, tenant, priority, limit, together=None):
            limits.append(limit)
            return claim(domain, tenant, priority, limit, together)

        world.store.claim = limited
        world.runner.short = True
        for number in range(30):
            await world.store.unclaim([await world.commit(f"m{number}", f"to@d{number % 3}.example")])
        world.runner.wake()
        await world.run(35.0)
        assert await world.store.list() == []
        assert waiting == [0] * 30
        assert set(limits) == {1}
        assert len(limits) <= 30 + 3
        assert world.remote.most == 1

    scenario({}, act)


def test_a_shortage_that_begins_during_a_claim_leaves_no_mail_in_memory():
    async def act(world):
        gate = asyncio.Event()
        claim = world.store.claim

        async def slowly(*arguments):
            claimed = await claim(*arguments)
            await gate.wait()
            return claimed

        waiting = watched(world)
        world.store.claim = slowly
        for number in range(30):
            await world.store.unclaim([await world.commit(f"m{number}", f"to@d{number % 3}.example")])
        world.runner.wake()
        await world.settle()
        world.runner.short = True
        gate.set()
        await world.settle()
        assert world.runner.scheduler.parts == 0
        await world.run(60.0)
        assert await world.store.list() == []
        assert waiting == [0] * 30
        assert world.remote.most == 1

    scenario({}, act)


def test_during_a_shortage_mail_for_the_other_destination_of_a_domain_is_delivered_too():
    async def act(world):
        class Divided:
            has_aliases = False

            def find(self, address):
                return NotLocal("elsewhere") if address.local_part == "there" else Mailbox("here")

        world.runner.routes = Routes(Divided())
        waiting = watched(world)
        world.runner.short = True
        for number in range(6):
            message = await world.commit(f"m{number}", "here@local.example", "there@local.example")
            await world.store.unclaim([message])
        world.runner.wake()
        await world.run(2 * SCAN_SECONDS)
        assert await world.store.list() == []
        assert (len(world.local.calls), len(world.remote.calls)) == (6, 6)
        assert max(waiting) <= 1

    scenario({}, act)
