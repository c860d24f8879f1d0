"""Makes a data directory from a backup.

Promises: the directory is built in `RESTORING` inside the data directory, and moved to its place when everything is
there, verified and durable. Until then no server starts on it (`refuse_unfinished`); another call begins again. After
an error the data directory is empty, as before. Unless they are to be released, all queued recipients are held: what
was delivered after the backup would be delivered again.
Refuses: a data directory that a server uses or that is not empty, and a backup that is incomplete or was changed.
"""

from __future__ import annotations

import errno
from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.queue.selection import EVERYTHING
from ironpost.queue.store import RecipientState
from ironpost.storage import manifest
from ironpost.storage.directory import sync_directory
from ironpost.storage.files import empty, sync_tree
from ironpost.storage.lock import LOCK, RESTORING, DirectoryLock

if TYPE_CHECKING:
    from pathlib import Path

    from ironpost.storage.backend import Backend, StoreOptions

_IGNORED: Final = frozenset({LOCK, "lost+found"})
"""Names that an empty data directory may have."""


class Restored(NamedTuple):
    """What `restore` made."""

    time: str
    """When the backup was begun, in ISO 8601."""
    messages: int
    held: int
    """Recipients that `restore` held."""


async def restore(backup: Path, data: Path, backend: Backend, options: StoreOptions, *, release: bool) -> Restored:
    """Make a data directory from a backup.

    Args:
        backup: the directory of the backup.
        data: the data directory; it is empty or does not exist.
        backend: of the queue.
        options: for opening the queue.
        release: do not hold the recipients that were queued.

    Raises:
        DirectoryInUse: a server uses the data directory.
        FileNotFoundError: there is no complete backup.
        BackupDamaged: the backup was changed.
        StoreUnusable: another version wrote the backup.
        OSError: the data directory is not empty, or a file cannot be read or written.
    """
    listed = manifest.read(backup)
    lock = DirectoryLock(data)
    try:
        under = _begin(data)
        try:
            manifest.copy_listed(backup, listed, under)
            messages, held = await _open(under, backend, options, release=release)
            sync_tree(under)
        except BaseException:
            empty(data, _IGNORED)
            raise
        for path in under.iterdir():
            path.rename(data / path.name)
        sync_directory(data)
        sync_directory(under)
        under.rmdir()
        sync_directory(data)
    finally:
        lock.release()
    return Restored(listed.time, messages, held)


def _begin(data: Path) -> Path:
    """Remove what an interrupted restore left, and create `RESTORING`.

    Raises:
        OSError: the data directory has other files, or cannot be written.
    """
    found = [path for path in data.iterdir() if path.name not in _IGNORED]
    if found and not (data / RESTORING).exists():
        sentence = f"the data directory is not empty, there is {found[0].name}; move it away, or choose another"
        raise OSError(errno.ENOTEMPTY, sentence, str(data))
    empty(data, {*_IGNORED, RESTORING})
    empty(data, _IGNORED)  # separately: while RESTORING exists no server starts
    under = data / RESTORING
    under.mkdir(mode=0o700)
    return under


async def _open(data: Path, backend: Backend, options: StoreOptions, *, release: bool) -> tuple[int, int]:
    """Open the queue, migrate its schema and hold all recipients; return the number of messages and of these."""
    backend.prepare(data)
    store = backend.open(data, options)
    try:
        held = 0 if release else await store.hold(EVERYTHING)
    finally:
        await store.close()
    with closing(backend.open_reader(data)) as reader:
        tally = await reader.tally()
        faults = list(reader.faults)
    if tally.recipients[RecipientState.QUEUED] and not release:
        faults.append("not every recipient could be held")
    if faults:
        raise manifest.BackupDamaged(errno.EIO, f"the queue cannot be used: {faults[0]}", str(data))
    return tally.messages, held
