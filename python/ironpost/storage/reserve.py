"""The reserve: disk space that new mail never takes, so that queued mail can always be recorded and delivered."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from ironpost.model.text import counted
from ironpost.queue.store import StoreFull

if TYPE_CHECKING:
    from pathlib import Path

RESERVE: Final = 64 << 20
"""Its size in octets: recording deliveries needs space, and so does the database's log."""


def free_space(directory: Path) -> int:
    """Return the octets that are free on the disk of a directory.

    Raises:
        OSError: it cannot be queried.
    """
    space = os.statvfs(directory)
    return space.f_bavail * space.f_frsize


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
    if free - octets < reserve:
        raise StoreFull(errno.ENOSPC, f"{counted(free, 'octet')} free, {reserve} kept in reserve", str(directory))
