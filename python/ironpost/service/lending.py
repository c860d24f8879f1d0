"""Mail on demand over several workers: what lies in the shards of one is attempted by another, the one to which the
customer came.

Promises: a message that is lent is claimed by its owner, so that nobody else attempts it; the borrower reads it beside
its owner, and what became of it is recorded by the owner, who says so only when it is durable. A borrower that ends
gives back by that what it had; a result whose owner is being started again, or does not answer, waits for it. What is
lent too late for the borrower to hear of it stays with its owner.
Refuses: to be exact about reports: one is committed by the borrower before the owner records the failure that it tells
of, so that a crash between can send it twice, and never not at all.
"""

from __future__ import annotations

import asyncio
import errno
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ironpost.model import Disposition, Outcome, Reply
from ironpost.queue.store import State, Update
from ironpost.storage.shards import ShardedStore
from ironpost.storage.sqlite_rows import Reader

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ironpost.queue.store import NewMessage, QueuedMessage
    from ironpost.service.control import Command
    from ironpost.service.news import News
    from ironpost.storage.sqlite import SqliteStore

ENDED: Final = "ended"
"""The topic of `news` on which the supervisor says that a worker is gone."""
RETURNED: Final = "returned"
"""The topic on which a borrower says what it gives back. Told, not asked: an owner that is late
ignores a question past its deadline, and the message would stay lent."""


