"""Mailboxes and aliases in an SQLite database that another program maintains, read by a query of the operator.

    SELECT target AS targets, keep FROM aliases WHERE address = :key COLLATE NOCASE

Promises: as in `accounts.sql`: the key is a query parameter, never part of the SQL (SECURITY R41), and the database is
opened read-only for each query. Queries run in a few threads. Several rows are one record with several targets.
Refuses: a query without `:key` (ValueError), and a result with a column that is not a field of a record
(`accounts.records_fields`).
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - `config.declared` reads annotations
from typing import TYPE_CHECKING, Final

from ironpost.accounts.records_fields import FIELDS, record_of
from ironpost.accounts.sql import Query, QueryError
from ironpost.routing.directory import MAX_TARGETS, DirectoryError

if TYPE_CHECKING:
    from ironpost.routing.records import Record

THREADS: Final = 4
"""Number of queries that run at a time; further ones wait."""


@dataclass(frozen=True, slots=True)
class SqlOptions:
    """`[[directory.sql]]`: mailboxes and aliases in an SQLite database."""

    database: Path
    """The database. It is opened read-only for each query."""
    query: str
    """The query: the columns `mailbox`, `targets`, `keep`, `disabled`, `quota` and `senders`, as far as there are any,
    for the address `:key`. Several rows are several targets."""


class SqlRecords:
    """Implements `routing.records.RecordSource`."""

    def __init__(self, options: SqlOptions) -> None:
        """Describe the source; the database is opened for each query.

        Raises:
            ValueError: the query has no parameter `:key`.
        """
        self._query = Query(options.database, options.query, "key", FIELDS)
        self._threads = ThreadPoolExecutor(THREADS, "ironpost-directory")

    async def lookup(self, key: str, /) -> Record | None:
        """See `RecordSource.lookup`."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._find, key)

    def check(self) -> None:
        """Run the query for an unknown key, to find errors early. Blocks.

        Raises:
            DirectoryError: the query fails.
        """
        self._find("")

    def _find(self, key: str) -> Record | None:
        where = str(self._query.database)
        try:
            names, rows = self._query.run(key, MAX_TARGETS + 1)
        except QueryError as error:
            raise DirectoryError(str(error)) from error
        if len(rows) > MAX_TARGETS:
            raise DirectoryError(f"{where}: more than {MAX_TARGETS} rows for one address")
        return record_of([dict(zip(names, row, strict=True)) for row in rows], where)
