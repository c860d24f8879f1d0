"""The queue runner and destinations that are down, shared or several for one domain, in virtual time."""

from __future__ import annotations

import asyncio
import gc
from itertools import pairwise
from random import Random

from tests.mta.runner_kit import DOWN, LATER, OK, Chance, scenario

from ironpost.model import Outcome, Reply
from ironpost.model.patterns import AddressPattern
from ironpost.mta.queue_runner import SCAN_SECONDS
from ironpost.queue.concurrency import DEFAULT
from ironpost.queue.retry import DAY, HOUR
from ironpost.routing.directory import Mailbox, NotLocal
from ironpost.routing.limits import DeliveryLimits, LimitRule
from ironpost.routing.route import Kind, LocalRule, Route, Routes, Rule
from ironpost.telemetry.metrics import Counters
from ironpost.testing.directory import local


def test_mail_for_a_destination_that_is_down_waits_without_attempts_and_expires():
    async def act(world):
        for number in range(50):
            await world.put(f"m{number}")
        await world.run(2 * DAY)
        assert len(world.remote.calls) < 2 * DAY / DEFAULT.longest_wait * 1.2 + DEFAULT.initial
        assert sum(message.recipients[0].attempts for message in await world.store.list()) == 0, "no host was contacted"
        await world.run(3 * DAY + 2 * SCAN_SECONDS)
        assert await world.store.list() == []
        assert len(world.local.calls) == 50, "a bounce for each"
        assert all(b"Connection refused" in octets for _, _, _, octets in world.local.calls)

    scenario({"remote": lambda message, recipient: DOWN}, act)


def test_a_backlog_is_delivered_when_its_destination_comes_back():
    async def act(world):
        for number in range(200):
            await world.put(f"m{number}")
        await world.run(DAY)
        world.remote.answer = lambda message, recipient: OK
        await world.run(4 * HOUR)
        assert await world.store.list() == []

    scenario({"remote": lambda message, recipient: DOWN}, act)


def test_an_old_message_gets_an_attempt_before_it_expires():
    async def act(world):
        await world.runner.stop()
        await world.store.unclaim([await world.commit("m1")])
        world.clock.time += 10 * DAY
        world.runner.start()
        await world.run(60)
        assert [identifier for _, identifier, *_ in world.remote.calls] == ["m1"]
        assert await world.store.list() == []
        assert world.local.calls == []

    scenario({}, act)


