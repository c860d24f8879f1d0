"""The store in memory: the same port, nothing durable. For tests and for a catch-all development server.

Promises: every word of `queue.store` but durability. `commit` and `record` are done when they return a future.
Refuses: `StoreFull` beyond `capacity` octets of content.
"""

from __future__ import annotations

import asyncio
import errno
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ironpost.queue.store import (
    UNFINISHED,
    Messages,
    NewMessage,
    QueuedMessage,
    QueuedRecipient,
    State,
    StoreFull,
    Update,
)
from ironpost.storage.bodies.reading import MemoryBody

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

CAPACITY = 1 << 30
"""Octets of content unless told otherwise."""


class HeldSpool:
    """Implements `model.body.Spool` in memory."""

    def __init__(self, room: Callable[[], int]) -> None:
        self._room = room
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def size(self) -> int:
        """Octets written so far."""
        return self._size

    def write(self, piece: bytes) -> None:
        """Appends.

        Raises:
            StoreFull: the store has no room for it.
        """
        if self._size + len(piece) > self._room():
            raise StoreFull(errno.ENOSPC, "the memory store is full")
        self._parts.append(piece)
        self._size += len(piece)

    def discard(self) -> None:
        """Forgets everything written."""
        self._parts.clear()
        self._size = 0

    def take(self) -> bytes:
        """What was written; the spool is empty after it."""
        content = b"".join(self._parts)
        self.discard()
        return content


@dataclass(slots=True)
class _Entry:
    message: QueuedMessage
    recipients: list[QueuedRecipient]
    claimed: set[int] = field(default_factory=set)

    def seen(self) -> QueuedMessage:
        return self.message._replace(recipients=tuple(self.recipients))

    def waits(self, now: float) -> bool:
        """It must not be delivered yet. One that was accepted while the clock was ahead may."""
        return self.message.released > max(now, self.message.accepted)

    def due(self, now: float) -> list[QueuedRecipient]:
        return [
            queued
            for queued in self.recipients
            if queued.state is State.QUEUED and queued.due <= now and queued.number not in self.claimed
        ]

    def queued_at(self, domains: Sequence[str]) -> list[QueuedRecipient]:
        return [
            queued
            for queued in self.recipients
            if queued.state is State.QUEUED and queued.recipient.address.key in domains
        ]


