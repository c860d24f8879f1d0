"""The queue runner over the store in memory, in virtual time."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.mta.runner_kit import LATER, NEVER, NOW, OK, UNASKED, Chance, VirtualClock, World, scenario
from tests.reports.dsn_kit import groups, read
from tests.storage.store_kit import claim

from ironpost.delivery import unreadable
from ironpost.model import Disposition, Outcome, Reply
from ironpost.model.body import BodyDamaged
from ironpost.model.parameters import Notify
from ironpost.mta import queue_runner, recorder
from ironpost.mta.queue_runner import CONCURRENCY, SCAN_SECONDS
from ironpost.queue.concurrency import DEFAULT
from ironpost.queue.retry import DAY, HOUR
from ironpost.queue.selection import EVERYTHING, Selection
from ironpost.queue.store import RecipientState
from ironpost.reports.dsn import report_envelope
from ironpost.routing.directory import DirectoryError, Mailbox, NotLocal
from ironpost.routing.route import Routes
from ironpost.storage.memory import MemoryStore
from ironpost.storage.sqlite.store import SqliteStore
from ironpost.telemetry.metrics import Counters
from ironpost.testing.directory import local


class SetClock(VirtualClock):
    """A virtual clock whose wall time can be set."""

    def __init__(self) -> None:
        super().__init__()
        self.set_by = 0.0

    def now(self) -> float:
        return self.time + self.set_by

    def monotonic(self) -> float:
        return self.time


@pytest.mark.parametrize("step", [-DAY, -400 * DAY, -2 * HOUR])
def test_f09_mail_is_not_delayed_by_a_clock_that_was_set_back(monkeypatch, caplog, step):
    monkeypatch.setitem(World.__init__.__globals__, "VirtualClock", SetClock)

    async def act(world):
        await world.put("m1")
        await world.settle()
        assert world.times() == [0]
        await world.put("later", due=world.clock.time + 30 * DAY)
        world.clock.set_by = step
        await world.run(SCAN_SECONDS + 1)
        assert len(world.times()) == 2
        assert world.times()[1] <= SCAN_SECONDS
        await world.run(4 * HOUR)
        assert 3 <= len(world.times()) <= 5  # if the policy treated it as fresh mail, it would be attempted 60 times
        assert {identifier for _, identifier, *_ in world.remote.calls} == {"m1"}

    scenario({"remote": lambda message, recipient: LATER}, act)
    (told,) = [each for each in caplog.records if getattr(each, "event", "") == "clock-step"]
    assert told.fields == {"seconds": step}


def test_f09_a_clock_that_is_corrected_by_seconds_changes_nothing(monkeypatch, caplog):
    monkeypatch.setitem(World.__init__.__globals__, "VirtualClock", SetClock)

    async def act(world):
        await world.put("m1")
        for _ in range(5):
            world.clock.set_by -= 10
            await world.run(SCAN_SECONDS / 10)
        assert world.times() == [0]

    scenario({"remote": lambda message, recipient: LATER}, act)
    assert not [each for each in caplog.records if getattr(each, "event", "") == "clock-step"]


def test_a_fresh_message_is_delivered_at_once_and_leaves_the_queue():
    async def act(world):
        await world.put("m1")
        await world.settle()
        assert world.remote.calls == [(NOW, "m1", ["to@remote.example"], b"Subject: s\r\n\r\nx\r\n")]
        assert await world.store.list() == []

    scenario({}, act)


def test_an_error_about_a_fresh_message_is_logged_and_not_raised(monkeypatch, caplog):
    async def act(world):
        with monkeypatch.context() as patched:
            patched.setattr(world.runner.destinations, "parts", lambda message, octets: 1 / 0)
            await world.put("first")
        await world.put("second")
        await world.settle()
        assert [identifier for _, identifier, *_ in world.remote.calls] == ["second"]
        assert [message.id for message in await world.store.list()] == ["first"]

    scenario({}, act)
    assert "did not accept message first" in caplog.text


def test_recipients_are_grouped_by_route():
    async def act(world):
        await world.put("m1", "a@remote.example", "b@local.example", "c@far.example", "d@other.example")
        await world.settle()
        assert [call[2] for call in world.remote.calls] == [["a@remote.example"], ["c@far.example"]]
        assert [call[2] for call in world.local.calls] == [["b@local.example"]]
        assert [call[2] for call in world.other.calls] == [["d@other.example"]]
        assert await world.store.list() == []

    scenario({}, act)


def test_mail_from_an_earlier_run_is_found_at_start():
    async def main():
        world = World(lambda message, recipient: OK)
        await world.store.unclaim([await world.commit("m1")])
        world.runner.start()
        await world.settle()
        assert [call[1] for call in world.remote.calls] == ["m1"]
        await world.runner.stop()

    asyncio.run(main())


def test_a_deferred_recipient_is_retried_by_the_policy_until_it_is_delivered():
    answers = iter([LATER, LATER, LATER, OK])

    async def act(world):
        await world.put("m1")
        await world.run(HOUR)
        assert world.times() == [0, 240, 480, 720]
        assert await world.store.list() == []

    scenario({"remote": lambda message, recipient: next(answers)}, act)


def test_a_message_that_is_due_later_is_attempted_then_and_not_before():
    answers = iter([LATER, OK])

    async def act(world):
        await world.put("m1", due=NOW + 10 * DAY)
        await world.run(10 * DAY - 1)
        assert world.times() == []
        await world.run(DAY)
        # Its age counts from `not_before`: ten days old, it is retried like fresh mail.
        assert world.times() == [10 * DAY, 10 * DAY + 240]
        assert await world.store.list() == []

    scenario({"remote": lambda message, recipient: next(answers)}, act)


def test_notify_never_suppresses_bounces():
    async def act(world):
        await world.put("m1", parameters={"NOTIFY": Notify.NEVER})
        await world.run(60)
        assert await world.store.list() == []
        assert world.local.calls == []
        await world.put("m2", parameters={"NOTIFY": Notify.FAILURE})
        await world.run(60)
        assert [call[2] for call in world.local.calls] == [["from@local.example"]]

    scenario({"remote": lambda message, recipient: NEVER}, act)


def test_a_held_message_is_attempted_after_its_release():
    async def act(world):
        await world.put("m1", held="odd")
        await world.run(10 * DAY)
        assert world.times() == []
        assert await world.store.release(Selection.of("m1")) == 1
        world.runner.wake()
        await world.settle()
        assert world.times() == [10 * DAY]

    scenario({}, act)


def test_five_days_of_deferrals_end_in_a_bounce_to_the_sender():
    async def act(world):
        await world.put("m1", content=b"Subject: hello\r\nMessage-ID: <1@local.example>\r\n\r\nbody\r\n")
        await world.run(5 * DAY + HOUR)
        assert world.times()[-1] == 5 * DAY
        assert all(after - before <= 3 * HOUR for before, after in zip(world.times(), world.times()[1:], strict=False))
        ((time, _, recipients, octets),) = world.local.calls
        assert time - NOW == 5 * DAY
        assert recipients == ["from@local.example"]
        assert read(octets).get_content_type() == "multipart/report"
        _, group = groups(octets)
        assert group["Status"] == "4.4.7"  # RFC 3463 §3.5: delivery time expired
        assert group["Action"] == "failed"
        assert group["Final-Recipient"] == "rfc822; to@remote.example"
        assert "Come back" in octets.decode()
        assert await world.store.list() == []

    scenario({"remote": lambda message, recipient: LATER}, act)


def test_a_failed_recipient_is_reported_and_the_others_are_not():
    async def act(world):
        await world.put("m1", "good@remote.example", "bad@remote.example")
        await world.settle()
        ((_, _, recipients, octets),) = world.local.calls
        assert recipients == ["from@local.example"]
        assert b"bad@remote.example" in octets
        assert b"good@remote.example" not in octets
        assert await world.store.list() == []

    def remote(message, recipient):
        return NEVER if recipient.recipient.address.local_part == "bad" else OK

    scenario({"remote": remote}, act)


def test_a_failure_of_a_message_with_a_null_reverse_path_is_never_reported():
    async def act(world):
        await world.put("m1", sender="")
        await world.run(DAY)
        assert len(world.remote.calls) == 1
        assert world.local.calls == []
        assert await world.store.list() == []

    scenario({"remote": lambda message, recipient: NEVER}, act)


def test_a_bounce_that_fails_is_not_bounced():
    async def act(world):
        await world.put("m1")
        await world.run(DAY)
        assert len(world.local.calls) == 1
        assert await world.store.list() == []

    scenario({"remote": lambda m, r: NEVER, "local": lambda m, r: NEVER}, act)


def test_attempts_are_counted_only_when_a_remote_was_asked():
    answers = iter([UNASKED, LATER, UNASKED, LATER])

    async def act(world):
        await world.put("m1")
        counts = []
        for _ in range(30):
            await world.settle()
            ((recipient,),) = [m.recipients for m in await world.store.list()]
            counts.append(recipient.attempts)
            await world.run(240)
        assert counts[:4] == [0, 1, 1, 2]

    scenario({"remote": lambda message, recipient: next(answers, LATER)}, act)


def test_a_recipient_without_an_outcome_is_deferred():
    async def act(world):
        await world.put("m1")
        await world.settle()
        ((recipient,),) = [m.recipients for m in await world.store.list()]
        assert (recipient.state, recipient.attempts, recipient.due) == (RecipientState.QUEUED, 0, NOW + 240)

    scenario({"remote": lambda message, recipient: None}, act)


def test_r25_a_message_that_crashes_its_agent_is_held_and_the_queue_continues(caplog):
    def remote(message, recipient):
        if message.id == "poison":
            raise RuntimeError("boom")
        return OK

    metrics = Counters()

    async def act(world):
        await world.put("poison")
        await world.put("m1")
        await world.run(DAY)
        crashes = [time - NOW for time, name, *_ in world.remote.calls if name == "poison"]
        assert crashes[:5] == [0, 240, 480, 720, 720 + 15 * 60]
        assert len(crashes) == recorder.POISON_CRASHES
        await world.put("m2")
        await world.settle()
        assert [name for _, name, *_ in world.remote.calls if name != "poison"] == ["m1", "m2"]
        (left,) = await world.store.list()
        assert left.id == "poison"
        assert left.recipients[0].state is RecipientState.HELD
        assert left.recipients[0].last.startswith("451 4.3.0")
        assert left.recipients[0].attempts == 0
        assert metrics.snapshot()["poison"] == {"": 1}
        assert await world.store.release(Selection(state=RecipientState.HELD)) == 1
        world.runner.wake()
        await world.settle()
        (left,) = await world.store.list()
        assert left.recipients[0].state is RecipientState.QUEUED, "the count begins again"

    with caplog.at_level(logging.ERROR, "ironpost.queue"):
        scenario({"remote": remote, "metrics": metrics}, act)
    assert [record.fields["id"] for record in caplog.records if getattr(record, "event", "") == "poison"] == ["poison"]


def test_r25_crashing_recipients_are_held_without_affecting_others_of_the_message():
    def remote(message, recipient):
        if recipient.recipient.address.domain == "remote.example":
            raise RuntimeError("boom")
        return LATER

    async def act(world):
        await world.put("m1", "a@remote.example", "b@other.example")
        await world.run(DAY)
        assert len(world.remote.calls) == recorder.POISON_CRASHES
        assert len(world.other.calls) > recorder.POISON_CRASHES
        (left,) = await world.store.list()
        assert [to.state for to in left.recipients] == [RecipientState.HELD, RecipientState.QUEUED]

    scenario({"remote": remote}, act)


def test_r25_a_report_that_cannot_be_written_does_not_lose_the_failure(monkeypatch):
    broken = True
    real = recorder.failure_report

    def report(*values, **options):
        if broken:
            raise RuntimeError("boom")
        return real(*values, **options)

    monkeypatch.setattr(recorder, "failure_report", report)

    async def act(world):
        nonlocal broken
        await world.put("m1")
        await world.settle()
        assert [m.id for m in await world.store.list()] == ["m1"]
        broken = False
        await world.run(2 * HOUR)
        assert len(world.local.calls) == 1
        assert await world.store.list() == []

    scenario({"remote": lambda message, recipient: NEVER}, act)


def test_concurrent_attempts_are_limited_and_no_message_is_lost(monkeypatch):
    monkeypatch.setattr(queue_runner, "WAITING_PARTS", 5)
    gate = None

    async def slow():
        await gate.wait()
        return OK

    async def act(world):
        nonlocal gate
        gate = asyncio.Event()
        for number in range(40):
            await world.put(f"m{number}")
        await world.settle()
        assert world.remote.running == 3
        assert world.runner.active == 8  # the others went back to the store
        gate.set()
        for _ in range(10):
            await world.settle()
        assert sorted(name for _, name, *_ in world.remote.calls) == sorted(f"m{n}" for n in range(40))
        assert world.remote.most == 3
        assert await world.store.list() == []

    scenario({"remote": lambda message, recipient: slow(), "concurrency": 3}, act)


class Faulty(MemoryStore):
    """A store whose `record` fails for some updates."""

    faults = 0

    def record(self, lease, updates, reports=()):
        if self.faults:
            self.faults -= 1
            future = asyncio.get_running_loop().create_future()
            future.set_exception(OSError(5, "the disk is away"))
            return future
        return super().record(lease, updates, reports)


def test_recording_an_outcome_is_repeated_until_the_store_succeeds():
    async def act(world):
        world.store.faults = 3
        await world.put("m1")
        await world.run(60)
        assert len(world.remote.calls) == 1
        assert await world.store.list() == []
        assert len(world.local.calls) == 1

    scenario({"remote": lambda message, recipient: NEVER, "store": Faulty(now=lambda: NOW)}, act)


class Unsteady(MemoryStore):
    """A store that is not steady before `recovered` is done."""

    recovered = None

    def steady(self):
        return None if self.recovered is None or self.recovered.done() else asyncio.shield(self.recovered)


def test_f01_no_attempt_begins_while_the_store_recovers():
    async def act(world):
        world.store.recovered = asyncio.get_running_loop().create_future()
        await world.put("m1")
        for _ in range(100):
            await asyncio.sleep(0)
        assert world.remote.calls == []
        world.store.recovered.set_result(None)
        await world.run(60)
        assert len(world.remote.calls) == 1
        assert await world.store.list() == []

    scenario({"store": Unsteady(now=lambda: NOW)}, act)


@pytest.mark.parametrize("raised", [True, False])
def test_a_damaged_message_is_held_and_neither_returned_nor_deleted(caplog, raised):
    error = BodyDamaged(5, "another checksum")

    def answer(message, recipient):
        if raised:
            raise error
        return unreadable(error)

    async def act(world):
        await world.put("m1", "one@remote.example", "two@remote.example")
        await world.run(2 * DAY)
        (message,) = await world.store.list()
        assert [each.state for each in message.recipients] == [RecipientState.HELD, RecipientState.HELD]
        assert len(world.remote.calls) == 1
        assert world.local.calls == [], "no report"
        # An operator who has repaired it releases it.
        world.remote.answer = lambda message, recipient: OK
        await world.store.release(Selection.of("m1"))
        world.runner.wake()
        await world.run(60)
        assert await world.store.list() == []

    scenario({"remote": answer}, act)
    assert [each.levelname for each in caplog.records if getattr(each, "event", "") == "held"] == ["ERROR", "ERROR"]


@pytest.mark.parametrize("queued", [True, False], ids=["found in the store", "fresh"])
def test_f05_silent_hosts_do_not_delay_local_mail(queued):
    silent = asyncio.Event()

    async def never(message, recipient):
        await silent.wait()
        return OK

    async def act(world):
        for number in range(2000):
            await world.store.unclaim([await world.commit(f"m{number}", f"to@host{number % 200}.example")])
        await world.store.unclaim([await world.commit("many", *(f"r{n}@slow.example" for n in range(1000)))])
        world.runner.wake()
        await world.settle()
        assert world.remote.running == CONCURRENCY
        if queued:
            await world.store.unclaim([await world.commit("here", "me@local.example")])
            world.runner.wake()
        else:
            await world.put("here", "me@local.example")
        await world.settle()
        assert [each for _, each, _, _ in world.local.calls] == ["here"]
        silent.set()

    scenario({"remote": never}, act)


def test_f05_one_silent_host_leaves_slots_for_others():
    silent = asyncio.Event()

    async def answer(message, recipient):
        if recipient.recipient.address.domain == "silent.example":
            await silent.wait()
        return OK

    async def act(world):
        for number in range(300):
            await world.put(f"m{number}", "to@silent.example")
        await world.put("other", "to@remote.example")
        await world.settle()
        assert world.remote.running == DEFAULT.initial
        assert world.remote.calls[-1][1] == "other"
        assert len(await world.store.list()) == 300
        silent.set()
        for _ in range(20):
            await world.settle()
        assert await world.store.list() == []
        assert world.remote.most <= DEFAULT.maximum

    scenario({"remote": answer}, act)


def test_an_uncommitted_report_leaves_no_files(tmp_path):
    class Sick(SqliteStore):
        faults = 3

        def record(self, lease, updates, reports=()):
            if self.faults and reports:
                self.faults -= 1
                future = asyncio.get_running_loop().create_future()
                future.set_exception(OSError(5, "the disk is away"))
                return future
            return super().record(lease, updates, reports)

    async def main():
        store = Sick.at(tmp_path, now=lambda: NOW, reserve=0)
        world = World(lambda message, recipient: NEVER, store=store)
        message = await world.commit("m1")
        report = report_envelope(message), b"x" * 200_000
        recording = asyncio.ensure_future(world.runner._recorder._record(message.lease, [], (report,), NOW))
        while not recording.done():
            await asyncio.sleep(0)
            if world.clock.sleepers:
                world.clock.leap()
        await recording
        assert store.faults == 0
        assert [live for live, _ in store._bodies.segments.usage().values()] == [1], "the one that was taken"
        await store.close()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_routing_waits_for_a_directory_with_io_and_stop_gives_the_message_back():
    class Slow:
        has_aliases = False

        def __init__(self):
            self.ready = asyncio.Event()

        async def find(self, address):
            await self.ready.wait()
            return Mailbox(f"{address} is a local mailbox")

    async def act(world):
        slow = Slow()
        world.runner.routes = Routes(slow)
        await world.put("m1")
        await world.settle()
        assert world.runner.active == 1
        assert not world.local.calls
        slow.ready.set()
        await world.settle()
        assert [identifier for _, identifier, _, _ in world.local.calls] == ["m1"]
        slow.ready.clear()
        await world.put("m2")
        await world.settle()
        stopping = asyncio.ensure_future(world.runner.stop(1))
        while not stopping.done():
            world.clock.leap()
            await world.settle()
        assert [message.id for message in await claim(world.store, 10)] == ["m2"]

    scenario({}, act)


def test_stop_lets_attempts_finish_and_cancels_them_after_the_deadline():
    async def main():
        gate = asyncio.Event()

        async def answer(name):
            if name == "quick":
                await gate.wait()
            else:
                await asyncio.get_running_loop().create_future()
            return OK

        world = World(lambda message, recipient: answer(message.id))
        world.runner.start()
        await world.put("quick")
        await world.put("stuck")
        await world.settle()
        stopping = asyncio.ensure_future(world.runner.stop(10))
        await world.settle()
        gate.set()
        await world.put("late")
        await world.settle()
        assert not stopping.done()
        assert [m.id for m in await world.store.list()] == ["stuck", "late"]
        while not stopping.done():
            world.clock.leap()
            await world.settle()
        await stopping
        assert world.clock.time == NOW + 10
        # Their claims were given back: the next run finds them unchanged.
        again = await claim(world.store, 10)
        assert [(m.id, m.recipients[0].attempts) for m in again] == [("stuck", 0), ("late", 0)]

    asyncio.run(main())


def test_a_retry_from_outside_is_seen_at_once():
    answers = iter([LATER, OK])

    async def act(world):
        await world.put("m1")
        await world.run(10)
        await world.store.retry(EVERYTHING)
        world.runner.wake()
        await world.settle()
        assert world.times() == [0, 10]
        assert await world.store.list() == []

    scenario({"remote": lambda message, recipient: next(answers)}, act)


@pytest.mark.parametrize("method", ["claim", "queues", "unclaim"])
@pytest.mark.parametrize("error", [OSError("disk I/O error"), KeyError("no such column"), RuntimeError("bug")])
def test_f04_a_failing_store_is_retried_and_the_queue_runner_continues(caplog, method, error):
    async def scenario():
        world = World(lambda message, recipient: OK)
        message = await world.commit("m1")
        await world.store.unclaim([message])
        real = getattr(world.store, method)
        failures = 3

        def failing(*arguments):
            nonlocal failures
            if failures:
                failures -= 1
                raise error
            return real(*arguments)

        setattr(world.store, method, failing)
        feeder = world.runner.start()
        world.runner._given_back.append(message)
        await world.run(10 * recorder.STORE_WAIT)
        assert failures == 0
        assert not feeder.done()
        assert world.runner._given_back == []
        assert len(world.remote.calls) == 1
        told = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert len(told) == 3
        assert all(bool(each.exc_info) != isinstance(error, OSError) for each in told), "a bug has its traceback"
        await world.runner.stop()

    asyncio.run(scenario())


def test_an_idle_runner_sleeps():
    async def act(world):
        await world.put("m1")
        await world.settle()
        slept = world.clock.count
        await world.settle()
        await world.settle()
        assert world.clock.count == slept
        await world.run(HOUR)
        assert world.clock.count <= slept + HOUR / SCAN_SECONDS + 1

    scenario({}, act)


def test_routes_can_be_replaced_while_the_runner_runs():
    async def act(world):
        world.runner.routes = Routes(local(["remote.example"]))
        await world.put("m1")
        await world.settle()
        assert world.remote.calls == []
        assert len(world.local.calls) == 1

    scenario({}, act)


def test_a_recipient_is_routed_once_for_each_attempt():
    class Counting(Routes):
        asked = 0

        def decide(self, address, sender=None, tenant=""):
            self.asked += 1
            return super().decide(address, sender, tenant)

    async def act(world):
        world.runner.routes = routes = Counting(local(["local.example"]))
        await world.put("m1", "one@local.example", "two@remote.example")
        await world.settle()
        assert len(world.local.calls) == len(world.remote.calls) == 1
        assert routes.asked == 2

    scenario({}, act)


@pytest.mark.parametrize("size", [10, 200_000])
def test_a_bounce_of_a_large_message_contains_only_its_start(size):
    async def act(world):
        await world.put("m1", content=b"Subject: s\r\n\r\n" + b"x" * 70 + b"\r\n" * (size // 2))
        await world.settle()
        ((_, _, _, octets),) = world.local.calls
        assert b"Subject: s" in octets
        assert len(octets) < 140_000

    scenario({"remote": lambda message, recipient: NEVER}, act)


def test_f07_recipients_deferred_together_are_due_together():
    class Jitter(Chance):
        def uniform(self, low: float, high: float) -> float:
            self.count += 1
            return (low, high)[self.count % 2]

    async def act(world):
        world.runner._random = Jitter()
        await world.put("m1", *(f"u{number}@remote.example" for number in range(5)))
        await world.run(HOUR)
        assert {tuple(addresses) for _, _, addresses, _ in world.remote.calls} == {
            tuple(f"u{number}@remote.example" for number in range(5))
        }
        assert len(world.remote.calls) > 2

    scenario({"remote": lambda message, recipient: LATER}, act)


def test_f15_a_route_that_refuses_us_is_reported_to_the_operator(caplog):
    ours = Outcome(
        Disposition.DEFERRED, Reply(530, "5.7.0", ("Log in",), "ada"), "smart.example", asked=True, ours=True
    )

    async def act(world):
        await world.put("m1", "a@remote.example", "b@remote.example")
        await world.settle()
        ((first, second),) = [m.recipients for m in await world.store.list()]
        assert (first.state, second.state) == (RecipientState.QUEUED, RecipientState.QUEUED)

    with caplog.at_level(logging.ERROR, "ironpost.queue"):
        scenario({"remote": lambda message, recipient: ours}, act)
    (told,) = caplog.records
    assert told.levelno == logging.ERROR
    assert "route-fault" in told.getMessage()
    assert told.fields["detail"] == "ada"


def test_a_recipient_whose_lookup_fails_does_not_take_the_route_of_another():
    async def act(world):
        class Partial:
            has_aliases = False
            works = False

            def find(self, address):
                if address.domain == "local.example":
                    return Mailbox("here")
                if not self.works:
                    raise DirectoryError("the directory does not answer")
                return NotLocal("elsewhere")

        world.runner.routes = Routes(Partial())
        await world.put("m1", "a@local.example", "b@remote.example")
        await world.settle()
        assert [recipients for _, _, recipients, _ in world.local.calls] == [["a@local.example"]]
        assert world.remote.calls == []
        world.runner.routes.directory.works = True
        await world.run(HOUR)
        assert [recipients for _, _, recipients, _ in world.remote.calls] == [["b@remote.example"]]
        assert len(world.local.calls) == 1
        assert await world.store.list() == []

    scenario({}, act)


def test_mail_waits_for_a_directory_that_fails_for_a_day_and_is_not_held():
    class Failing:
        has_aliases = False
        works = False

        def find(self, address):
            if not self.works:
                raise DirectoryError("ldap://ldap.example: no answer after 10 s")
            return Mailbox("here")

    async def act(world):
        directory = Failing()
        world.runner.routes = Routes(directory)
        await world.put("m1", "a@local.example")
        await world.run(DAY)
        ((left,),) = [message.recipients for message in await world.store.list()]
        assert left.state is RecipientState.QUEUED
        assert left.last == "451 4.3.0 Recipient lookup failed\nldap://ldap.example: no answer after 10 s"
        directory.works = True
        await world.run(DAY)
        assert [recipients for _, _, recipients, _ in world.local.calls] == [["a@local.example"]]
        assert await world.store.list() == []

    scenario({}, act)
