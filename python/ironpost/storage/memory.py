"""The store in memory: implements `queue.store.Store` without durability. For tests and development.

Promises: `queue.store`, except that nothing survives the process. `commit` and `record` are done when they return.
Refuses: `StoreFull` beyond `capacity` octets of content.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ironpost.model.memory import MemoryBody, MemorySpool
from ironpost.queue.selection import EVERYTHING
from ironpost.queue.store import (
    AGES,
    SUBMISSION_SECONDS,
    UNFINISHED,
    Claimed,
    Lease,
    LeaseLost,
    Messages,
    NewMessage,
    QueuedMessage,
    QueuedRecipient,
    RecipientState,
    StoredQueue,
    StoreFull,
    StoreUnusable,
    SubmittedBefore,
    Tally,
    Update,
    deadline_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path
    from typing import NoReturn

    from ironpost.model import Address
    from ironpost.queue.selection import Selection
    from ironpost.queue.store import Submission
    from ironpost.storage.backend import CheckedAmount, Damage, StoreOptions

CAPACITY = 1 << 30
"""Default limit of content, in octets."""


@dataclass(slots=True)
class _Entry:
    """A message with the current state of its recipients, and the numbers of those that are claimed."""

    message: QueuedMessage
    recipients: list[QueuedRecipient]
    claimed: set[int] = field(default_factory=set)
    domains: frozenset[str] = frozenset()
    """The domains of the recipients."""

    def __post_init__(self) -> None:
        self.domains = frozenset(queued.recipient.address.key for queued in self.recipients)

    def snapshot(self) -> QueuedMessage:
        return self.message._replace(recipients=tuple(self.recipients))

    def is_early(self, now: float) -> bool:
        """Whether it must not be delivered yet; False for a message accepted while the clock was ahead."""
        return self.message.not_before > max(now, self.message.accepted)

    @property
    def queue(self) -> tuple[str, int]:
        """Tenant and priority: with a domain, the key of a queue."""
        return self.message.envelope.origin.tenant, self.message.envelope.priority

    def first_due(self, domain: str) -> float | None:
        """Return the due time of the first unclaimed recipient at this domain; None if there is none."""
        if domain not in self.domains:
            return None
        queued = (queued for queued in self.due(float("inf")) if queued.recipient.address.key == domain)
        return min((each.due for each in queued), default=None)

    def due(self, now: float) -> list[QueuedRecipient]:
        return [
            queued
            for queued in self.recipients
            if queued.state is RecipientState.QUEUED and queued.due <= now and queued.number not in self.claimed
        ]

    def queued_at(self, domains: Sequence[str]) -> list[QueuedRecipient]:
        return [
            queued
            for queued in self.recipients
            if queued.state is RecipientState.QUEUED and queued.recipient.address.key in domains
        ]


class Entries(dict[str, _Entry]):
    """The messages of a shard by id, with the octets of their bodies."""

    def __init__(self) -> None:
        super().__init__()
        self.octets = 0
        self.submissions: dict[tuple[str, str], tuple[float, str, bytes]] = {}
        """Time, message id and digest of each submission, by tenant and key, the oldest first."""

    def __setitem__(self, identifier: str, entry: _Entry) -> None:
        super().__setitem__(identifier, entry)
        self.octets += entry.message.body.size

    def __delitem__(self, identifier: str) -> None:
        self.octets -= self[identifier].message.body.size
        super().__delitem__(identifier)


class MemoryStore:
    """Implements `queue.store.Store`."""

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.time,
        capacity: int = CAPACITY,
        submissions: float = SUBMISSION_SECONDS,
    ) -> None:
        """Create an empty store.

        Args:
            now: returns seconds since 1970.
            capacity: octets of content.
            submissions: seconds for which keys of submissions are kept.
        """
        self._submission_seconds = submissions
        self.lease = Lease("memory", secrets.randbits(62))
        """Ownership of the one shard."""
        self.capacity = capacity
        self._now = now
        self._shard = Entries()
        self._closed = False

    @property
    def _entries(self) -> Entries:
        return self._shard

    def _room(self) -> int:
        return self.capacity - self._entries.octets

    def spool(self, size_hint: int | None = None) -> MemorySpool:
        """As `Store.spool`."""
        if (size_hint or 0) > self._room():
            raise StoreFull(errno.ENOSPC, "the memory store is full")
        return MemorySpool(self._room())

    def commit(self, message: NewMessage) -> Awaitable[QueuedMessage]:
        """As `Store.commit`."""
        future = self._future()
        try:
            self._check([message])
            if message.submission is not None:
                self._submit(message, message.submission)
            entry = self._add(message)
        except Exception as error:  # noqa: BLE001 - the caller gets it from the future
            future.set_exception(error)
        else:
            if message.held is None and entry.message.not_before == entry.message.accepted:
                entry.claimed.update(range(len(entry.recipients)))
                future.set_result(entry.snapshot()._replace(lease=self.lease))
            else:
                future.set_result(entry.snapshot())
        return future

    def record(self, lease: Lease, updates: Sequence[Update], reports: Sequence[NewMessage] = ()) -> Awaitable[None]:
        """As `Store.record`."""
        future = self._future()
        try:
            self._check_lease(lease)
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
            if old.state is RecipientState.DROPPED:
                continue
            held = old.state is RecipientState.HELD and update.state is RecipientState.QUEUED
            state = RecipientState.HELD if held else update.state
            new = old._replace(state=state, attempts=update.attempts, due=update.due, changed=self._now())
            if update.warned:
                new = new._replace(warned=True)
            if update.late:
                new = new._replace(deadline=None)
            elif update.put_off:
                new = new._replace(deadline=update.put_off)
            if update.outcome is not None:
                new = new._replace(last=update.outcome.recorded, remote=update.outcome.remote)
            entry.recipients[update.number] = new
            entry.claimed.discard(update.number)
            self._finish(entry)
        future.set_result(None)
        return future

    def steady(self) -> None:
        """As `Store.steady`: always."""

    async def queues(self) -> AsyncIterator[StoredQueue]:
        """As `Store.queues`."""
        found: dict[tuple[str, str, int], float] = {}
        for entry in self._entries.values():
            for queued in entry.due(float("inf")):
                key = (queued.recipient.address.key, *entry.queue)
                found[key] = min(queued.due, found.get(key, queued.due))
        for key, due in found.items():
            yield StoredQueue(*key, due)

    async def claim(
        self, domain: str, tenant: str, priority: int, limit: int, together: Callable[[Address], bool] | None = None
    ) -> Claimed:
        """As `Store.claim`."""
        now = self._now()
        queue = tenant, priority
        ready = [
            (first, entry)
            for entry in self._entries.values()
            if entry.queue == queue and (first := entry.first_due(domain)) is not None and first <= now
        ]
        ready.sort(key=lambda item: item[0])
        messages = []
        for _, entry in ready[:limit]:
            due = [
                queued
                for queued in entry.due(now)
                if queued.recipient.address.key == domain or (together and together(queued.recipient.address))
            ]
            messages.append(self._claimed(entry, due))
        left = (entry.first_due(domain) for entry in self._entries.values() if entry.queue == queue)
        return Claimed(messages, min((due for due in left if due is not None), default=None))

    async def claim_old(
        self, before: float, *, after: float | None = None, unwarned: bool = False
    ) -> AsyncIterator[Messages]:
        """As `Store.claim_old`."""
        start = float("-inf") if after is None else after
        old = sorted(
            (entry for entry in self._entries.values() if start < entry.message.not_before <= before),
            key=lambda entry: entry.message.not_before,
        )
        for entry in old:
            if self._entries.get(entry.message.id) is not entry:
                continue  # it was finished meanwhile
            if queued := [each for each in entry.due(float("inf")) if not (unwarned and each.warned)]:
                yield [self._claimed(entry, queued)]

    async def claim_late(self, limit: int) -> Claimed:
        """As `Store.claim_late`."""
        now = self._now()
        dated = [
            (queued.deadline, entry, queued)
            for entry in self._entries.values()
            for queued in entry.recipients
            if queued.state is RecipientState.QUEUED and queued.deadline is not None
        ]
        dated.sort(key=lambda item: item[0])
        found: dict[str, list[QueuedRecipient]] = {}
        for deadline, entry, queued in dated:
            if deadline <= now and queued.number not in entry.claimed:
                found.setdefault(entry.message.id, []).append(queued)
        messages = [self._claimed(self._entries[name], late) for name, late in list(found.items())[:limit]]
        return Claimed(messages, next((deadline for deadline, _, _ in dated if deadline > now), None))

    async def claim_selected(self, selection: Selection) -> AsyncIterator[Messages]:
        """As `Store.claim_selected`."""
        for message in await self.select(selection, len(self._entries)):
            entry = self._entries.get(message.id)
            if entry is None:
                continue  # it was finished meanwhile
            now = (entry.recipients[queued.number] for queued in message.recipients)
            free = [queued for queued in now if queued.state in UNFINISHED and queued.number not in entry.claimed]
            if free:
                yield [self._claimed(entry, free)]

    async def redirect(self, message: QueuedMessage, address: Address) -> None:
        """As `Store.redirect`."""
        self._check_lease(message.lease)
        entry = self._entries.get(message.id)
        if entry is None:
            return
        for number in [queued.number for queued in message.recipients]:
            queued = entry.recipients[number]
            new = queued.recipient.readdressed(address)
            entry.recipients[number] = queued._replace(recipient=new, due=self._now(), changed=self._now())
            entry.claimed.discard(number)
        recipients = tuple(queued.recipient for queued in entry.recipients)
        entry.message = entry.message._replace(envelope=entry.message.envelope._replace(recipients=recipients))
        entry.domains = frozenset(recipient.address.key for recipient in recipients)

    def _claimed(self, entry: _Entry, recipients: Sequence[QueuedRecipient]) -> QueuedMessage:
        entry.claimed.update(queued.number for queued in recipients)
        return entry.message._replace(recipients=tuple(recipients), lease=self.lease)

    async def waiting(self, domains: Sequence[str], limit: int = 1000) -> Sequence[str]:
        """As `Store.waiting`."""
        now = self._now()
        found = (entry for entry in self._entries.values() if entry.queued_at(domains))
        return [entry.message.id for entry in found if not entry.is_early(now)][:limit]

    async def take(self, message: str, domains: Sequence[str]) -> QueuedMessage | None:
        """As `Store.take`."""
        entry = self._entries.get(message)
        if entry is None or entry.is_early(self._now()):
            return None
        chosen = [queued for queued in entry.queued_at(domains) if queued.number not in entry.claimed]
        entry.claimed.update(queued.number for queued in chosen)
        return entry.message._replace(recipients=tuple(chosen), lease=self.lease) if chosen else None

    async def unclaim(self, messages: Sequence[QueuedMessage]) -> None:
        """As `Store.unclaim`."""
        for message in messages:
            entry = self._entries.get(message.id)
            if entry is not None and message.lease == self.lease:
                entry.claimed.difference_update(recipient.number for recipient in message.recipients)

    async def list(self, limit: int = 1000) -> Messages:
        """As `QueueReader.list`."""
        return [entry.snapshot() for entry in self._entries.values()][:limit]

    async def select(self, selection: Selection, limit: int = 1000) -> Messages:
        """As `QueueReader.select`."""
        found: dict[str, list[QueuedRecipient]] = {}
        for entry, queued in self._selected(selection):
            found.setdefault(entry.message.id, []).append(queued)
        return [
            self._entries[identifier].message._replace(recipients=tuple(recipients))
            for identifier, recipients in list(found.items())[:limit]
        ]

    def _selected(
        self, selection: Selection, states: Sequence[RecipientState] = UNFINISHED
    ) -> Sequence[tuple[_Entry, QueuedRecipient]]:
        now = self._now()
        return [
            (entry, queued)
            for entry in self._entries.values()
            for queued in entry.recipients
            if queued.state in states and selection.matches(entry.message, queued, now)
        ]

    async def get(self, message: str) -> QueuedMessage | None:
        """As `QueueReader.get`."""
        entry = self._entries.get(message)
        return entry.snapshot() if entry is not None else None

    async def find(self, messages: Sequence[str]) -> Sequence[str]:
        """As `QueueReader.find`."""
        return [identifier for identifier in messages if identifier in self._entries]

    async def shape(self) -> Mapping[str, Sequence[int]]:
        """As `QueueReader.shape`."""
        found: dict[str, list[int]] = {}
        for entry, queued in self._selected(EVERYTHING):
            counts = found.setdefault(queued.recipient.address.key, [0] * (len(AGES) + 1))
            age = self._now() - entry.message.accepted
            counts[bisect_left(AGES, age)] += 1
        return found

    async def tally(self) -> Tally:
        """As `QueueReader.tally`."""
        states = Counter(queued.state for entry in self._entries.values() for queued in entry.recipients)
        return Tally(len(self._entries), {state: states[state] for state in UNFINISHED})

    async def retry(self, selection: Selection) -> int:
        """As `Store.retry`."""
        now = self._now()
        found = [
            (entry, queued)
            for entry, queued in self._selected(selection, (RecipientState.QUEUED,))
            if selection.ids is not None or not entry.is_early(now)
        ]
        for entry, queued in found:
            entry.recipients[queued.number] = queued._replace(due=now, changed=now)
        return len(found)

    async def hold(self, selection: Selection) -> int:
        """As `Store.hold`."""
        return len(self._move(selection, (RecipientState.QUEUED,), RecipientState.HELD))

    async def release(self, selection: Selection) -> int:
        """As `Store.release`."""
        moved = self._move(selection, (RecipientState.HELD,), RecipientState.QUEUED)
        for entry in moved:
            entry.message = entry.message._replace(not_before=max(entry.message.not_before, self._now()))
        return len(moved)

    async def drop(self, selection: Selection) -> int:
        """As `Store.drop`."""
        moved = self._move(selection, UNFINISHED, RecipientState.DROPPED)
        for entry in moved:
            self._finish(entry)
        return len(moved)

    def _move(self, selection: Selection, states: Sequence[RecipientState], new: RecipientState) -> Sequence[_Entry]:
        """Change the state of selected recipients; return the entry of each."""
        found = self._selected(selection, states)
        for entry, queued in found:
            entry.recipients[queued.number] = queued._replace(state=new, changed=self._now())
        return [entry for entry, _ in found]

    def _finish(self, entry: _Entry) -> None:
        """Remove a message whose recipients are all final."""
        if entry.message.id in self._entries and all(each.state not in UNFINISHED for each in entry.recipients):
            del self._entries[entry.message.id]

    async def close(self) -> None:
        """As `Store.close`."""
        self._closed = True

    def _future(self) -> asyncio.Future[Any]:
        if self._closed:
            raise OSError(errno.ESHUTDOWN, "the store is closed")
        return asyncio.get_running_loop().create_future()

    def _check_lease(self, lease: Lease) -> None:
        if lease != self.lease:
            raise LeaseLost(errno.ESTALE, f"the lease on shard {lease.shard!r} has ended")

    def _check(self, messages: Sequence[NewMessage]) -> None:
        for message in messages:
            if not isinstance(message.content, MemorySpool):
                raise TypeError("the content must come from this store's spool()")
            if message.id in self._entries:
                raise ValueError(f"the message cannot be stored: id {message.id} is in use")
        if sum(len(message.prefix) + message.content.size for message in messages) > self._room():
            raise StoreFull(errno.ENOSPC, "the memory store is full")

    def _submit(self, message: NewMessage, submission: Submission) -> None:
        """Keep the key of a submission, and remove those that are overdue."""
        kept = self._entries.submissions
        since = self._now() - self._submission_seconds
        while kept and next(iter(kept.values()))[0] <= since:
            del kept[next(iter(kept))]
        which = message.envelope.origin.tenant, submission.key
        if which in kept:
            _, first, digest = kept[which]
            raise SubmittedBefore(first, same=digest == submission.digest)
        kept[which] = message.accepted, message.id, submission.digest

    def _add(self, message: NewMessage) -> _Entry:
        assert isinstance(message.content, MemorySpool)
        accepted = round(message.accepted * 1e6) / 1e6
        not_before = accepted if message.due is None else max(accepted, round(message.due * 1e6) / 1e6)
        state = RecipientState.QUEUED if message.held is None else RecipientState.HELD
        deadline = deadline_of(message.envelope, accepted)
        body = MemoryBody(message.prefix + message.content.content)
        recipients = [
            QueuedRecipient(
                number, recipient, state, due=not_before, last=message.held or "", changed=accepted, deadline=deadline
            )
            for number, recipient in enumerate(message.envelope.recipients)
        ]
        entry = _Entry(QueuedMessage(message.id, message.envelope, accepted, body, not_before=not_before), recipients)
        self._entries[message.id] = entry
        return entry


class MemoryBackend:
    """Implements `storage.backend.Backend` for a server with one process. Its mail is lost when the process ends."""

    folders = ()

    def prepare(self, data: Path) -> int:  # noqa: ARG002 - nothing is written
        return 1

    def open(self, data: Path, options: StoreOptions) -> MemoryStore:  # noqa: ARG002 - nothing is written
        return MemoryStore(now=options.now, submissions=options.submissions)

    def open_worker(self, data: Path, options: StoreOptions, number: int, workers: int) -> NoReturn:  # noqa: ARG002
        raise StoreUnusable("the queue is kept in memory, which several workers cannot share: use one worker")

    def open_reader(self, data: Path) -> NoReturn:  # noqa: ARG002 - there are no files
        raise StoreUnusable("the queue is kept in memory (queue.backend), so only the server itself can read it")

    def verify(self, data: Path) -> AsyncIterator[Damage | CheckedAmount]:
        self.open_reader(data)

    async def copy(self, data: Path, target: Path) -> NoReturn:  # noqa: ARG002 - there are no files
        self.open_reader(data)
