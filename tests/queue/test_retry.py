"""The retry policy, with chance at its middle and at its ends."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ironpost.model import Disposition, Outcome, Reply
from ironpost.queue.retry import DAY, HOUR, MINUTE, RetryPolicy, expired

ACCEPTED = 1_700_000_000.0


class Chance:
    """`uniform` at a fixed place between its ends."""

    def __init__(self, place: float = 0.5) -> None:
        self.place = place

    def uniform(self, low: float, high: float) -> float:
        return low + self.place * (high - low)

    def shuffle(self, items: list[str]) -> None:
        items.reverse()

    def token(self) -> str:
        return "token"


def schedule(policy: RetryPolicy, place: float) -> list[float]:
    """Ages of the attempts until the policy gives up."""
    now, ages = ACCEPTED, [0.0]
    while not policy.expired(ACCEPTED, now):
        now = policy.next_attempt(ACCEPTED, now, Chance(place))
        ages.append(now - ACCEPTED)
    return ages


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_the_default_law_is_that_of_rfc_5321_section_4_5_4_1(place):
    ages = schedule(RetryPolicy(), place)
    waits = [after - before for before, after in pairwise(ages)]
    # "the give-up time generally needs to be at least 4-5 days"
    assert ages[-1] == 5 * DAY
    # "the retry interval SHOULD be at least 30 minutes", once the first hour's quicker tries are over
    assert all(wait >= 30 * MINUTE for age, wait in zip(ages[:-2], waits, strict=False) if age >= HOUR)
    # "two connection attempts in the first hour", then "every two or three hours"
    assert sum(age <= HOUR for age in ages[1:]) >= 2
    assert all(wait <= 3.6 * HOUR for wait in waits)
    assert waits[0] <= 5 * MINUTE


def test_waits_spread_by_a_fifth_both_ways():
    policy = RetryPolicy()
    early, late = (policy.next_attempt(ACCEPTED, ACCEPTED, Chance(place)) - ACCEPTED for place in (0.0, 1.0))
    assert late / early == pytest.approx(1.2 / 0.8)


def test_the_wait_depends_on_age_and_not_on_a_counter():
    policy = RetryPolicy()
    assert policy.next_attempt(ACCEPTED, ACCEPTED + 2 * DAY, Chance()) == ACCEPTED + 2 * DAY + 3 * HOUR


def test_the_last_attempt_is_at_the_expiry_and_never_in_the_past():
    policy = RetryPolicy()
    assert policy.next_attempt(ACCEPTED, ACCEPTED + 5 * DAY - 60, Chance()) == ACCEPTED + 5 * DAY
    assert policy.next_attempt(ACCEPTED, ACCEPTED + 6 * DAY, Chance()) == ACCEPTED + 6 * DAY


@pytest.mark.parametrize(
    "options",
    [
        {"waits": ()},
        {"waits": ((10.0, 1.0), (5.0, 1.0))},
        {"waits": ((10.0, 0.0),)},
        {"expiry": 0.0},
        {"jitter": 1.0},
    ],
)
def test_a_law_that_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match="retry policy"):
        RetryPolicy(**options)


def test_an_expiry_quotes_the_last_reply_and_its_author():
    reply = Reply(451, "4.7.1", ("Grey " + "x" * 2000,))
    outcome = expired(Outcome(Disposition.DEFERRED, reply, "mx.example [192.0.2.1]", asked=True))
    assert outcome.disposition is Disposition.FAILED
    assert outcome.reply.enhanced == "4.4.7"  # RFC 3463 §3.5: delivery time expired
    (text,) = outcome.reply.text
    assert "mx.example [192.0.2.1] said: 451 4.7.1 Grey" in text
    assert len(text) <= 400
    assert outcome.remote == ""


def test_f09_mail_from_the_future_is_tried_as_rarely_as_old_mail() -> None:
    assert RetryPolicy(jitter=0.0).next_attempt(ACCEPTED + DAY, ACCEPTED, Chance()) == ACCEPTED + 3 * HOUR
