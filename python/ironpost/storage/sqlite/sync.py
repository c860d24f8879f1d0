"""Client of the sync process (`sync_process` is the program): fsync without the interpreter lock.

A thread that competes with a busy event loop for the interpreter lock waits without bound (docs/storage.md has the
figures), and an fsync on the loop stalls every session. So a small process syncs SQLite's log, body segments and body
files; it also copies the log into the database, recovers it, punches holes and unlinks files.

Promises: a future that ends without an error means that the file's octets as of the call are durable. Linux reports a
failed write-back once for each open file description, so the log is opened once, here, and every sync process inherits
that description. A process that does not answer within the deadlines below, or whose channel breaks, is killed and
replaced at once.
Failures: a sync requested from a process that died may have failed without a report. Its future therefore fails with
OSError, EIO, and it is not repeated. Checkpoints, holes and unlinking are repeated, because they are idempotent.
Refuses: a second `sync` while one is outstanding.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

from ironpost.storage.sqlite.sync_process import IGNORED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ironpost.storage.sqlite.recovery import LogExtent

logger = logging.getLogger("ironpost.storage")

START_LIMIT = 3
"""Consecutive deaths of the process without an answer after which requests fail."""
SYNC_SECONDS = 20.0
"""Timeout of a sync of the log or of a segment, in seconds."""
WORK_SECONDS = 60.0
"""Timeout of other requests, in seconds."""
RECOVERY_GRACE = 2.0
"""Seconds added to the limit of a recovery for its answer."""
LOOK_SECONDS = 5.0
"""Interval in seconds at which deadlines are checked while requests are outstanding."""
END_SECONDS = 2.0
"""Seconds that `close` waits for the process to end."""

_ROOT: Final = str(Path(__file__).parents[3])
_PROGRAM: Final = """\
import sys
sys.path.insert(0, sys.argv[1])
from ironpost.storage.sqlite.sync_process import main
main(*sys.argv[2:])
"""


class _Request:
    """One request line and the future of its answer."""

    __slots__ = ("deadline", "descriptors", "future", "line", "repeat", "subject")

    def __init__(
        self,
        line: bytes,
        subject: str,
        future: asyncio.Future[None],
        seconds: float,
        *,
        repeat: bool = False,
        descriptors: Sequence[int] = (),
    ) -> None:
        self.line = line
        self.subject = subject
        """The file, for error messages."""
        self.future = future
        self.deadline = monotonic() + seconds
        self.repeat = repeat
        """Whether it may be repeated in another process."""
        self.descriptors = descriptors

    def fail(self, error: OSError) -> None:
        if not self.future.done():
            self.future.set_exception(OSError(*error.args))

    def answer(self, code: int) -> None:
        if self.future.done():
            return
        if code:
            self.future.set_exception(OSError(code, os.strerror(code), self.subject))
        else:
            self.future.set_result(None)


class _Channel:
    """A channel to the process; answers come in the order of the requests."""

    def __init__(self, syncer: Syncer) -> None:
        self._syncer = syncer
        self.socket: socket.socket
        self.requests: deque[_Request] = deque()
        """Requests without an answer."""
        self._outbox: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._answers = b""

    def connect(self) -> socket.socket:
        """Create a socket pair; return the process's end. Unanswered requests are kept and not sent."""
        self.socket, end = socket.socketpair()
        self.socket.setblocking(False)
        self._outbox.clear()
        self._answers = b""
        return end

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_reader(self.socket, self._answered)

    def detach(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self.socket)
        loop.remove_writer(self.socket)

    def ask(self, request: _Request) -> None:
        self.requests.append(request)
        self.send(request)

    def send(self, request: _Request) -> None:
        self._outbox.append((memoryview(request.line), request.descriptors))
        if len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        loop = self._syncer.loop
        try:
            while self._outbox:
                line, descriptors = self._outbox[0]
                sent = socket.send_fds(self.socket, [line], descriptors) if descriptors else self.socket.send(line)
                self._outbox.popleft()
                if sent < len(line):
                    self._outbox.appendleft((line[sent:], ()))
        except BlockingIOError:
            loop.add_writer(self.socket, self._writable)
        except OSError as error:
            self._syncer.lost(f"it cannot be reached: {error}")

    def _writable(self) -> None:
        self._syncer.loop.remove_writer(self.socket)
        self._flush()

    def _answered(self) -> None:
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._syncer.lost("it ended")
            return
        self._syncer.failures = 0
        data = self._answers + data
        whole = len(data) & ~1
        self._answers = data[whole:]
        for at in range(0, whole, 2):
            self.requests.popleft().answer(int.from_bytes(data[at : at + 2], "big"))


