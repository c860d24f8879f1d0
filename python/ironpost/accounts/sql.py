"""A query that the operator writes, in an SQLite database that another program maintains; and accounts found by one.

    SELECT name, password, scram FROM accounts WHERE name = :login

Promises: the name that a client gives is a query parameter, never part of the SQL (SECURITY R41). The database is
opened read-only, and again for each query, so its owner can replace it and is never locked out.
Refuses: a query without its parameter (ValueError), and a result with an unknown column.
"""

from __future__ import annotations

import re
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from ironpost.accounts.authenticator import User, scram_credential

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

COLUMNS: Final = ("name", "password", "scram", "secret")
"""Columns that a query may return: the account's name; its argon2 hash; SCRAM-SHA-256$...; the plain-text password."""
BUSY_TIMEOUT: Final = 2.0
"""Seconds that a query waits for a lock on the database."""
QUERY_TIMEOUT: Final = 10.0
"""Seconds after which a query is interrupted."""
STEPS: Final = 10_000
"""Instructions of SQLite's virtual machine between two looks at the clock; about a millisecond."""


class QueryError(Exception):
    """The query fails, or its result is not valid; the text gives the reason."""


class Query:
    """A query with one parameter. Blocks; its methods may be called from any thread."""

    def __init__(self, database: Path, text: str, parameter: str, columns: Collection[str]) -> None:
        """Describe the query; the database is opened each time it runs.

        Args:
            database: the database's file.
            text: the query.
            parameter: the name of its parameter, without the colon.
            columns: the columns that its result may have.

        Raises:
            ValueError: the query does not have the parameter.
        """
        if re.search(rf":{parameter}\b", text) is None:
            raise ValueError(f"the query has no parameter :{parameter}, so it does not select by it")
        self.database = database
        self._uri = f"{database.resolve().as_uri()}?mode=ro"
        self._text = text
        self._parameter = parameter
        self._columns = columns

    def run(self, value: str, most: int) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Return the names of the result's columns, in lower case, and its first rows.

        Args:
            value: the value of the parameter.
            most: the number of rows that are read.

        Raises:
            QueryError: the query fails, takes too long, or returns an unknown column.
        """
        try:
            with closing(sqlite3.connect(self._uri, uri=True, timeout=BUSY_TIMEOUT)) as database:
                end = time.monotonic() + QUERY_TIMEOUT
                database.set_progress_handler(lambda: time.monotonic() > end, STEPS)
                cursor = database.execute(self._text, {self._parameter: value})
                names = [column[0].lower() for column in cursor.description or ()]
                rows = cursor.fetchmany(most)
        except sqlite3.Error as error:
            raise QueryError(f"{self.database}: {error}") from error
        if not names or not set(names) <= set(self._columns):
            raise self.unexpected(names)
        return names, rows

    def unexpected(self, names: list[str]) -> QueryError:
        """Return the error of a result with other columns than expected."""
        given, expected = ", ".join(names) or "nothing", ", ".join(self._columns)
        return QueryError(f"{self.database}: the query returns {given}; expected columns are {expected}")


class UsersSql:
    """Implements `accounts.authenticator.UserSource`."""

    def __init__(self, database: Path, query: str) -> None:
        """Describe the source; the database is opened for each query.

        Raises:
            ValueError: the query has no parameter `:login`.
        """
        self._query = Query(database, query, "login", COLUMNS)
        self.secrets = re.search(r"\bsecret\b", query, re.I) is not None

    def find(self, login: str) -> User | None:
        """Return the account in the first row of the result, or None.

        Raises:
            QueryError: the query fails, or its first row is not a valid account.
        """
        row = self._ask(login)
        if row is None:
            return None
        database = self._query.database
        for column, value in row.items():
            if not isinstance(value, str | None):
                raise QueryError(f"{database}: the column {column} holds {type(value).__name__}, not text")
        try:
            scram = scram_credential(row["scram"]) if row.get("scram") else None
        except ValueError as fault:
            raise QueryError(f"{database}: the column scram: {fault}") from None
        return User(row.get("name") or login, row.get("password") or None, scram, row.get("secret") or None)

    def check(self) -> None:
        """Run the query for an unknown name, to find errors early.

        Raises:
            QueryError: the query fails.
        """
        self._ask("")

    def _ask(self, login: str) -> dict[str, Any] | None:
        names, rows = self._query.run(login, 1)
        if not {"password", "scram", "secret"} & set(names):
            raise self._query.unexpected(names)
        return dict(zip(names, rows[0], strict=True)) if rows else None
