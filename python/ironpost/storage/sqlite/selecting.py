"""Finds the recipients of a selection in one shard.

Promises: recipients are found a window at a time, and the event loop serves sessions in between; a window reads
`WINDOW` recipients and the rest of the last message. Ids, domains and what is held are found by their indexes; other
criteria are tested while the queued recipients are read in order.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ironpost.queue.store import UNFINISHED, RecipientState
from ironpost.storage.sqlite.faults import store_faults

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Collection, Iterator, Sequence
    from pathlib import Path

    from ironpost.model.patterns import AddressPattern
    from ironpost.queue.selection import Selection

WINDOW: Final = 1000
"""Number of recipients that one statement reads: a few milliseconds of the event loop."""
IDS: Final = 100
"""Number of ids looked up at a time."""

_END: Final = 1 << 62

Found = list[tuple[int, int]]
"""Recipients: `seq` of the message, and number."""


class _Source(NamedTuple):
    """One index, in the order of messages."""

    where: str
    values: tuple[Any, ...]


async def selected(
    db: sqlite3.Connection,
    directory: Path,
    selection: Selection,
    now: int,
    states: Collection[RecipientState] = UNFINISHED,
    *,
    deliverable: bool = False,
) -> AsyncIterator[Found]:
    """Find the selected recipients, oldest message first for each state.

    Args:
        db: a connection to the shard.
        directory: of the shard, for errors.
        selection: the criteria.
        now: microseconds since 1970.
        states: only recipients in these, in this order.
        deliverable: without messages that may not be delivered yet (`Store.retry`).

    Raises:
        OSError: the database cannot be read.
    """
    wanted = [state for state in states if selection.state in {None, state}]
    where, values = _conditions(selection, now)
    if deliverable:
        where += " AND (m.released <= ? OR m.released <= m.accepted)"
        values.append(now)
    if selection.ids is not None:
        for start in range(0, len(selection.ids), IDS):
            with store_faults(directory):
                found = list(_by_id(db, selection.ids[start : start + IDS], wanted, where, values))
            if found:
                yield found
            await asyncio.sleep(0)
        return
    for source in (_source(state, selection) for state in wanted):
        after = -1
        while after < _END:
            with store_faults(directory):
                after, found = _window(db, source, after, where, values)
            if found:
                yield found
            await asyncio.sleep(0)


def _source(state: RecipientState, selection: Selection) -> _Source:
    """Return the index to read, with conditions from which SQLite can infer those of the index."""
    if state is RecipientState.HELD:
        return _Source("r.state = 4", ())
    for pattern in (selection.domain, selection.recipient):
        if pattern is not None and pattern.domain:
            return _Source("r.state = 0 AND r.domain = ?", (pattern.domain,))
    return _Source("r.state = 0", ())


def _window(
    db: sqlite3.Connection, source: _Source, after: int, where: str, values: Sequence[Any]
) -> tuple[int, Found]:
    """Read the next window, from message `after` on; return its last message and the recipients found in it."""
    end = db.execute(
        f"SELECT r.message FROM recipient AS r WHERE {source.where} AND r.message > ?"  # noqa: S608
        f" ORDER BY r.message LIMIT 1 OFFSET {WINDOW - 1}",
        (*source.values, after),
    ).fetchall()
    last = end[0][0] if end else _END
    query = (
        "SELECT r.message, r.number FROM recipient AS r CROSS JOIN message AS m ON m.seq = r.message"  # noqa: S608
        f" WHERE {source.where} AND r.message > ? AND r.message <= ? AND {where} ORDER BY r.message"
    )
    return last, db.execute(query, (*source.values, after, last, *values)).fetchall()


def _by_id(
    db: sqlite3.Connection, ids: Sequence[str], states: Sequence[RecipientState], where: str, values: Sequence[Any]
) -> Iterator[tuple[int, int]]:
    """Find the selected recipients of these messages. An unknown state counts as held (`rows`)."""
    query = (
        "SELECT r.message, r.number, r.state FROM message AS m CROSS JOIN recipient AS r ON r.message = m.seq"  # noqa: S608
        f" WHERE m.id = ? AND r.state NOT IN (1, 2, 3) AND {where} ORDER BY r.number"
    )
    for identifier in ids:
        for seq, number, state in db.execute(query, (identifier, *values)).fetchall():
            if (RecipientState.QUEUED if state == 0 else RecipientState.HELD) in states:
                yield seq, number


def _conditions(selection: Selection, now: int) -> tuple[str, list[Any]]:
    """Return the criteria besides ids and state, as SQL about message `m` and recipient `r`."""
    conditions, values = ["TRUE"], list[Any]()
    if selection.null_sender:
        conditions.append("m.reverse_path = ''")
    if selection.sender is not None:
        condition, value = _sender(selection.sender)
        conditions.append(condition)
        values += value
    for pattern in (selection.recipient, selection.domain):
        if pattern is not None:
            condition, value = _recipient(pattern)
            conditions.append(condition)
            values += value
    if selection.older_than:
        conditions.append("m.accepted <= ?")
        values.append(now - round(selection.older_than * 1e6))
    return " AND ".join(conditions), values


def _sender(pattern: AddressPattern) -> tuple[str, tuple[str, ...]]:
    if pattern.address is not None:
        return "lower(m.reverse_path) = lower(?)", (str(pattern.address),)
    if pattern.every:
        return "m.reverse_path LIKE '%@%'", ()
    suffix = pattern.below or f"@{pattern.domain}"
    return "substr(lower(m.reverse_path), -length(?)) = ?", (suffix, suffix)


def _recipient(pattern: AddressPattern) -> tuple[str, tuple[str, ...]]:
    if pattern.address is not None:
        return "r.domain = ? AND lower(r.address) = lower(?)", (pattern.domain, str(pattern.address))
    if pattern.every:
        return "r.domain <> ''", ()
    if pattern.below:
        return "substr(r.domain, -length(?)) = ?", (pattern.below, pattern.below)
    return "r.domain = ?", (pattern.domain,)
