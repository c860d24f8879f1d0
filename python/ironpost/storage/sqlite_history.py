"""What a shard keeps of mail that is gone, and the room that its database no longer needs.

Promises: attempts and events are kept for as long, and in as many octets, as the configuration says; what is older, or
too much, goes a few rows at a time with the transactions of others, so that none of them takes long. Pages that fell
free are given back to the disk in the same way, beyond a stock for what comes next.
Refuses: to shrink a database that was made before ironpost made them for it (`PRAGMA auto_vacuum`): docs/storage.md
says how to convert one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.storage.sqlite_schema import PAGE

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

HISTORY_SECONDS: Final = 7 * 24 * 3600.0
"""How long attempts and events are kept unless told otherwise."""
HISTORY_OCTETS: Final = 1 << 30
"""How many octets of them a shard keeps unless told otherwise: a week of five messages a second."""
PRUNE_EVENTS: Final = 100
"""Events that go with a transaction, beyond those that it adds."""
TEND_EVENTS: Final = 500
"""Events that go in a transaction made for nothing else."""
LOOK_EVENTS = 1000
"""Events added after which their size is looked at again."""
FREE_PAGES: Final = 16 * 1024 * 1024 // PAGE
"""Free pages that a database keeps, because the next mail wants them."""
VACUUM_PAGES: Final = 64
"""Free pages given back in one transaction: each is written to the log, and about a millisecond for all of them."""

PRUNE_BY_AGE: Final = "DELETE FROM event WHERE seq IN (SELECT seq FROM event ORDER BY seq LIMIT ?) AND at < ?"
PRUNE_BY_SIZE: Final = "DELETE FROM event WHERE seq IN (SELECT seq FROM event ORDER BY seq LIMIT ?)"
SAMPLE: Final = """SELECT avg(length(kind) + length(message) + coalesce(length(address), 0) + coalesce(length(reply), 0)
    + coalesce(length(remote), 0)) FROM (SELECT * FROM (SELECT * FROM event ORDER BY seq LIMIT 100)
    UNION ALL SELECT * FROM (SELECT * FROM event ORDER BY seq DESC LIMIT 100))"""
ROW_OCTETS: Final = 28
"""What an event takes beside its text, about: numbers, the row's header, and its share of what pages leave free."""


class History:
    """That of one database. Its methods that write are called inside a transaction."""

    def __init__(self, db: sqlite3.Connection, now: Callable[[], float], seconds: float, octets: int) -> None:
        """Looks at what there is.

        Args:
            db: the writing connection.
            now: seconds since 1970.
            seconds: how long events are kept.
            octets: how many octets of events are kept, about.
        """
        self._db = db
        self._now = now
        self._seconds = seconds
        self._octets = octets
        self._unseen = 0
        """Events that were added since their size was looked at."""
        self._excess = self._beyond_size()
        """Events that are too many."""
        self._next = self._oldest_expires()
        self._shrinks = db.execute("PRAGMA auto_vacuum").fetchall()[0][0] == 2

    def overdue(self) -> bool:
        """There are events to remove."""
        return self._excess > 0 or self._now() >= self._next

    def added(self, events: int) -> None:
        """So many events were added by this transaction; some that are overdue go with it."""
        self._unseen += events
        if self._unseen >= LOOK_EVENTS:
            self._unseen = 0
            self._excess = self._beyond_size()
        if self.overdue():
            self.prune(events + PRUNE_EVENTS)

    def prune(self, limit: int) -> int:
        """Removes at most so many of the oldest events, if they are overdue; how many it removed."""
        if self._excess > 0:
            removed = self._db.execute(PRUNE_BY_SIZE, (min(limit, self._excess),)).rowcount
            self._excess = self._excess - removed if removed else 0
        elif (now := self._now()) >= self._next:
            removed = self._db.execute(PRUNE_BY_AGE, (limit, round((now - self._seconds) * 1e6))).rowcount
        else:
            return 0
        self._next = self._oldest_expires()
        return removed

    def spare_pages(self) -> int:
        """Free pages that can be given back to the disk."""
        if not self._shrinks:
            return 0
        return max(0, int(self._db.execute("PRAGMA freelist_count").fetchall()[0][0]) - FREE_PAGES)

    def give_back(self) -> int:
        """Gives some spare pages back; how many are left."""
        pages = min(self.spare_pages(), VACUUM_PAGES)
        if pages:
            self._db.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
        return self.spare_pages()

    def _oldest_expires(self) -> float:
        rows = self._db.execute("SELECT at FROM event ORDER BY seq LIMIT 1").fetchall()
        return (rows[0][0] / 1e6 if rows else self._now()) + self._seconds

    def _beyond_size(self) -> int:
        # Events go from the front alone, so their numbers count them.
        query = "SELECT (SELECT max(seq) FROM event) - (SELECT min(seq) FROM event) + 1"
        count = self._db.execute(query).fetchall()[0][0] or 0
        if not count:
            return 0
        average = ROW_OCTETS + self._db.execute(SAMPLE).fetchall()[0][0]
        return max(0, int(count - self._octets / average))
