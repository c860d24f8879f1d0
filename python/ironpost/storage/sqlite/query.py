"""Queries of an operator in SQL, over the documented views of all shards (docs/storage.md).

Promises: nothing is written, and only the views `queue`, `attempts` and `events` can be read. A read transaction lasts
as long as the query.
Refuses: other statements than SELECT, other tables, and more than `SHARDS` shards.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any, Final

from ironpost.queue.store import QueryRefused
from ironpost.storage.sqlite.opening import database_uri
from ironpost.storage.sqlite.schema import DATABASE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

VIEWS: Final = ("queue", "attempts", "events")
SHARDS: Final = 10
"""Databases that SQLite attaches to one connection (SQLITE_MAX_ATTACHED)."""

_ALLOWED: Final = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})


def query(directories: Sequence[Path], statement: str, limit: int) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    """Run a SELECT over the views of these shards.

    Args:
        directories: of the shards.
        statement: one SELECT.
        limit: the number of rows to return.

    Returns:
        The names of the columns, and the rows.

    Raises:
        QueryRefused: the statement is invalid or refused, or there are too many shards; the text says why.
    """
    if len(directories) > SHARDS:
        raise QueryRefused(f"there are {len(directories)} shards; SQLite reads at most {SHARDS} together")
    connection = sqlite3.connect(":memory:", uri=True, isolation_level=None)
    with contextlib.closing(connection):
        try:
            for number, directory in enumerate(directories):
                connection.execute(f"ATTACH ? AS shard{number}", (database_uri(directory / DATABASE, "ro"),))
            for view in VIEWS:
                parts = " UNION ALL ".join(f"SELECT * FROM shard{n}.{view}" for n in range(len(directories)))  # noqa: S608 - constants
                connection.execute(f"CREATE TEMP VIEW {view} AS {parts}")
            connection.execute("PRAGMA query_only=1").fetchall()
            connection.set_authorizer(_authorize)
            cursor = connection.execute(statement)
            if cursor.description is None:
                raise QueryRefused("the statement returns nothing: write a SELECT")
            return [column[0] for column in cursor.description], cursor.fetchmany(limit)
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise QueryRefused(str(error)) from None


def _authorize(action: int, table: str | None, column: str | None, _database: str | None, view: str | None) -> int:
    # SQLite reports a table of which only rows are counted with an empty column, and without the view.
    readable = table in VIEWS or view in VIEWS or column == ""
    if action in _ALLOWED or (action == sqlite3.SQLITE_READ and readable):
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY
