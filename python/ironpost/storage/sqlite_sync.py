"""The sync process: fsync without the interpreter lock.

A thread that has to win the interpreter lock from a busy event loop waits without bound (docs/storage.md has the
figures), and an fsync on the loop stops every session. So a small process of its own does nothing but sync: the store
writes its transaction into SQLite's log, sends one octet, and is told by one octet when the log is on the disk. On a
second channel it syncs body files and copies the log into the database (checkpoint).

Promises: a future that ends without an error means that the file's octets as of the call are durable. The process ends
when its channels close, however the server ended, and ignores the signals meant for the server. If it dies it is
started again and asked again; if that does not help, the futures fail, and the next use starts it anew.
Refuses: to run a second `sync` beside an unfinished one.

Run as a program (`python -I -S sqlite_sync.py DIRECTORY DATABASE FD FD`) this file is that process; it imports nothing
of the package.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sqlite3
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    import subprocess
    from pathlib import Path

START_LIMIT = 3
"""How often the process may die without having answered once before the store gives up."""


class Syncer:
    """The store's side. One event loop at a time."""

    def __init__(self, directory: Path, database: str, *, resting: bool = False) -> None:
        """Starts the process.

        Args:
            directory: the store's directory; body files are named relative to it.
            database: the database file in it; its log (`-wal`) exists already.
            resting: the process starts only with the first use.
        """
        self._directory = directory
        self._database = database
        self._loop: asyncio.AbstractEventLoop | None = None
        self._log_waiter: asyncio.Future[None] | None = None
        self._jobs: dict[int, tuple[bytes, asyncio.Future[None]]] = {}
        self._serial = 0
        self._answers = b""
        self._failures = 0
        self._outbox = b""
        self._dead = resting
        self._log: socket.socket
        self._work: socket.socket
        self._process: subprocess.Popen[bytes] | None = None
        if not resting:
            self._start()

    def _start(self) -> None:
        import subprocess  # here, because the process itself has no use for it

        if self._process is not None:
            self._process.wait()
        self._log, log = socket.socketpair()
        self._work, work = socket.socketpair()
        with log, work:
            descriptors = log.fileno(), work.fileno()
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and file
                [sys.executable, "-I", "-S", __file__, *map(str, (self._directory, self._database, *descriptors))],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
            )
        self._log.setblocking(False)
        self._work.setblocking(False)
        self._dead = False

    @property
    def pid(self) -> int:
        """The process's id; 0 while it rests."""
        return 0 if self._dead or self._process is None else self._process.pid

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answers come through this loop from now on."""
        if loop is self._loop:
            return
        if self._dead:
            self._start()
        if self._log_waiter or self._jobs:
            raise RuntimeError("the store is in use by another event loop")
        self._detach()
        self._loop = loop
        loop.add_reader(self._log, self._log_answered)
        loop.add_reader(self._work, self._work_answered)

    def _detach(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._log)
            self._loop.remove_reader(self._work)
            self._loop.remove_writer(self._work)
        self._loop = None

    def sync(self) -> asyncio.Future[None]:
        """The log's octets written so far reach the disk.

        Raises (from the future):
            OSError: the disk refused.
        """
        if self._log_waiter is not None:
            raise RuntimeError("a sync is under way")
        waiter = self._future()
        if not waiter.done():
            self._log_waiter = waiter
            self._send_log()
        return waiter

    def file(self, name: str) -> asyncio.Future[None]:
        """A body file, and the directories above it, reach the disk.

        Raises (from the future):
            OSError: the disk refused.
        """
        return self._job(b"F", name)

    def checkpoint(self) -> asyncio.Future[None]:
        """What the log holds as of the call is copied into the database, as far as no reader is in the way.

        Raises (from the future):
            OSError: it cannot be.
        """
        return self._job(b"C", "")

    def _future(self) -> asyncio.Future[None]:
        """A new one; it has failed if the process was lost and cannot be started."""
        import asyncio  # the process itself has no use for it

        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if self._loop is None:  # lost after the caller had attached us
            try:
                self.attach(loop)
            except OSError as error:
                future.set_exception(OSError(*error.args))
        return future

    def _job(self, kind: bytes, name: str) -> asyncio.Future[None]:
        future = self._future()
        if future.done():
            return future
        self._serial += 1
        line = b"%d %s %s\n" % (self._serial, kind, os.fsencode(name))
        self._jobs[self._serial] = line, future
        self._send_work(line)
        return future

    def _send_log(self) -> None:
        try:
            self._log.send(b"s")
        except OSError:
            self._lost()

    def _send_work(self, line: bytes) -> None:
        assert self._loop is not None
        self._outbox += line
        try:
            sent = self._work.send(self._outbox)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lost()
            return
        self._outbox = self._outbox[sent:]
        if self._outbox:
            self._loop.add_writer(self._work, self._send_work, b"")
        else:
            self._loop.remove_writer(self._work)

    def _log_answered(self) -> None:
        answer = _receive(self._log, 1)
        if answer is None:
            return
        if not answer:
            self._lost()
            return
        self._failures = 0
        waiter, self._log_waiter = self._log_waiter, None
        if waiter is not None and not waiter.done():
            if answer[0]:
                waiter.set_exception(OSError(answer[0], os.strerror(answer[0]), self._database))
            else:
                waiter.set_result(None)

    def _work_answered(self) -> None:
        answer = _receive(self._work, 65536)
        if answer is None:
            return
        if not answer:
            self._lost()
            return
        *lines, self._answers = (self._answers + answer).split(b"\n")
        for line in lines:
            serial, code = map(int, line.split())
            request, future = self._jobs.pop(serial)
            if future.done():
                continue
            if code:
                name = os.fsdecode(request.split(b" ", 2)[2].strip()) or self._database
                future.set_exception(OSError(code, os.strerror(code), name))
            else:
                future.set_result(None)

    def _lost(self) -> None:
        """The process died: another one, and everything unanswered asked again."""
        loop = self._loop
        assert loop is not None
        self._failures += 1
        self._detach()
        self._log.close()
        self._work.close()
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._answers = self._outbox = b""
        try:
            if self._failures > START_LIMIT:
                raise OSError(errno.EIO, "the sync process does not stay alive", str(self._directory))
            self._start()
        except OSError as error:
            self._dead = True
            self._failures = 0
            waiters: list[asyncio.Future[None]] = [future for _, future in self._jobs.values()]
            self._jobs.clear()
            waiter, self._log_waiter = self._log_waiter, None
            for future in (waiter, *waiters):
                if future is not None and not future.done():
                    future.set_exception(OSError(*error.args))
            return
        self._loop = loop
        loop.add_reader(self._log, self._log_answered)
        loop.add_reader(self._work, self._work_answered)
        if self._log_waiter is not None:
            self._send_log()
        for line, _ in list(self._jobs.values()):
            self._send_work(line)

    def rest(self) -> None:
        """Ends the process until the next `attach`. Nothing may be waiting."""
        if not self._dead:
            self._detach()
            self._log.close()
            self._work.close()
            self._dead = True

    def close(self) -> None:
        """Ends the process. Nothing may be waiting."""
        self.rest()
        if self._process is not None:
            self._process.wait()


def _receive(channel: socket.socket, limit: int) -> bytes | None:
    """None: nothing yet. Empty: the other side is gone."""
    try:
        return channel.recv(limit)
    except BlockingIOError:
        return None
    except OSError:
        return b""


# ---------------------------------------------------------------------------------------------------------------------
# The process


def _durable(descriptor: int) -> None:
    try:
        import fcntl

        # macOS: fsync leaves the octets in the drive's cache.
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # type: ignore[attr-defined,unused-ignore]
    except (AttributeError, ImportError):
        getattr(os, "fdatasync", os.fsync)(descriptor)


def _serve_log(path: str, channel: socket.socket) -> None:
    descriptor = -1
    while channel.recv(1):
        code = 0
        try:
            if descriptor < 0:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                _sync_directory(os.path.dirname(path))  # noqa: PTH120 - the log may be new: its name, too, must last
            _durable(descriptor)
        except OSError as error:
            code = min(error.errno or errno.EIO, 255)
        channel.send(bytes((code,)))


def _serve_work(directory: str, database: str, channel: socket.socket) -> None:
    connection: sqlite3.Connection | None = None
    for line in channel.makefile("rb"):
        serial, kind, name = line.rstrip(b"\n").split(b" ", 2)
        code = 0
        try:
            if kind == b"F":
                _sync_file(directory, os.fsdecode(name))
            else:
                if connection is None:
                    connection = sqlite3.connect(os.path.join(directory, database), isolation_level=None)  # noqa: PTH118
                    connection.execute("PRAGMA checkpoint_fullfsync=1")
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except OSError as error:
            code = error.errno or errno.EIO
        except sqlite3.Error:
            code = errno.EIO
        channel.sendall(b"%s %d\n" % (serial, code))


def _sync_file(directory: str, name: str) -> None:
    path = os.path.join(directory, name)  # noqa: PTH118 - pathlib costs this process 10 ms and a megabyte
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        _durable(descriptor)
    finally:
        os.close(descriptor)
    while len(path) > len(directory):
        path = os.path.dirname(path)  # noqa: PTH120
        _sync_directory(path)


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _main(directory: str, database: str, log: int, work: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    jobs = socket.socket(fileno=work)
    threading.Thread(target=_serve_work, args=(directory, database, jobs), daemon=True).start()
    path = os.path.join(directory, database + "-wal")  # noqa: PTH118
    with contextlib.suppress(OSError):
        _serve_log(path, socket.socket(fileno=log))
    os._exit(0)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
