"""Backups of a data directory, made while a server runs on it or not.

Promises: every message that was in the queue, or in any other file of the directory, when `back_up` was called is in
the backup, unless it was delivered, returned or dropped meanwhile. Files are 0600 and durable when the manifest is
written, which comes last (`storage.manifest`). After an error the target is empty.
Refuses: a target that is not empty, or that is in the data directory.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.storage import manifest
from ironpost.storage.files import copy_file, empty
from ironpost.storage.lock import LOCK, refuse_unfinished
from ironpost.storage.ownership import refuse_exposed
from ironpost.storage.sqlite.copying import copy_database, is_database

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

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
    left_out: list[Path] = []
    try:
        # The queue last: a message that is moved into it meanwhile, from another directory, is not missed.
        others = {data / LOCK, *(data / name for name in backend.folders)}
        _copy_directory(data, target, others, left_out, mail=mail)
        queue = await backend.copy(data, target)
        return FinishedBackup(manifest.write(target, now), queue, left_out)
    except BaseException:
        empty(target)
        raise


def _copy_directory(
    directory: Path, target: Path, without: Container[Path], left_out: list[Path], *, mail: bool
) -> None:
    """Copy the files and directories in a directory, without those that are removed meanwhile."""
    with os.scandir(directory) as found:
        # In this order `new` comes before `cur`: mail that somebody reads meanwhile is found in one or both.
        entries = sorted(found, key=lambda entry: entry.name, reverse=True)
    for entry in entries:
        path, copy = Path(entry.path), target / entry.name
        if path in without:
            continue
        try:
            if entry.is_dir(follow_symlinks=False):
                if mail or not all((path / name).is_dir() for name in _MAILDIR):
                    copy.mkdir(mode=0o700)
                    _copy_directory(path, copy, without, left_out, mail=mail)
            elif entry.is_symlink():
                left_out.append(path)
            elif entry.is_file(follow_symlinks=False) and not _beside_database(path):
                (copy_database if is_database(path) else copy_file)(path, copy)
        except FileNotFoundError:
            continue


def _beside_database(path: Path) -> bool:
    """Whether SQLite keeps this file beside a database; `copy_database` has its contents."""
    for end in _BESIDE:
        database = path.with_name(path.name.removesuffix(end))
        if database != path and database.is_file() and is_database(database):
            return True
    return False
