"""History of a shard (attempts and events of messages that left the queue), and the free pages of its database.

Promises: attempts and events are kept within the configured time and size. The oldest beyond that are removed a few
rows at a time, in transactions that write something else, so none of them takes long. Free pages are returned to the
file system in the same way, except a reserve for new mail.
Refuses: to shrink a database that an early version created (`PRAGMA auto_vacuum` is 0): docs/storage.md says how to
convert one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.storage.sqlite.schema import PAGE

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

HISTORY_SECONDS: Final = 7 * 24 * 3600.0
"""Default time for which attempts and events are kept."""
HISTORY_OCTETS: Final = 1 << 30
"""Default maximum size of them in a shard, in octets: a week of five messages a second."""
PRUNE_EVENTS: Final = 100
"""Number of events that a transaction removes beyond the number that it adds."""
TEND_EVENTS: Final = 500
"""Number of events that a separate transaction removes."""
LOOK_EVENTS = 1000
"""Number of events added after which their size is estimated again."""
FREE_PAGES: Final = 16 * 1024 * 1024 // PAGE
"""Number of free pages that a database keeps for new mail."""
VACUUM_PAGES: Final = 64
"""Number of free pages returned in one transaction, which takes about a millisecond; each is written to the log."""

PRUNE_BY_AGE: Final = "DELETE FROM event WHERE seq IN (SELECT seq FROM event ORDER BY seq LIMIT ?) AND at < ?"
PRUNE_BY_SIZE: Final = "DELETE FROM event WHERE seq IN (SELECT seq FROM event ORDER BY seq LIMIT ?)"
SAMPLE: Final = """SELECT avg(length(kind) + length(message) + coalesce(length(address), 0) + coalesce(length(reply), 0)
    + coalesce(length(remote), 0) + coalesce(length(message_id), 0))
    FROM (SELECT * FROM (SELECT * FROM event ORDER BY seq LIMIT 100)
    UNION ALL SELECT * FROM (SELECT * FROM event ORDER BY seq DESC LIMIT 100))"""
ROW_OCTETS: Final = 28
"""Approximate octets of an event besides its text: numbers, the row's header, and a share of unused page space."""


class History:
    """The history of one database. Methods that write are called inside a transaction."""

    def __init__(self, db: sqlite3.Connection, now: Callable[[], float], seconds: float, octets: int) -> None:
        """Measure the existing history.

        Args:
            db: the writing connection.
            now: seconds since 1970.
            seconds: how long events are kept.
            octets: approximate maximum size of the events, in octets.
        """
        self._db = db
        self._now = now
        self._seconds = seconds
        self._octets = octets
        self._unseen = 0
        """Events added since their size was estimated."""
        self._excess = self._beyond_size()
        """Number of events beyond the maximum size."""
        self._next = self._oldest_expires()
        self._shrinks = db.execute("PRAGMA auto_vacuum").fetchall()[0][0] == 2

    def overdue(self) -> bool:
        """Whether there are events to remove."""
        return self._excess > 0 or self._now() >= self._next

    def added(self, events: int) -> None:
        """Account for events that this transaction added, and remove some overdue ones."""
        self._unseen += events
        if self._unseen >= LOOK_EVENTS:
            self._unseen = 0
            self._excess = self._beyond_size()
        if self.overdue():
            self.prune(events + PRUNE_EVENTS)

    def prune(self, limit: int) -> int:
        """Remove at most `limit` of the oldest events, if they are overdue; return how many."""
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
        """Number of free pages that can be returned to the file system."""
        if not self._shrinks:
            return 0
        return max(0, int(self._db.execute("PRAGMA freelist_count").fetchall()[0][0]) - FREE_PAGES)

    def give_back(self) -> int:
        """Return some spare pages to the file system; return how many are left."""
        pages = min(self.spare_pages(), VACUUM_PAGES)
        if pages:
            self._db.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
        return self.spare_pages()

    def _oldest_expires(self) -> float:
        rows = self._db.execute("SELECT at FROM event ORDER BY seq LIMIT 1").fetchall()
        return (rows[0][0] / 1e6 if rows else self._now()) + self._seconds

    def _beyond_size(self) -> int:
        # Events are removed from the front only, so the difference of their numbers is their count.
        query = "SELECT (SELECT max(seq) FROM event) - (SELECT min(seq) FROM event) + 1"
        count = self._db.execute(query).fetchall()[0][0] or 0
        if not count:
            return 0
        average = ROW_OCTETS + self._db.execute(SAMPLE).fetchall()[0][0]
        return max(0, int(count - self._octets / average))
