"""Changes to one shard by operators: retry, hold, release, drop and redirect; and holding messages that cannot be read.

Promises: a change of many messages is made in several transactions, each durable by itself, and the event loop serves
sessions in between.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from ironpost.queue.codec import encode_parameters
from ironpost.queue.store import UNFINISHED, RecipientState
from ironpost.storage.sqlite.commit import finish
from ironpost.storage.sqlite.rows import CODES, micros
from ironpost.storage.sqlite.selecting import IDS, Found, selected

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from ironpost.model import Address
    from ironpost.queue.selection import Selection
    from ironpost.queue.store import QueuedMessage
    from ironpost.storage.sqlite.commit import GroupCommit, Job

STEP_RECIPIENTS: Final = 250
"""Recipients changed in one transaction, which takes a few milliseconds of the event loop."""

_EVENT: Final = """INSERT INTO event (at, kind, message, number, address, attempts)
    SELECT ?, ?, m.id, r.number, r.address, r.attempts FROM recipient AS r JOIN message AS m ON m.seq = r.message
    WHERE r.message = ? AND r.number = ?"""
_STATE: Final = "SELECT state FROM recipient WHERE message = ? AND number = ?"
_DUE: Final = "UPDATE recipient SET due = ?, changed = ? WHERE message = ? AND number = ?"
_MOVE: Final = "UPDATE recipient SET state = ?, changed = ? WHERE message = ? AND number = ?"
_UNREADABLE: Final = """INSERT INTO event (at, kind, message, number, reply)
    SELECT ?, 'unreadable', ?, number, ? FROM recipient WHERE message=? AND state=0"""

_REDIRECTED: Final = """INSERT INTO event (at, kind, message, number, address, attempts, reply)
    SELECT ?, 'redirected', m.id, r.number, r.address, r.attempts, ? FROM message AS m
    JOIN recipient AS r ON r.message = m.seq WHERE m.id = ? AND r.number = ?"""
_REDIRECT: Final = """UPDATE recipient SET original = ?, parameters = nullif(?, ''), address = ?, domain = ?, due = ?,
    changed = ? WHERE message = (SELECT seq FROM message WHERE id = ?) AND number = ?"""
_FINAL: Final = frozenset(CODES[state] for state in RecipientState if state not in UNFINISHED)


class OperatorChanges:
    """The changes of one shard."""

    def __init__(self, db: sqlite3.Connection, commits: GroupCommit, directory: Path, now: Callable[[], float]) -> None:
        """Use the shard's connection and group commit.

        Args:
            db: the writing connection.
            commits: writes through it.
            directory: of the shard.
            now: seconds since 1970.
        """
        self._db = db
        self._commits = commits
        self._directory = directory
        self._now = now

    async def retry(self, selection: Selection) -> int:
        """As `Store.retry`."""
        change = partial(self._retry, micros(self._now()))
        return await self._change(selection, (RecipientState.QUEUED,), change, deliverable=selection.ids is None)

    def _retry(self, now: int, _job: Job, found: Found) -> None:
        self._db.executemany(_DUE, [(now, now, *each) for each in found])

    async def hold(self, selection: Selection) -> int:
        """As `Store.hold`."""
        change = partial(self._move, RecipientState.HELD, "held")
        return await self._change(selection, (RecipientState.QUEUED,), change)

    async def release(self, selection: Selection) -> int:
        """As `Store.release`."""
        return await self._change(selection, (RecipientState.HELD,), self._release)

    def _release(self, job: Job, found: Found) -> None:
        at = micros(self._now())
        self._move(RecipientState.QUEUED, "released", job, found)
        released = [(at, seq) for seq in dict.fromkeys(seq for seq, _ in found)]
        self._db.executemany("UPDATE message SET released=max(released, ?) WHERE seq=?", released)

    async def drop(self, selection: Selection) -> int:
        """As `Store.drop`."""
        count = await self._change(selection, UNFINISHED, self._drop)
        if selection.ids is not None:  # a message whose recipients' rows are lost is removed as well
            for start in range(0, len(selection.ids), IDS):
                job = self._commits.job()
                job.action = partial(self._remove_empty, job, selection.ids[start : start + IDS])
                await self._commits.submit(job)
                job.action = None
        return count

    def _remove_empty(self, job: Job, ids: Sequence[str]) -> None:
        """Remove those of the messages that have no recipients."""
        query = "SELECT seq FROM message WHERE id=? AND NOT EXISTS (SELECT 1 FROM recipient WHERE message=seq)"
        empty = {seq: job for each in ids for (seq,) in self._db.execute(query, (each,)).fetchall()}
        finish(self._db, empty, empty)

    def _drop(self, job: Job, found: Found) -> None:
        self._move(RecipientState.DROPPED, "dropped", job, found)
        messages = {seq: job for seq, _ in found}
        finish(self._db, messages, messages)

    def _move(self, new: RecipientState, kind: str, _job: Job, found: Found) -> None:
        at = micros(self._now())
        self._db.executemany(_EVENT, [(at, kind, *each) for each in found])
        self._db.executemany(_MOVE, [(CODES[new], at, *each) for each in found])

    async def _change(
        self,
        selection: Selection,
        states: Collection[RecipientState],
        change: Callable[[Job, Found], None],
        *,
        deliverable: bool = False,
    ) -> int:
        """Change selected recipients in these states, in several transactions; return how many."""
        total = 0
        now = micros(self._now())
        async for found in selected(self._db, self._directory, selection, now, states, deliverable=deliverable):
            for start in range(0, len(found), STEP_RECIPIENTS):
                job = self._commits.job()
                job.action = partial(self._step, job, found[start : start + STEP_RECIPIENTS], states, change)
                total += await self._commits.submit(job)
                job.action = None  # breaks a reference cycle
        return total

    def _step(
        self, job: Job, found: Found, states: Collection[RecipientState], change: Callable[[Job, Found], None]
    ) -> int:
        """Change recipients that are still in one of these states; an unknown state counts as held."""
        still = [
            each
            for each in found
            for (code,) in self._db.execute(_STATE, each).fetchall()
            if code not in _FINAL and (RecipientState.QUEUED if code == 0 else RecipientState.HELD) in states
        ]
        change(job, still)
        return len(still)

    async def redirect(self, message: QueuedMessage, address: Address) -> None:
        """Replace the addresses of recipients, as `Store.redirect`."""
        job = self._commits.job()
        job.action = partial(self._redirect, message, address)
        await self._commits.submit(job)

    def _redirect(self, message: QueuedMessage, address: Address) -> None:
        at, text, write = micros(self._now()), str(address), self._db.execute
        for queued in message.recipients:
            new, place = queued.recipient.readdressed(address), (message.id, queued.number)
            write(_REDIRECTED, (at, text, *place))
            write(_REDIRECT, (str(new.original), encode_parameters(new.parameters), text, address.key, at, at, *place))

    async def hold_unreadable(self, seq: int, message: QueuedMessage) -> int:
        """Hold the queued recipients of a message that cannot be read; return their number."""
        job = self._commits.job()
        job.action = partial(self._hold_unreadable, seq, message)
        moved: int = await self._commits.submit(job)
        return moved

    def _hold_unreadable(self, seq: int, message: QueuedMessage) -> int:
        at, write = micros(self._now()), self._db.execute
        write(_UNREADABLE, (at, message.id, message.fault, seq))
        change = "UPDATE recipient SET state=4, changed=?, last=? WHERE message=? AND state=0"
        return write(change, (at, message.fault, seq)).rowcount
