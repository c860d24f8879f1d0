"""Concurrency control of one destination: how many deliveries run at a time, and probes while it is down.

Promises: the window starts at `initial`, grows by one for each window of deliveries that reached the destination, and
shrinks by one for each window that did not. After a whole window of failures without a success in between the
destination is down: nothing is attempted until `blocked_until`, then one delivery as a probe. Each probe that fails
doubles the wait, up to `longest_wait`, except one that an operator asked for; the first success opens the window at
`initial` again. A limit is never exceeded. Only connections and sessions count: a destination that replies 4yz or 5yz
to a recipient was reached.
The feedback is that of Postfix's scheduler (SCHEDULER_README, "less-than-1 feedback"), which is stable because one
failure among many successes changes little.
Standards: RFC 5321 §4.5.4.1 (keep a list of hosts that cannot be reached, instead of trying for each message).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from ironpost.model.ports import Random


class DestinationLimits(NamedTuple):
    """Limits of the deliveries to one destination, by all processes together."""

    deliveries: int
    """Maximum number of concurrent deliveries."""
    interval: float = 0.0
    """Seconds between the starts of two deliveries; 0 without a rate limit."""


@dataclass(frozen=True, slots=True)
class ConcurrencyPolicy:
    """Parameters of the concurrency control."""

    initial: int = 5
    """Initial size of the window: concurrent deliveries to a new destination."""
    maximum: int = 20
    """Maximum size of the window."""
    first_wait: float = 60.0
    """Seconds until the first probe of a destination that is down; each probe that fails doubles it."""
    longest_wait: float = 900.0
    """Maximum number of seconds between probes."""
    jitter: float = 0.1
    """Fraction of a wait by which it is randomly longer or shorter."""

    def __post_init__(self) -> None:
        if not 1 <= self.initial <= self.maximum:
            raise ValueError(f"the initial concurrency ({self.initial}) must be from 1 to the maximum ({self.maximum})")
        if not 0 < self.first_wait <= self.longest_wait:
            raise ValueError("the first wait must be above 0 and at most the longest wait")
        if not 0 <= self.jitter < 1:
            raise ValueError("the jitter must be from 0 to below 1")

    def up_to(self, maximum: int) -> ConcurrencyPolicy:
        """Return these parameters with another maximum, and the initial size lowered to it if necessary."""
        return self if maximum == self.maximum else replace(self, initial=min(self.initial, maximum), maximum=maximum)


DEFAULT: Final = ConcurrencyPolicy()


class Window:
    """The concurrency control of one destination."""

    __slots__ = ("_asked", "_failed", "_policy", "_size", "_wait", "blocked_until", "failure")

    def __init__(self, policy: ConcurrencyPolicy = DEFAULT) -> None:
        self._policy = policy
        self._size = float(policy.initial)
        self._failed = 0.0
        """Failures since the last success, as a fraction of the window."""
        self._wait = 0.0
        """Seconds of the last wait; 0 while the destination is up."""
        self._asked = False
        """The next probe is one that an operator asked for."""
        self.blocked_until = 0.0
        """Earliest start of the next delivery, in seconds on the caller's clock."""
        self.failure = ""
        """Text of the last failure, for operators; empty after a success."""

    @property
    def size(self) -> int:
        """Number of deliveries that may run at a time; 1, the probe, while the destination is down."""
        return 1 if self._wait else int(self._size)

    @property
    def down(self) -> bool:
        """Whether the destination is down."""
        return self._wait > 0.0

    def succeeded(self) -> None:
        """Account for a delivery that reached the destination, regardless of the reply."""
        self._failed = 0.0
        self._asked = False
        self.failure = ""
        if self._wait:
            self._wait = self.blocked_until = 0.0
            self._size = float(self._policy.initial)
        else:
            self._size = min(self._size + 1 / self._size, float(self._policy.maximum))

    def failed(self, now: float, random: Random, why: str) -> None:
        """Account for a delivery that did not reach the destination.

        A failure while the destination is blocked belongs to a delivery that had begun before; it changes nothing.
        """
        self.failure = why
        if now < self.blocked_until:
            return
        if not self._wait:
            self._failed += 1 / self._size
            self._size = max(1.0, self._size - 1 / self._size)
            if self._failed < 1.0:
                return
        policy = self._policy
        if not self._asked:
            self._wait = min(self._wait * 2, policy.longest_wait) if self._wait else policy.first_wait
        self._asked = False
        self.blocked_until = now + self._wait * random.uniform(1 - policy.jitter, 1 + policy.jitter)

    def block(self, until: float, why: str) -> None:
        """Block the destination until a time, because another worker found it down."""
        self._wait = self._wait or self._policy.first_wait
        self.blocked_until = max(self.blocked_until, until)
        self.failure = why

    def probe_now(self) -> None:
        """Allow the next probe at once: an operator asked for it. If it fails, the wait stays as it was."""
        self._asked = self.down
        self.blocked_until = 0.0
