"""Backups of a data directory, made while a server runs on it or not.

Promises: every message that was in the queue or the drop directory when `back_up` was called is in the backup, unless
it was delivered, returned or dropped meanwhile; with Maildirs also one that was delivered into them. Files are 0600,
and durable when the manifest is written, which comes last (`storage.manifest`). After an error the target is empty.
Refuses: a target that is not empty, or that is in the data directory.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.storage import manifest
from ironpost.storage.files import copy_file, empty, make_directory
from ironpost.storage.lock import LOCK, refuse_unfinished
from ironpost.storage.ownership import refuse_exposed
from ironpost.storage.sqlite.copying import copy_database, is_database

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence
    from pathlib import Path

    from ironpost.storage.backend import Backend, CopiedQueue

_MAILDIR: Final = ("cur", "new", "tmp")
"""The directories that make a directory a Maildir."""
_BESIDE: Final = ("-wal", "-shm", "-journal")
"""Ends of the names of files that SQLite keeps beside a database."""


class FinishedBackup(NamedTuple):
    """What `back_up` made."""

    manifest: manifest.Manifest
    queue: CopiedQueue
    left_out: Sequence[Path]
    """Symbolic links in the data directory, which are not followed."""


def create_target(target: Path, data: Path) -> None:
    """Create the directory for a backup, 0700, if it does not exist; run by root, for the owner of the data directory.

    Raises:
        OSError: it cannot be created, or cannot be used.
    """
    owner = data.stat()
    if target.resolve().is_relative_to(data.resolve()):
        raise OSError(errno.EINVAL, f"it is in the data directory {data}; choose another directory", str(target))
    if target.exists():
        refuse_exposed(target)
        if os.geteuid() == 0 and target.stat().st_uid != owner.st_uid:
            sentence = "it belongs to another user than the data directory; let this command create it"
            raise PermissionError(errno.EPERM, sentence, str(target))
        if any(target.iterdir()):
            raise OSError(errno.ENOTEMPTY, "it is not empty; give each backup a new directory", str(target))
        return
    target.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(target, owner.st_uid, owner.st_gid, follow_symlinks=False)


async def back_up(data: Path, target: Path, backend: Backend, now: float, *, mail: bool) -> FinishedBackup:
    """Copy a data directory to an empty directory.

    Args:
        data: the data directory.
        target: from `create_target`.
        backend: of the queue.
        now: seconds since 1970.
        mail: include Maildirs.

    Raises:
        FileNotFoundError: there is no queue in the data directory.
        StoreUnusable: another version wrote it, or only the server can read it.
        OSError: a file cannot be read or written, a database is damaged, or the data directory is being restored.
    """
    refuse_unfinished(data)
    others = {data / LOCK, *(data / name for name in backend.folders)}
    left_out: list[Path] = []

    def copy(*, maildirs: bool) -> None:
        for path, in_maildir in _below(data, others):
            if in_maildir is maildirs and not _copied(path, target / path.relative_to(data)):
                left_out.append(path)

    try:
        # In the order in which messages move: from the drop directory into the queue, from there into Maildirs.
        copy(maildirs=False)
        queue = await backend.copy(data, target)
        if mail:
            copy(maildirs=True)
        return FinishedBackup(manifest.write(target, now), queue, left_out)
    except BaseException:
        empty(target)
        raise


def _below(directory: Path, without: Container[Path], *, in_maildir: bool = False) -> Iterator[tuple[Path, bool]]:
    """Iterate over what is below a directory, as it is found; True for what is in a Maildir."""
    in_maildir = in_maildir or all((directory / name).is_dir() for name in _MAILDIR)
    with suppress(FileNotFoundError):  # removed meanwhile
        # In this order `new` comes before `cur`: mail that is read meanwhile is found in one or both.
        for path in sorted(directory.iterdir(), reverse=True):
            if path not in without:
                yield path, in_maildir
                if path.is_dir() and not path.is_symlink():
                    yield from _below(path, without, in_maildir=in_maildir)


def _copied(path: Path, target: Path) -> bool:
    """Copy a file, or create a directory, unless it was removed meanwhile; return False for a symbolic link."""
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            make_directory(target)
        elif stat.S_ISREG(mode) and not _beside_database(path):
            make_directory(target.parent)
            (copy_database if is_database(path) else copy_file)(path, target)
        return not stat.S_ISLNK(mode)
    return True


def _beside_database(path: Path) -> bool:
    """Whether SQLite keeps this file beside a database; `copy_database` has its contents."""
    for end in _BESIDE:
        name = path.name.removesuffix(end)
        if name in {"", path.name}:
            continue
        database = path.with_name(name)
        if database.is_file() and is_database(database):
            return True
    return False
