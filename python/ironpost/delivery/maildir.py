"""Delivery into a Maildir: one file a recipient, written in `tmp`, made durable, then moved to `new`.

Promises: DELIVERED is said when file and directory are on the disk (fsync of both); a reader of the Maildir never sees
half a message; a file's name is made of time, process, chance and host name, never of an address (SECURITY R42); files
are 0600 and directories 0700 (R47). Content is kept octet for octet, with LF for CRLF as Unix mailboxes have it, and a
Return-Path on top (RFC 5321 §4.4). Large content passes in pieces, and no disk is touched on the event loop's thread.
Refuses nothing: a full disk or a missing right is DEFERRED with a detail that says what to do.

Several recipients of one message get a file each, which share the disk's blocks (hard links) where the file system has
them; equal addresses share one file.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

from ironpost.message.lineends import LineFeeds
from ironpost.message.trace import FinalContent
from ironpost.model import Disposition, Outcome, Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.model import Address
    from ironpost.model.ports import Clock, Random
    from ironpost.queue.store import QueuedMessage, QueuedRecipient

AT_ONCE: Final = 1 << 20
"""Octets of content that are gathered and written in one call to a thread; more is written in pieces of this size."""
THREADS: Final = 4
"""Deliveries that can wait for the disk at the same time."""
_FOLDERS: Final = ("cur", "new", "tmp")
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV})
_NOT_ALLOWED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

_DELIVERED: Final = Outcome(Disposition.DELIVERED, Reply(250, "2.0.0", ("Delivered to the mailbox",)))


class Maildir:
    """The delivery agent of one Maildir."""

    def __init__(self, path: Path | str, *, clock: Clock, random: Random, host: str = "localhost") -> None:
        """An agent that delivers into the Maildir at `path`, which is created with the first delivery.

        `host` is our name; it becomes part of the file names.
        """
        self.path = Path(path)
        self._clock = clock
        self._random = random
        self._host = "".join(c if c.isascii() and (c.isalnum() or c in "-.") else "_" for c in host) or "localhost"
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="maildir")

    def close(self) -> None:
        """Lets running writes finish and ends the threads. Deliveries after this are a misuse: RuntimeError."""
        self._threads.shutdown(wait=True)

    async def deliver(
        self, message: QueuedMessage, recipients: Sequence[QueuedRecipient]
    ) -> Sequence[tuple[int, Outcome]]:
        """Writes a file for each different address among `recipients`; the outcome for each of them."""
        addresses = list(dict.fromkeys(recipient.recipient.address for recipient in recipients))
        try:
            outcomes = await self._write(message, len(addresses))
        except OSError as error:
            outcomes = [_deferred(error, self.path)] * len(addresses)
        of: dict[Address, Outcome] = dict(zip(addresses, outcomes, strict=True))
        return [(recipient.number, of[recipient.recipient.address]) for recipient in recipients]

    async def _write(self, message: QueuedMessage, copies: int) -> list[Outcome]:
        loop = asyncio.get_running_loop()
        threads = self._threads
        names = [self._name() for _ in range(copies)]
        file = _File(self.path, self._name())
        final = FinalContent(message.envelope.reverse_path)
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
            return await loop.run_in_executor(threads, file.publish, held, names)
        except BaseException:
            # Cancelled, or the body cannot be read. A thread may still be writing, so that the clean-up waits its turn.
            threads.submit(file.abandon)
            raise

    def _name(self) -> str:
        now = self._clock.now()
        seconds = int(now)
        return f"{seconds}.M{int((now - seconds) * 1e6):06d}P{os.getpid()}R{self._random.token()}.{self._host}"


class _File:
    """One file on its way from `tmp` to `new`. Every method blocks: they run in threads, one at a time."""

    def __init__(self, maildir: Path, name: str) -> None:
        self._maildir = maildir
        self._path = maildir / "tmp" / name
        self._fd: int | None = None
        self._abandoned = False
        self._lock = Lock()

    def write(self, pieces: Sequence[bytes]) -> None:
        """Appends, creating the file and if need be the Maildir."""
        with self._lock:
            self._append(pieces)

    def publish(self, pieces: Sequence[bytes], names: Sequence[str]) -> list[Outcome]:
        """Writes the last pieces, makes the file durable and shows it in `new` under each of `names`."""
        with self._lock:
            try:
                fd = self._append(pieces)
                os.fsync(fd)
                return self._show(names)
            finally:
                self._remove()

    def abandon(self) -> None:
        """Forgets the file; nothing is written afterwards. Harmless after `publish`."""
        with self._lock:
            self._abandoned = True
            self._remove()

    def _append(self, pieces: Sequence[bytes]) -> int:
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
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(fd, rest) :]
        return fd

    def _remove(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
            self._path.unlink(missing_ok=True)

    def _show(self, names: Sequence[str]) -> list[Outcome]:
        new = self._maildir / "new"
        outcomes: list[Outcome] = []
        shown: list[Path] = []
        try:
            for name in names:
                target = new / name
                try:
                    _link(self._path, target)
                except OSError as error:
                    outcomes.append(_deferred(error, self._maildir))
                else:
                    shown.append(target)
                    outcomes.append(_DELIVERED)
            _sync_folder(new)
        except BaseException:
            # Not known to be durable: the message stays in the queue, so what was shown goes.
            for path in shown:
                path.unlink(missing_ok=True)
            raise
        return outcomes


def _create(path: Path) -> int:
    # O_EXCL: the name is new or the attempt fails; O_NOFOLLOW: nobody's link is written through.
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _create_folders(maildir: Path) -> None:
    missing = [folder for folder in (maildir, *maildir.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(folder.parent)
    for name in _FOLDERS:
        (maildir / name).mkdir(mode=0o700, exist_ok=True)
    _sync_folder(maildir)


def _link(source: Path, target: Path) -> None:
    """Shows `source` at `target` as well, by a copy where the file system has no links. Never replaces a file."""
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


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _deferred(error: OSError, maildir: Path) -> Outcome:
    """The outcome for a storage fault: every one of them can be mended, so none is for good."""
    where = error.filename or maildir
    reason = error.strerror or str(error)
    if error.errno in _NO_ROOM:
        reply = Reply(452, "4.3.1", ("The mailbox has no room",))
        advice = f"{where}: {reason}; free space on that disk"
    elif error.errno in _NOT_ALLOWED:
        reply = Reply(451, "4.3.0", ("The mailbox cannot be written",))
        advice = f"{where}: {reason}; the user id {os.geteuid()} needs the right to write there"
    else:
        reply = Reply(451, "4.3.0", ("The mailbox cannot be written",))
        advice = f"{where}: {reason}"
    return Outcome(Disposition.DEFERRED, reply.because(advice))
