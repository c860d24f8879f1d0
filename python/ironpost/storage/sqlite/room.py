"""Free disk space for new mail.

Promises: new mail never takes the reserve (`storage.reserve`). The free space is queried at most once a second; in
between, used space is counted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ironpost.storage.reserve import disk_space, is_short, refuse_reserve
from ironpost.storage.sqlite.schema import DATABASE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOG_ROOM = 32 * 1024 * 1024
"""Octets of the reserve that the log and its copy may need at the same time."""
LOOK_SECONDS = 1.0
"""Minimum interval between queries of the free space."""


class Room:
    """Free space for new mail of one shard."""

    def __init__(self, directory: Path, reserve: int, sharers: int, inside: Callable[[], int]) -> None:
        """Query nothing yet.

        Args:
            directory: the shard's.
            reserve: octets of the disk that new mail never takes.
            sharers: number of processes that store new mail on this disk.
            inside: octets that the database can take without growing.
        """
        self._directory = directory
        self._reserve = reserve
        self._sharers = sharers
        self._inside = inside
        self._free = 0
        self._next_look = 0.0

    def check(self, octets: int, *, inside: bool = False) -> None:
        """Check that the disk has room for new mail and the reserve.

        Args:
            octets: of new mail.
            inside: whether they go into the database, whose free pages then count as well.

        Raises:
            StoreFull: the disk does not have enough room.
        """
        clock = time.monotonic()
        if clock >= self._next_look or is_short(self._free, self._reserve, octets):
            # The log's file stays when its content has been copied: it is in the reserve, and must not count against
            # new mail permanently. But content that is not copied yet needs the same space again in the database.
            log = self._directory / f"{DATABASE}-wal"
            taken = min(log.stat().st_size, max(0, self._reserve - LOG_ROOM)) if log.exists() else 0
            free = disk_space(self._directory).free + taken
            # Space that other processes use before the next query is unknown: each may use only its share.
            self._free = self._reserve + (free - self._reserve) // self._sharers if free > self._reserve else free
            self._next_look = clock + LOOK_SECONDS
        else:
            free = self._free
        if not is_short(free, self._reserve, octets):
            return
        if inside:
            free += self._inside()
        refuse_reserve(self._directory, free, self._reserve, octets)

    def take(self, octets: int, *, inside: bool = False) -> None:
        """As `check`, and count the room as used until the next query."""
        self.check(octets, inside=inside)
        self._free -= octets

    def look_again(self) -> None:
        """Query the disk at the next check, because space was freed."""
        self._next_look = 0.0
