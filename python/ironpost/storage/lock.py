"""The lock on a data directory: one server at a time.

Promises: while a `DirectoryLock` is held, no other can be taken on the same directory; the kernel releases it when the
process ends, for any reason. The lock file remains, and its existence means nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from ironpost.storage.directory import sync_directory
from ironpost.storage.ownership import open_private, refuse_exposed

LOCK = "lock"
"""The file below the data directory; it holds the owner's process id, for administrators."""


RESTORING = "restoring"
"""The directory below the data directory in which a restore is built (`storage.restore`)."""


class DirectoryInUse(OSError):
    """Another process uses this data directory. The text names the process."""


def refuse_unfinished(directory: Path) -> None:
    """Raise OSError if a restore into this data directory was interrupted."""
    if (directory / RESTORING).exists():
        sentence = "a restore was interrupted; run ironpost restore again, it begins from the start"
        raise OSError(errno.EBUSY, sentence, str(directory))


class DirectoryLock:
    """flock(2) on `<data>/lock`."""

    def __init__(self, directory: Path) -> None:
        """Take the lock, creating the directory (0700) if necessary.

        Raises:
            DirectoryInUse: another process holds it.
            DirectoryExposed: every user may write in the directory.
            OSError: the directory cannot be created or written.
        """
        if not directory.exists():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(directory.parent)  # the name of a new directory must survive a crash, too
        refuse_exposed(directory)
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
        """Descriptor of the lock file: a process that inherits it holds the lock too, until it ends."""
        return self._descriptor

    def release(self) -> None:
        """Release the lock. Harmless if called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _in_use(owner: str) -> str:
    if not owner.isdigit():
        return "The data directory is in use by another process: stop it, or give this one another directory"
    try:
        os.kill(int(owner), 0)
    except ProcessLookupError:
        return (
            f"The data directory is in use by workers of process {owner}, which was killed: they are ending, try again"
        )
    except PermissionError:
        pass  # it runs as another user
    return f"The data directory is in use by process {owner}: stop it, or give this one another directory"
