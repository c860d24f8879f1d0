"""Which messages may be attempted now: slots for each destination, and for all that leave this system.

Promises: one destination never takes more than its share, so that a host that does not answer holds up its own mail and
no other's; a message that waits for a slot holds none. Mail that stays on this system needs no slot of those that leave
it. Those that wait for the same slot get it in their order.
Refuses nothing: how many may wait is the caller's business.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final, TypeAlias

from ironpost.routing.route import Kind, Route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ironpost.queue.store import QueuedMessage

Key: TypeAlias = tuple[Route | None, str]
"""A destination: the route, and the domain if each has hosts of its own."""

_HERE: Final[Key] = (Route.local(), "")
_ALL: Final[Key] = (None, "")


def destination(route: Route, domain: str) -> Key:
    """Where a recipient's mail goes, as far as slots are concerned."""
    if route.kind is Kind.MX:
        return route, domain
    return (route, "") if route.kind is Kind.SMART_HOST else _HERE


class Slots:
    """Those of one queue runner."""

    def __init__(self, concurrency: int, each: int) -> None:
        """`concurrency`: messages that leave at a time, and as many that stay; `each`: those of one destination."""
        self._concurrency = concurrency
        self._each = min(each, concurrency)
        self._taken: Counter[Key] = Counter()
        self._waiting: dict[Key, deque[tuple[QueuedMessage, frozenset[Key]]]] = {}
        self.waiting = 0
        """Messages that wait for a slot."""
        self.octets = 0
        """Of their bodies."""

    def take(self, keys: frozenset[Key]) -> bool:
        """Takes a slot at each of these destinations; False, and none is taken, if one of them has none."""
        if self._blocker(keys) is not None:
            return False
        for key in (*keys, _ALL) if keys - {_HERE} else keys:
            self._taken[key] += 1
        return True

    def wait(self, message: QueuedMessage, keys: frozenset[Key]) -> None:
        """The message waits for its slots."""
        blocker = self._blocker(keys)
        assert blocker is not None, "it could have begun"
        self._waiting.setdefault(blocker, deque()).append((message, keys))
        self.waiting += 1
        self.octets += message.body.size

    def free(self, keys: frozenset[Key]) -> list[tuple[QueuedMessage, frozenset[Key]]]:
        """Gives slots back; the messages that may begin, which have theirs."""
        freed = (*keys, _ALL) if keys - {_HERE} else tuple(keys)
        for key in freed:
            self._taken[key] -= 1
            if not self._taken[key]:
                del self._taken[key]
        found = [each for key in freed for each in self._ready(key)]
        self.waiting -= len(found)
        self.octets -= sum(message.body.size for message, _ in found)
        return found

    def _ready(self, key: Key) -> Iterable[tuple[QueuedMessage, frozenset[Key]]]:
        """Those who waited for this one and need no other that is taken."""
        queue = self._waiting.get(key)
        while queue:
            message, keys = queue[0]
            blocker = self._blocker(keys)
            if blocker == key:
                return
            queue.popleft()
            if blocker is None:
                self.take(keys)
                yield message, keys
            else:
                self._waiting.setdefault(blocker, deque()).append((message, keys))
        self._waiting.pop(key, None)

    def clear(self) -> list[QueuedMessage]:
        """Nobody waits any more; who did."""
        found = [message for queue in self._waiting.values() for message, _ in queue]
        self._waiting.clear()
        self.waiting = self.octets = 0
        return found

    def _blocker(self, keys: frozenset[Key]) -> Key | None:
        """The first destination that has no slot left, or all together."""
        for key in keys:
            if self._taken[key] >= (self._concurrency if key == _HERE else self._each):
                return key
        return _ALL if keys - {_HERE} and self._taken[_ALL] >= self._concurrency else None