class Syncer:
    """The client of the sync process, used by one event loop at a time."""

    def __init__(self, directory: Path, database: str, *, resting: bool = False) -> None:
        """Open the log and start the process.

        Args:
            directory: the store's directory; files are named relative to it.
            database: the database file in it; its log (`-wal`) already exists.
            resting: start the process with the first request.

        Raises:
            OSError: the log cannot be opened, or the process cannot be started.
        """
        self._directory = directory
        self._database = database
        self.failures = 0
        """Number of deaths of the process since its last answer."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._new = True
        """Whether the log's name may not be durable yet."""
        self._segments: set[int] = set()
        """Segments whose descriptors the process has."""
        self._log, self._segment, self._work, self._background = (_Channel(self) for _ in range(4))
        self._channels = self._log, self._segment, self._work, self._background
        self._process: subprocess.Popen[bytes] | None = None
        self._descriptor = os.open(directory / f"{database}-wal", os.O_RDWR | os.O_CLOEXEC)
        try:
            if not resting:
                self._start()
        except BaseException:
            os.close(self._descriptor)
            raise

    def _start(self) -> None:
        ends = [channel.connect() for channel in self._channels]
        descriptors = (*(end.fileno() for end in ends), self._descriptor)
        # The process inherits the mask, and clears it once it ignores these signals: until then a Ctrl-C would end it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and program
                [
                    *(sys.executable, "-I", "-S", "-c", _PROGRAM, _ROOT),
                    *map(str, (self._directory, self._database, *descriptors)),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
            )
        except BaseException:
            for channel in self._channels:
                channel.socket.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for end in ends:
                end.close()
        self._segments.clear()

    @property
    def pid(self) -> int:
        """The process id; 0 while there is no process."""
        return 0 if self._process is None else self._process.pid

    @property
    def log(self) -> int:
        """The descriptor of the log."""
        return self._descriptor

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that receives answers."""
        assert self._loop is not None
        return self._loop

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Receive answers on this loop from now on.

        Raises:
            OSError: the process cannot be started.
            RuntimeError: another loop waits for answers.
        """
        if loop is self._loop:
            return
        if any(channel.requests for channel in self._channels):
            raise RuntimeError("the store is in use by another event loop")
        if self._process is None:
            self._start()
        self._detach()
        self._loop = loop
        for channel in self._channels:
            channel.attach(loop)

    def _detach(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._loop is not None and not self._loop.is_closed():
            for channel in self._channels:
                channel.detach(self._loop)
        self._loop = None

    # -- requests

    def sync(self) -> asyncio.Future[None]:
        """Sync what was written to the log so far.

        Raises (from the future):
            OSError: the sync failed, or may have failed: the log must be recovered.
            RuntimeError: a sync is outstanding.
        """
        if self._log.requests:
            raise RuntimeError("a sync is outstanding")
        future = self._ask(self._log, b"sync-new" if self._new else b"sync", f"{self._database}-wal", SYNC_SECONDS)
        if self._new:
            future.add_done_callback(self._named)
        return future

    def _named(self, done: asyncio.Future[None]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._new = False

    def recover(self, seconds: float, good: LogExtent) -> asyncio.Future[None]:
        """Recover the log after a failed `sync` (`sqlite.recovery.Recovery.run`). Nothing may be written meanwhile.

        Raises (from the future):
            OSError: as there; EIO if the process died.
        """
        line = b"recover %f %d %s" % (seconds, good.frames, good.salts.hex().encode())
        return self._ask(self._log, line, self._database, seconds + RECOVERY_GRACE)

    def recover_now(self, seconds: float) -> None:
        """Recover the whole log, blocking, while a store is being opened. Starts the process if necessary.

        Raises:
            OSError: as for `recover`.
        """
        if self._process is None:
            self._start()
        channel = self._log.socket
        channel.send(b"recover %f\n" % seconds)
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        answer = channel.recv(2) if poll.poll((seconds + SYNC_SECONDS) * 1000) else b""
        if len(answer) < 2:
            self._discard()
            raise OSError(errno.EIO, "the sync process does not answer", str(self._directory))
        code = int.from_bytes(answer, "big")
        if code:
            raise OSError(code, os.strerror(code), self._database)

    def segment(self, number: int, descriptor: int, *, new: bool) -> asyncio.Future[None]:
        """Sync what was written to a segment so far. Several such requests may be outstanding.

        Args:
            number: the segment, which stands for one open file description until `forget`.
            descriptor: the segment's; it must stay open until the future is done.
            new: sync its name in `segments/` as well.

        Raises (from the future):
            OSError: the sync failed, or may have failed: never append to this segment again.
        """
        if number not in self._segments:
            self._segments.add(number)
            self._ask(self._segment, b"take %d" % number, f"segment {number}", SYNC_SECONDS, descriptors=(descriptor,))
        words = b"sync-new %d" if new else b"sync %d"
        return self._ask(self._segment, words % number, f"segment {number}", SYNC_SECONDS)

    def forget(self, number: int) -> None:
        """Close the process's descriptor of a segment that will not be synced again."""
        if number in self._segments:
            self._segments.discard(number)
            self._ask(self._segment, b"forget %d" % number, f"segment {number}", SYNC_SECONDS)

    def file(self, name: str) -> asyncio.Future[None]:
        """Sync a body file, its name, and the directories above it if it is the first file in them.

        Raises (from the future):
            OSError: the sync failed, or may have failed.
        """
        return self._ask(self._work, b"file " + os.fsencode(name), name, WORK_SECONDS)

    def checkpoint(self) -> asyncio.Future[None]:
        """Copy the log into the database, as far as readers allow.

        Raises (from the future):
            OSError: it cannot be copied.
        """
        return self._ask(self._work, b"checkpoint", self._database, WORK_SECONDS, repeat=True)

    def punch(self, name: str, ranges: Iterable[tuple[int, int]]) -> asyncio.Future[None]:
        """Return ranges of a file to the file system; its size stays the same.

        Args:
            name: the file.
            ranges: offset and length of each hole, in octets.

        Raises (from the future):
            OSError: EOPNOTSUPP if the file system cannot punch holes.
        """
        line = b" ".join([b"punch", os.fsencode(name), *(b"%d %d" % each for each in ranges)])
        return self._ask(self._background, line, name, WORK_SECONDS, repeat=True)

    def remove(self, names: Sequence[str]) -> asyncio.Future[None]:
        """Unlink files durably. Missing files are ignored.

        Raises (from the future):
            OSError: a file cannot be unlinked; others may have been.
        """
        line = b" ".join([b"remove", *map(os.fsencode, names)])
        return self._ask(self._background, line, ", ".join(names[:3]), WORK_SECONDS, repeat=True)

    def _ask(
        self,
        channel: _Channel,
        line: bytes,
        subject: str,
        seconds: float,
        *,
        repeat: bool = False,
        descriptors: Sequence[int] = (),
    ) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        future.add_done_callback(_retrieved)
        request = _Request(line + b"\n", subject, future, seconds, repeat=repeat, descriptors=descriptors)
        try:
            self.attach(loop)  # restarts the process if it was lost
        except OSError as error:
            request.fail(error)
            return future
        channel.ask(request)
        if self._deadline is None and self._loop is not None:
            self._deadline = loop.call_later(min(seconds, LOOK_SECONDS), self._look)
        return future

    # -- deadlines, and the end of the process

    def _look(self) -> None:
        """Check the earliest deadline. One timer serves all requests, because they are many and rarely late."""
        self._deadline = None
        waiting = [channel.requests[0].deadline for channel in self._channels if channel.requests]
        if not waiting:
            return
        left = min(waiting) - monotonic()
        if left <= 0:
            self.lost("it does not answer")
        else:
            self._deadline = self.loop.call_later(min(left, LOOK_SECONDS), self._look)

    def lost(self, why: str) -> None:
        """Replace a process that died or is stuck."""
        loop = self._loop
        if loop is None:
            return
        logger.error("the sync process %d is replaced: %s", self.pid, why)
        self.failures += 1
        self._discard()
        unknown = OSError(errno.EIO, "the sync process was lost before it had answered", str(self._directory))
        failed: list[_Request] = []
        for channel in self._channels:
            failed += [request for request in channel.requests if not request.repeat]
            kept = [request for request in channel.requests if request.repeat]
            channel.requests = deque(kept)
        try:
            if self.failures > START_LIMIT:
                raise OSError(errno.EIO, "the sync process does not stay alive", str(self._directory))
            self._restart(loop)
        except OSError as error:
            self.failures = 0
            for channel in self._channels:
                failed += channel.requests
                channel.requests.clear()
            unknown = error
        for request in failed:
            request.fail(unknown)

    def _restart(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start a process and repeat the requests that may be repeated.

        Raises:
            OSError: it cannot be started.
        """
        self._start()
        self._loop = loop
        for channel in self._channels:
            channel.attach(loop)
        process = self._process
        for channel in self._channels:
            for request in list(channel.requests):
                request.deadline = monotonic() + WORK_SECONDS
                channel.send(request)
                if self._process is not process:  # lost again, and all requests were repeated or failed
                    return
        if any(channel.requests for channel in self._channels):
            self._deadline = loop.call_later(LOOK_SECONDS, self._look)

    def _discard(self) -> None:
        """Kill the process. A thread waits for its end, because it may hang in the kernel."""
        process, self._process = self._process, None
        self._detach()
        if process is not None:
            for channel in self._channels:
                channel.socket.close()
            process.kill()
            _reap(process)

    def rest(self) -> None:
        """Stop the process until the next request. None may be outstanding."""
        process, self._process = self._process, None
        self._detach()
        if process is not None:
            for channel in self._channels:
                channel.socket.close()
            _reap(process)

    def close(self) -> None:
        """Stop the process and close the log. Outstanding requests are abandoned."""
        process, busy = self._process, any(channel.requests for channel in self._channels)
        self._process = None
        self._detach()
        if process is not None:
            for channel in self._channels:
                channel.socket.close()
                channel.requests.clear()
            if busy:
                process.kill()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                _reap(process)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _reap(process: subprocess.Popen[bytes]) -> None:
    threading.Thread(target=process.wait, name="reaping a sync process", daemon=True).start()


def _retrieved(future: asyncio.Future[None]) -> None:
    """Mark the exception of a future without a caller as retrieved, for asyncio."""
    if not future.cancelled():
        future.exception()
