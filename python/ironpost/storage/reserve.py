"""The reserve: disk space that new mail never takes, so that queued mail can always be recorded and delivered."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.model.text import counted
from ironpost.queue.store import StoreFull

if TYPE_CHECKING:
    from pathlib import Path

RESERVE: Final = 64 << 20
"""Its size in octets: recording deliveries needs space, and so does the database's log."""


class Space(NamedTuple):
    """The space on a disk, in octets, without what only root may use."""

    free: int
    size: int


def disk_space(directory: Path) -> Space:
    """Return the space on the disk of a directory. Blocks.

    Raises:
        OSError: it cannot be queried.
    """
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize
    return Space(free, (disk.f_blocks - disk.f_bfree) * disk.f_frsize + free)


def is_short(free: int, reserve: int, octets: int = 0) -> bool:
    """Whether new mail of this size, all in octets, leaves less of the free space than the reserve."""
    return free - octets < reserve


def refuse_reserve(directory: Path, free: int, reserve: int, octets: int = 0) -> None:
    """Refuse new mail that would take the reserve.

    Args:
        directory: on the disk.
        free: octets that are free there.
        reserve: octets that new mail never takes.
        octets: of the new mail.

    Raises:
        StoreFull: less would be left than the reserve.
    """
    if is_short(free, reserve, octets):
        raise StoreFull(errno.ENOSPC, f"{counted(free, 'octet')} free, {reserve} kept in reserve", str(directory))
