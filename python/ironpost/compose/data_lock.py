"""Locking a data directory for one process, and the error if it cannot be used.

Promises: every failure is a `DataError` with the OSError as its cause. Imports nothing that only the store needs.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from ironpost.storage.lock import DirectoryLock, refuse_unfinished
from ironpost.storage.ownership import writable_by

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger("ironpost.compose")


class DataError(Exception):
    """The data directory cannot be used; the cause is the OSError."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"cannot use the data directory {path}")
        self.path = path


@contextlib.contextmanager
def used(data: Path) -> Iterator[None]:
    """Convert an OSError into a `DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(data) from error


def locked(data: Path) -> DirectoryLock:
    """The lock on the data directory, with a warning if a group may write there.

    Raises:
        OSError: see `DirectoryLock` and `refuse_unfinished`.
    """
    lock = DirectoryLock(data)
    try:
        refuse_unfinished(data)
    except OSError:
        lock.release()
        raise
    if writable_by(data):
        log.warning("the data directory %s is writable by its group; unless that is intended, run chmod g-w", data)
    return lock
