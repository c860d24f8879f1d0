"""Delivery into a Maildir: one file per recipient, written in `tmp`, synced, then linked into `new`.

Promises: the outcome is DELIVERED once file and directory are durable (fsync of both); a reader of the Maildir never
sees a partial message; file names consist of time, process id, random token and host name, never of an address
(SECURITY R42); files are 0600 and directories 0700 (R47). Content is unchanged except for LF line endings, as usual in
Unix mailboxes, below Return-Path (RFC 5321 §4.4) and Delivered-To (RFC 9228), so that one Maildir can hold the mail of
many addresses. Large content is written in pieces, and the event loop's thread does no disk I/O.
A full disk or a missing permission defers the message, with a detail that says what to do.

Several recipients of one message get a file each; equal addresses share one. Messages that arrive during a sync share
the next sync of the directory, and one call to a thread.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

from ironpost.delivery import NextHops, unreadable
from ironpost.message.lineends import LineFeeds
from ironpost.message.trace import FinalContent, delivered_to, return_path
from ironpost.model import Disposition, Outcome, Reply
from ironpost.model.body import BodyDamaged, lacks_room
from ironpost.model.text import error_text
from ironpost.storage.directory import sync_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ironpost.model import Address
    from ironpost.model.ports import Clock, Random
    from ironpost.queue.store import QueuedMessage, QueuedRecipient
    from ironpost.routing.route import Route

AT_ONCE: Final = 1 << 20
"""Bytes of content written in one call to a thread; larger content is written in pieces of this size."""
THREADS: Final = 4
"""Threads for disk I/O."""
BATCHES: Final = 2
"""Batches that are synced at the same time; the other threads write large content."""
BATCH: Final = 32
"""Messages in a batch."""
STALE_SECONDS: Final = 36 * 3600.0
"""Age after which a file in `tmp` belongs to no delivery any more (maildir(5))."""
_FOLDERS: Final = ("cur", "new", "tmp")
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV})
_NOT_ALLOWED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

_DELIVERED: Final = Outcome(Disposition.DELIVERED, Reply(250, "2.0.0", ("Delivered to the mailbox",)))


class Maildir:
    """The delivery agent of one Maildir. Implements `ironpost.delivery.RouteAgent`."""

    def __init__(self, path: Path | str, *, clock: Clock, random: Random, host: str = "localhost") -> None:
        """Create an agent for the Maildir at `path`, which the first delivery creates; `host` is our host name."""
        self.path = Path(path)
        self._clock = clock
        self._random = random
        self._host = "".join(c if c.isascii() and (c.isalnum() or c in "-.") else "_" for c in host) or "localhost"
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="maildir")
        self._waiting: deque[_Job] = deque()
        self._batches = 0

    def close(self) -> None:
        """Finish running writes and end the threads. A delivery after this raises RuntimeError."""
        self._threads.shutdown(wait=True)

    async def deliver(
        self,
        message: QueuedMessage,
        recipients: Sequence[QueuedRecipient],
        route: Route,  # noqa: ARG002 - the agent port's
    ) -> Sequence[tuple[int, Outcome]]:
        """Write one file for each distinct address among `recipients`."""
        addresses = list(dict.fromkeys(recipient.recipient.address for recipient in recipients))
        try:
            outcomes = await self._write(message, addresses)
        except BodyDamaged as error:
            outcomes = [unreadable(error)] * len(addresses)
        except OSError as error:
            outcomes = [_deferred(error, self.path)] * len(addresses)
        of: dict[Address, Outcome] = dict(zip(addresses, outcomes, strict=True))
        return [(recipient.number, of[recipient.recipient.address]) for recipient in recipients]

    async def preview(self, address: Address, route: Route) -> NextHops:  # noqa: ARG002 - the agent port's
        """The Maildir, whatever the address."""
        return NextHops(f"Maildir {self.path}")

    async def _write(self, message: QueuedMessage, addresses: Sequence[Address]) -> list[Outcome]:
        loop = asyncio.get_running_loop()
        threads = self._threads
        path = return_path(message.envelope.reverse_path)
        fields = [path + delivered_to(address, self._host) for address in addresses]
        names = [self._name() for _ in addresses]
        file = _File(self.path, self._name())
        final = FinalContent(fields[0])
        lines = LineFeeds()
        held: list[bytes] = []
        size = 0
        try:
            async for piece in message.body.pieces():
                piece = lines.feed(final.feed(piece))
                if piece:
                    held.append(piece)
                    size += len(piece)
                if size >= AT_ONCE:
                    await loop.run_in_executor(threads, file.write, held)
                    held, size = [], 0
            held += (lines.feed(final.finish()), lines.finish())
            tops = [top.replace(b"\r\n", b"\n") for top in fields]
            job = _Job(file, held, names, tops, loop.create_future())
            self._waiting.append(job)
            if self._batches < BATCHES:
                self._next_batch(loop)
            return await job.done
        except BaseException:
            # Cancelled, or the body cannot be read. A thread may still be writing, so a thread cleans up after it.
            threads.submit(file.abandon)
            raise

    def _next_batch(self, loop: asyncio.AbstractEventLoop) -> None:
        jobs: list[_Job] = []
        while self._waiting and len(jobs) < BATCH:
            job = self._waiting.popleft()
            if not job.done.done():  # else the delivery was cancelled
                jobs.append(job)
        if jobs:
            self._batches += 1
            batch = loop.run_in_executor(self._threads, _publish, self.path, jobs)
            batch.add_done_callback(partial(self._batch_done, loop, jobs))

    def _batch_done(
        self, loop: asyncio.AbstractEventLoop, jobs: list[_Job], batch: asyncio.Future[list[list[Outcome]]]
    ) -> None:
        self._batches -= 1
        error = asyncio.CancelledError() if batch.cancelled() else batch.exception()
        for number, job in enumerate(jobs):
            if job.done.done():
                continue
            if error is not None:
                job.done.set_exception(error)
            else:
                job.done.set_result(batch.result()[number])
        if self._waiting:
            self._next_batch(loop)

    def _name(self) -> str:
        now = self._clock.now()
        seconds = int(now)
        return f"{seconds}.M{int((now - seconds) * 1e6):06d}P{os.getpid()}R{self._random.token()}.{self._host}"


def remove_stale(maildir: Path, now: float) -> int:
    """Remove files in `tmp` that a crash left there, older than `STALE_SECONDS`. Blocks.

    Args:
        maildir: the Maildir; nothing happens if it does not exist yet.
        now: seconds since 1970.

    Returns:
        How many files were removed.

    Raises:
        OSError: `tmp` cannot be read or written, or is a symbolic link.
    """
    try:
        folder = os.open(maildir / "tmp", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    removed = 0
    try:
        for name in os.listdir(folder):  # noqa: PTH208 - of a descriptor
            with suppress(FileNotFoundError):  # a delivery has just moved or removed it
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and now - status.st_mtime > STALE_SECONDS:
                    os.unlink(name, dir_fd=folder)
                    removed += 1
    finally:
        os.close(folder)
    return removed


class _File:
    """One file that moves from `tmp` to `new`. All methods block and run in threads.

    A batch calls `complete`, `write_back`, `sync`, `copy`, `show` and `remove`, unless `abandon` comes first.
    """

    def __init__(self, maildir: Path, name: str) -> None:
        self._maildir = maildir
        self._path = maildir / "tmp" / name
        self._fd: int | None = None
        self._lock = Lock()
        self._abandoned = False
        self._publishing = False
        self._copies: list[Path] = []
        self._shown: list[Path] = []

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append; create the file, and the Maildir if it is missing."""
        with self._lock:
            self._append(pieces)

    def abandon(self) -> None:
        """Discard the file, unless it is being published: then it is delivered now, and possibly a second time."""
        with self._lock:
            self._abandoned = True
            if not self._publishing:
                self.remove()

    def complete(self, pieces: Sequence[bytes]) -> None:
        """Append the last pieces; from now on the file is being published."""
        with self._lock:
            self._publishing = not self._abandoned
            self._append(pieces)

    def write_back(self) -> None:
        """Start to write the content to disk, so that the first `sync` of a batch makes most of the batch durable."""
        assert self._fd is not None
        if hasattr(os, "posix_fadvise"):  # not on macOS
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Make the content durable."""
        assert self._fd is not None
        os.fsync(self._fd)

    def copy(self, names: Sequence[str], tops: Sequence[bytes]) -> None:
        """Make a durable copy under each of `names[1:]`, beginning with its entry of `tops` instead of `tops[0]`."""
        assert self._fd is not None
        for name, top in zip(names[1:], tops[1:], strict=True):
            path = self._maildir / "tmp" / name
            fd = _create(path)
            self._copies.append(path)
            try:
                _write_all(fd, top)
                at = len(tops[0])
                while piece := os.pread(self._fd, AT_ONCE, at):
                    _write_all(fd, piece)
                    at += len(piece)
                os.fsync(fd)
            finally:
                os.close(fd)

    def show(self, names: Sequence[str]) -> list[Outcome]:
        """Link the file and its copies into `new` under `names`."""
        outcomes: list[Outcome] = []
        for source, name in zip((self._path, *self._copies), names, strict=True):
            target = self._maildir / "new" / name
            try:
                _link(source, target)
            except OSError as error:
                outcomes.append(_deferred(error, self._maildir))
            else:
                self._shown.append(target)
                outcomes.append(_DELIVERED)
        return outcomes

    def hide(self) -> None:
        """Undo `show`."""
        for path in self._shown:
            with suppress(OSError):
                path.unlink()

    def remove(self) -> None:
        """Close the file, and remove it and its copies from `tmp`. Idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
            for path in (self._path, *self._copies):
                with suppress(OSError):  # a reader of the Maildir may have cleaned up
                    path.unlink()

    def _append(self, pieces: Sequence[bytes]) -> None:
        if self._abandoned:
            raise InterruptedError(errno.EINTR, "the delivery was abandoned", str(self._path))
        fd = self._fd
        if fd is None:
            try:
                fd = _create(self._path)
            except FileNotFoundError:
                _create_folders(self._maildir)
                fd = _create(self._path)
            self._fd = fd
        for piece in pieces:
            _write_all(fd, piece)


