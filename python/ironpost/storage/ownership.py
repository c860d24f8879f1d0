"""Safe access by root to files in a directory that another user owns.

The data directory belongs to the service's user, and administrators run commands on it as root. The owner of the
directory can put a symbolic link, a hard link or a FIFO in the place of any file in it.

Promises: `acting_for` gives up root's rights for those of the directory's owner, so that no name in the directory gives
that owner more rights than it had. Files are opened relative to the directory's descriptor, never through a symbolic
link, and only if they are regular files with one name; a file is replaced as a whole, and the replacement survives a
crash.
Refuses: with OSError, to work in a directory that another user than root reaches through a symbolic link, or in which
every user may write.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def acting_for(directory: Path) -> Iterator[int]:
    """Act with the rights of the directory's owner until the block ends, if run by root.

    This affects the whole process: for commands, not for a server.

    Yields:
        A descriptor of the directory, for the functions below.

    Raises:
        OSError: the directory cannot be opened, or is a symbolic link that is not root's.
    """
    root = os.geteuid() == 0
    link = os.lstat(directory)
    if root and stat.S_ISLNK(link.st_mode) and link.st_uid != 0:
        raise OSError(errno.ELOOP, "root does not follow a symbolic link that belongs to another user", str(directory))
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        owner = os.fstat(folder)
        if not root or owner.st_uid == 0:
            yield folder
            return
        groups, group = os.getgroups(), os.getegid()
        os.setgroups([])
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
        try:
            yield folder
        finally:
            os.seteuid(0)
            os.setegid(group)
            os.setgroups(groups)
    finally:
        os.close(folder)


class DirectoryExposed(OSError):
    """Every user may write in the directory. The text says what to do."""


def writable_by(directory: Path) -> int:
    """Return which users besides its owner may write in a directory: `stat.S_IWGRP`, `stat.S_IWOTH`, both or 0."""
    return directory.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def refuse_exposed(directory: Path) -> None:
    """Raise DirectoryExposed if every user may write in the directory, and so replace its files."""
    if writable_by(directory) & stat.S_IWOTH:
        mode = stat.S_IMODE(directory.stat().st_mode)
        sentence = f"every user may write there ({mode:04o}); run: chmod go-w {directory}"
        raise DirectoryExposed(errno.EPERM, sentence, str(directory))


def open_private(name: str | Path, flags: int, folder: int | None = None) -> int:
    """Open a regular file that has no other name; create it with 0600.

    Args:
        name: of the file, in `folder` if that is given.
        flags: of os.open(2).
        folder: a descriptor.

    Raises:
        OSError: it cannot be opened; it is a symbolic link (ELOOP), not a regular file, or has several names (EPERM).
    """
    # O_NONBLOCK: opening a FIFO would wait for a process at its other end.
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(name, flags, 0o600, dir_fd=folder)
    status = os.fstat(file)
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return file
    os.close(file)
    what = "not a regular file" if not stat.S_ISREG(status.st_mode) else "a file with several hard links"
    raise OSError(errno.EPERM, f"{what}, so it is not opened", str(name))


def replace_private(name: str, content: bytes, folder: int) -> None:
    """Replace a file atomically by one with this content, 0600. Run by root, keep its owner.

    Raises:
        OSError: it cannot be written, or an existing file is not one that `open_private` opens.
    """
    owner = None
    with suppress(FileNotFoundError):
        old = open_private(name, os.O_RDONLY, folder)
        owner = os.fstat(old)
        os.close(old)
    new = f"{name}.{secrets.token_hex(8)}.new"
    file = open_private(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, folder)
    try:
        with os.fdopen(file, "wb") as out:
            os.fchmod(file, 0o600)
            if owner is not None and os.geteuid() == 0:
                os.fchown(file, owner.st_uid, owner.st_gid)
            out.write(content)
            out.flush()
            os.fsync(file)
        os.replace(new, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(new, dir_fd=folder)
        raise
    os.fsync(folder)  # the new name must survive a crash, too
