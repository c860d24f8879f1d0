"""Mail on demand with several workers: one worker attempts messages in another worker's shard.

The worker to which the customer connected is the peer: it asks the owner of the shard for a claim, reads the
message beside the owner, and has the owner record the result.

Promises: a forwarded message is claimed by its owner, so no other worker attempts it. Its result is recorded by the
owner, and acknowledged when it is durable. When the peer ends, its claims are ended; a result whose owner is being
restarted, or does not answer, is kept until the owner answers. A claim granted after the peer's timeout is ended.
Limitations: a bounce is committed by the peer before the owner records the failure. A crash in between can send it
twice; it is never lost.
"""

from __future__ import annotations

import asyncio
import errno
import math
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ironpost.queue.codec import decode_update, encode_update
from ironpost.queue.selection import Selection
from ironpost.queue.store import Lease, Update
from ironpost.storage.backend import WORKER_ENDED
from ironpost.storage.sqlite.rows import Reader
from ironpost.storage.sqlite.shards import ShardedStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ironpost.queue.store import NewMessage, QueuedMessage
    from ironpost.storage.backend import Peers, RequestHandler
    from ironpost.storage.sqlite.store import SqliteStore
    from ironpost.storage.sqlite.submissions import SharedSubmissions

RETURNED: Final = "returned"
"""The topic on which a peer ends claims. A notification, not a request: an owner ignores a request that is past its
deadline, and the claim would never end."""


