"""Applies the suspensions of an operator to the destinations of a scheduler.

A suspension names a domain whose mail has a destination of its own (by MX), or the host of a smart host or LMTP route.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ironpost.queue.scheduler import FOREVER, Lane
from ironpost.routing.route import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model.ports import Clock
    from ironpost.queue.scheduler import Destination, Scheduler
    from ironpost.queue.suspension import Suspension, Suspensions


def names(destination: Destination) -> tuple[str, ...]:
    """The names by which an operator can suspend a destination; none for this system."""
    if destination.lane is Lane.STAYS:
        return ()
    key: Any = destination.key
    route, domain = key
    if domain:
        return (domain,)
    return tuple(name for host in route.hosts for name in (host.name.lower(), str(host).lower()))


class SuspendedDestinations:
    """Keeps the destinations of one scheduler as the suspensions say."""

    def __init__(self, scheduler: Scheduler[Any], suspensions: Suspensions, clock: Clock) -> None:
        self._scheduler = scheduler
        self._suspensions = suspensions
        self._clock = clock
        self._known: Mapping[str, Suspension] = {}

    def suspend(self, name: str, seconds: float | None, why: str) -> Suspension:
        """Suspend a destination for a number of seconds; None: until it is resumed.

        Raises:
            ValueError: the name or the reason is too long.
        """
        suspension = self._suspensions.put(name, seconds, why)
        self.refresh()
        return suspension

    def resume(self, name: str) -> bool:
        """End a suspension; return False if there is none. A destination that is down is probed now."""
        found = self._suspensions.remove(name) or name in self._known  # another worker may have been faster
        self.refresh()
        return found

    def refresh(self) -> None:
        """Read the suspensions again: other workers may have changed them."""
        known = self._suspensions.all()
        if known == self._known:
            return
        self._known = known
        now = self._clock.now()
        for destination in self._scheduler.destinations():
            if not self.apply(destination) and destination.suspended_until and not is_fetched(destination):
                self._scheduler.resume(destination, now)

    def of(self, destination: Destination) -> Suspension | None:
        """Return the suspension that names a destination; None if none does."""
        if not self._known or is_fetched(destination):
            return None
        return next((self._known[name] for name in names(destination) if name in self._known), None)

    def apply(self, destination: Destination) -> bool:
        """Suspend a destination if a suspension names it; return whether one does."""
        found = self.of(destination)
        if found is None:
            return False
        until = FOREVER if found.until is None else found.until
        if (destination.suspended_until, destination.reason) != (until, found.why):
            self._scheduler.suspend(destination, until, found.why, self._clock.now())
        return True


def is_fetched(destination: Destination) -> bool:
    """Whether its owner fetches the mail: it is always suspended."""
    key: Any = destination.key
    return bool(key) and key[0].kind is Kind.ON_DEMAND
