"""The database's list of body files (`storage.bodies.Catalogue`): table `body_file`, written by group commit."""

from __future__ import annotations

from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from ironpost.storage.bodies.store import RETIRED, KnownBodies

if TYPE_CHECKING:
    import asyncio
    import sqlite3
    from collections.abc import Sequence

    from ironpost.storage.sqlite.commit import GroupCommit

_ADD = "INSERT OR IGNORE INTO body_file (name) VALUES (?)"
_RETIRE = f"UPDATE body_file SET state = {RETIRED} WHERE name = ?"  # noqa: S608 - a constant
_FORGET = "DELETE FROM body_file WHERE name = ?"
_RECORDS = """SELECT segment, start, size - length(body) FROM message
    WHERE segment IS NOT NULL ORDER BY segment, start"""


class SqliteCatalogue:
    """Implements `storage.bodies.Catalogue`."""

    def __init__(self, db: sqlite3.Connection, commits: GroupCommit) -> None:
        self._db = db
        self._commits = commits

    def add(self, name: str) -> asyncio.Future[None]:
        """As `Catalogue.add`."""
        return self._change(_ADD, [name])

    def retire(self, names: Sequence[str]) -> asyncio.Future[None]:
        """As `Catalogue.retire`."""
        return self._change(_RETIRE, names)

    def forget(self, names: Sequence[str]) -> asyncio.Future[None]:
        """As `Catalogue.forget`."""
        return self._change(_FORGET, names)

    def _change(self, statement: str, names: Sequence[str]) -> asyncio.Future[None]:
        job = self._commits.job()
        job.action = partial(self._execute, statement, names)
        return self._commits.submit(job)

    def _execute(self, statement: str, names: Sequence[str]) -> None:
        self._db.executemany(statement, [(name,) for name in names])


def known(db: sqlite3.Connection) -> KnownBodies:
    """Read the database's list of bodies when a shard is opened."""
    return KnownBodies(
        listed=dict(db.execute("SELECT name, state FROM body_file").fetchall()),
        files=[name for (name,) in db.execute("SELECT file FROM message WHERE file IS NOT NULL")],
        records={
            segment: [(start, length) for _, start, length in rows]
            for segment, rows in groupby(db.execute(_RECORDS), key=lambda row: row[0])
        },
        empty=not db.execute("SELECT 1 FROM sqlite_sequence WHERE name = 'event'").fetchall(),
    )


def forget_now(db: sqlite3.Connection, names: Sequence[str]) -> None:
    """As `SqliteCatalogue.forget`, before there is an event loop. Durable with the next commit."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        db.executemany(_FORGET, [(name,) for name in names])
