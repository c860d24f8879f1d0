"""Limits that all workers enforce together: connections and their rate, per network and in total, and quotas.

Promises: no connection waits for another process. Workers exchange changes at most every `EXCHANGE_SECONDS`. Between
exchanges each admits its share of the connections that remain, rounded up, so together they may exceed the limit by one
or two connections for each other worker, and only within one exchange. The connections of a worker that ends are
subtracted; a worker that starts receives the counts of all others.
Limitations: a worker that gets far more than its share within one exchange refuses some connections although the limit
is not reached.

Each worker has a `SharedLimiters` and a `SharedQuotas`, which publish changes on the bus; the supervisor keeps a
`ConnectionLedger`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ironpost.server.limits import RATE_WINDOW, REMEMBERED, Excess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ironpost.policy.buckets import Buckets
    from ironpost.processes.bus import WorkerBus
    from ironpost.server.limits import ConnectionLimits

EXCHANGE_SECONDS: Final = 0.05
"""Seconds for which a worker collects changes before it publishes them."""

CONNECTIONS: Final = "connections"
QUOTAS: Final = "quotas"
"""Topic of quotas on the bus."""

Later: TypeAlias = "Callable[[float, Callable[[], None]], object]"
"""Calls a function after a number of seconds."""
Changes: TypeAlias = "dict[str, tuple[int, dict[str, tuple[int, int]]]]"
"""By listener: the change in the number of connections; and by network, that change and the number of new
connections."""


@dataclass(slots=True)
class _Account:
    """The connections of one network to one listener."""

    stamp: float
    """Time of the last update of `spent`."""
    rate: float = 0.0
    """Amount by which `spent` decreases each second; 0 until the first connection to this worker sets it."""
    spent: float = 0.0
    """New connections in all workers, reduced by `rate` as time passes."""
    active: int = 0
    others: int = 0
    """Open connections of the other workers."""
    fresh: int = 0
    """New connections in this worker since the last exchange."""

    def settle(self, now: float) -> None:
        """Reduce `spent` by the time since `stamp`, if the rate is known."""
        if self.rate:
            self.spent = max(0.0, self.spent - (now - self.stamp) * self.rate)
            self.stamp = now


@dataclass(slots=True)
class SharedLimiter:
    """Implements `server.limits.ConnectionLimiter` for one listener in one of several workers."""

    workers: int
    changed: Callable[[], None]
    """Called, often, when there are changes to publish."""
    connections: int = 0
    others: int = 0
    _fresh: int = 0
    _published: int = 0
    """`connections` at the last exchange."""
    _accounts: dict[str, _Account] = field(default_factory=dict)
    _unpublished: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By network: change in the number of connections, and number of new ones, since the last exchange."""

    def enter(self, limits: ConnectionLimits) -> Excess | None:
        """See `ConnectionLimiter`."""
        room = limits.connections - self.connections - self.others
        if room <= 0 or self._fresh >= self._share(room + self._fresh):
            return Excess.TOTAL
        self.connections += 1
        self._fresh += 1
        self.changed()
        return None

    def leave(self) -> None:
        """See `ConnectionLimiter`."""
        self.connections -= 1
        self.changed()

    def enter_prefix(self, prefix: str, limits: ConnectionLimits, now: float) -> Excess | None:
        """See `ConnectionLimiter`."""
        account = self._accounts.get(prefix) or self._account(prefix, now)
        room = limits.connections_per_prefix - account.active - account.others
        if room <= 0 or account.fresh >= self._share(room + account.fresh):
            return Excess.PREFIX
        account.rate = limits.connection_rate
        account.settle(now)
        left = max(1.0, limits.connection_rate * RATE_WINDOW) - account.spent
        if left < 1 or account.fresh >= self._share(left + account.fresh):
            return Excess.RATE
        account.spent += 1
        account.active += 1
        account.fresh += 1
        self._note(prefix, 1, 1)
        return None

    def leave_prefix(self, prefix: str) -> None:
        """See `ConnectionLimiter`."""
        account = self._accounts.get(prefix)
        if account is not None:
            account.active -= 1
            self._note(prefix, -1, 0)

    def sweep(self, now: float) -> None:
        """See `ConnectionLimiter`."""
        idle = [
            name
            for name, each in self._accounts.items()
            if not each.active and not each.others and now - each.stamp > RATE_WINDOW
        ]
        for name in idle:
            del self._accounts[name]

    def _share(self, left: float) -> int:
        """Return the share of one worker, rounded up.

        If the limit is lower than the number of workers, each may admit one.
        """
        return int(-(-left // self.workers))

    def _account(self, prefix: str, now: float) -> _Account:
        if len(self._accounts) >= REMEMBERED:
            self._accounts = {name: each for name, each in self._accounts.items() if each.active or each.others}
        account = self._accounts[prefix] = _Account(now)
        return account

    def _note(self, prefix: str, more: int, began: int) -> None:
        active, begun = self._unpublished.get(prefix, (0, 0))
        self._unpublished[prefix] = active + more, begun + began
        self.changed()

    # -- the exchange

    def changes_to_publish(self) -> tuple[int, dict[str, tuple[int, int]]]:
        """Return the changes since the last call, for publication."""
        more, self._published, self._fresh = self.connections - self._published, self.connections, 0
        changes, self._unpublished = self._unpublished, {}
        for prefix in changes:
            account = self._accounts.get(prefix)
            if account is not None:
                account.fresh = 0
        return more, changes

    def apply(self, more: int, changes: Mapping[str, tuple[int, int]], now: float) -> None:
        """Apply changes that other workers published."""
        self.others += more
        for prefix, (active, began) in changes.items():
            account = self._accounts.get(prefix)
            if account is None:
                account = self._account(prefix, now)
            account.settle(now)
            account.others += active
            account.spent += began


class SharedLimiters:
    """The connection limiters of one worker, and their exchange with the other workers."""

    def __init__(
        self,
        workers: int,
        bus: WorkerBus,
        later: Later,
        monotonic: Callable[[], float],
    ) -> None:
        """
        Args:
            workers: the number of workers.
            bus: the other workers.
            later: the event loop's `call_later`.
            monotonic: the time in seconds, for rates (`model.ports.Clock.monotonic`).
        """
        self._workers = workers
        self._bus = bus
        self._later = later
        self._monotonic = monotonic
        self._books: dict[str, SharedLimiter] = {}
        bus.subscribe(CONNECTIONS, self._receive)
        self._pending = False

    def book(self, listener: int) -> SharedLimiter:
        """Return the limiter of a listener."""
        return self._book(str(listener))

    def _book(self, listener: str) -> SharedLimiter:
        found = self._books.get(listener)
        if found is None:
            found = self._books[listener] = SharedLimiter(self._workers, self._changed)
        return found

    def _changed(self) -> None:
        if not self._pending:
            self._pending = True
            self._later(EXCHANGE_SECONDS, self._publish)

    def _publish(self) -> None:
        self._pending = False
        changes = {listener: book.changes_to_publish() for listener, book in self._books.items()}
        self._bus.publish(CONNECTIONS, {listener: each for listener, each in changes.items() if each[0] or each[1]})

    def _receive(self, changes: Mapping[str, Any]) -> None:
        now = self._monotonic()
        for listener, (more, networks) in changes.items():
            self._book(listener).apply(more, networks, now)


class SharedQuotas:
    """Quotas of policy that all workers count together: what a client sends to one worker counts in all."""

    def __init__(self, bus: WorkerBus, later: Later) -> None:
        """The arguments are those of `SharedLimiters`."""
        self._bus = bus
        self._later = later
        self._buckets: dict[str, Buckets] = {}
        self._spent: dict[str, dict[str, int]] = {}
        bus.subscribe(QUOTAS, self._receive)

    def share(self, name: str, buckets: Buckets) -> None:
        """Share buckets with those of the same name in the other workers."""
        self._buckets[name] = buckets
        buckets.on_take = partial(self._count, name)

    def _count(self, name: str, key: str) -> None:
        if not self._spent:
            self._later(EXCHANGE_SECONDS, self._publish)
        keys = self._spent.setdefault(name, {})
        keys[key] = keys.get(key, 0) + 1

    def _publish(self) -> None:
        spent, self._spent = self._spent, {}
        self._bus.publish(QUOTAS, spent)

    def _receive(self, spent: Mapping[str, Mapping[str, int]]) -> None:
        for name, keys in spent.items():
            if (buckets := self._buckets.get(name)) is not None:
                for key, count in keys.items():
                    buckets.spent(key, count)


class ConnectionLedger:
    """The connections of each worker, kept by the supervisor for workers that end or start."""

    def __init__(self) -> None:
        self._held: dict[int, dict[str, tuple[int, dict[str, int]]]] = {}

    def apply(self, worker: int, changes: Mapping[str, Any]) -> None:
        """Record changes that a worker published."""
        mine = self._held.setdefault(worker, {})
        for listener, (more, by_network) in changes.items():
            total, networks = mine.get(listener, (0, {}))
            for prefix, (active, _) in by_network.items():
                networks[prefix] = networks.get(prefix, 0) + active
                if not networks[prefix]:
                    del networks[prefix]
            mine[listener] = total + more, networks

    def ended(self, worker: int) -> Changes:
        """Remove a worker that ended; return the changes that subtract its connections."""
        return {
            listener: (-total, {prefix: (-active, 0) for prefix, active in networks.items()})
            for listener, (total, networks) in self._held.pop(worker, {}).items()
            if total or networks
        }

    def others(self, worker: int) -> list[Changes]:
        """Return the connections of all other workers, as changes for a worker that starts."""
        return [
            {
                listener: (total, {prefix: (active, 0) for prefix, active in networks.items()})
                for listener, (total, networks) in held.items()
            }
            for number, held in self._held.items()
            if number != worker
        ]