class LendingStore(ShardedStore):
    """The shards of one worker, and by way of the others theirs, for `waiting`, `take` and what follows from them."""

    def __init__(self, main: SqliteStore, others: Sequence[SqliteStore], now: Callable[[], float] = time.time) -> None:
        """As `ShardedStore`; it is one until `join`."""
        super().__init__(main, others, now)
        self._lent: dict[tuple[str, int], int] = {}
        """To whom each recipient (message, number) of ours is lent."""
        self._borrowed: dict[tuple[str, int], bool] = {}
        """Recipients of others that are attempted here, and whether the report about them is committed."""
        self._readers: dict[str, Reader] = {}
        self._news: News
        self._number: int
        self._workers: int
        self._wake: Callable[[], None]

    def join(self, news: News, number: int, workers: int, wake: Callable[[], None]) -> dict[str, Command]:
        """Begins to lend and to borrow.

        Args:
            news: the other workers.
            number: which this one is.
            workers: how many there are.
            wake: tells our queue runner that something may be due.

        Returns:
            What the others ask.
        """
        self._news, self._number, self._workers, self._wake = news, number, workers, wake
        news.on(ENDED, self._ended)
        news.on(RETURNED, self._take_back)
        return {
            "lending-waiting": self._others_wait,
            "lending-retry": self._others_retry,
            "lending-take": self._lend,
            "lending-record": self._record_lent,
        }

    # -- as a borrower

    async def waiting(self, domains: Sequence[str], now: float, limit: int = 1000) -> Sequence[str]:
        """As `Store.waiting`, of all workers."""
        found = list(await super().waiting(domains, now, limit))
        request = {"do": "lending-waiting", "domains": list(domains), "now": now, "limit": limit}
        for answer in await self._news.ask(request):
            found += answer["ids"]
        return found[:limit]

    async def take(self, message: str, domains: Sequence[str], now: float) -> QueuedMessage | None:
        """As `Store.take`, from whoever has it."""
        taken = await super().take(message, domains, now)
        if taken is not None or self.has(message):
            return taken
        request = {
            "do": "lending-take", "id": message, "domains": list(domains), "now": now, "borrower": self._number,
        }  # fmt: skip
        for answer in await self._news.ask(request):
            if answer["numbers"]:
                whole: QueuedMessage | None = None
                try:
                    whole = await self._reader(answer["directory"]).get(message)
                finally:
                    if whole is None or whole.fault:
                        self._return([(message, number) for number in answer["numbers"]])
                if whole is None or whole.fault:
                    return None  # an operator dropped it just now, or it cannot be read
                self._borrowed.update(((message, number), False) for number in answer["numbers"])
                chosen = tuple(each for each in whole.recipients if each.number in answer["numbers"])
                return whole._replace(recipients=chosen)
        return None

    def _return(self, recipients: Sequence[tuple[str, int]]) -> None:
        self._news.tell(RETURNED, [self._number, recipients])

    def _reader(self, directory: str) -> Reader:
        reader = self._readers.get(directory)
        if reader is None:
            reader = self._readers[directory] = Reader.open_readonly(Path(directory))
        return reader

    async def retry(self, messages: Sequence[str] | None, now: float) -> int:
        """As `Store.retry`; messages that are named, wherever they are."""
        count = await super().retry(messages, now)
        elsewhere = [each for each in messages or () if not self.has(each)]
        if elsewhere:
            for answer in await self._news.ask({"do": "lending-retry", "ids": elsewhere, "now": now}):
                count += answer["recipients"]
        return count

    def record(self, updates: Sequence[Update], reports: Sequence[NewMessage] = ()) -> Awaitable[None]:
        """As `Store.record`; for a borrowed message its owner does it."""
        if self._borrowed and updates and (updates[0].message, updates[0].number) in self._borrowed:
            return asyncio.get_running_loop().create_task(self._give_back(updates, reports))
        return super().record(updates, reports)

    async def _give_back(self, updates: Sequence[Update], reports: Sequence[NewMessage]) -> None:
        message, first = updates[0].message, (updates[0].message, updates[0].number)
        if not self._borrowed[first]:
            for report in reports:
                await self.release([(await self.commit(report)).id])
            self._borrowed[first] = True
        answers = await self._news.ask(
            {"do": "lending-record", "id": message, "updates": [packed(update) for update in updates]}
        )
        if not any(answer["known"] for answer in answers) and len(answers) < self._workers - 1:
            raise OSError(
                errno.EAGAIN, f"the worker that has message {message} is being started again or does not answer"
            )
        for update in updates:
            self._borrowed.pop((message, update.number), None)

    async def release(self, messages: Sequence[str]) -> None:
        """As `Store.release`."""
        borrowed = [each for each in self._borrowed if each[0] in messages]
        for each in borrowed:
            del self._borrowed[each]
        if borrowed:
            self._return(borrowed)
        await super().release(messages)

    async def close(self) -> None:
        """As `Store.close`."""
        for reader in self._readers.values():
            reader.close()
        await super().close()

    # -- as an owner

    async def _others_wait(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"ids": list(await super().waiting(request["domains"], request["now"], request["limit"]))}

    async def _others_retry(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        count = await super().retry([each for each in request["ids"] if self.has(each)], request["now"])
        self._wake()
        return {"recipients": count}

    async def _lend(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        message = request["id"]
        taken = await super().take(message, request["domains"], request["now"])
        if taken is None:
            return {"numbers": []}
        if time.monotonic() > request.get("until", math.inf):  # the borrower has given up by now
            for each in taken.recipients:
                self._owner(message).unclaim(message, each.number)
            self._wake()
            return {"numbers": []}
        self._lent.update(((message, each.number), request["borrower"]) for each in taken.recipients)
        directory = str(self._owner(message).directory)
        return {"numbers": [each.number for each in taken.recipients], "directory": directory}

    async def _record_lent(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        updates = [unpacked(update) for update in request["updates"]]
        recipients = [(update.message, update.number) for update in updates]
        if self._lent.keys().isdisjoint(recipients) and not self.has(request["id"]):
            return {"known": False}
        await super().record(updates)
        for each in recipients:
            self._lent.pop(each, None)
        self._wake()
        return {"known": True}

    def _take_back(self, told: tuple[int, Sequence[tuple[str, int]]]) -> None:
        borrower, recipients = told
        self._back(
            [(message, number) for message, number in recipients if self._lent.get((message, number)) == borrower]
        )

    def _back(self, recipients: Sequence[tuple[str, int]]) -> None:
        for message, number in recipients:
            del self._lent[message, number]
            self._owner(message).unclaim(message, number)
        self._wake()

    def _ended(self, number: int) -> None:
        lost = [each for each, borrower in self._lent.items() if borrower == number]
        if lost:
            self._back(lost)


def packed(update: Update) -> list[Any]:
    """An update as JSON can hold it."""
    found = update.outcome
    outcome: list[Any] | None = None
    if found is not None:
        reply = found.reply
        said = [reply.code, reply.enhanced, list(reply.text), reply.detail]
        outcome = [found.disposition.value, said, found.remote, found.asked, found.ours]
    return [*update._replace(state=update.state.value, outcome=outcome)]  # type: ignore[arg-type]


def unpacked(values: Sequence[Any]) -> Update:
    """The update again."""
    update = Update(*values)
    outcome: Any = update.outcome
    if outcome is not None:
        disposition, (code, enhanced, text, detail), remote, asked, ours = outcome
        outcome = Outcome(Disposition(disposition), Reply(code, enhanced, tuple(text), detail), remote, asked, ours)
    return update._replace(state=State(update.state), outcome=outcome)