class Jitter(Chance):
    """Numbers that differ each time."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = Random(7)

    def uniform(self, low: float, high: float) -> float:
        return self.numbers.uniform(low, high)


def test_20_recipients_deferred_together_are_one_copy_at_each_retry_whatever_the_jitter():
    async def act(world):
        world.runner.routes = Routes(
            local(["local.example"]), [Rule(("*.other.example",), Route.smart(["hub.example"]))]
        )
        await world.put("m1", *(f"r{number}@d{number % 4}.other.example" for number in range(20)))
        await world.put("m2", *(f"r{number}@remote.example" for number in range(20)))
        await world.settle()
        await world.run(2 * HOUR)
        by_message = [len(recipients) for _, identifier, recipients, _ in world.remote.calls if identifier == "m2"]
        assert set(by_message) == {20}
        to_hub = [recipients for time, identifier, recipients, _ in world.other.calls if identifier == "m1"]
        assert to_hub
        assert {len(recipients) for recipients in to_hub} == {20}

        waits = [after - before for before, after in pairwise(world.times())]
        assert len(set(waits)) == len(waits) > 5, "the jitter differs from attempt to attempt"

    scenario({"remote": lambda message, recipient: LATER, "random": Jitter()}, act)


def test_a_rule_limits_the_deliveries_to_a_smart_host():
    async def act(world):
        for number in range(30):
            await world.put(f"m{number}", "to@other.example")
            await world.put(f"n{number}", "to@remote.example")
        await world.run(300)
        assert len(world.other.calls) == len(world.remote.calls) == 30
        assert world.other.most == 2
        assert world.remote.most > 2

    async def slowly(world):
        await world.clock.sleep(1)
        return OK

    def answer(message, recipient):
        return slowly(worlds[0])

    worlds = []

    async def start(world):
        worlds.append(world)
        await act(world)

    limits = DeliveryLimits(DEFAULT.maximum, [LimitRule(("hub.example",), 2)])
    scenario({"remote": answer, "limits": limits}, start)


def test_recipients_in_one_domain_with_different_destinations_do_not_block_each_other():
    async def act(world):
        class Divided:
            has_aliases = False

            def find(self, address):
                return NotLocal("elsewhere") if address.local_part == "there" else Mailbox("here")

        world.runner.routes = Routes(Divided())
        for number in range(50):
            await world.store.unclaim([await world.commit(f"m{number}", "there@remote.example")])
        await world.store.unclaim([await world.commit("mine", "here@remote.example")])
        world.runner.wake()
        await world.run(HOUR)
        assert [identifier for _, identifier, *_ in world.local.calls] == ["mine"]
        assert len(await world.store.list()) == 50

    scenario({"remote": lambda message, recipient: DOWN}, act)


def test_routes_of_this_system_are_attempted_apart():
    async def act(world):
        discarded = LocalRule((AddressPattern("tickets@local.example"),), Route.local(Kind.DISCARD), "tickets")
        world.runner.routes = Routes(local(["local.example"]), local_rules=[discarded])
        await world.put("m1", "jo@local.example", "tickets@local.example", "flo@local.example")
        await world.run(HOUR)
        assert [recipients for _, _, recipients, _ in world.local.calls] == [["jo@local.example", "flo@local.example"]]
        assert [recipients for _, _, recipients, _ in world.other.calls] == [["tickets@local.example"]]
        assert await world.store.list() == []

    scenario({}, act)


def test_what_a_failed_claim_leaves_over_is_returned(monkeypatch):
    async def act(world):
        class Divided:
            has_aliases = False

            def find(self, address):
                return NotLocal("elsewhere") if address.local_part.startswith("there") else Mailbox("here")

        postpone, give_back, returned = world.runner._recorder.postpone, world.runner._give_back, []

        async def fails(message, due):
            if message.id == "there2":
                raise RuntimeError("bug")
            await postpone(message, due)

        def note(message):
            returned.append(message.id)
            give_back(message)

        world.runner.routes = Routes(Divided())
        for name in ("there1", "there2", "here"):
            await world.store.unclaim([await world.commit(name, f"{name}@remote.example")])
        with monkeypatch.context() as patched:
            patched.setattr(world.runner._recorder, "postpone", fails)
            patched.setattr(world.runner, "_take", lambda queue, part: False)
            patched.setattr(world.runner, "_give_back", note)
            world.runner.wake()
            await world.run(1)
        assert set(returned) == {"there2"}, "the other one was postponed"
        assert [identifier for _, identifier, *_ in world.local.calls] == ["here"]
        await world.run(HOUR)
        assert sorted(identifier for _, identifier, *_ in world.remote.calls) == ["there1", "there2"]
        assert await world.store.list() == []

    scenario({"remote": lambda message, recipient: OK}, act)


def test_a_directory_with_io_is_asked_about_the_other_recipients_of_a_claimed_message_too():
    async def act(world):
        class Slow:
            has_aliases = False

            async def find(self, address):
                await asyncio.sleep(0)
                return NotLocal("elsewhere")

        world.runner.routes = Routes(Slow())
        await world.store.unclaim([await world.commit("m1", "a@remote.example", "b@second.example")])
        world.runner.wake()
        await world.run(HOUR)
        gc.collect()  # coroutines that were not awaited are errors here
        assert sorted(to for _, _, recipients, _ in world.remote.calls for to in recipients) == [
            "a@remote.example", "b@second.example",
        ]  # fmt: skip
        assert await world.store.list() == []

    scenario({"remote": lambda message, recipient: OK}, act)


GREYLISTED = Outcome.of(Reply(450, "4.7.1", ("Greylisted for 5 minutes",)), "mx.example [192.0.2.1]")


def test_a_greylisted_recipient_is_attempted_again_soon_though_its_message_is_old():
    metrics = Counters()

    async def act(world):
        await world.put("m1")
        await world.run(DAY)
        world.remote.answer = lambda message, recipient: GREYLISTED
        world.remote.calls.clear()
        await world.run(4 * HOUR)
        first, second, third = (time for time, *_ in world.remote.calls[:3])
        assert 300 <= second - first <= 360
        assert third - second >= HOUR, "the schedule decides if the host greylists again"
        assert metrics.snapshot()["recipients_greylisted"] == {"": 1}
        (destination,) = (each for each in world.runner.scheduler.destinations() if "remote.example" in each.key)
        assert not destination.window.down
        assert destination.window.failure == ""

    scenario({"remote": lambda message, recipient: LATER, "metrics": metrics}, act)