@dataclass(slots=True, eq=False)
class _Job:
    """One message whose content is complete."""

    file: _File
    pieces: list[bytes]
    names: list[str]
    tops: list[bytes]
    """The trace fields of each name, in the same order; `file` begins with the first."""
    done: asyncio.Future[list[Outcome]]


def _publish(maildir: Path, jobs: Sequence[_Job]) -> list[list[Outcome]]:
    """Write, sync and show several messages; the outcome of each name of each job. Runs in a thread."""
    outcomes: list[list[Outcome]] = [[] for _ in jobs]
    good: list[int] = []

    def attempt(step: Callable[[_Job], object], numbers: Sequence[int]) -> list[int]:
        """The jobs whose step succeeded; an error of one file affects that message only."""
        worked = []
        for number in numbers:
            try:
                step(jobs[number])
            except OSError as error:
                outcomes[number] = [_deferred(error, maildir)] * len(jobs[number].names)
            else:
                worked.append(number)
        return worked

    try:
        good = attempt(lambda job: job.file.complete(job.pieces), range(len(jobs)))
        good = attempt(lambda job: job.file.write_back(), good)
        good = attempt(lambda job: job.file.sync(), good)
        good = attempt(lambda job: job.file.copy(job.names, job.tops), good)
        for number in good:
            outcomes[number] = jobs[number].file.show(jobs[number].names)
        try:
            if good:
                sync_directory(maildir / "new")
        except OSError as error:
            # It is not known whether the files are durable: the messages stay in the queue, so the files are removed.
            for number in good:
                jobs[number].file.hide()
                outcomes[number] = [_deferred(error, maildir)] * len(jobs[number].names)
    finally:
        for job in jobs:
            job.file.remove()
    return outcomes


