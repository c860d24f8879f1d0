"""The manifest of a backup: its files with their sizes and checksums, and its directories.

Promises: `write` is the last step of a backup, after everything else is durable, so a backup without a manifest is not
complete. Every octet that `copy_listed` copies was verified.
Refuses: a format that this program does not know, and names outside the backup.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ironpost.model.parameters import moment_text
from ironpost.queue.store import StoreUnusable
from ironpost.storage.files import copy_file, digest_of, sync_tree
from ironpost.storage.ownership import replace_private

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MANIFEST: Final = "manifest.json"
"""The file in a backup."""
FORMAT: Final = 1
"""The format of backups that this program writes and reads."""


class BackupDamaged(OSError):
    """A file of a backup is missing or not what it was. The text says which."""


class ListedFile(NamedTuple):
    """A file of a backup."""

    size: int
    """Octets."""
    sha256: str
    """In hexadecimal digits."""


class Manifest(NamedTuple):
    """The contents of a backup. Names are relative to it."""

    time: str
    """When the backup was begun, in ISO 8601."""
    directories: Sequence[str]
    """Each after the one it is in."""
    files: Mapping[str, ListedFile]


def write(backup: Path, now: float) -> Manifest:
    """Make everything in a backup durable, then write its manifest.

    Args:
        backup: the directory.
        now: when the backup was begun, in seconds since 1970.

    Raises:
        OSError: a file cannot be read, synced or written.
    """
    sync_tree(backup)
    paths = sorted(_below(backup))
    manifest = Manifest(
        moment_text(now),
        [path.relative_to(backup).as_posix() for path in paths if path.is_dir()],
        {
            path.relative_to(backup).as_posix(): ListedFile(path.stat().st_size, digest_of(path))
            for path in paths
            if not path.is_dir()
        },
    )
    files = {name: listed._asdict() for name, listed in manifest.files.items()}
    text = json.dumps({"format": FORMAT, **manifest._asdict(), "files": files}, indent=1)
    folder = os.open(backup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        replace_private(MANIFEST, text.encode(), folder)
    finally:
        os.close(folder)
    return manifest


def read(backup: Path) -> Manifest:
    """Read the manifest of a backup.

    Raises:
        FileNotFoundError: there is none.
        BackupDamaged: it is not one that `write` wrote.
        StoreUnusable: it has another format.
        OSError: it cannot be read.
    """
    path = backup / MANIFEST
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        sentence = f"not a backup, or one that was interrupted: it has no {MANIFEST}"
        raise FileNotFoundError(errno.ENOENT, sentence, str(backup)) from None
    try:
        values = json.loads(text)
        if (found := values["format"]) != FORMAT:
            raise StoreUnusable(f"{path} has format {found!r}, this program reads {FORMAT}: another version wrote it.")
        return _manifest(values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise BackupDamaged(errno.EIO, "the manifest is damaged", str(path)) from None


def copy_listed(backup: Path, manifest: Manifest, target: Path) -> None:
    """Copy everything that a manifest lists into a directory, and verify it.

    Raises:
        BackupDamaged: a file is missing or was changed.
        OSError: a file cannot be read or written.
    """
    for name in manifest.directories:
        (target / name).mkdir(mode=0o700)
    for name, listed in manifest.files.items():
        path = backup / name
        try:
            if path.stat().st_size == listed.size and copy_file(path, target / name) == listed.sha256:
                continue
        except FileNotFoundError:
            raise BackupDamaged(errno.EIO, "it is missing in the backup", str(path)) from None
        raise BackupDamaged(errno.EIO, "it was changed since the backup", str(path))


def _below(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        yield path
        if path.is_dir():
            yield from _below(path)


def _manifest(values: Mapping[str, Any]) -> Manifest:
    files = {name: ListedFile(int(listed["size"]), str(listed["sha256"])) for name, listed in values["files"].items()}
    for name in (*values["directories"], *files):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{name} is outside the backup")
    return Manifest(str(values["time"]), list(values["directories"]), files)
