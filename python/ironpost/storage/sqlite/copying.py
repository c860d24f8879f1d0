"""Copies databases, and shards with their bodies, while other processes write them.

Promises: the copy of a database is its state at one moment, and SQLite finds no fault in it. Writers do not wait for
it, but the log of the original is not shortened meanwhile. A body is verified while it is copied, and lies in the copy
where its row says, so that rows stay as they are: the rest of a segment is a hole. A message whose body was removed
meanwhile, because it was delivered, returned or dropped, is removed from the copy and counted.
Refuses: a damaged database. Damaged messages are reported, and stay in the copy as far as they can be read.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Final

from ironpost.model.text import error_text
from ironpost.storage.backend import CopiedQueue, Damage
from ironpost.storage.bodies.reading import StoredBody
from ironpost.storage.bodies.spool import write_all
from ironpost.storage.files import copy_file, make_directory
from ironpost.storage.ownership import open_private
from ironpost.storage.sqlite.faults import code_of, store_faults
from ironpost.storage.sqlite.opening import open_database
from ironpost.storage.sqlite.rows import Reader, place_of
from ironpost.storage.sqlite.schema import DATABASE, connect_readonly
from ironpost.storage.sqlite.shards import COUNT, FOLDER, shard_directories

if TYPE_CHECKING:
    from pathlib import Path

    from ironpost.storage.bodies import BodyLocation

_MAGIC: Final = b"SQLite format 3\0"
"""The first octets of every database."""
_MESSAGES: Final = 500
"""Number of messages read at a time."""
_OUTSIDE: Final = "SELECT seq FROM message WHERE segment IS NOT NULL OR file IS NOT NULL ORDER BY segment, start"
"""The messages whose bodies are not in their rows, in the order of their places."""


def is_database(path: Path) -> bool:
    """Whether a file is an SQLite database."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def copy_database(path: Path, target: Path) -> None:
    """Copy a database to a new file, 0600, with no log beside it.

    Raises:
        OSError: it cannot be read or written, or is damaged.
    """
    os.close(_create(target))
    try:
        with closing(open_database(path, "ro")) as original, closing(open_database(target, "rw")) as copy:
            original.backup(copy)
            found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        if code_of(error) == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
        raise OSError(errno.EIO, f"the database cannot be copied: {error}", str(path)) from error
    if found != "ok":
        raise OSError(errno.EIO, f"the database is damaged: {found}", str(path))


async def copy_queue(data: Path, target: Path) -> CopiedQueue:
    """Copy the shards of a data directory, as `storage.backend.Backend.copy`."""
    directories = shard_directories(data)
    if not directories:
        raise FileNotFoundError(errno.ENOENT, "there is no queue", str(data))
    shards = [await _copy_shard(each, target / each.relative_to(data)) for each in directories]
    copy_file(data / FOLDER / COUNT, target / FOLDER / COUNT)
    return CopiedQueue(
        sum(shard.messages for shard in shards),
        sum(shard.finished for shard in shards),
        [damage for shard in shards for damage in shard.damage],
    )


async def _copy_shard(directory: Path, target: Path) -> CopiedQueue:
    try:
        with store_faults(directory):
            original = connect_readonly(directory)
    except FileNotFoundError:
        return CopiedQueue(0, 0, ())  # it is being created: nothing in it was committed before
    finished: list[int] = []
    damage: list[Damage] = []
    with store_faults(target), closing(original):
        copy_database(directory / DATABASE, target / DATABASE)
        with closing(open_database(target / DATABASE, "rw")) as copy:
            reader = Reader(copy, target)
            outside = [seq for (seq,) in copy.execute(_OUTSIDE)]
            for start in range(0, len(outside), _MESSAGES):
                for seq, message in reader.by_seq(outside[start : start + _MESSAGES]):
                    if not isinstance(message.body, StoredBody):
                        damage.append(Damage(directory, message.id, message.fault))
                        continue
                    place = message.body.place
                    try:
                        await _copy_body(
                            StoredBody(directory, b"", place, partial(place_of, original, seq)), target, place
                        )
                    except FileNotFoundError:
                        finished.append(seq)
                    except OSError as error:
                        if error.errno != errno.EIO:
                            raise
                        damage.append(Damage(directory, message.id, error_text(error)))
            _remove(copy, finished)
            (messages,) = copy.execute("SELECT count(*) FROM message").fetchone()
    return CopiedQueue(messages, len(finished), damage)


async def _copy_body(body: StoredBody, target: Path, place: BodyLocation) -> None:
    """Write a body to its place below `target`.

    Raises:
        BodyDamaged: it is damaged; what could be read of it was written.
        FileNotFoundError: its message was removed meanwhile.
        OSError: it cannot be read or written.
    """
    file = _create(target / place.name)
    try:
        moved = True
        while moved:
            moved, at = False, place.start
            try:
                async for piece in body.pieces():
                    write_all(file, [piece], at)
                    at += len(piece)
            except BlockingIOError:
                moved = True  # while it was read
    finally:
        os.close(file)


def _create(path: Path) -> int:
    """Open a file for writing; create it and its directories if necessary."""
    make_directory(path.parent)
    return open_private(path, os.O_WRONLY | os.O_CREAT)


def _remove(copy: sqlite3.Connection, messages: list[int]) -> None:
    """Remove messages, by `seq`; their history stays."""
    numbers = [(seq,) for seq in messages]
    copy.execute("BEGIN")
    copy.executemany("DELETE FROM recipient WHERE message = ?", numbers)
    copy.executemany("DELETE FROM message WHERE seq = ?", numbers)
    copy.execute("COMMIT")
