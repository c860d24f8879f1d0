"""The concurrency window of one destination."""

from __future__ import annotations

import pytest

from ironpost.queue.concurrency import ConcurrencyPolicy, Window


class Middle:
    """No jitter."""

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2

    def shuffle(self, items: list[str]) -> None:
        raise NotImplementedError

    def token(self) -> str:
        raise NotImplementedError


def failed(window: Window, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        window.failed(now, Middle(), "refused")


def test_one_window_of_successes_adds_one():
    window = Window(ConcurrencyPolicy(initial=5, maximum=20))
    for _ in range(6):
        window.succeeded()
    assert window.size == 6
    for _ in range(1000):
        window.succeeded()
    assert window.size == 20


def test_one_failure_among_successes_changes_little():
    window = Window()
    for _ in range(1000):
        window.succeeded()
    before = window.size
    failed(window, 1)
    window.succeeded()
    assert before - 1 <= window.size <= before
    assert not window.down


@pytest.mark.parametrize("initial", [1, 2, 5, 20])
def test_a_window_of_failures_means_down(initial):
    window = Window(ConcurrencyPolicy(initial=initial, maximum=20))
    failed(window, max(1, initial - 2))
    if initial > 1:
        assert not window.down
    failed(window, 2)
    assert window.down
    assert window.size == 1
    assert window.blocked_until == 60
    assert window.failure == "refused"


def test_failures_of_attempts_that_had_begun_before_do_not_lengthen_the_wait():
    window = Window()
    failed(window, 30)
    assert window.blocked_until == 60


def test_probes_back_off_up_to_the_longest_wait():
    window = Window(ConcurrencyPolicy(first_wait=60, longest_wait=900))
    failed(window, 5)
    waits = []
    for _ in range(6):
        now = window.blocked_until
        failed(window, 1, now)
        waits.append(window.blocked_until - now)
    assert waits == [120, 240, 480, 900, 900, 900]


def test_a_probe_that_an_operator_asked_for_does_not_double_the_wait():
    window = Window(ConcurrencyPolicy(first_wait=60, longest_wait=900))
    failed(window, 5)
    waits = []
    for now in (10, 20):
        window.probe_now()
        assert window.blocked_until == 0
        failed(window, 1, now)
        waits.append(window.blocked_until - now)
    now = window.blocked_until
    failed(window, 1, now)
    assert [*waits, window.blocked_until - now] == [60, 60, 120]


def test_a_successful_probe_opens_the_window_again():
    window = Window()
    failed(window, 10)
    window.succeeded()
    assert not window.down
    assert window.size == 5
    assert window.blocked_until == 0
    assert window.failure == ""


@pytest.mark.parametrize(
    "values",
    [
        {"initial": 0}, {"initial": 21}, {"first_wait": 0}, {"first_wait": 901}, {"jitter": 1.0}, {"jitter": -0.1},
    ],
)  # fmt: skip
def test_impossible_policies_are_refused(values):
    with pytest.raises(ValueError, match="must be"):
        ConcurrencyPolicy(**values)
