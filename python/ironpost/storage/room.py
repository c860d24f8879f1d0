"""How much new mail the disk has room for.

Promises: new mail never takes the reserve, so that what is in the queue can always be recorded and leave it. The free
space is asked for at most once a second; between two looks, what is taken is counted.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

from ironpost.queue.store import StoreFull
from ironpost.storage.sqlite_schema import DATABASE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RESERVE = 64 * 1024 * 1024
"""Octets of the disk that new mail never takes: what is in the queue needs room to be recorded and to leave, and the
database's log lives there."""
LOG_ROOM = 32 * 1024 * 1024
"""Octets of the reserve that the log and its copying may need at once."""
LOOK_SECONDS = 1.0
"""How often the free space is looked at."""


class Room:
    """Of one shard."""

    def __init__(self, directory: Path, reserve: int, sharers: int, inside: Callable[[], int]) -> None:
        """Looks at nothing yet.

        Args:
            directory: the shard's.
            reserve: octets of the disk that new mail never takes.
            sharers: processes that take new mail onto this disk.
            inside: octets that the database can take without growing.
        """
        self._directory = directory
        self._reserve = reserve
        self._sharers = sharers
        self._inside = inside
        self._free = 0
        self._next_look = 0.0

    def check(self, octets: int, *, inside: bool = False) -> None:
        """The disk has room for so much new mail, and the reserve.

        Args:
            octets: of new mail.
            inside: they go into the database, so that its free pages are room, too.

        Raises:
            StoreFull: it has not.
        """
        clock = time.monotonic()
        if clock >= self._next_look or self._free - octets < self._reserve:
            space = os.statvfs(self._directory)
            # The log's file stays when its content has been copied: it lies in the reserve, and must not count against
            # new mail for ever. Not all of it: what is not copied yet needs as much again in the database.
            log = self._directory / f"{DATABASE}-wal"
            taken = min(log.stat().st_size, max(0, self._reserve - LOG_ROOM)) if log.exists() else 0
            free = space.f_bavail * space.f_frsize + taken
            # What the others take until the next look is not seen here: of the room each counts on its part only.
            self._free = self._reserve + (free - self._reserve) // self._sharers if free > self._reserve else free
            self._next_look = clock + LOOK_SECONDS
        else:
            free = self._free
        if free - octets >= self._reserve:
            return
        if inside:
            free += self._inside()
        if free - octets < self._reserve:
            raise StoreFull(
                errno.ENOSPC, f"{free} octets are free, {self._reserve} are kept in reserve", str(self._directory)
            )

    def take(self, octets: int, *, inside: bool = False) -> None:
        """As `check`, and the room counts as taken until the next look."""
        self.check(octets, inside=inside)
        self._free -= octets

    def look_again(self) -> None:
        """Space was given back: the next question looks at the disk."""
        self._next_look = 0.0
