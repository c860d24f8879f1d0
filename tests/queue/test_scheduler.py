"""The scheduler in virtual time: order, fairness, connection counts and attempt counts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from tests.queue.simulation import START, Host, Simulation

from ironpost.queue.concurrency import DEFAULT, DestinationLimits
from ironpost.queue.scheduler import CLAIMED, FOREVER, PARTS, REMEMBERED, Claim, Scheduler, Start

HOUR = 3600.0
DAY = 24 * HOUR


def test_everything_stored_is_attempted_once():
    queue = Simulation()
    for number in range(50):
        queue.add(f"d{number}.example", many=7)
    queue.run(HOUR)
    assert len(queue.delivered) == 350
    assert len(queue.log) == 350


def test_a_queue_is_claimed_a_few_messages_at_a_time():
    queue = Simulation()
    queue.add("a.example", many=1000)
    queue.run(0)
    assert queue.scheduler.parts + sum(queue.busy.values()) <= DEFAULT.initial + CLAIMED


def test_concurrency_grows_with_success_up_to_the_limit():
    queue = Simulation()
    queue.add("a.example", many=2000)
    queue.run(0.5)
    assert queue.peak["a.example"] == DEFAULT.initial
    queue.run(HOUR)
    assert queue.peak["a.example"] == DEFAULT.maximum
    assert len(queue.delivered) == 2000


def test_a_destination_that_is_down_costs_one_connection_for_each_probe():
    queue = Simulation()
    queue.hosts["dead.example"] = Host(up=lambda _: False)
    queue.add("dead.example", many=120_000)
    queue.run(DAY)
    probes = DAY / DEFAULT.longest_wait
    assert queue.peak["dead.example"] == DEFAULT.initial
    assert probes * 0.8 <= len(queue.log) - DEFAULT.initial <= probes * 1.3 + 5
    assert queue.scheduler.parts == 0, "what was claimed went back to the store"


def test_local_mail_is_not_delayed_by_a_backlog():
    queue = Simulation()
    queue.hosts["dead.example"] = Host(seconds=300.0, up=lambda _: False)
    queue.hosts["local.example"] = Host(seconds=0.01)
    queue.add("dead.example", many=120_000)
    queue.run(10.0)
    queue.add("local.example", many=100)
    queue.run(1.0)
    assert len(queue.delivered) == 100


def test_a_backlog_is_delivered_soon_after_its_destination_comes_back():
    queue = Simulation(retry=4 * HOUR)
    queue.hosts["a.example"] = Host(up=lambda since: since > DAY)
    queue.add("a.example", many=10_000)
    queue.run(DAY)
    assert not queue.delivered
    queue.run(DEFAULT.longest_wait * (1 + DEFAULT.jitter) + 10_000 / DEFAULT.maximum * 1.2)
    tried_while_down = sum(mail.attempts > 0 for mail in queue.log)
    assert len(queue.delivered) >= 10_000 - tried_while_down


def test_one_slow_destination_among_a_thousand():
    queue = Simulation()
    queue.hosts["slow.example"] = Host(seconds=300.0)
    queue.add("slow.example", many=10_000)
    for number in range(1000):
        queue.add(f"d{number}.example")
    queue.run(15.0)
    assert len(queue.delivered) == 1000
    assert queue.peak["slow.example"] <= DEFAULT.maximum


def test_silent_destinations_leave_slots_to_those_that_answer():
    queue = Simulation(leaves=200)
    queue.hosts["good.example"] = Host()
    queue.add("good.example", many=1)
    queue.run(5.0)
    for number in range(500):
        queue.hosts[f"silent{number}.example"] = Host(seconds=300.0, up=lambda _: False)
        queue.add(f"silent{number}.example", many=4)
    queue.run(5.0)
    queue.add("good.example", many=20)
    queue.run(5.0)
    assert len(queue.delivered) == 21


@pytest.mark.parametrize("same_destinations", [True, False])
def test_a_small_tenant_beside_one_with_a_million(same_destinations):
    queue = Simulation(leaves=50)
    for number in range(1000):
        queue.add(f"d{number}.example", "large", many=1000)
    for number in range(10):
        queue.add(f"{'d' if same_destinations else 'e'}{number}.example", "small")
    queue.run(HOUR, stop=lambda: len(queue.log) >= 100)
    assert sum(mail.tenant == "small" for mail in queue.log[:100]) == 10


def test_tenants_take_turns_at_one_destination():
    queue = Simulation()
    queue.add("a.example", "large", many=100_000)
    queue.run(3.0)
    before = len(queue.log)
    queue.add("a.example", "small", many=10)
    queue.run(HOUR, stop=lambda: len(queue.log) >= before + 100)
    assert sum(mail.tenant == "small" for mail in queue.log) == 10


def test_domains_of_one_tenant_take_turns():
    queue = Simulation(leaves=10)
    queue.add("large.example", many=100_000)
    for number in range(10):
        queue.add(f"d{number}.example")
    queue.run(HOUR, stop=lambda: len(queue.log) >= 40)
    assert len({mail.domain for mail in queue.log}) == 11


def test_mail_of_higher_priority_overtakes_that_of_its_tenant_only_at_one_slow_destination():
    queue = Simulation()
    queue.hosts["slow.example"] = Host(seconds=60.0)
    queue.add("slow.example", "hurried", many=1000)
    queue.add("slow.example", "other", many=1000)
    queue.run(20 * 60.0)
    before = len(queue.log)
    in_memory = queue.queue("slow.example", "hurried", 5)
    for _ in range(5):
        queue.add("slow.example", "hurried", priority=5)
        assert queue.scheduler.offer(in_memory, queue.mail("slow.example", "hurried", priority=5), queue.now)
    queue.run(HOUR, stop=lambda: len(queue.log) >= before + 40)
    after = queue.log[before : before + 40]
    turns = [mail for mail in after if mail.tenant == "hurried"]
    assert len(turns) == pytest.approx(20, abs=1), "the other tenant keeps its turns"
    urgent = [number for number, mail in enumerate(turns) if mail.priority == 5]
    assert len(urgent) == 10
    assert urgent[-1] <= 11, "at most what had a slot already goes before"


def test_mail_of_higher_priority_goes_first_over_all_destinations():
    queue = Simulation(leaves=5)
    for tenant in ("hurried", "other"):
        for number in range(20):
            queue.add(f"d{number}.example", tenant, many=50)
    queue.run(60.0)
    before = len(queue.log)
    for number in range(10):
        queue.add(f"d{number}.example", "hurried", priority=5)
    queue.run(HOUR, stop=lambda: len(queue.log) >= before + 40)
    after = queue.log[before : before + 40]
    turns = [mail for mail in after if mail.tenant == "hurried"]
    assert len(turns) <= 21, "the other tenant keeps its turns"
    assert [mail.priority for mail in turns[:10]] == [5] * 10


def test_bulk_mail_of_lower_priority_yields_to_the_rest_and_is_delivered():
    queue = Simulation(leaves=5)
    queue.hosts["a.example"].seconds = 1.0
    queue.add("a.example", many=200, priority=-9)
    queue.run(3.0)
    before = len(queue.log)
    queue.add("a.example", many=50)
    queue.run(HOUR, stop=lambda: len(queue.log) >= before + 51)
    assert sum(mail.priority == 0 for mail in queue.log[before : before + 51]) == 50
    queue.run(HOUR)
    assert len(queue.delivered) == 250


def test_a_storm_of_refused_sessions():
    """Every other minute the destination refuses all sessions (421): it is probed, and its mail is delivered."""
    queue = Simulation(retry=300.0)
    queue.hosts["busy.example"] = Host(seconds=0.5, up=lambda since: since % 120 >= 60)
    queue.add("busy.example", many=20_000)
    queue.run(2 * HOUR)
    assert len(queue.delivered) == 20_000
    assert len(queue.log) - 20_000 < 2 * HOUR / 120 * (DEFAULT.maximum + 2)


def test_greylisting_is_not_an_outage():
    """A deferred recipient comes back later; the destination was reached, so others are not held up."""
    queue = Simulation()
    queue.add("grey.example", due=START + 300)
    queue.add("grey.example", many=50)
    queue.run(60.0)
    assert len(queue.delivered) == 50
    queue.run(300.0)
    assert len(queue.delivered) == 51
    assert queue.times[-1] == pytest.approx(300.0)


def test_a_suspended_destination_is_left_alone_until_its_end():
    queue = Simulation()
    queue.add("a.example", many=100)
    queue.run(0.5)
    running = len(queue.log)
    queue.scheduler.suspend(queue.destination("a.example"), START + HOUR, "they asked us to stop", queue.now)
    queue.run(HOUR - 1)
    assert len(queue.log) == running
    queue.run(60.0)
    assert len(queue.delivered) == 100


def test_an_operator_ends_a_suspension():
    queue = Simulation()
    destination = queue.destination("a.example")
    queue.scheduler.suspend(destination, FOREVER, "migration", queue.now)
    queue.add("a.example", many=100)
    queue.run(DAY)
    assert not queue.log
    queue.scheduler.resume(destination, queue.now)
    queue.run(HOUR)
    assert len(queue.delivered) == 100


def test_an_operator_has_a_destination_probed_now():
    queue = Simulation()
    queue.hosts["a.example"] = Host(up=lambda since: since > HOUR)
    queue.add("a.example", many=100)
    queue.run(HOUR + 1)
    down = queue.destination("a.example")
    assert down.window.down
    assert down.window.failure == "connection refused"
    queue.scheduler.resume(down, queue.now)
    queue.run(60.0)
    assert len(queue.delivered) >= 90
    assert not down.window.down


def test_a_rate_limit_spaces_deliveries():
    queue = Simulation()
    queue.destination("a.example").interval = 6.0
    queue.add("a.example", many=100)
    queue.run(60.0)
    assert 10 <= len(queue.log) <= 11
    queue.run(600.0)
    assert len(queue.delivered) == 100


def test_a_configured_limit_bounds_the_window():
    queue = Simulation()
    queue.destination("a.example").limit = 2
    queue.add("a.example", many=100)
    queue.run(HOUR)
    assert queue.peak["a.example"] == 2


def test_claimed_mail_needs_no_claim():
    queue = Simulation()
    target = queue.queue("a.example", "t")
    mail = queue.mail()
    assert queue.scheduler.offer(target, mail, queue.now)
    decision = queue.scheduler.next(queue.now)
    assert isinstance(decision, Start)
    assert decision.part is mail


def test_a_full_queue_takes_no_more():
    queue = Simulation()
    destination = queue.destination("a.example")
    destination.limit = 0
    target = queue.queue("a.example", "t")
    assert [queue.scheduler.offer(target, queue.mail(), queue.now) for _ in range(PARTS + 1)] == [True] * PARTS + [
        False
    ]


def test_a_blocked_destination_takes_no_claimed_mail():
    queue = Simulation()
    queue.scheduler.suspend(queue.destination("a.example"), FOREVER, "test", queue.now)
    assert not queue.scheduler.offer(queue.queue("a.example", "t"), queue.mail(), queue.now)


def test_nothing_is_kept_of_a_queue_without_mail():
    queue = Simulation()
    for number in range(100):
        queue.add(f"d{number}.example", many=3)
    queue.run(HOUR)
    assert len(queue.scheduler) == 0
    assert queue.scheduler.wait(queue.now) == FOREVER


def test_destinations_without_mail_are_bounded():
    queue = Simulation()
    suspended = queue.destination("s.example")
    queue.scheduler.suspend(suspended, FOREVER, "test", queue.now)
    for number in range(REMEMBERED + 100):
        queue.destination(f"d{number}.example")
    known = queue.scheduler.destinations()
    assert len(known) <= REMEMBERED + 1
    assert suspended in known


def test_an_idle_scheduler_waits_for_what_is_due_first():
    queue = Simulation()
    queue.add("a.example", due=START + 500)
    queue.add("b.example", due=START + 50)
    queue.add("b.example", due=START + 20)
    assert queue.scheduler.next(queue.now) is None
    assert queue.scheduler.wait(queue.now) == 20
    decision = queue.scheduler.next(START + 20)
    assert isinstance(decision, Claim)
    assert decision.queue.key.domain == "b.example"


def test_a_claim_that_finds_nothing_ends():
    queue = Simulation()
    queue.add("a.example")
    queue._store.clear()
    queue.run(HOUR)
    assert not queue.log
    assert len(queue.scheduler) == 0


def test_mail_stored_while_a_claim_runs_is_not_forgotten():
    scheduler: Scheduler[int] = Simulation().scheduler  # type: ignore[assignment]
    queue = scheduler.queue("a.example", "t", 0, scheduler.destination("a.example"))
    scheduler.stored(queue, START, START)
    claim = scheduler.next(START)
    assert isinstance(claim, Claim)
    scheduler.stored(queue, START, START)
    scheduler.claimed(claim, [], FOREVER, START)
    assert isinstance(scheduler.next(START), Claim)


def test_cleared_parts_are_returned():
    queue = Simulation()
    queue.destination("a.example").limit = 1
    queue.add("a.example", many=5)
    queue.run(0)
    found = queue.scheduler.discard(lambda _: True)
    assert len(found) == 4
    assert queue.scheduler.parts == 0


def test_the_limits_of_a_rule_hold_whatever_the_window():
    queue = Simulation(limits=DestinationLimits(2, interval=3.0))
    queue.hosts["a.example"].seconds = 60.0
    queue.add("a.example", many=1000)
    queue.run(600)
    assert queue.peak["a.example"] == 2
    assert all(after - before >= 3.0 for before, after in pairwise(queue.times))


def test_a_rule_may_allow_more_than_the_default():
    queue = Simulation(limits=DestinationLimits(50))
    queue.add("a.example", many=10_000)
    queue.run(600)
    assert queue.peak["a.example"] == 50


def test_the_timer_of_a_queue_that_is_gone_does_not_remove_a_later_one():
    scheduler: Scheduler[int] = Simulation().scheduler  # type: ignore[assignment]
    destination = scheduler.destination("a.example")
    scheduler.stored(scheduler.queue("a.example", "t", 0, destination), START + 500, START)
    scheduler.stored(scheduler.queue("a.example", "t", 0, destination), START, START)
    claim = scheduler.next(START)
    assert isinstance(claim, Claim)
    scheduler.claimed(claim, [], FOREVER, START)
    assert len(scheduler) == 0
    scheduler.stored(scheduler.queue("a.example", "t", 0, destination), START + 900, START)
    assert scheduler.next(START + 500) is None
    assert (len(scheduler), destination.queues) == (1, 1)


def test_a_rate_limit_does_not_send_claimed_mail_back():
    queue = Simulation()
    queue.destination("a.example").interval = 6.0
    target = queue.queue("a.example", "t")
    assert all(queue.scheduler.offer(target, queue.mail(), queue.now) for _ in range(5))
