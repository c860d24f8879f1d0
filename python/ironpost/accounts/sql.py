"""Accounts in an SQLite database that another program maintains, read by a query that the operator writes.

    SELECT name, password, scram FROM accounts WHERE name = :login

Promises: the name that a client gives is a query parameter, never part of the SQL (SECURITY R41). The database is
opened read-only, and again for each query, so its owner can replace it and is never locked out.
Refuses: a query without `:login` (ValueError), and a result with an unknown column.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from ironpost.accounts.authenticator import User, scram_credential

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS: Final = ("name", "password", "scram", "secret")
"""Columns that a query may return: the account's name; its argon2 hash; SCRAM-SHA-256$...; the plain-text password."""
BUSY_TIMEOUT: Final = 2.0
"""Seconds that a query waits for a lock on the database."""


class QueryError(Exception):
    """The query fails, or its result is not valid; the text gives the reason."""


class UsersSql:
    """Implements `accounts.authenticator.UserSource`."""

    def __init__(self, database: Path, query: str) -> None:
        """Describe the source; the database is opened for each query.

        Raises:
            ValueError: the query has no parameter `:login`.
        """
        if re.search(r":login\b", query) is None:
            raise ValueError("the query has no parameter :login, so it does not select by login name")
        self._database = database
        self._uri = f"{database.resolve().as_uri()}?mode=ro"
        self._query = query
        self.secrets = re.search(r"\bsecret\b", query, re.I) is not None

    def find(self, login: str) -> User | None:
        """Return the account in the first row of the result, or None.

        Raises:
            QueryError: the query fails, or its first row is not a valid account.
        """
        row = self._ask(login)
        if row is None:
            return None
        for column, value in row.items():
            if not isinstance(value, str | None):
                raise QueryError(f"{self._database}: the column {column} holds {type(value).__name__}, not text")
        try:
            scram = scram_credential(row["scram"]) if row.get("scram") else None
        except ValueError as fault:
            raise QueryError(f"{self._database}: the column scram: {fault}") from None
        return User(row.get("name") or login, row.get("password") or None, scram, row.get("secret") or None)

    def check(self) -> None:
        """Run the query for an unknown name, to find errors early.

        Raises:
            QueryError: the query fails.
        """
        self._ask("")

    def _ask(self, login: str) -> dict[str, Any] | None:
        try:
            with closing(sqlite3.connect(self._uri, uri=True, timeout=BUSY_TIMEOUT)) as database:
                cursor = database.execute(self._query, {"login": login})
                names = [column[0].lower() for column in cursor.description or ()]
                row = cursor.fetchone()
        except sqlite3.Error as error:
            raise QueryError(f"{self._database}: {error}") from error
        if not set(names) <= set(COLUMNS) or not {"password", "scram", "secret"} & set(names):
            given = ", ".join(names) or "nothing"
            raise QueryError(f"{self._database}: the query returns {given}; expected columns are {', '.join(COLUMNS)}")
        return None if row is None else dict(zip(names, row, strict=True))