class ForwardingStore(ShardedStore):
    """The shards of one worker; `waiting`, `take` and their follow-ups include the shards of the other workers."""

    def __init__(
        self,
        data: Path,
        main: SqliteStore,
        others: Sequence[SqliteStore],
        now: Callable[[], float],
        submissions: SharedSubmissions,
    ) -> None:
        """Create the store; before `join` it behaves as a `ShardedStore`."""
        super().__init__(data, main, others, now, submissions)
        self._forwarded: dict[tuple[str, int], int] = {}
        """Recipients (message, number) in shards of this worker that a peer has claimed, with the number of the
        peer."""
        self._foreign: dict[tuple[str, int], bool] = {}
        """Recipients in other workers' shards that are attempted here, and whether their bounce is committed."""
        self._readers: dict[str, Reader] = {}
        self._peers: Peers
        self._number: int
        self._workers: int
        self._wake: Callable[[], None]

    def join(self, peers: Peers, number: int, workers: int, wake: Callable[[], None]) -> dict[str, RequestHandler]:
        """As `WorkerStore.join`.

        Args:
            peers: the other workers.
            number: the number of this worker, from 0.
            workers: the number of workers.
            wake: notifies this worker's queue runner that something may be due.

        Returns:
            Handlers of the other workers' requests, by name.
        """
        self._peers, self._number, self._workers, self._wake = peers, number, workers, wake
        peers.subscribe(WORKER_ENDED, self._ended)
        peers.subscribe(RETURNED, self._returned)
        return {
            "forward-waiting": self._waiting_for_peer,
            "forward-retry": self._retry_for_peer,
            "forward-take": self._take_for_peer,
            "forward-record": self._record_for_peer,
        }

    # -- as a peer of the owner

    async def waiting(self, domains: Sequence[str], limit: int = 1000) -> Sequence[str]:
        """As `Store.waiting`, of all workers."""
        found = list(await super().waiting(domains, limit))
        request = {"do": "forward-waiting", "domains": list(domains), "limit": limit}
        for answer in await self._peers.request(request):
            found += answer["ids"]
        return found[:limit]

    async def take(self, message: str, domains: Sequence[str]) -> QueuedMessage | None:
        """As `Store.take`, in the shards of all workers."""
        taken = await super().take(message, domains)
        if taken is not None or self._has(message):
            return taken
        request = {"do": "forward-take", "id": message, "domains": list(domains), "peer": self._number}
        for answer in await self._peers.request(request):
            if answer["numbers"]:
                whole: QueuedMessage | None = None
                try:
                    whole = await self._reader(answer["directory"]).get(message)
                finally:
                    if whole is None or whole.fault:
                        self._return([(message, number) for number in answer["numbers"]])
                if whole is None or whole.fault:
                    return None  # an operator dropped it just now, or it cannot be read
                self._foreign.update(((message, number), False) for number in answer["numbers"])
                chosen = tuple(each for each in whole.recipients if each.number in answer["numbers"])
                return whole._replace(recipients=chosen, lease=Lease(*answer["lease"]))
        return None

    def _return(self, recipients: Sequence[tuple[str, int]]) -> None:
        self._peers.publish(RETURNED, [self._number, recipients])

    def _reader(self, directory: str) -> Reader:
        reader = self._readers.get(directory)
        if reader is None:
            reader = self._readers[directory] = Reader.open_readonly(Path(directory))
        return reader

    async def retry(self, selection: Selection) -> int:
        """As `Store.retry`; messages selected by their ids alone in the shards of all workers."""
        count = await super().retry(selection)
        elsewhere = [each for each in selection.ids or () if not self._has(each)]
        if elsewhere and selection == Selection(selection.ids):
            for answer in await self._peers.request({"do": "forward-retry", "ids": elsewhere}):
                count += answer["recipients"]
        return count

    def record(self, lease: Lease, updates: Sequence[Update], reports: Sequence[NewMessage] = ()) -> Awaitable[None]:
        """As `Store.record`; messages of other shards are recorded by their owners."""
        if self._foreign and updates and (updates[0].message, updates[0].number) in self._foreign:
            return asyncio.get_running_loop().create_task(self._record_at_owner(updates, reports))
        return super().record(lease, updates, reports)

    async def _record_at_owner(self, updates: Sequence[Update], reports: Sequence[NewMessage]) -> None:
        message, first = updates[0].message, (updates[0].message, updates[0].number)
        if not self._foreign[first]:
            for report in reports:
                await self.unclaim([await self.commit(report)])
            self._foreign[first] = True
        answers = await self._peers.request(
            {"do": "forward-record", "id": message, "updates": [encode_update(update) for update in updates]}
        )
        if not any(answer["known"] for answer in answers) and len(answers) < self._workers - 1:
            raise OSError(errno.EAGAIN, f"the worker that has message {message} is restarting or does not answer")
        for update in updates:
            self._foreign.pop((message, update.number), None)

    async def unclaim(self, messages: Sequence[QueuedMessage]) -> None:
        """As `Store.unclaim`."""
        claims = ((message.id, queued.number) for message in messages for queued in message.recipients)
        foreign = [claim for claim in claims if claim in self._foreign]
        for each in foreign:
            del self._foreign[each]
        if foreign:
            self._return(foreign)
        await super().unclaim(messages)

    async def close(self) -> None:
        """As `Store.close`."""
        for reader in self._readers.values():
            reader.close()
        await super().close()

    # -- as an owner

    async def _waiting_for_peer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"ids": list(await super().waiting(request["domains"], request["limit"]))}

    async def _retry_for_peer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        count = await super().retry(Selection.of(*filter(self._has, request["ids"])))
        self._wake()
        return {"recipients": count}

    async def _take_for_peer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        message = request["id"]
        taken = await super().take(message, request["domains"])
        if taken is None:
            return {"numbers": []}
        if time.monotonic() > request.get("until", math.inf):  # the peer has given up by now
            await super().unclaim([taken])
            self._wake()
            return {"numbers": []}
        self._forwarded.update(((message, each.number), request["peer"]) for each in taken.recipients)
        numbers, directory = [each.number for each in taken.recipients], str(self._owner(message).directory)
        return {"numbers": numbers, "directory": directory, "lease": taken.lease}

    async def _record_for_peer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        updates = [decode_update(update) for update in request["updates"]]
        recipients = [(update.message, update.number) for update in updates]
        if self._forwarded.keys().isdisjoint(recipients) and not self._has(request["id"]):
            return {"known": False}
        # Under the current lease: the owner may have been restarted since it granted the claim.
        await super().record(self._owner(request["id"]).lease, updates)
        for each in recipients:
            self._forwarded.pop(each, None)
        self._wake()
        return {"known": True}

    def _has(self, message: str) -> bool:
        return any(shard.has(message) for shard in (self._main, *self._others))

    def _owner(self, message: str) -> SqliteStore:
        """Return the shard that claimed the message, or else the one that has it, because a restart ends claims."""
        claiming = (shard for shard in (self._main, *self._others) if shard.claims(message))
        having = (shard for shard in self._others if shard.has(message))
        return next(chain(claiming, having), self._main)

    def _returned(self, told: tuple[int, Sequence[tuple[str, int]]]) -> None:
        peer, recipients = told
        self._end_claims(
            [(message, number) for message, number in recipients if self._forwarded.get((message, number)) == peer]
        )

    def _end_claims(self, recipients: Sequence[tuple[str, int]]) -> None:
        for message, number in recipients:
            del self._forwarded[message, number]
            self._owner(message).end_claims(message, (number,))
        self._wake()

    def _ended(self, number: int) -> None:
        lost = [each for each, peer in self._forwarded.items() if peer == number]
        if lost:
            self._end_claims(lost)
