"""Mail of higher priority goes first (RFC 6710 §5.1), in virtual time with one attempt at a time."""

from __future__ import annotations

from tests.mta.runner_kit import LATER, OK, scenario

from ironpost.model import Disposition, Outcome, Reply
from ironpost.queue.concurrency import ConcurrencyPolicy

NEVER = Outcome(Disposition.FAILED, Reply(550, "5.1.1", ("Nobody",)))
ONE_AT_A_TIME = ConcurrencyPolicy(1, 1)


def test_ten_urgent_messages_overtake_a_thousand_in_the_store_and_in_memory():
    async def act(world):
        for number in range(1000):
            message = await world.commit(f"slow{number}", "a@remote.example")
            if number < 500:
                await world.store.unclaim([message])
            else:
                world.runner.accept(message)
        world.runner.wake()
        await world.run(5.5)
        before = len(world.remote.calls)
        assert before >= 5
        for number in range(10):
            message = await world.commit(f"urgent{number}", "a@remote.example", parameters_of_mail={"MT-PRIORITY": 5})
            if number < 5:
                await world.store.unclaim([message])
            else:
                world.runner.accept(message)
        world.runner.wake()
        await world.run(15.0)
        after = [identifier for _, identifier, _, _ in world.remote.calls[before:]]
        assert len(after) >= 12
        assert sum(identifier.startswith("urgent") for identifier in after[:11]) == 10, "one had its slot already"

    async def deliver():
        await clocks[0].sleep(1.0)
        return OK

    clocks = []

    async def with_clock(world):
        clocks.append(world.clock)
        await act(world)

    options = {"concurrency": 1, "destinations": ONE_AT_A_TIME}
    scenario({"remote": lambda message, to: deliver(), **options}, with_clock)


def test_deferred_mail_keeps_its_priority_and_so_does_its_bounce():
    answers = {"m1": [LATER, NEVER], "m2": [LATER, OK]}
    reported = []

    async def act(world):
        await world.put("m2")
        await world.put("m1", parameters_of_mail={"MT-PRIORITY": 3})
        await world.run(60.0)
        assert [queue[2] for queue in sorted([queue async for queue in world.store.queues()])] == [0, 3]
        await world.run(3600.0)
        assert [identifier for _, identifier, _, _ in world.remote.calls] == ["m2", "m1", "m1", "m2"]
        assert reported == [3]

    def bounce(message, recipient):
        reported.append(message.envelope.priority)
        return OK

    scenario(
        {
            "remote": lambda message, to: answers[message.id].pop(0), "local": bounce, "concurrency": 1,
            "destinations": ONE_AT_A_TIME,
        },
        act,
    )  # fmt: skip
