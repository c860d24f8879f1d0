"""Accounts in an SQLite database that somebody else keeps, by one query of the operator's.

    SELECT name, password, scram FROM accounts WHERE name = :login

Promises: the name that a client gives is a parameter and never SQL (SECURITY R41). The database is opened read-only,
for one question each, so it may be replaced and is never kept from its owner.
Refuses: a query without `:login` (ValueError), and one that gives a column which is not known.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from ironpost.lookup.users import User, scram_credential

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS: Final = ("name", "password", "scram", "secret")
"""What a query may give: the account's name; its hash of argon2; SCRAM-SHA-256$...; the password in clear."""
PATIENCE: Final = 2.0
"""Seconds that a question waits for a database in which somebody writes."""


class QueryError(Exception):
    """The database cannot be asked, or answers something else; the text says why."""


class UsersSql:
    """Implements `lookup.users.UserSource`."""

    def __init__(self, database: Path, query: str) -> None:
        """Opens nothing yet.

        Raises:
            ValueError: the query has no parameter `:login`.
        """
        if re.search(r":login\b", query) is None:
            raise ValueError("the query names no :login, so it would not ask for the account that logs in")
        self._database = database
        self._uri = f"{database.resolve().as_uri()}?mode=ro"
        self._query = query
        self.secrets = re.search(r"\bsecret\b", query, re.I) is not None

    def find(self, login: str) -> User | None:
        """The account in the first row of the answer.

        Raises:
            QueryError: the database cannot be asked, or what it answers is no account.
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
        """Asks for a name that nobody has, to see whether the query can be asked.

        Raises:
            QueryError: it cannot.
        """
        self._ask("")

    def _ask(self, login: str) -> dict[str, Any] | None:
        try:
            with closing(sqlite3.connect(self._uri, uri=True, timeout=PATIENCE)) as database:
                cursor = database.execute(self._query, {"login": login})
                names = [column[0].lower() for column in cursor.description or ()]
                row = cursor.fetchone()
        except sqlite3.Error as error:
            raise QueryError(f"{self._database}: {error}") from error
        if not set(names) <= set(COLUMNS) or not {"password", "scram", "secret"} & set(names):
            given = ", ".join(names) or "nothing"
            raise QueryError(f"{self._database}: the query gives {given}; known are {', '.join(COLUMNS)}")
        return None if row is None else dict(zip(names, row, strict=True))
