"""The retry policy: when a deferred recipient is tried again, and when the queue gives up.

Promises: the wait depends only on the age of the message, counted from when it could first be delivered. So it survives
restarts and needs no counter; the counter of attempts rises only when a remote host was contacted, and is for people.
Jitter keeps messages that were deferred together from being attempted together; it is drawn once for the recipients of
one message at one destination (`mta.recorder`), which stay one copy. The last attempt is made at the expiry.
Standards: RFC 5321 §4.5.4.1: retries at least 30 minutes apart, more often in the first hour; expiry after at least 4
to 5 days.
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

WARN_AFTER: Final = 4 * HOUR
"""Seconds after which the sender is warned of a delay."""
GREYLIST_WAIT: Final = 5 * MINUTE
"""Seconds until the next attempt after the first reply of a host that greylists."""
EXPIRY: Final = 5 * DAY
"""Seconds after acceptance at which the queue gives up (RFC 5321 §4.5.4.1)."""
JITTER: Final = 0.2
"""Fraction of a wait by which it is randomly longer or shorter."""
LAST_REPLY: Final = 400
"""Maximum length of the last reply that the report of an expiry quotes, in characters."""
WAITS: Final[tuple[tuple[float, float], ...]] = (
    (10 * MINUTE, 4 * MINUTE),
    (HOUR, 15 * MINUTE),
    (6 * HOUR, 40 * MINUTE),
    (DAY, 90 * MINUTE),
    (EXPIRY, 3 * HOUR),
)
"""Age of the message up to which a wait applies, and the wait, both in seconds. The last one applies at any age."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The schedule, its jitter and the expiry."""

    waits: tuple[tuple[float, float], ...] = WAITS
    expiry: float = EXPIRY
    jitter: float = JITTER
    greylist_wait: float = GREYLIST_WAIT
    warn_after: float | None = WARN_AFTER

    def __post_init__(self) -> None:
        ages = [age for age, _ in self.waits]
        if not ages or ages != sorted(set(ages)):
            raise ValueError("the retry policy needs at least one entry, in ascending order of age")
        if any(wait <= 0 for _, wait in self.waits) or self.expiry <= 0 or not 0 <= self.jitter < 1:
            raise ValueError("waits and expiry of the retry policy must be above 0, the jitter from 0 to below 1")

    def expired(self, not_before: float, now: float) -> bool:
        """Whether an attempt that is deferred at `now` was the last. Both times are seconds since 1970."""
        return now >= not_before + self.expiry

    def next_attempt(self, not_before: float, now: float, random: Random) -> float:
        """Return the time of the next attempt after one at `now`, in seconds since 1970; never after the expiry."""
        age = now - not_before
        # A negative age: the clock was set back, so the age is unknown, perhaps for long.
        wait = next((wait for limit, wait in self.waits if 0 <= age < limit), self.waits[-1][1])
        wait *= random.uniform(1 - self.jitter, 1 + self.jitter)
        return max(min(now + wait, not_before + self.expiry), now)

    def postponed(self, wait: float, not_before: float, now: float, random: Random) -> float:
        """Seconds since 1970: the next attempt after a wait that is not the schedule's; not after the expiry.

        Jitter makes the wait only longer.
        """
        return max(min(now + wait * random.uniform(1, 1 + self.jitter), not_before + self.expiry), now)


def expired(last: Outcome) -> Outcome:
    """Convert the last deferral into a failure, 4.4.7 (RFC 3463 §3.5), that quotes its reply.

    The failure is concluded here, so no remote host is named as its source; the text names the one that replied last.
    """
    who = f"{last.remote} said: " if last.remote else ""
    text = f"Delivery time expired; at last {who}{last.reply}"[:LAST_REPLY]
    return Outcome(Disposition.FAILED, Reply(451, "4.4.7", (text,), last.reply.detail), asked=last.asked)
