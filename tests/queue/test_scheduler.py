"""When the store is asked."""

from __future__ import annotations

from ironpost.queue.scheduler import LOOK_AGAIN, Scheduler

NOW = 1_700_000_000.0


def test_at_start_the_store_is_asked_at_once():
    assert Scheduler().wait(NOW) == 0


def test_the_earliest_note_counts():
    scheduler = Scheduler()
    scheduler.asking(NOW)
    scheduler.note(NOW + 30)
    scheduler.note(NOW + 10)
    scheduler.note(NOW + 20)
    assert scheduler.wait(NOW) == 10
    assert scheduler.wait(NOW + 11) == 0


def test_an_idle_queue_is_looked_at_now_and_then():
    scheduler = Scheduler()
    scheduler.asking(NOW)
    assert scheduler.wait(NOW) == LOOK_AGAIN
    scheduler.note(NOW + 10 * LOOK_AGAIN)
    assert scheduler.wait(NOW) == LOOK_AGAIN
    assert scheduler.wait(NOW + LOOK_AGAIN) == 0


def test_what_is_noted_while_the_store_is_asked_is_not_forgotten():
    scheduler = Scheduler()
    scheduler.asking(NOW)
    scheduler.note(NOW)
    assert scheduler.wait(NOW) == 0
