"""Limits of destinations that all workers enforce together: concurrency, and probes of a destination that is down.

Promises: workers that have mail for a destination divide its limits among them, by their numbers. If the number of
deliveries does not divide evenly, or is smaller than that of the workers, the larger shares rotate every
`ROTATION_SECONDS`, so that each worker gets one in turn. When one worker finds a destination down or up again, all
others are notified; while it is down, one worker at a time probes it. Workers exchange changes every
`EXCHANGE_SECONDS`, and repeat which destinations they have mail for every `REPEAT_SECONDS`; an entry that is not
repeated for three times as long expires, for example after a worker has died.
Limitations: a limit can be exceeded by attempts that start within one exchange. A rate is not used up if the number of
deliveries is smaller than that of the workers, because a worker that waits for its turn keeps its share of the rate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from ironpost.queue.scheduler import Lane

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ironpost.processes.bus import WorkerBus
    from ironpost.queue.scheduler import Destination, Scheduler

TOPIC: Final = "destinations"
"""Topic on the bus."""
EXCHANGE_SECONDS: Final = 0.05
"""Seconds for which changes are collected before they are published."""
MESSAGE_NAMES: Final = 200
"""Maximum number of destinations in one notification."""
REPEAT_SECONDS: Final = 30.0
ROTATION_SECONDS: Final = 10.0


def share(total: int, holders: int, place: int) -> int:
    """Return the part of a limit for one of several workers that share it.

    Args:
        total: the limit.
        holders: the number of workers, at least 1.
        place: the position of this worker among them, from 0. The first ones get the remainder.
    """
    return total // holders + (place < total % holders)


class SharedDestinations:
    """One worker's part of the exchange."""

    def __init__(
        self,
        number: int,
        workers: int,
        bus: WorkerBus,
        scheduler: Scheduler[Any],
        *,
        later: Callable[[float, Callable[[], None]], object],
        now: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        """Join the exchange.

        Args:
            number: number of this worker, from 0.
            workers: number of workers.
            bus: connects the workers.
            scheduler: the scheduler of this worker.
            later: the event loop's `call_later`.
            now: seconds since 1970.
            changed: called when a limit has changed, so that the scheduler can decide again.
        """
        self._number = number
        self._bus = bus
        self._scheduler = scheduler
        self._workers = workers
        self._later = later
        self._now = now
        self._changed = changed
        self._mine: dict[str, Destination] = {}
        """Destinations for which this worker has mail."""
        self._others: dict[str, dict[int, float]] = {}
        """By destination: other workers with mail for it, and the time of their last notification."""
        self._down: set[str] = set()
        """Destinations that this worker has published or received as down."""
        self._unpublished: dict[str, Destination] = {}
        scheduler.watch = self.note
        bus.subscribe(TOPIC, self._receive)
        later(ROTATION_SECONDS, self._rotate)
        later(REPEAT_SECONDS, self._repeat)

    def note(self, destination: Destination) -> None:
        """Publish a change: a destination got its first mail or lost its last, or went down or up."""
        if destination.lane is Lane.STAYS:
            return
        name = destination_name(destination)
        if destination.queues and name not in self._mine:
            self._mine[name] = destination
            if name not in self._others:
                self._share(destination, self._workers, self._number)  # until others had time to publish theirs
        elif not destination.queues:
            self._mine.pop(name, None)
        self._set_share(name)
        if not self._unpublished:
            self._later(EXCHANGE_SECONDS, self._publish)
        self._unpublished[name] = destination

    def _publish(self) -> None:
        states, self._unpublished = self._unpublished, {}
        self._send({name: self._state(name, destination) for name, destination in states.items()})
        for name in states:
            self._set_share(name)
        self._changed()

    def _send(self, states: Mapping[str, list[Any]]) -> None:
        names = list(states)
        for start in range(0, len(names), MESSAGE_NAMES):
            part = {name: states[name] for name in names[start : start + MESSAGE_NAMES]}
            self._bus.publish(TOPIC, {"worker": self._number, "states": part})

    def _state(self, name: str, destination: Destination) -> list[Any]:
        """Return what is published about a destination.

        Whether this worker has mail for it; the time until which it is down, 0 if it is up again, None if unchanged;
        the failure.
        """
        window = destination.window
        if window.down:
            self._down.add(name)
            return [bool(destination.queues), window.blocked_until, window.failure]
        if name in self._down:
            self._down.remove(name)
            return [bool(destination.queues), 0.0, ""]
        return [bool(destination.queues), None, ""]

    def _receive(self, message: Mapping[str, Any]) -> None:
        worker, now = int(message["worker"]), self._now()
        for name, (has_mail, blocked_until, failure) in message["states"].items():
            holders = self._others.setdefault(name, {})
            if has_mail:
                holders[worker] = now
            else:
                holders.pop(worker, None)
                if not holders:
                    del self._others[name]
            destination = self._mine.get(name)
            if destination is not None and blocked_until:
                self._down.add(name)
                self._scheduler.found_down(destination, blocked_until, failure, now)
            elif destination is not None and blocked_until is not None:
                self._down.discard(name)
                self._scheduler.found_up(destination, now)
            self._set_share(name)
        self._changed()

    def _set_share(self, name: str) -> None:
        """Set this worker's share of a destination."""
        destination = self._mine.get(name)
        others = self._others.get(name)
        if destination is None:
            return
        if others is None:
            if name not in self._unpublished:  # an exchange has passed without a notification from another worker
                self._share(destination, 1, 0)
            return
        holders = sorted((self._number, *others))
        rotation = int(self._now() // ROTATION_SECONDS) + crc32(name.encode())
        place = (holders.index(self._number) + rotation) % len(holders)
        self._share(destination, len(holders), place)

    def _share(self, destination: Destination, holders: int, place: int) -> None:
        """Take the share of one of several holders: of the deliveries, and of the rate."""
        total = 1 if destination.window.down else destination.limits.deliveries
        interval = destination.limits.interval * holders
        self._scheduler.set_share(destination, share(total, holders, place), interval, self._now())

    def _rotate(self) -> None:
        self._later(ROTATION_SECONDS, self._rotate)
        for name in [name for name in self._mine if name in self._others]:
            self._set_share(name)
        self._changed()

    def _repeat(self) -> None:
        self._later(REPEAT_SECONDS, self._repeat)
        oldest = self._now() - 3 * REPEAT_SECONDS
        for name, holders in list(self._others.items()):
            for worker in [worker for worker, said in holders.items() if said < oldest]:
                del holders[worker]
            if not holders:
                del self._others[name]
                self._set_share(name)
        self._send({name: self._state(name, destination) for name, destination in self._mine.items()})
        known = self._scheduler.destinations()
        self._down.intersection_update(destination_name(each) for each in known if each.lane is not Lane.STAYS)


def destination_name(destination: Destination) -> str:
    """Return a name that is the same in all workers."""
    key: Any = destination.key
    return " ".join(str(each) for each in key if each != "")
