"""Opens SQLite databases that exist: nothing is created in the place of a file that is missing."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from pathlib import Path

Mode = Literal["ro", "rw"]

BUSY_SECONDS: Final = 5.0
"""Seconds that a statement waits for another program that has locked the database."""


def database_uri(path: Path, mode: Mode) -> str:
    """Return the name by which SQLite opens an existing file, for reading only or also for writing."""
    return f"{path.resolve().as_uri()}?mode={mode}"


def open_database(path: Path, mode: Mode) -> sqlite3.Connection:
    """Open an existing file. Its statements may wait `BUSY_SECONDS`; one thread at a time may use the connection.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    uri = database_uri(path, mode)
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
