"""What an operator may do to the queue of a running server: the commands behind `ironpost queue`.

Promises: a request that names a message which is not there changes nothing. However many messages it names, the event
loop goes on with its sessions between them: they are changed in parts, each of which is durable by itself.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from ironpost.service.control import ControlError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Mapping, Sequence

    from ironpost.model.ports import Clock
    from ironpost.service.control import Command
    from ironpost.storage.shards import ShardedStore

PART: Final = 200
"""Messages that are changed in one transaction: some milliseconds of the event loop."""


class QueueCommands:
    """Those of one process."""

    def __init__(self, store: ShardedStore, clock: Clock, wake: Callable[[], None]) -> None:
        """`wake` tells the queue runner that something is due."""
        self._store = store
        self._clock = clock
        self._wake = wake

    def offered(self) -> dict[str, Command]:
        """By name."""
        return {"retry": self._retry, "hold": self._hold, "release": self._release, "drop": self._drop}

    async def which(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Which of the messages that a request names are here; for a supervisor of several processes."""
        return {"ids": await self._here(queue_ids(request))}

    async def _retry(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if request.get("ids") is None:
            recipients = await self._store.retry(None, self._clock.now())
        else:
            recipients = await self._change(request, self._store.retry)
        self._wake()
        return {"recipients": recipients}

    async def _hold(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"recipients": await self._change(request, self._store.hold)}

    async def _release(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        recipients = await self._change(request, self._store.resume)
        self._wake()
        return {"recipients": recipients}

    async def _drop(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"messages": await self._change(request, self._store.drop)}

    async def _change(
        self, request: Mapping[str, Any], change: Callable[[Sequence[str], float], Awaitable[int]]
    ) -> int:
        ids = list(dict.fromkeys(queue_ids(request)))
        refuse_unknown(ids, set(await self._here(ids)))
        now = self._clock.now()
        return sum([await change(ids[start : start + PART], now) for start in range(0, len(ids), PART)])

    async def _here(self, ids: Sequence[str]) -> list[str]:
        found: list[str] = []
        for start in range(0, len(ids), PART):
            found += filter(self._store.has, ids[start : start + PART])
            await asyncio.sleep(0)
        return found


def queue_ids(request: Mapping[str, Any]) -> list[str]:
    """The messages that a request names.

    Raises:
        ControlError: it names none.
    """
    ids = request.get("ids")
    if not isinstance(ids, list) or not ids or not all(isinstance(each, str) for each in ids):
        raise ControlError('"ids" must be a list of queue ids')
    return ids


def refuse_unknown(ids: Sequence[str], known: Container[str]) -> None:
    """Raises ControlError if there is one that is not known."""
    unknown = [each for each in ids if each not in known]
    if unknown:
        raise ControlError(f"no message {', '.join(unknown)} in the queue; nothing was changed")
