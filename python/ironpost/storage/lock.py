"""The lock on a data directory: one server at a time.

Promises: while a `DirectoryLock` is held, no other one on the same directory can be; the kernel lets go of it when the
process ends, however it ends. The lock file stays behind and means nothing by itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from ironpost.storage.ownership import open_private

LOCK = "lock"
"""The file below the data directory; it holds the owner's process id for people."""


class DirectoryInUse(OSError):
    """Another process works in this data directory. The sentence names it."""


class DirectoryLock:
    """flock(2) on `<data>/lock`."""

    def __init__(self, directory: Path) -> None:
        """Takes the lock, creating the directory (0700) if need be.

        Raises:
            DirectoryInUse: another process holds it.
            OSError: the directory cannot be created or written.
        """
        if not directory.exists():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(directory.parent)  # the name of a new directory must outlive a crash, too
        path = Path(directory, LOCK)
        descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise DirectoryInUse(errno.EWOULDBLOCK, _in_use(owner), str(directory)) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    @property
    def descriptor(self) -> int:
        """The lock's file: a process that inherits it holds the lock, too, for as long as it lives."""
        return self._descriptor

    def release(self) -> None:
        """Lets go. Harmless if called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _in_use(owner: str) -> str:
    if not owner.isdigit():
        return "The data directory is in use by another process: stop it, or give this one a directory of its own"
    try:
        os.kill(int(owner), 0)
    except ProcessLookupError:
        return (
            f"The data directory is in use by workers of process {owner}, which was killed: they are ending, try again"
        )
    except PermissionError:
        pass  # it lives, as somebody else
    return f"The data directory is in use by process {owner}: stop it, or give this one a directory of its own"


def sync_directory(directory: Path) -> None:
    """The names in it reach the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
