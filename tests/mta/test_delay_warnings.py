"""Delay warnings, in virtual time."""

from __future__ import annotations

import pytest
from tests.mta.runner_kit import DOWN, LATER, scenario
from tests.reports.dsn_kit import groups

from ironpost.model import Outcome, Reply
from ironpost.model.parameters import Notify
from ironpost.mta.queue_runner import SCAN_SECONDS
from ironpost.queue.retry import DAY, HOUR, RetryPolicy
from ironpost.queue.selection import Selection
from ironpost.telemetry.metrics import Counters


def actions(world) -> list[str]:
    """The Action fields of the reports that were delivered to the sender."""
    return [group["Action"] for *_, octets in world.local.calls for group in groups(octets)[1:]]


@pytest.mark.parametrize("answer", [LATER, DOWN])
def test_the_sender_is_warned_once_whether_or_not_attempts_are_made(answer):
    metrics = Counters()

    async def act(world):
        await world.put("m1", "a@remote.example", "b@remote.example")
        await world.run(4 * HOUR - 60)
        assert world.local.calls == []
        await world.run(2 * SCAN_SECONDS)
        assert actions(world) == ["delayed", "delayed"]
        ((_, _, recipients, report),) = world.local.calls
        assert recipients == ["from@local.example"]
        assert b"Will-Retry-Until: " in report
        assert str(answer.reply).encode() in b" ".join(report.split())
        assert b"text/rfc822-headers" in report
        await world.run(4 * DAY)
        assert len(world.local.calls) == 1
        assert metrics.snapshot()["delay_warnings"] == {"": 1}
        await world.run(DAY)
        assert actions(world) == ["delayed", "delayed", "failed", "failed"]

    scenario({"remote": lambda message, to: answer, "retry": RetryPolicy(), "metrics": metrics}, act)


def test_a_warning_does_not_say_why_policy_held_the_message():
    async def act(world):
        await world.commit("m1", held="DMARC fail")
        world.runner.suspended.suspend("remote.example", None, "their request")
        await world.store.release(Selection.of("m1"))
        await world.run(4 * HOUR + 2 * SCAN_SECONDS)
        assert actions(world) == ["delayed"]
        assert b"DMARC" not in world.local.calls[0][-1]

    scenario({"retry": RetryPolicy()}, act)


def test_senders_are_not_shown_what_operators_are(caplog: pytest.LogCaptureFixture):
    answer = Outcome.of(Reply(451, "4.3.5", ("It is not set up correctly",), "/srv/x belongs to user id 7"))

    async def act(world):
        await world.put("m1", "a@remote.example")
        await world.run(4 * HOUR + 2 * SCAN_SECONDS)
        ((message,),) = [await world.store.list()]
        assert message.recipients[0].last == "451 4.3.5 It is not set up correctly\n/srv/x belongs to user id 7"
        await world.run(5 * DAY)
        assert actions(world) == ["delayed", "failed"]
        assert all(b"not set up" in octets and b"user id" not in octets for *_, octets in world.local.calls)

    scenario({"remote": lambda message, to: answer, "retry": RetryPolicy()}, act)
    levels = {each.levelname for each in caplog.records if getattr(each, "event", each.getMessage()) == "deferred"}
    assert levels == {"WARNING"}


def test_a_restart_causes_no_second_warning_and_misses_none():
    async def act(world):
        await world.put("m1")
        await world.run(4 * HOUR + 2 * SCAN_SECONDS)
        assert actions(world) == ["delayed"]
        await world.store.unclaim([await world.commit("m2", "late@remote.example")])
        await world.runner.stop()
        world.clock.time += 10 * HOUR
        world.runner.start()
        world.runner._overdue._warned_until = 0.0
        await world.run(2 * SCAN_SECONDS)
        assert actions(world) == ["delayed", "delayed"]

    scenario({"remote": lambda message, to: DOWN, "retry": RetryPolicy()}, act)


def test_a_message_that_was_attempted_during_the_search_is_found_by_the_next():
    async def act(world):
        gate = world.hold(LATER)
        await world.put("m1")
        await world.run(10 * HOUR)
        assert world.local.calls == []
        gate.set()
        await world.settle()
        await world.run(2 * SCAN_SECONDS)
        assert actions(world) == ["delayed"]
        await world.run(DAY)
        assert actions(world) == ["delayed"]

    scenario({"retry": RetryPolicy()}, act)


@pytest.mark.parametrize("fault", ["store", "lease"])
def test_a_search_that_fails_is_repeated_from_its_start(fault):
    async def act(world):
        gate = world.hold(LATER)
        await world.put("m1")
        await world.run(2 * HOUR)
        await world.put("m2", "to@elsewhere.example")
        await world.run(10 * HOUR)
        faults = [1]
        search, warn = world.store.claim_old, world.runner._recorder.warn

        async def claim_old(before, **options):
            if options and faults and fault == "store":
                raise OSError(faults.pop())
            found = [message async for messages in search(before, **options) for message in messages]
            await world.store.unclaim(found)
            for message in reversed(found):  # as if the later one were in the first shard
                yield [await world.store.take(message.id, [message.recipients[0].recipient.address.key])]

        async def lost(message, delays):
            if faults:
                await world.store.unclaim([message])
                return bool(faults.clear())
            return await warn(message, delays)

        world.store.claim_old = claim_old
        if fault == "lease":
            world.runner._recorder.warn = lost
        gate.set()
        await world.settle()
        await world.run(SCAN_SECONDS)
        assert faults == []
        assert actions(world) == []
        await world.run(SCAN_SECONDS)
        assert actions(world) == ["delayed", "delayed"]

    scenario({"retry": RetryPolicy()}, act)


def test_senders_are_warned_although_expiring_fails():
    async def act(world):
        search = world.store.claim_old

        async def claim_old(before, **options):
            async for messages in search(before, **options):
                yield messages
            if not options:
                raise OSError("a shard cannot be read")

        world.store.claim_old = claim_old
        await world.put("m1")
        await world.run(5 * HOUR)
        assert actions(world) == ["delayed"]

    scenario({"remote": lambda message, to: LATER, "retry": RetryPolicy()}, act)


@pytest.mark.parametrize("notify", [Notify.FAILURE, Notify.NEVER])
def test_a_sender_that_wants_no_warning_gets_none(notify):
    async def act(world):
        await world.put("m1", parameters={"NOTIFY": notify})
        await world.run(DAY)
        assert world.local.calls == []

    scenario({"remote": lambda message, to: LATER, "retry": RetryPolicy()}, act)


def test_the_null_sender_gets_no_warning():
    async def act(world):
        await world.put("m1", sender="")
        await world.run(DAY)
        assert world.local.calls == []

    scenario({"remote": lambda message, to: LATER, "retry": RetryPolicy()}, act)


def test_warnings_can_be_turned_off():
    async def act(world):
        await world.put("m1")
        await world.run(DAY)
        assert world.local.calls == []

    scenario({"remote": lambda message, to: LATER, "retry": RetryPolicy(warn_after=None)}, act)
