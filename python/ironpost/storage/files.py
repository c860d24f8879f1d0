"""Copies of whole files, and work on everything in a directory."""

from __future__ import annotations

import hashlib
import os
import shutil
from typing import TYPE_CHECKING

from ironpost.model.body import PIECE
from ironpost.storage.directory import sync_directory
from ironpost.storage.ownership import open_private

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path


def copy_file(path: Path, target: Path) -> str:
    """Copy a regular file to a new one, 0600. A symbolic link is not followed; pieces of zeros become holes.

    Returns:
        The SHA-256 of the content, in hexadecimal digits.

    Raises:
        OSError: it cannot be read or written.
    """
    digest = hashlib.sha256()
    source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(source, "rb") as file:
        copy = open_private(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(copy, "wb") as out:
            while piece := file.read(PIECE):
                digest.update(piece)
                if piece.strip(b"\0"):
                    out.write(piece)
                else:
                    out.seek(len(piece), os.SEEK_CUR)
            out.truncate()
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_directory(directory: Path) -> None:
    """Create a directory, and those it is in, 0700, if they do not exist.

    Raises:
        OSError: one cannot be created.
    """
    if not directory.exists():
        make_directory(directory.parent)
        directory.mkdir(mode=0o700)  # with `parents=True` only the last one would have this mode


def sync_tree(directory: Path) -> None:
    """Sync all files below a directory, and their names.

    Raises:
        OSError: one cannot be opened or synced.
    """
    for path in directory.iterdir():
        if path.is_dir():
            sync_tree(path)
            continue
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)
    sync_directory(directory)


def empty(directory: Path, without: Container[str] = ()) -> None:
    """Remove everything in a directory, except these names.

    Raises:
        OSError: something cannot be removed.
    """
    for path in directory.iterdir():
        if path.name in without:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
