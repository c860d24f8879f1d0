"""Mailboxes and aliases in an SQLite database that another program maintains, read by a query of the operator.

    SELECT target AS targets, keep FROM aliases WHERE address = :key

Promises: as in `accounts.sql`: the key is a query parameter, never part of the SQL (SECURITY R41), and the database is
opened read-only for each query. Queries run in a few threads. Several rows are one record with several targets.
Refuses: a query without `:key`, and a result with a column that is not a field of a record (`accounts.records_fields`).
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - `config.declared` reads annotations
from typing import TYPE_CHECKING, Final

from ironpost.accounts.records_fields import FIELDS, record_of
from ironpost.routing.directory import MAX_TARGETS, DirectoryError

if TYPE_CHECKING:
    from ironpost.accounts.record_sources import SourceContext
    from ironpost.routing.records import Record

THREADS: Final = 4
"""Number of queries that run at a time; further ones wait."""


@dataclass(frozen=True, slots=True)
class SqlOptions:
    """`[[directory.sql]]`: mailboxes and aliases in an SQLite database."""

    database: Path
    """In `[[directory.sql]]` ([Directory sources](#directory-sources)): the SQLite database. It is opened read-only for
    each query."""
    query: str
    """The SQL query, with `:key` for the address: `jo@mail.example` in lower case, or `@mail.example` for the catch-all
    of a domain. Its columns are fields of a record."""

    def open(self, context: SourceContext, /) -> SqlRecords:  # noqa: ARG002 - the port's
        """See `accounts.record_sources.SourceOptions`; the query is run once."""
        source = SqlRecords(self)
        try:
            source.check()
        except DirectoryError as error:
            raise ValueError(str(error)) from error
        return source

    def __str__(self) -> str:
        return str(self.database)


class SqlRecords:
    """Implements `routing.records.RecordSource`."""

    def __init__(self, options: SqlOptions) -> None:
        """Describe the source; the database is opened for each query.

        Raises:
            ValueError: the query has no parameter `:key`.
        """
        from ironpost.accounts.sql import Query  # imports sqlite3, which few configurations need here

        self._query = Query(options.database, options.query, "key", FIELDS)
        self._where = str(options)
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
        from ironpost.accounts.sql import QueryError

        try:
            names, rows = self._query.run(key, MAX_TARGETS + 1)
        except QueryError as error:
            raise DirectoryError(str(error)) from error
        if len(rows) > MAX_TARGETS:
            raise DirectoryError(f"{self._where}: more than {MAX_TARGETS} rows for one address")
        return record_of([dict(zip(names, row, strict=True)) for row in rows], self._where)
