"""The retry law: when a deferred recipient is tried again, and when the queue gives up.

Promises: the wait depends on the age of the message alone, counted from when it might first be delivered, so it
survives restarts and needs no counter (the counter of attempts rises only when a remote was asked, and is for people).
Waits are spread by chance, so that mail which failed together does not return together. The last attempt falls on the
moment of expiry.
Standards: RFC 5321 §4.5.4.1: retries at least 30 minutes apart later on, more often at first; giving up after at
least 4 to 5 days.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ironpost.model import Disposition, Outcome, Reply

if TYPE_CHECKING:
    from ironpost.model.ports import Random

MINUTE: Final = 60.0
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

EXPIRY: Final = 5 * DAY
"""Seconds after acceptance at which the queue gives up (RFC 5321 §4.5.4.1)."""
JITTER: Final = 0.2
"""A wait is the table's, more or less by at most this part."""
LAST_REPLY: Final = 400
"""Characters of the last reply that the report of an expiry quotes, with its introduction."""
WAITS: Final[tuple[tuple[float, float], ...]] = (
    (10 * MINUTE, 4 * MINUTE),
    (HOUR, 15 * MINUTE),
    (6 * HOUR, 40 * MINUTE),
    (DAY, 90 * MINUTE),
    (EXPIRY, 3 * HOUR),
)
"""Up to this age of the message, in seconds: wait that long. The last entry also serves beyond its age."""


@dataclass(frozen=True, slots=True)
class RetryLaw:
    """The table, its jitter and the expiry."""

    waits: tuple[tuple[float, float], ...] = WAITS
    expiry: float = EXPIRY
    jitter: float = JITTER

    def __post_init__(self) -> None:
        ages = [age for age, _ in self.waits]
        if not ages or ages != sorted(set(ages)):
            raise ValueError("the retry law needs at least one entry, by rising age")
        if any(wait <= 0 for _, wait in self.waits) or self.expiry <= 0 or not 0 <= self.jitter < 1:
            raise ValueError("waits and expiry of the retry law must be above 0, the jitter from 0 to below 1")

    def expired(self, released: float, now: float) -> bool:
        """An attempt that is deferred at `now` was the last. Both times are seconds since 1970."""
        return now >= released + self.expiry

    def next_attempt(self, released: float, now: float, random: Random) -> float:
        """Seconds since 1970: when to try again after an attempt at `now`; never after the expiry."""
        age = now - released
        # Tried before it was there: the clock was set back, and nobody knows the age. It may be that for long.
        wait = next((wait for limit, wait in self.waits if 0 <= age < limit), self.waits[-1][1])
        wait *= random.uniform(1 - self.jitter, 1 + self.jitter)
        return max(min(now + wait, released + self.expiry), now)


def expired(last: Outcome) -> Outcome:
    """What a deferral becomes when it was the last: failed, 4.4.7 (RFC 3463 §3.5), with the reply that it ended on.

    It is our own conclusion, so no remote is named as its author; the one that spoke last stands in the text.
    """
    who = f"{last.remote} said: " if last.remote else ""
    text = f"Delivery time expired; at last {who}{last.reply}"[:LAST_REPLY]
    return Outcome(Disposition.FAILED, Reply(451, "4.4.7", (text,)), asked=last.asked)
