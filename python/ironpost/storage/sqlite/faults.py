"""Converts SQLite's errors into those of the store port.

Promises: inside `store_faults` an error of SQLite is raised as an `OSError`: `StoreFull` if the disk is full, else EIO
with SQLite's text. Callers of the store need not know SQLite.
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from typing import TYPE_CHECKING, Final

from ironpost.queue.store import StoreFull

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_WHOLE: Final = frozenset(
    {
        sqlite3.SQLITE_ERROR,  # a missing table, for instance
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_MISUSE,
    }
)


def code_of(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; 0 for an error of Python's module, such as text that is not UTF-8."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def concerns_all(error: sqlite3.Error) -> bool:
    """Whether an error is due to the whole database, damaged or busy, rather than the row that was being read."""
    return isinstance(error, sqlite3.ProgrammingError) or code_of(error) in _WHOLE


def store_fault(error: sqlite3.Error, directory: Path) -> OSError:
    """Return the error that a caller of the store in `directory` gets."""
    if code_of(error) == sqlite3.SQLITE_FULL:
        return StoreFull(errno.ENOSPC, "the disk is full", str(directory))
    return OSError(errno.EIO, f"the queue's database: {error}", str(directory))


@contextlib.contextmanager
def store_faults(directory: Path) -> Iterator[None]:
    """Convert errors of SQLite with `store_fault`."""
    try:
        yield
    except sqlite3.Error as error:
        raise store_fault(error, directory) from error
