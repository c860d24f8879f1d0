"""Queries of an operator in SQL, over the documented views of all shards (docs/storage.md).

Promises: nothing is written, and only the views `queue`, `attempts` and `events` can be read. All rows of a shard are
from one moment. With at most `ATTACHED` shards a read transaction lasts as long as the query; with more, the views that
it names are copied first into temporary tables on disk, and a transaction lasts while a group of shards is copied.
Refuses: other statements than SELECT, and other tables.
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
ATTACHED: Final = 10
"""Maximum number of databases that SQLite attaches to one connection (SQLITE_MAX_ATTACHED)."""

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
        QueryRefused: the statement is invalid or refused; the text says why.
    """
    connection = sqlite3.connect(":memory:", uri=True, isolation_level=None)
    with contextlib.closing(connection):
        try:
            if len(directories) <= ATTACHED:
                _attach(connection, directories)
                for view in VIEWS:
                    connection.execute(f"CREATE TEMP VIEW {view} AS {_all(view, len(directories))}")
            else:
                _copy(connection, directories, [view for view in VIEWS if view in statement.lower()])
            connection.execute("PRAGMA query_only=1").fetchall()
            connection.set_authorizer(_authorize)
            cursor = connection.execute(statement)
            if cursor.description is None:
                raise QueryRefused("the statement returns nothing: write a SELECT")
            return [column[0] for column in cursor.description], cursor.fetchmany(limit)
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise QueryRefused(str(error)) from None


def _attach(connection: sqlite3.Connection, directories: Sequence[Path]) -> None:
    for number, directory in enumerate(directories):
        connection.execute(f"ATTACH ? AS shard{number}", (database_uri(directory / DATABASE, "ro"),))


def _all(view: str, shards: int) -> str:
    """Return the query for all rows of a view in the attached shards."""
    return " UNION ALL ".join(f"SELECT * FROM shard{number}.{view}" for number in range(shards))  # noqa: S608 - constants


def _copy(connection: sqlite3.Connection, directories: Sequence[Path], views: Sequence[str]) -> None:
    """Copy these views of all shards into temporary tables."""
    for start in range(0, len(directories), ATTACHED):
        group = directories[start : start + ATTACHED]
        _attach(connection, group)
        connection.execute("BEGIN")
        for view in views:
            into = f"INSERT INTO temp.{view}" if start else f"CREATE TEMP TABLE {view} AS"
            connection.execute(f"{into} {_all(view, len(group))}")
        connection.execute("COMMIT")
        for number in range(len(group)):
            connection.execute(f"DETACH shard{number}")


def _authorize(action: int, table: str | None, column: str | None, _database: str | None, view: str | None) -> int:
    # SQLite reports a table of which only rows are counted with an empty column, and without the view.
    readable = table in VIEWS or view in VIEWS or column == ""
    if action in _ALLOWED or (action == sqlite3.SQLITE_READ and readable):
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY
