"""DELIVERBY in the queue (RFC 2852 §4.1.3), in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from tests.mta.runner_kit import DOWN, LATER, NOW, OK, scenario
from tests.reports.dsn_kit import groups

from ironpost.model import Outcome, Reply
from ironpost.model.parameters import DeliverBy, Notify
from ironpost.mta.queue_runner import SCAN_SECONDS
from ironpost.queue.retry import HOUR, RetryPolicy
from ironpost.queue.selection import Selection
from ironpost.queue.store import RecipientState
from ironpost.routing.directory import DirectoryError, NotLocal
from ironpost.routing.route import Routes
from ironpost.telemetry.metrics import Counters


def by(text: str, now: float = NOW) -> dict[str, DeliverBy]:
    return {"BY": DeliverBy.parse_seconds(text, now)}


def reports(world) -> list[tuple[float, str, str]]:
    """When reports were delivered to the sender, with Action and Status of each recipient."""
    found = []
    for at, _, _, octets in world.local.calls:
        about, *recipients = groups(octets)
        assert about["Deliver-By-Date"]
        assert about["Arrival-Date"]
        found += [(at - NOW, group["Action"], group["Status"]) for group in recipients]
    return found


@pytest.mark.parametrize("answer", [LATER, DOWN])
def test_in_mode_r_mail_is_returned_at_its_deadline(answer):
    async def act(world):
        await world.put("m1", "a@remote.example", "b@remote.example", parameters_of_mail=by("90;R"))
        await world.run(89.0)
        attempts = len(world.remote.calls)
        assert attempts >= 1
        assert reports(world) == []
        await world.run(2.0)
        assert reports(world) == [(90.0, "failed", "5.4.7")] * 2
        await world.run(24 * HOUR)
        assert len(world.remote.calls) == attempts
        assert len(world.local.calls) == 1
        assert await world.store.list() == []

    scenario({"remote": lambda message, to: answer, "retry": RetryPolicy()}, act)


@pytest.mark.parametrize("answer", [LATER, DOWN])
def test_in_mode_n_the_sender_gets_one_report_and_attempts_go_on(answer):
    answers = []

    async def act(world):
        await world.put("m1", parameters_of_mail=by("90;N"))
        await world.run(100.0)
        assert reports(world) == [(90.0, "delayed", "4.4.7")]
        before = len(world.remote.calls)
        await world.run(3 * HOUR)
        assert len(world.remote.calls) > before
        await world.run(3 * HOUR)
        assert len(world.local.calls) == 1, "no delay warning after that"
        answers.append(OK)
        await world.run(3 * HOUR)
        assert await world.store.list() == []

    scenario({"remote": lambda message, to: answers[-1] if answers else answer, "retry": RetryPolicy()}, act)


def test_a_delay_warning_before_the_deadline_does_not_replace_the_report():
    async def act(world):
        await world.put("m1", parameters_of_mail=by("18000;N"))
        await world.run(6 * HOUR)
        (_, warned, _), late = reports(world)
        assert (warned, late) == ("delayed", (18_000.0, "delayed", "4.4.7"))

    scenario({"remote": lambda message, to: LATER, "retry": RetryPolicy()}, act)


def test_mail_that_is_delivered_in_time_gets_no_report():
    async def act(world):
        await world.put("m1", parameters_of_mail=by("90;R"))
        await world.put("m2", parameters_of_mail=by("90;N"))
        await world.run(HOUR)
        assert world.local.calls == []

    scenario({}, act)


@pytest.mark.parametrize(
    ("mode", "expected"), [("R", [(100.0, "failed", "5.4.7")]), ("N", [(100.0, "delayed", "4.4.7")])]
)
def test_an_attempt_that_runs_at_the_deadline_decides_first(mode, expected):
    outcomes = [OK, LATER]
    worlds = []

    async def slow():
        await worlds[0].clock.sleep(100.0)
        return outcomes.pop()

    async def act(world):
        worlds.append(world)
        await world.put("m1", parameters_of_mail=by(f"90;{mode}"))
        await world.run(95.0)
        assert reports(world) == []
        await world.run(10.0)
        assert reports(world) == expected
        await world.run(2 * HOUR)
        assert len(world.remote.calls) == (1 if mode == "R" else 2)
        assert await world.store.list() == []

    scenario({"remote": lambda message, to: slow(), "retry": RetryPolicy(warn_after=None)}, act)


def test_mail_that_waits_in_memory_for_a_slow_destination_is_returned_too():
    worlds = []

    async def slow():
        await worlds[0].clock.sleep(1000.0)
        return OK

    async def act(world):
        worlds.append(world)
        for number in range(20):
            await world.put(f"m{number}", parameters_of_mail=by("90;R"))
        await world.run(91.0)
        assert reports(world) == [(90.0, "failed", "5.4.7")] * 15
        await world.run(HOUR)
        assert len(world.remote.calls) == 5
        assert len(world.local.calls) == 15
        assert await world.store.list() == []

    scenario({"remote": lambda message, to: slow()}, act)


def test_a_deadline_that_passed_while_the_server_was_stopped_needs_no_attempt():
    async def act(world):
        await world.store.unclaim([await world.commit("m1", parameters_of_mail=by("90;R"))])
        await world.runner.stop()
        world.clock.time += 1000.0
        world.runner.start()
        await world.run(1.0)
        assert reports(world) == [(1000.0, "failed", "5.4.7")]
        assert world.remote.calls == []

    scenario({}, act)


@pytest.mark.parametrize(
    ("mode", "notify", "expected"),
    [
        ("R", Notify.NEVER, []), ("R", Notify.DELAY, []), ("N", Notify.FAILURE, []), ("N", Notify.NEVER, []),
        ("R", Notify.FAILURE, [(90.0, "failed", "5.4.7")]), ("N", Notify.DELAY, [(90.0, "delayed", "4.4.7")]),
    ],
)  # fmt: skip
def test_notify_decides_whether_there_is_a_report(mode, notify, expected):
    async def act(world):
        await world.put("m1", parameters={"NOTIFY": notify}, parameters_of_mail=by(f"90;{mode}"))
        await world.run(2 * HOUR)
        assert reports(world) == expected
        assert len(await world.store.list()) == (mode == "N")

    scenario({"remote": lambda message, to: LATER, "retry": RetryPolicy()}, act)


def test_held_mail_is_returned_after_its_release():
    async def act(world):
        await world.put("m1", parameters_of_mail=by("90;R"))
        await world.run(1.0)
        await world.store.hold(Selection.of("m1"))
        await world.run(HOUR)
        assert reports(world) == []
        await world.store.release(Selection.of("m1"))
        world.runner.wake()
        await world.run(1.0)
        assert [report[1:] for report in reports(world)] == [("failed", "5.4.7")]
        assert len(world.remote.calls) == 1

    scenario({"remote": lambda message, to: LATER}, act)


def test_the_null_sender_gets_no_report_and_the_mail_goes():
    async def act(world):
        await world.put("m1", sender="", parameters_of_mail=by("90;R"))
        await world.put("m2", sender="", parameters_of_mail=by("90;N"))
        await world.run(HOUR)
        assert world.local.calls == []
        (late,) = await world.store.list()
        assert (late.id, late.recipients[0].deadline) == ("m2", None)
        assert late.recipients[0].state is RecipientState.QUEUED

    scenario({"remote": lambda message, to: LATER}, act)


def test_a_store_that_fails_at_the_deadline_is_asked_again():
    async def act(world):
        real, failures = world.store.claim_late, [OSError("disk"), OSError("disk")]

        async def claim_late(limit):
            if world.clock.time >= NOW + 90 and failures:
                raise failures.pop()
            return await real(limit)

        world.store.claim_late = claim_late
        await world.put("m1", parameters_of_mail=by("90;R"))
        await world.run(89.0)
        await asyncio.wait_for(world.run(30.0), 10)
        assert reports(world) == [(100.0, "failed", "5.4.7")]

    scenario({"remote": lambda message, to: LATER}, act)


class Unanswered:
    """A directory that has no answer about senders at down.example, until it is repaired."""

    has_aliases = True
    down = True

    def find(self, address):
        if address.domain == "down.example" and self.down:
            raise DirectoryError("no answer")
        return NotLocal("elsewhere")


def test_a_bounce_that_cannot_be_written_at_the_deadline_delays_no_other_and_is_tried_again():
    metrics = Counters()

    async def act(world):
        directory = Unanswered()
        world.runner.routes = Routes(directory)
        for number in range(250):
            await world.put(f"m{number}", sender="from@down.example", parameters_of_mail=by("90;R"))
        await world.put("good", sender="from@up.example", parameters_of_mail=by("90;R"))
        await world.run(89.0)
        records, record = [], world.store.record

        def count(*arguments):
            records.append(world.clock.time - NOW)
            assert len(records) < 2000, "a loop"
            return record(*arguments)

        world.store.record = count
        await world.run(2 * HOUR - 89.0)
        counts = Counter(at for at in records if at >= 90.0)
        assert [counts.pop(at) for at in (90.0, 95.0, 100.0)] == [100, 100, 52], "batch by batch, and the good bounce"
        assert [octets for *_, octets in world.remote.calls if b"5.4.7" in octets]
        assert sum(counts.values()) == 250, "each is tried again once in the next hour"
        assert min(counts) >= 90.0 + HOUR
        failed = metrics.snapshot()["recipients_failed"]
        assert sum(failed.values()) == 1
        directory.down = False
        await world.run(HOUR + 30.0)
        assert await world.store.list() == []
        assert sum(metrics.snapshot()["bounces"].values()) == 251

    def answer(message, to):
        return OK if message.envelope.reverse_path.is_null else LATER

    scenario({"remote": answer, "metrics": metrics, "retry": RetryPolicy(warn_after=None)}, act)


def test_a_report_that_mail_is_late_is_tried_again_if_it_cannot_be_written():
    async def act(world):
        directory = Unanswered()
        world.runner.routes = Routes(directory)
        await world.put("m1", sender="from@down.example", parameters_of_mail=by("90;N"))
        await world.run(HOUR)
        (queued,) = (await world.store.get("m1")).recipients
        assert queued.deadline == NOW + 90.0 + HOUR
        directory.down = False
        await world.run(HOUR)
        delayed = [octets for *_, octets in world.remote.calls if b"Action: delayed" in octets]
        assert len(delayed) == 1
        (queued,) = (await world.store.get("m1")).recipients
        assert (queued.deadline, queued.state) == (None, RecipientState.QUEUED)

    def answer(message, to):
        return OK if message.envelope.reverse_path.is_null else LATER

    scenario({"remote": answer, "retry": RetryPolicy(warn_after=None)}, act)


def test_a_fault_of_a_deadline_stops_no_scan_of_the_store():
    async def act(world):
        async def fails():
            raise ValueError("bug")

        world.runner._deadlines.act = fails
        await world.store.unclaim([await world.commit("m1")])
        world.runner.wake()
        await world.run(SCAN_SECONDS)
        assert [name for _, name, *_ in world.remote.calls] == ["m1"]

    scenario({"remote": lambda message, to: OK}, act)


def test_a_bounce_that_an_operator_asks_for_and_that_cannot_be_written_is_not_counted():
    async def act(world):
        world.runner.routes = Routes(Unanswered())
        await world.put("m1", sender="from@down.example")
        await world.put("m2", sender="from@up.example")
        await world.run(1.0)
        assert await world.runner.requests.bounce(Selection(sender=None), "gone") == 1

    scenario({"remote": lambda message, to: LATER}, act)


def test_all_late_mail_is_found_however_little_is_claimed_at_a_time():
    async def act(world):
        real = world.store.claim_late
        world.store.claim_late = lambda limit: real(1)
        for number in range(5):
            await world.put(f"m{number}", parameters_of_mail=by("90;R"))
        await world.run(91.0)
        assert reports(world) == [(90.0, "failed", "5.4.7")] * 5

    scenario({"remote": lambda message, to: LATER}, act)


@pytest.mark.parametrize(
    ("notify", "expected"),
    [(None, ["relayed", "failed"]), (Notify.FAILURE, ["relayed", "failed"]), (Notify.NEVER, [])],
)
def test_the_sender_gets_a_report_that_mail_was_relayed(notify, expected):
    metrics = Counters()

    def answer(message, to):
        if to.number:
            return Outcome.of(Reply(550, "5.1.1", ("Nobody",)))
        return replace(Outcome.of(Reply(250, None, ("Taken",)), "mx.example [192.0.2.1]"), relayed=True)

    async def act(world):
        parameters = {} if notify is None else {"NOTIFY": notify}
        await world.put(
            "m1", "a@remote.example", "b@remote.example", parameters=parameters, parameters_of_mail=by("9;NT")
        )
        await world.run(1.0)
        found = reports(world)
        assert sorted(action for _, action, _ in found) == sorted(expected)
        assert ("relayed" in expected) == ((0.0, "relayed", "2.0.0") in found)
        for _, _, recipients, octets in world.local.calls:
            assert recipients == ["from@local.example"]
            assert (b"text/rfc822-headers" in octets) == (b"Action: relayed" in octets)
        assert sum(metrics.snapshot()["relay_reports"].values()) == len(expected) // 2
        assert await world.store.list() == []

    scenario({"remote": answer, "metrics": metrics}, act)


def test_a_relayed_message_of_the_null_sender_is_not_reported():
    async def act(world):
        await world.put("m1", sender="", parameters_of_mail=by("9;NT"))
        await world.run(1.0)
        assert world.local.calls == []

    scenario({"remote": lambda message, to: replace(OK, relayed=True)}, act)