class MemoryStore:
    """Implements `queue.store.Store`."""

    def __init__(self, *, now: Callable[[], float] = time.time, capacity: int = CAPACITY) -> None:
        """`capacity` counts octets of content; `now` is seconds since 1970."""
        self._now = now
        self.capacity = capacity
        self._entries: dict[str, _Entry] = {}
        self._closed = False

    def _room(self) -> int:
        return self.capacity - sum(entry.message.body.size for entry in self._entries.values())

    def spool(self, size_hint: int | None = None) -> HeldSpool:
        """As `Store.spool`."""
        if (size_hint or 0) > self._room():
            raise StoreFull(errno.ENOSPC, "the memory store is full")
        return HeldSpool(self._room)

    def commit(self, message: NewMessage) -> Awaitable[QueuedMessage]:
        """As `Store.commit`."""
        future = self._future()
        try:
            self._check([message])
            entry = self._add(message)
        except Exception as error:  # noqa: BLE001 - the caller gets it from the future
            future.set_exception(error)
        else:
            if not message.held and entry.message.released == entry.message.accepted:
                entry.claimed.update(range(len(entry.recipients)))
            future.set_result(entry.seen())
        return future

    def record(self, updates: Sequence[Update], reports: Sequence[NewMessage] = ()) -> Awaitable[None]:
        """As `Store.record`."""
        future = self._future()
        try:
            self._check(reports)
        except Exception as error:  # noqa: BLE001 - the caller gets it from the future
            future.set_exception(error)
            return future
        for report in reports:
            self._add(report)
        for update in updates:
            entry = self._entries.get(update.message)
            if entry is None:
                continue  # dropped by an operator while the attempt ran
            old = entry.recipients[update.number]
            held = old.state is State.HELD and update.state is State.QUEUED
            state = State.HELD if held else update.state
            new = old._replace(state=state, attempts=update.attempts, due=update.due, changed=self._now())
            if update.outcome is not None:
                new = new._replace(last=str(update.outcome.reply), remote=update.outcome.remote)
            entry.recipients[update.number] = new
            entry.claimed.discard(update.number)
            if all(queued.state not in UNFINISHED for queued in entry.recipients):
                del self._entries[update.message]
        future.set_result(None)
        return future

    def steady(self) -> None:
        """As `Store.steady`: always."""

    async def claim(self, now: float, limit: int) -> Messages:
        """As `Store.claim`."""
        ready = [
            (min(queued.due for queued in due), entry, due)
            for entry in self._entries.values()
            if (due := entry.due(now))
        ]
        ready.sort(key=lambda item: item[0])
        for _, entry, due in ready[:limit]:
            entry.claimed.update(queued.number for queued in due)
        return [entry.message._replace(recipients=tuple(due)) for _, entry, due in ready[:limit]]

    async def waiting(self, domains: Sequence[str], now: float, limit: int = 1000) -> Sequence[str]:
        """As `Store.waiting`."""
        found = (entry for entry in self._entries.values() if entry.queued_at(domains))
        return [entry.message.id for entry in found if not entry.waits(now)][:limit]

    async def take(self, message: str, domains: Sequence[str], now: float) -> QueuedMessage | None:
        """As `Store.take`."""
        entry = self._entries.get(message)
        if entry is None or entry.waits(now):
            return None
        chosen = [queued for queued in entry.queued_at(domains) if queued.number not in entry.claimed]
        entry.claimed.update(queued.number for queued in chosen)
        return entry.message._replace(recipients=tuple(chosen)) if chosen else None

    async def release(self, messages: Sequence[str]) -> None:
        """As `Store.release`."""
        for identifier in messages:
            if identifier in self._entries:
                self._entries[identifier].claimed.clear()

    async def next_due(self) -> float | None:
        """As `Store.next_due`."""
        return min((queued.due for entry in self._entries.values() for queued in entry.due(float("inf"))), default=None)

    async def list(self, limit: int = 1000) -> Messages:
        """As `Store.list`."""
        return [entry.seen() for entry in self._entries.values()][:limit]

    async def get(self, message: str) -> QueuedMessage | None:
        """As `Store.get`."""
        entry = self._entries.get(message)
        return entry.seen() if entry is not None else None

    async def retry(self, messages: Sequence[str] | None, now: float) -> int:
        """As `Store.retry`."""
        count = 0
        for identifier in self._entries if messages is None else dict.fromkeys(messages):
            entry = self._entries.get(identifier)
            if entry is None or (messages is None and entry.waits(now)):
                continue
            for queued in entry.recipients:
                if queued.state is State.QUEUED:
                    entry.recipients[queued.number] = queued._replace(due=now, changed=self._now())
                    count += 1
        return count

    async def hold(self, messages: Sequence[str], now: float) -> int:  # noqa: ARG002 - there is no history
        """As `Store.hold`."""
        return sum(self._move(identifier, State.QUEUED, State.HELD) for identifier in dict.fromkeys(messages))

    async def resume(self, messages: Sequence[str], now: float) -> int:
        """As `Store.resume`."""
        count = 0
        for identifier in dict.fromkeys(messages):
            moved = self._move(identifier, State.HELD, State.QUEUED)
            if moved:
                entry = self._entries[identifier]
                entry.message = entry.message._replace(released=max(entry.message.released, now))
            count += moved
        return count

    def _move(self, identifier: str, old: State, new: State) -> int:
        entry = self._entries.get(identifier)
        count = 0
        for queued in entry.recipients if entry is not None else ():
            if entry is not None and queued.state is old:
                entry.recipients[queued.number] = queued._replace(state=new, changed=self._now())
                count += 1
        return count

    async def drop(self, messages: Sequence[str], now: float) -> int:  # noqa: ARG002 - there is no history
        """As `Store.drop`."""
        return sum(self._entries.pop(identifier, None) is not None for identifier in messages)

    async def close(self) -> None:
        """As `Store.close`."""
        self._closed = True

    def _future(self) -> asyncio.Future[Any]:
        if self._closed:
            raise OSError(errno.ESHUTDOWN, "the store is closed")
        return asyncio.get_running_loop().create_future()

    def _check(self, messages: Sequence[NewMessage]) -> None:
        for message in messages:
            if not isinstance(message.content, HeldSpool):
                raise TypeError("the content must come from this store's spool()")
            if message.id in self._entries:
                raise ValueError(f"the message cannot be stored: {message.id} is in the queue already")
        if sum(len(message.prefix) + message.content.size for message in messages) > self._room():
            raise StoreFull(errno.ENOSPC, "the memory store is full")

    def _add(self, message: NewMessage) -> _Entry:
        assert isinstance(message.content, HeldSpool)
        accepted = round(message.accepted * 1e6) / 1e6
        released = accepted if message.due is None else max(accepted, round(message.due * 1e6) / 1e6)
        state = State.HELD if message.held else State.QUEUED
        body = MemoryBody(message.prefix + message.content.take())
        recipients = [
            QueuedRecipient(number, recipient, state, due=released, changed=accepted)
            for number, recipient in enumerate(message.envelope.recipients)
        ]
        entry = _Entry(QueuedMessage(message.id, message.envelope, accepted, body, released=released), recipients)
        self._entries[message.id] = entry
        return entry
