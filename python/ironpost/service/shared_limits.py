"""Limits that several processes keep together: connections of a listener, in total and by network, their rate, and how
much a client may send.

Promises: no connection waits for another process. Between two exchanges, `EXCHANGE_SECONDS` apart while anything
changes, a worker lets in its share of what is left, rounded up; so all together let in a connection or two for each
other worker more than the limit, and that only when they come within one exchange. A worker that ends takes its
connections out of the count; one that begins is told of all the others'.
Refuses: to be exact to the connection; a worker that gets far more than its share within one exchange refuses some
although others have room.

Each worker has a `SharedBooks` and a `SharedQuotas`, and tells the others over `news`; the supervisor keeps a `Ledger`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ironpost.server.limits import RATE_WINDOW, REMEMBERED, Excess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ironpost.policy.buckets import Buckets
    from ironpost.server.limits import Limits
    from ironpost.service.news import News

EXCHANGE_SECONDS: Final = 0.05
"""How long a worker gathers changes before it tells the others."""

CONNECTIONS: Final = "connections"
QUOTAS: Final = "quotas"
"""Topics of `news`."""

Later: TypeAlias = "Callable[[float, Callable[[], None]], object]"
"""Calls a function after so many seconds."""
Changes: TypeAlias = "dict[str, tuple[int, dict[str, tuple[int, int]]]]"
"""By listener: more connections; and by network more connections, and how many began."""


@dataclass(slots=True)
class _Account:
    """One network on one listener."""

    stamp: float
    """When `spent` was so."""
    rate: float = 0.0
    """What time gives back, a second; 0 until the first connection here says it."""
    spent: float = 0.0
    """Connections that came, to all workers together, less those that time has given back."""
    active: int = 0
    others: int = 0
    """Connections that the other workers have."""
    fresh: int = 0
    """Connections that began here since the last exchange."""

    def settle(self, now: float) -> None:
        """Counts what time has given back, if it is known how much that is."""
        if self.rate:
            self.spent = max(0.0, self.spent - (now - self.stamp) * self.rate)
            self.stamp = now


@dataclass(slots=True)
class SharedBook:
    """A `server.limits.LimitBook` of one listener in one of several workers."""

    workers: int
    changed: Callable[[], None]
    """Called when there is something to tell; often."""
    connections: int = 0
    others: int = 0
    _fresh: int = 0
    _told: int = 0
    """Our connections, as the others know them."""
    _accounts: dict[str, _Account] = field(default_factory=dict)
    _news: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By network: more connections, and how many began, that nobody was told of."""

    def enter(self, limits: Limits) -> Excess | None:
        """See `LimitBook`."""
        room = limits.connections - self.connections - self.others
        if room <= 0 or self._fresh >= self._share(room + self._fresh):
            return Excess.TOTAL
        self.connections += 1
        self._fresh += 1
        self.changed()
        return None

    def leave(self) -> None:
        """See `LimitBook`."""
        self.connections -= 1
        self.changed()

    def enter_prefix(self, prefix: str, limits: Limits, now: float) -> Excess | None:
        """See `LimitBook`."""
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
        """See `LimitBook`."""
        account = self._accounts.get(prefix)
        if account is not None:
            account.active -= 1
            self._note(prefix, -1, 0)

    def sweep(self, now: float) -> None:
        """See `LimitBook`."""
        idle = [
            name
            for name, each in self._accounts.items()
            if not each.active and not each.others and now - each.stamp > RATE_WINDOW
        ]
        for name in idle:
            del self._accounts[name]

    def _share(self, left: float) -> int:
        """What one worker may take of it, rounded up: a limit lower than the number of workers shuts nobody out."""
        return int(-(-left // self.workers))

    def _account(self, prefix: str, now: float) -> _Account:
        if len(self._accounts) >= REMEMBERED:
            self._accounts = {name: each for name, each in self._accounts.items() if each.active or each.others}
        account = self._accounts[prefix] = _Account(now)
        return account

    def _note(self, prefix: str, more: int, began: int) -> None:
        active, begun = self._news.get(prefix, (0, 0))
        self._news[prefix] = active + more, begun + began
        self.changed()

    # -- the exchange

    def tell(self) -> tuple[int, dict[str, tuple[int, int]]]:
        """What the others do not know yet; from here on they do."""
        more, self._told, self._fresh = self.connections - self._told, self.connections, 0
        news, self._news = self._news, {}
        for prefix in news:
            account = self._accounts.get(prefix)
            if account is not None:
                account.fresh = 0
        return more, news

    def hear(self, more: int, news: Mapping[str, tuple[int, int]], now: float) -> None:
        """What another worker, or several, told."""
        self.others += more
        for prefix, (active, began) in news.items():
            account = self._accounts.get(prefix)
            if account is None:
                account = self._account(prefix, now)
            account.settle(now)
            account.others += active
            account.spent += began


class SharedBooks:
    """The books of one worker, and their exchange with those of the others."""

    def __init__(
        self,
        workers: int,
        news: News,
        later: Later,
        monotonic: Callable[[], float],
    ) -> None:
        """
        Args:
            workers: how many there are.
            news: the other workers.
            later: the event loop's `call_later`.
            monotonic: the time, in seconds, that connections are counted by.
        """
        self._workers = workers
        self._news = news
        self._later = later
        self._monotonic = monotonic
        self._books: dict[str, SharedBook] = {}
        news.on(CONNECTIONS, self._hear)
        self._pending = False

    def book(self, listener: int) -> SharedBook:
        """That of a listener."""
        return self._book(str(listener))

    def _book(self, listener: str) -> SharedBook:
        found = self._books.get(listener)
        if found is None:
            found = self._books[listener] = SharedBook(self._workers, self._changed)
        return found

    def _changed(self) -> None:
        if not self._pending:
            self._pending = True
            self._later(EXCHANGE_SECONDS, self._tell)

    def _tell(self) -> None:
        self._pending = False
        changes = {listener: book.tell() for listener, book in self._books.items()}
        self._news.tell(CONNECTIONS, {listener: each for listener, each in changes.items() if each[0] or each[1]})

    def _hear(self, changes: Mapping[str, Any]) -> None:
        now = self._monotonic()
        for listener, (more, news) in changes.items():
            self._book(listener).hear(more, news, now)


class SharedQuotas:
    """What policy's buckets gave, told to the other workers: what a client has sent to one, it has sent to all."""

    def __init__(self, news: News, later: Later) -> None:
        """The arguments are those of `SharedBooks`."""
        self._news = news
        self._later = later
        self._buckets: dict[str, Buckets] = {}
        self._spent: dict[str, dict[str, int]] = {}
        news.on(QUOTAS, self._hear)

    def share(self, name: str, buckets: Buckets) -> None:
        """From now on these are the buckets of that name, here and elsewhere."""
        self._buckets[name] = buckets
        buckets.tell = partial(self._took, name)

    def _took(self, name: str, key: str) -> None:
        if not self._spent:
            self._later(EXCHANGE_SECONDS, self._tell)
        keys = self._spent.setdefault(name, {})
        keys[key] = keys.get(key, 0) + 1

    def _tell(self) -> None:
        spent, self._spent = self._spent, {}
        self._news.tell(QUOTAS, spent)

    def _hear(self, spent: Mapping[str, Mapping[str, int]]) -> None:
        for name, keys in spent.items():
            if (buckets := self._buckets.get(name)) is not None:
                for key, count in keys.items():
                    buckets.spent(key, count)


class Ledger:
    """The supervisor's knowledge of who has what: for workers that end, and for those that begin."""

    def __init__(self) -> None:
        self._held: dict[int, dict[str, tuple[int, dict[str, int]]]] = {}

    def told(self, worker: int, changes: Mapping[str, Any]) -> None:
        """A worker's changes."""
        mine = self._held.setdefault(worker, {})
        for listener, (more, news) in changes.items():
            total, networks = mine.get(listener, (0, {}))
            for prefix, (active, _) in news.items():
                networks[prefix] = networks.get(prefix, 0) + active
                if not networks[prefix]:
                    del networks[prefix]
            mine[listener] = total + more, networks

    def ended(self, worker: int) -> Changes:
        """A worker is gone: the changes that take out what it held."""
        return {
            listener: (-total, {prefix: (-active, 0) for prefix, active in networks.items()})
            for listener, (total, networks) in self._held.pop(worker, {}).items()
            if total or networks
        }

    def others(self, worker: int) -> list[Changes]:
        """What all but one hold, for that one, which begins."""
        return [
            {
                listener: (total, {prefix: (active, 0) for prefix, active in networks.items()})
                for listener, (total, networks) in held.items()
            }
            for number, held in self._held.items()
            if number != worker
        ]
