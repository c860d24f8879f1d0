"""A file that is read again after each change.

Promises: `current` has what is in the file now. A change that cannot be used leaves what was read before, and is logged
once.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Generic, TypeVar

from ironpost.model.text import error_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOG = logging.getLogger("ironpost.accounts")
T = TypeVar("T")
_Stamp = tuple[int, int, int]


class WatchedFile(Generic[T]):
    """A file and what was read from it."""

    def __init__(self, path: Path, read: Callable[[Path], T], content: str) -> None:
        """Watch a file; nothing is read yet.

        Args:
            path: the file.
            read: reads it. It raises ValueError or OSError, with a text that names the file.
            content: what the log calls its content, in the plural.
        """
        self.path = path
        self._read = read
        self._content = content
        self._current: T | None = None
        self._stamp: _Stamp | None = None
        self._failing = False
        """Whether `stat` failed the last time; the first failure in a row is logged."""

    def current(self) -> T:
        """Return what the file has now; a file that does not exist is read too. Blocks; called from any thread.

        Raises:
            ValueError, OSError: the file cannot be used, and never was.
        """
        try:
            stamp = self._stat()
        except OSError as error:
            if self._current is None:
                raise
            if not self._failing:
                LOG.error("%s: %s; keeping the %s read before", self.path, error_text(error), self._content)
            self._failing = True
            return self._current
        self._failing = False
        if self._current is None or stamp != self._stamp:
            try:
                self._current = self._read(self.path)
            except (ValueError, OSError) as error:
                if self._current is None:
                    raise
                LOG.error("%s; keeping the %s read before", error, self._content)
            self._stamp = stamp
        return self._current

    def _stat(self) -> _Stamp | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