def _create(path: Path) -> int:
    # O_EXCL: fail if the name exists; O_NOFOLLOW: never write through a symbolic link. Readable for `copy`.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _write_all(fd: int, octets: bytes) -> None:
    rest = memoryview(octets)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _create_folders(maildir: Path) -> None:
    missing = [folder for folder in (maildir, *maildir.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_directory(folder.parent)
    for name in _FOLDERS:
        (maildir / name).mkdir(mode=0o700, exist_ok=True)
    sync_directory(maildir)


def _link(source: Path, target: Path) -> None:
    """Link `source` to `target`; copy it if the file system has no hard links. Never replaces a file."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        fd = _create(target)
        try:
            with source.open("rb") as content, os.fdopen(os.dup(fd), "wb") as copy:
                shutil.copyfileobj(content, copy, AT_ONCE)
            os.fsync(fd)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)


def _deferred(error: OSError, maildir: Path) -> Outcome:
    """The outcome of a storage error: always transient, since an operator can correct it."""
    where = error.filename or maildir
    reason = error_text(error)
    if lacks_room(error):
        reply = Reply(452, "4.3.1", ("Insufficient disk space for the mailbox",))
        advice = f"{where}: {reason}; free space on that disk"
    elif error.errno in _NOT_ALLOWED:
        reply = Reply(451, "4.3.0", ("Cannot write to the mailbox",))
        advice = f"{where}: {reason}; user id {os.geteuid()} needs write permission there"
    else:
        reply = Reply(451, "4.3.0", ("Cannot write to the mailbox",))
        advice = f"{where}: {reason}"
    return Outcome(Disposition.DEFERRED, reply.because(advice))
