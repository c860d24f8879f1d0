"""The program of the sync process (`sqlite.sync` is the server's side).

Promises: every request is answered with an errno, 0 for success, and the requests of one channel are answered in
order. Each channel has its own thread, so a log sync never waits for a checkpoint, a large file or an unlink. The
process ends when its log channel closes, even if the server crashed, and ignores the signals sent to the server.
Failures: an unexpected exception is answered with EIO, and the thread continues.

It is started without site-packages (`-I -S`) and imports nothing outside the standard library and `sqlite.recovery`,
because every shard in use starts one.

A request is a line: a word, then arguments. An answer is two octets, big-endian.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sqlite3
import threading
from typing import TYPE_CHECKING

from ironpost.storage.sqlite.recovery import LogExtent, Recovery, durable, sync_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PUNCH_KEEPING_SIZE = 0x02 | 0x01
"""FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE."""
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals for the server, which blocks them when it starts this process."""
MAX_DESCRIPTORS = 16
"""Maximum number of descriptors in one read of a channel."""


class _Channel:
    """Reads requests and writes answers."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._descriptors: list[int] = []

    def requests(self) -> Iterator[list[bytes]]:
        """Serve requests until the server closes the channel."""
        pending = b""
        while True:
            # The descriptors of a request never arrive after its first octet (unix(7)), hence before its line is whole.
            data, descriptors, _, _ = socket.recv_fds(self._socket, 65536, MAX_DESCRIPTORS)
            self._descriptors += descriptors
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                yield line.split(b" ")

    def descriptor(self) -> int:
        """The descriptor that came with the current request."""
        return self._descriptors.pop(0)

    def answer(self, code: int) -> None:
        self._socket.sendall(code.to_bytes(2, "big"))


def _serve(channel: _Channel, handle: Callable[[list[bytes]], None]) -> None:
    # A server that was killed leaves a broken channel: that is a normal end.
    with contextlib.suppress(ConnectionError):
        for words in channel.requests():
            code = 0
            try:
                handle(words)
            except OSError as error:
                code = error.errno or errno.EIO
            except Exception:  # noqa: BLE001 - without this thread its channel would get no answers
                code = errno.EIO
            channel.answer(code)


class _Log:
    """`sync`: the log. `sync-new`: its directory, too. `recover SECONDS [FRAMES SALTS]`: `Recovery.run`."""

    def __init__(self, directory: str, database: str, log: int) -> None:
        self._directory = directory
        self._log = log
        self._recovery = Recovery(os.path.join(directory, database), log)  # noqa: PTH118 - pathlib is slow to import

    def __call__(self, words: list[bytes]) -> None:
        if words[0] == b"recover":
            good = LogExtent(int(words[2]), bytes.fromhex(words[3].decode())) if len(words) > 2 else None
            self._recovery.run(float(words[1]), good)
            return
        durable(self._log)
        if words[0] == b"sync-new":
            sync_directory(self._directory)


class _Segments:
    """`take N`: the attached descriptor is segment N. `sync N`, `sync-new N`, `forget N`."""

    def __init__(self, channel: _Channel, directory: str) -> None:
        self._channel = channel
        self._directory = directory
        self._descriptors: dict[bytes, int] = {}

    def __call__(self, words: list[bytes]) -> None:
        number = words[1]
        if words[0] == b"take":
            self._forget(number)
            self._descriptors[number] = self._channel.descriptor()
        elif words[0] == b"forget":
            self._forget(number)
        else:
            durable(self._descriptors[number])
            if words[0] == b"sync-new":
                sync_directory(os.path.join(self._directory, "segments"))  # noqa: PTH118
                sync_directory(self._directory)

    def _forget(self, number: bytes) -> None:
        descriptor = self._descriptors.pop(number, -1)
        if descriptor >= 0:
            os.close(descriptor)


class _Work:
    """`file NAME`: a file and its name. `checkpoint`: copies the log into the database."""

    def __init__(self, directory: str, database: str) -> None:
        self._directory = directory
        self._database = database
        self._connection: sqlite3.Connection | None = None
        self._known: set[str] = set()
        """Directories whose names are durable; none is removed while the store is open."""

    def __call__(self, words: list[bytes]) -> None:
        if words[0] == b"file":
            self._file(os.fsdecode(words[1]))
        else:
            self._checkpoint()

    def _file(self, name: str) -> None:
        path = os.path.join(self._directory, name)  # noqa: PTH118
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            durable(descriptor)
        finally:
            os.close(descriptor)
        folder = os.path.dirname(path)  # noqa: PTH120
        sync_directory(folder)
        while len(folder) > len(self._directory) and folder not in self._known:
            above = os.path.dirname(folder)  # noqa: PTH120
            sync_directory(above)
            self._known.add(folder)
            folder = above

    def _checkpoint(self) -> None:
        if self._connection is None:
            path = os.path.join(self._directory, self._database)  # noqa: PTH118
            self._connection = sqlite3.connect(path, isolation_level=None)
            for statement in ("checkpoint_fullfsync=1", "schema_version"):  # before its first read it copies nothing
                self._connection.execute(f"PRAGMA {statement}").fetchall()
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


class _Background:
    """`punch NAME OFFSET LENGTH ...`: holes in a file. `remove NAME ...`: unlinks files."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def __call__(self, words: list[bytes]) -> None:
        if words[0] == b"punch":
            numbers = list(map(int, words[2:]))
            self._punch(os.fsdecode(words[1]), list(zip(numbers[::2], numbers[1::2], strict=True)))
        else:
            self._remove([os.fsdecode(name) for name in words[1:]])

    def _punch(self, name: str, ranges: list[tuple[int, int]]) -> None:
        import ctypes  # most processes never need it

        try:
            fallocate = ctypes.CDLL(None, use_errno=True).fallocate
        except AttributeError:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), name) from None
        fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)
        path = os.path.join(self._directory, name)  # noqa: PTH118
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            for offset, length in ranges:
                if fallocate(descriptor, PUNCH_KEEPING_SIZE, offset, length):
                    code = ctypes.get_errno()
                    raise OSError(code, os.strerror(code), name)
        finally:
            os.close(descriptor)

    def _remove(self, names: list[str]) -> None:
        folders = set()
        for name in names:
            path = os.path.join(self._directory, name)  # noqa: PTH118
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108
            folders.add(os.path.dirname(path))  # noqa: PTH120
        for folder in folders:
            with contextlib.suppress(FileNotFoundError):
                sync_directory(folder)


def main(directory: str, database: str, *descriptors: str) -> None:
    """Serve requests until the log channel closes.

    Args:
        directory: the store's.
        database: the database file in it.
        descriptors: the channels for log, segments, work and background, then the log itself.
    """
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
    *numbers, log = map(int, descriptors)
    logs, segments, work, background = map(_Channel, numbers)
    for target, arguments in (
        (_serve, (segments, _Segments(segments, directory))),
        (_serve, (work, _Work(directory, database))),
        (_serve, (background, _Background(directory))),
    ):
        threading.Thread(target=target, args=arguments, daemon=True).start()
    _serve(logs, _Log(directory, database, log))
    os._exit(0)
