"""A disk whose power can be cut at any write: ext4 on a loop device on a FUSE file (disk.c) that records its writes.

Promises: what `Disk.cuts` mounts is what a disk with a volatile write cache could hold after a power cut at that
record: everything up to the last flush before it, and of the later writes all, none, or some in another order, torn at
sectors. Requires root, in a mount namespace of its own (`enclosed`): when its last process ends, the kernel unmounts
and detaches everything, however the harness ended.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import struct
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from faults import BuildError, build

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from faults import Faults

SIZE = 1 << 30
SECTOR = 512
TAILS = ("dropped", "kept", "partly kept")
"""What happens to the writes since the last flush."""

_RECORD = struct.Struct("=QQQ")
_WRITTEN, _FLUSHED, _ZEROED = 1, 2, 3
_FUSE = ("-I/usr/include/fuse3", "-D_FILE_OFFSET_BITS=64", "-lfuse3", "-lpthread")


def enclosed(command: list[str]) -> list[str]:
    """Wrap the command in new namespaces, which take its processes and mounts with them when they end."""
    return [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation",
        "private",
        *command,
    ]


def unavailable(folder: Path) -> str | None:
    """Return why the disk cannot be used here, or None if it can. Compiles into `folder`."""
    if not sys.platform.startswith("linux"):
        return "the disk needs Linux"
    if os.geteuid() != 0:
        return "mounting a disk needs root"
    for device in ("/dev/fuse", "/dev/loop-control"):
        if not Path(device).exists():
            return f"there is no {device}"
    for program in ("mkfs.ext4", "dumpe2fs", "debugfs", "mount", "umount", "unshare"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    try:
        build("disk.c", folder / "disk", *_FUSE)
    except BuildError as error:
        return f"the disk cannot be compiled: {error}"
    done = subprocess.run(enclosed(["true"]), capture_output=True, text=True, check=False)
    return f"no namespaces: {done.stderr}" if done.returncode else None


def _run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


@dataclass(frozen=True)
class Cut:
    """A power cut."""

    record: int
    """The number of records before it."""
    tail: str
    """One of TAILS."""


class Disk:
    """An empty file system at `path`, whose writes are recorded."""

    def __init__(self, folder: Path, faults: Faults) -> None:
        """Create and mount the file system.

        Raises:
            RuntimeError: a program failed; the text has its name and output.
            BuildError: disk.c cannot be compiled.
        """
        self.path = folder / "mounted"
        self._fuse = folder / "fuse"
        self._memory = folder / "memory"
        for directory in (self.path, self._fuse, self._memory):
            directory.mkdir()
        program = build("disk.c", folder / "disk", *_FUSE)
        # Images and records in memory: the syncs of many mounts would wait for the machine's real disk.
        _run("mount", "-t", "tmpfs", "-o", "size=8g", "torture", self._memory)
        self._image, self._base, self._log = (self._memory / name for name in ("live.img", "base.img", "records"))
        with self._image.open("wb") as file:
            file.truncate(SIZE)
        _run(
            "mkfs.ext4",
            "-q",
            "-F",
            "-N",
            "8192",
            "-J",
            "size=16",
            "-E",
            "lazy_itable_init=0,lazy_journal_init=0",
            self._image,
        )
        _run("cp", "--sparse=always", self._image, self._base)
        faults.reset_records()
        _run(program, self._fuse, self._image, self._log, faults.file, *_tables(self._image))
        try:
            _run("mount", "-o", "loop,noatime", self._fuse / "disk.img", self.path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Unmount the disk; the record is kept. May be called again."""
        for path in (self.path, self._fuse):
            if path.is_mount():
                try:
                    _run("umount", path)
                except RuntimeError:  # a killed process has not exited yet
                    _run("umount", "-l", path)

    def discard(self) -> None:
        """Delete the record. The disk must be closed."""
        _run("umount", self._memory)

    def cuts(self, cuts: list[Cut], chance: random.Random) -> Iterator[tuple[Cut, Path]]:
        """Mount the result of each cut, in the order of their records, and unmount it when the next is requested.

        Raises:
            RuntimeError: the file system cannot be mounted any more.
        """
        durable, victim, mounted = (self._memory / name for name in ("durable.img", "victim.img", "after"))
        mounted.mkdir(exist_ok=True)
        _run("cp", "--sparse=always", self._base, durable)
        with self._log.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as log:
            records = _index(log)
            applied = 0
            for cut in sorted(cuts, key=lambda cut: cut.record):
                flushed = max((n + 1 for n in range(applied, cut.record) if records[n][0] == _FLUSHED), default=applied)
                _apply(durable, log, records[applied:flushed])
                applied = flushed
                _run("cp", "--sparse=always", durable, victim)
                _apply(victim, log, tail(records[flushed : cut.record], cut.tail, chance))
                with _mounted(victim, mounted):
                    yield cut, mounted


def tail(records: list[tuple[int, int, int, int]], kind: str, chance: random.Random) -> list[tuple[int, int, int, int]]:
    """Return the content of a disk after unflushed writes.

    A record has its kind, offset, length, and place in the log.
    """
    if kind == "dropped":
        return []
    if kind == "kept":
        return records
    pieces = []
    for what, offset, length, at in records:
        # A write is torn into a few pieces, at sectors.
        edges = {0, length, *(chance.randrange(0, length + 1, SECTOR) for _ in range(min(3, length // SECTOR)))}
        ordered = sorted(edges)
        pieces += [(what, offset + a, b - a, at + a) for a, b in pairwise(ordered)]
    kept = [piece for piece in pieces if chance.random() < 0.5]
    chance.shuffle(kept)
    return kept


def _index(log: mmap.mmap) -> list[tuple[int, int, int, int]]:
    records = []
    at = 0
    while at < len(log):
        kind, offset, length = _RECORD.unpack_from(log, at)
        at += _RECORD.size
        records.append((kind, offset, length, at))
        if kind == _WRITTEN:
            at += length
    return records


def _apply(image: Path, log: mmap.mmap, records: list[tuple[int, int, int, int]]) -> None:
    with image.open("r+b") as file:
        for kind, offset, length, at in records:
            if kind == _WRITTEN:
                file.seek(offset)
                file.write(log[at : at + length])
            elif kind == _ZEROED:
                file.seek(offset)
                file.write(bytes(length))


@contextmanager
def _mounted(image: Path, path: Path) -> Iterator[None]:
    _run("mount", "-o", "loop,noatime", image, path)
    try:
        yield
    finally:
        _run("umount", path)


def _tables(image: Path) -> list[str]:
    """Return offset and length of areas that must not fail: the file system's tables at its start, and its journal."""
    text = _run("dumpe2fs", image)
    block = int(re.findall(r"^Block size: +(\d+)", text, re.M)[0])
    last = max(int(end) for end in re.findall(r"^ +Inode table at \d+-(\d+)", text, re.M))
    ranges = ["0", str((last + 1) * block)]
    journal = sorted(map(int, _run("debugfs", "-R", "blocks <8>", image).split()))
    start = previous = journal[0]
    for number in [*journal[1:], -1]:
        if number != previous + 1:
            ranges += [str(start * block), str((previous + 1 - start) * block)]
            start = number
        previous = number
    return ranges
