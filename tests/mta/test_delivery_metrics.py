"""What the queue runner counts about deliveries, in virtual time."""

from __future__ import annotations

from dataclasses import replace

from tests.mta.runner_kit import DOWN, LATER, NEVER, OK, UNASKED, scenario

from ironpost.model import Disposition, Outcome, Reply
from ironpost.mta.queue_runner import SCAN_SECONDS
from ironpost.queue.retry import DAY, MINUTE
from ironpost.queue.selection import EVERYTHING
from ironpost.routing.route import Kind
from ironpost.telemetry.metrics import Counters

HERE = Outcome(Disposition.DELIVERED, Reply(250, "2.0.0", ("Stored",)))


def test_outcomes_are_counted_by_kind_of_route():
    metrics = Counters()
    answers = {"ok": OK, "later": LATER, "never": NEVER}

    async def act(world):
        await world.put("m1", *(f"{name}@remote.example" for name in answers), "ok@other.example", "jo@local.example")
        await world.run(MINUTE)
        counts = metrics.snapshot()
        delivered = {kind: count for kind, count in counts["recipients_delivered"].items() if count}
        assert delivered == {"local": 2, "smart_host": 1, "mx": 1}, "the bounce is delivered locally, too"
        assert counts["recipients_delivered"].keys() == {kind.name.lower() for kind in Kind} | {"unrouted"}
        assert counts["recipients_deferred"]["mx"] == 1
        assert counts["recipients_failed"]["mx"] == 1
        assert counts["bounces"] == {"": 1}
        assert counts["delivery_attempts"] == {"other": 0, "remote.example": 1, "smart host hub.example:25": 1}
        assert counts["queue_seconds"]["1"] == 4

    scenario(
        {
            "remote": lambda message, to: answers[to.recipient.address.local_part],
            "local": lambda message, to: HERE,
            "metrics": metrics,
        },
        act,
    )


def test_an_attempt_is_counted_only_if_a_remote_host_was_contacted():
    metrics = Counters()
    answers = [UNASKED, LATER, UNASKED, OK]

    async def act(world):
        await world.put("m1")
        await world.settle()
        assert metrics.snapshot()["delivery_attempts"] == {"other": 0}
        (message,) = await world.store.list()
        assert message.recipients[0].attempts == 0
        await world.run(5 * MINUTE)
        (message,) = await world.store.list()
        assert message.recipients[0].attempts == 1
        await world.run(DAY)
        assert metrics.snapshot()["delivery_attempts"] == {"other": 0, "remote.example": 2}
        assert metrics.snapshot()["recipients_deferred"]["mx"] == 3

    scenario({"remote": lambda message, to: answers.pop(0), "local": lambda message, to: HERE, "metrics": metrics}, act)


def test_a_message_that_expires_without_an_attempt_is_counted_as_failed():
    metrics = Counters()

    async def act(world):
        for number in range(20):
            await world.put(f"m{number}")
        await world.run(5 * DAY + 2 * SCAN_SECONDS)
        assert metrics.snapshot()["recipients_failed"]["mx"] == 20
        assert metrics.snapshot()["bounces"] == {"": 20}
        assert metrics.snapshot()["delivery_attempts"] == {"other": 0}

    scenario({"remote": lambda message, to: DOWN, "local": lambda message, to: HERE, "metrics": metrics}, act)


def test_what_an_operator_returns_is_counted_as_failed():
    metrics = Counters()

    async def act(world):
        await world.put("m1", "a@remote.example", "b@remote.example")
        await world.settle()
        assert await world.runner.requests.bounce(EVERYTHING, "") == 2
        assert metrics.snapshot()["recipients_failed"]["unrouted"] == 2

    scenario({"remote": lambda message, to: LATER, "local": lambda message, to: HERE, "metrics": metrics}, act)


def test_attempts_that_fail_because_of_our_configuration_are_counted():
    metrics = Counters()

    async def act(world):
        await world.put("m1", "a@remote.example", "b@remote.example")
        await world.settle()
        assert metrics.snapshot()["route_faults"] == {"": 1}

    scenario({"remote": lambda message, to: replace(LATER, ours=True), "metrics": metrics}, act)
