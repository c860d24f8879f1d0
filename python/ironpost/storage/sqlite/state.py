"""Stores keyed state (`model.keyed_state`) across restarts: one SQLite database in the data directory.

Promises: every error of SQLite is raised as an `OSError`. Each statement writes many rows and is a transaction by
itself, so a process never waits for its interpreter while it holds the database's lock; processes that write at the
same time wait for each other inside SQLite. Nothing is synced (PRAGMA synchronous=NORMAL) except when the log is copied
into the database, by the thread that writes. The file is 0600 (SECURITY R47).
Refuses: to repair a file that is damaged, or to read another schema: `prepare` replaces such a file by an empty one.
Its loss loses no mail.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

from ironpost.model.keyed_state import StateRow
from ironpost.model.text import error_text
from ironpost.storage.ownership import open_private
from ironpost.storage.sqlite.faults import code_of
from ironpost.storage.sqlite.opening import open_database

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ironpost.storage.sqlite.opening import Mode

STATE_FILE: Final = "state.sqlite3"
"""The file in the data directory."""
VERSION: Final = 1
"""The schema (PRAGMA user_version)."""
ROWS: Final = 500
"""Maximum number of rows in one statement."""
LOG_OCTETS: Final = 4 * 1024 * 1024
"""Size in octets to which the log file is truncated after it was copied into the database."""

# `seq` is in the order of the last change, because REPLACE gives a row a new one.
_SCHEMA: Final = (
    """CREATE TABLE entry (
        seq INTEGER PRIMARY KEY,
        namespace TEXT NOT NULL,
        key BLOB NOT NULL,
        value BLOB NOT NULL,
        expires REAL NOT NULL,
        UNIQUE (namespace, key)
    )""",
    "CREATE INDEX entry_expires ON entry (expires)",
    f"PRAGMA user_version={VERSION}",
)
_WRITE: Final = "INSERT OR REPLACE INTO entry (namespace, key, value, expires) VALUES {rows}"
_REMOVE: Final = """WITH removed (namespace, key) AS (VALUES {rows})
    DELETE FROM entry WHERE seq IN (
        SELECT entry.seq FROM removed CROSS JOIN entry
        ON entry.namespace = removed.namespace AND entry.key = removed.key
    )"""
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
"""SQLite's result codes for a file that holds something else; the third is a table that is missing or different."""


class StateDamaged(OSError):
    """The file is damaged, or is not one that this version wrote. The text says what is wrong."""


class StateFile:
    """One process's connection to the file, which `prepare` made. One thread at a time may use it."""

    def __init__(self, data: Path) -> None:
        """Open the file in a data directory.

        Raises:
            OSError: it cannot be opened, or is not usable (`StateDamaged`).
        """
        self._path = data / STATE_FILE
        self._connection = _connect(self._path, "rw")

    def load(self) -> list[StateRow]:
        """Read all entries, the least recently changed first.

        Raises:
            OSError: the file cannot be read.
        """
        return _rows(self._connection, self._path)

    def write(self, rows: Sequence[StateRow], removed: Sequence[tuple[str, bytes]]) -> None:
        """Store entries, and remove others by namespace and key.

        Raises:
            OSError: the file cannot be written; some of the changes may have been.
        """
        with _faults(self._path):
            self._execute(_WRITE, "(?, ?, ?, ?)", rows)
            self._execute(_REMOVE, "(?, ?)", removed)

    def remove_expired(self, now: float) -> None:
        """Remove entries that expired before a time, in seconds since 1970.

        Raises:
            OSError: the file cannot be written.
        """
        with _faults(self._path):
            self._connection.execute("DELETE FROM entry WHERE expires <= ?", (now,))

    def close(self) -> None:
        """Close the connection; the last one copies the log into the database."""
        self._connection.close()

    def _execute(self, statement: str, row: str, values: Sequence[Sequence[Any]]) -> None:
        for at in range(0, len(values), ROWS):
            part = values[at : at + ROWS]
            rows = ", ".join([row] * len(part))
            self._connection.execute(statement.format(rows=rows), [value for each in part for value in each])


def prepare(data: Path) -> str:
    """Create the file, or replace one that cannot be used. The caller holds the lock on the data directory.

    Returns:
        Why a file was replaced; empty if none was.

    Raises:
        OSError: the file can be neither used nor replaced.
    """
    path = data / STATE_FILE
    try:
        _create(path)
    except StateDamaged as error:
        for name in (path, *_beside(path)):
            name.unlink(missing_ok=True)
        _create(path)
        return error_text(error)
    return ""


def read(data: Path) -> list[StateRow]:
    """Read all entries of the file in a data directory, whether or not a server is running.

    Returns:
        The entries, the least recently changed first; none if there is no file.

    Raises:
        OSError: the file cannot be read.
    """
    path = data / STATE_FILE
    if not path.exists():
        return []
    with closing(_connect(path, "ro")) as connection:
        return _rows(connection, path)


def verify(data: Path) -> str:
    """Check the file, whether or not a server is running; return a sentence about what is wrong with it.

    The text is empty if nothing is wrong; a missing file is created when the server starts.
    """
    path = data / STATE_FILE
    if not path.exists():
        return ""
    try:
        with closing(_connect(path, "ro")) as connection:
            _check(connection, path)
    except StateDamaged as error:
        why = error_text(error)
        return f"damaged ({why}); the next start of the server replaces it by an empty file and loses no mail"
    except OSError as error:
        return f"cannot be read: {error_text(error)}"
    return ""


def _create(path: Path) -> None:
    """Create the file if it does not exist, and check it."""
    os.close(open_private(path, os.O_RDWR | os.O_CREAT))
    with closing(_connect(path, "rw")) as connection:
        with _faults(path):
            if not connection.execute("PRAGMA user_version").fetchone()[0]:
                connection.execute("BEGIN IMMEDIATE")
                for statement in _SCHEMA:
                    connection.execute(statement)
                connection.execute("COMMIT")
        _check(connection, path)


def _connect(path: Path, mode: Mode) -> sqlite3.Connection:
    with _faults(path):
        connection = open_database(path, mode)
        try:
            if mode == "rw":
                for pragma in ("journal_mode=WAL", "synchronous=NORMAL", f"journal_size_limit={LOG_OCTETS}"):
                    connection.execute(f"PRAGMA {pragma}").fetchall()
        except BaseException:
            connection.close()
            raise
    return connection


def _rows(connection: sqlite3.Connection, path: Path) -> list[StateRow]:
    query = """SELECT namespace, CAST(key AS BLOB), CAST(value AS BLOB), CAST(expires AS REAL)
        FROM entry ORDER BY seq"""
    with _faults(path):
        return [StateRow(*row) for row in connection.execute(query)]


def _check(connection: sqlite3.Connection, path: Path) -> None:
    with _faults(path):
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            raise StateDamaged(errno.EINVAL, f"it has schema {version}, this program uses {VERSION}", str(path))
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise StateDamaged(errno.EIO, found, str(path))
        connection.execute("SELECT namespace, key, value, expires FROM entry LIMIT 1").fetchall()


def _beside(path: Path) -> Iterator[Path]:
    """The files that SQLite keeps beside a database."""
    return (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    """Convert errors of SQLite into OSErrors."""
    try:
        yield
    except sqlite3.Error as error:
        kind = StateDamaged if code_of(error) in _DAMAGE else OSError
        raise kind(errno.EIO, str(error), str(path)) from error
