"""Delivery into mbox files: one file per mailbox, to which messages are appended.

Promises: the outcome is DELIVERED once the message is durable (fsync); if it cannot be written whole, the file gets its
old size back. A message is between a `From ` line and an empty line, in the quoting of mboxrd (`message.mbox`), with LF
line endings, below Return-Path, Delivered-To and X-Original-To; the fields in which readers keep their state are
removed from it. While a message is appended, the file is locked by `FILE.lock` and by fcntl, as most programs expect.
Neither is waited for while the other is held, so no order of the locks in other programs ends in a deadlock. New files
are 0600 (SECURITY R47), paths consist only of what `path_template` lets through (R42), and the event loop's thread does
no disk I/O.
Refuses: a symbolic link, a second hard link and anything but a regular file in the place of the mailbox; an address
whose mailbox would be the lock of another. Whatever is wrong with a mailbox has a code and a detail that says what to
do (`mailbox`).
Limitations: a crash within a delivery can leave a part of the message in the file, before the whole message. Each
message is written by itself, so Maildirs are faster.
Sources: mbox(5).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from tempfile import SpooledTemporaryFile
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple, cast
from weakref import WeakValueDictionary

from ironpost.delivery import NextHops, concurrently, unreadable
from ironpost.delivery.mailbox import (
    DELIVERED,
    FULL_WAIT,
    LOCKED,
    LOOPS,
    clean_up,
    create_directories,
    distinct,
    full,
    locate,
    not_created,
    not_located,
    not_written,
    refuse_foreign,
    refuse_special,
    unusable,
)
from ironpost.delivery.mailbox_process import MailboxProcesses, user_name, verify
from ironpost.delivery.path_template import PathError, PathTemplate
from ironpost.message.lineends import LineFeeds
from ironpost.message.mbox import STATUS_FIELDS, MboxContent, separator
from ironpost.message.trace import FinalContent, delivery_fields, delivery_key
from ironpost.model.body import BodyDamaged
from ironpost.model.options import Seconds  # noqa: TC001 - `config.declared` reads annotations
from ironpost.routing.directory import DirectoryError
from ironpost.storage.bodies.spool import write_all
from ironpost.storage.directory import sync_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from ironpost.delivery.mailbox import Location
    from ironpost.model import Address, Outcome, Recipient
    from ironpost.model.ports import Clock
    from ironpost.queue.store import QueuedMessage, QueuedRecipient
    from ironpost.routing.directory import Directory
    from ironpost.routing.route import Route

AT_ONCE: Final = 1 << 20
"""Bytes of content that are held in memory; larger content is in a temporary file until the mailbox is locked."""
THREADS: Final = 4
"""Threads for disk I/O."""
LOCK_TRIES: Final = 30
"""How often a locked mailbox is tried before the message is deferred."""
LOCK_INTERVAL: Final = 1.0
"""Seconds between two tries."""
STALE_SECONDS: Final = 300.0
"""Age of a lock file whose program must have ended (lockfile_create(3))."""
_LOCK: Final = ".lock"
_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class MboxOptions:
    """`[[local.delivery]] mbox = { path = "/var/mail/{local}" }`: into an mbox file."""

    path: PathTemplate
    """Where the files are; `{domain}`, `{local}` and `{address}` stand for parts of the address. Without any of them it
    is one file for all. What is above the first of them must exist, the rest is created."""
    create: bool = True
    """Whether a file that does not exist is created by the first mail for it."""
    full_wait: Seconds = FULL_WAIT
    """How long a message waits for room in a full mailbox before it is returned."""
    user: Annotated[str, user_name] = ""
    """The user who owns the files and writes them; `{local}` in it is the local part. Only a server that runs as
    root can set another user than that of the server."""

    def __post_init__(self) -> None:
        if self.path.single is not None and self.path.single.suffix == _LOCK:
            raise ValueError(f"path: {self.path} would be the lock of another mailbox: choose another name")

    def verify(self) -> None:
        """See `delivery.local.Verifiable`."""
        if why := unusable(self.path, files=True):
            raise ValueError(f"path: {why}")
        verify(self.user)

    def __str__(self) -> str:
        return str(self.path)


class Mbox:
    """The delivery agent of all mbox files. Implements `ironpost.delivery.RouteAgent`; `Route.options` are
    `MboxOptions`."""

    def __init__(
        self, *, clock: Clock, host: str = "localhost", directory: Callable[[], Directory] | None = None
    ) -> None:
        """Create an agent.

        Args:
            clock: time.
            host: our host name.
            directory: gives the directory that knows the mailboxes of addresses; without it each address is one.
        """
        self._clock = clock
        self._directory = directory
        self._host = host
        self._processes = MailboxProcesses()
        """Write the files of other users."""
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="mbox")
        self._turns: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()
        """Deliveries to one file take turns, rather than finding it locked by another."""

    async def close(self) -> None:
        """Finish running writes and end the threads. No delivery may begin after this."""
        await asyncio.to_thread(self._threads.shutdown)

    async def deliver(
        self, message: QueuedMessage, recipients: Sequence[QueuedRecipient], route: Route
    ) -> Sequence[tuple[int, Outcome]]:
        """Append the message once for each distinct address among `recipients`."""
        options = cast("MboxOptions", route.options)
        copies = distinct(recipients)
        attempts = (self._deliver(message, each, options) for each in copies.values())
        outcomes = dict(zip(copies, await concurrently(attempts, THREADS), strict=True))
        return [(each.number, outcomes[each.recipient.address]) for each in recipients]

    async def preview(self, address: Address, route: Route) -> NextHops:
        """The file."""
        try:
            found = await self._location(address, cast("MboxOptions", route.options))
        except (DirectoryError, PathError) as error:
            return NextHops("", failure=not_located(error).reply)
        return NextHops(f"mbox {found.path}")

    async def _location(self, address: Address, options: MboxOptions) -> Location:
        directory = None if self._directory is None else self._directory()
        found = await locate(address, options.path, directory, self._host)
        if found.path.suffix == _LOCK:
            raise PathError(f"{address} has no mbox: {found.path} is the name of a lock")
        return found

    async def _deliver(self, message: QueuedMessage, recipient: Recipient, options: MboxOptions) -> Outcome:
        try:
            found = await self._location(recipient.address, options)
        except (DirectoryError, PathError) as error:
            return not_located(error)
        final = self._clock.now() - message.accepted >= options.full_wait
        target = _Target(found.path, options.path.base, options.create, found.quota, final)
        try:
            if options.user:
                return await self._append_as_user(message, recipient, target, options.user, found.address)
            return await self._append(message, recipient, target)
        except _LoopError:
            return LOOPS
        except BodyDamaged as error:
            return unreadable(error)
        except OSError as error:
            return not_written(error, found.path)

    async def _append(self, message: QueuedMessage, recipient: Recipient, target: _Target) -> Outcome:
        run = partial(asyncio.get_running_loop().run_in_executor, self._threads)
        await run(create_directories, target.path.parent, target.base)
        held: list[bytes] = []
        size = 0
        file = _Content(target.path.parent)
        try:
            async for piece in self._pieces(message, recipient):
                held.append(piece)
                size += len(piece)
                if size >= AT_ONCE:
                    await run(file.write, held)
                    held, size = [], 0
            await run(file.write, held)
            turn = self._turns.setdefault(target.path, asyncio.Lock())
            for _ in range(LOCK_TRIES):
                async with turn:
                    if await run(_appended, file, target):
                        return DELIVERED
                await self._clock.sleep(LOCK_INTERVAL)
        finally:
            clean_up(self._threads, file.close)
        return LOCKED

    async def _append_as_user(
        self, message: QueuedMessage, recipient: Recipient, target: _Target, user: str, mailbox: Address
    ) -> Outcome:
        """Append by a process with the rights of the mailbox's user."""
        async with self._turns.setdefault(target.path, asyncio.Lock()):
            # The process works in another directory.
            writer = _Writer(target._replace(path=target.path.absolute(), base=target.base.absolute()))
            return await self._processes.write(user, mailbox, writer, self._pieces(message, recipient))

    async def _pieces(self, message: QueuedMessage, recipient: Recipient) -> AsyncIterator[bytes]:
        """The message as it is in the file.

        Raises:
            _LoopError: it was delivered to the recipient before.
        """
        top = delivery_fields(message.envelope.reverse_path, recipient, self._host)
        content = FinalContent(top, without=STATUS_FIELDS)
        lines, quoting = LineFeeds(), MboxContent()
        yield separator(message.envelope.reverse_path, self._clock.now())
        async for piece in message.body.pieces():
            yield quoting.feed(lines.feed(content.feed(piece)))
        yield quoting.feed(lines.feed(content.finish()) + lines.finish()) + quoting.finish()
        if delivery_key(recipient.address, self._host) in content.earlier:
            raise _LoopError


class _LoopError(Exception):
    """The message was delivered to its recipient before."""


class _Target(NamedTuple):
    """Where a message goes."""

    path: Path
    base: Path
    """The directory that must exist; below it, directories are created."""
    create: bool
    """Whether a file that does not exist is created."""
    quota: int | None
    """The most octets that the file may have; None for no limit."""
    final: bool
    """Whether the message has waited long enough for room in a full mailbox."""


class _Content:
    """A message until its mailbox is locked: in memory, or in a temporary file if it is large.

    The file is in the mailbox's directory, so that an error is that of its disk. A delivery that is cancelled closes it
    while a thread may use it: the thread's next call raises ValueError, so it takes back what it has appended.
    """

    def __init__(self, directory: Path) -> None:
        self._file = SpooledTemporaryFile(AT_ONCE, dir=str(directory))  # noqa: SIM115 - see `close`
        self._using = Lock()
        """Held by each call, since a file that is closed while it is written may stay open."""

    def write(self, pieces: list[bytes]) -> None:
        """Append to the message."""
        with self._using:
            self._file.writelines(pieces)

    def size(self) -> int:
        """Octets of the message; the next `read` starts at its beginning."""
        with self._using:
            octets = self._file.seek(0, os.SEEK_END)
            self._file.seek(0)
        return octets

    def read(self) -> bytes:
        """Return the next octets, at most `AT_ONCE`; none at the end."""
        with self._using:
            return self._file.read(AT_ONCE)

    def close(self) -> None:
        """Free the message, once the call that runs has ended."""
        with self._using:
            self._file.close()


class _Writer(NamedTuple):
    """Appends one message in the process of the file's user. Implements `mailbox_process.Writer`."""

    target: _Target

    @property
    def path(self) -> Path:
        """The file."""
        return self.target.path

    def write(self, pieces: Iterator[bytes]) -> Outcome:
        """See `mailbox_process.Writer`."""
        create_directories(self.path.parent, self.target.base)
        with closing(_Content(self.path.parent)) as content:
            for piece in pieces:
                content.write([piece])
            for _ in range(LOCK_TRIES):
                if _appended(content, self.target):
                    return DELIVERED
                time.sleep(LOCK_INTERVAL)
        return LOCKED


def _appended(content: _Content, target: _Target) -> bool:
    """Append a message durably, unless another program has locked the file. Runs in a thread.

    Raises:
        MailboxError: the file must not be written, or the message does not fit.
        OSError: the message cannot be written; the file has its old size.
        ValueError: the message was closed; the file has its old size.
    """
    path = target.path
    with _lock_file(path) as locked:
        if not locked:
            return False
        fd = _opened(path, create=target.create)
        try:
            status = os.fstat(fd)
            refuse_special(path, status)
            refuse_foreign(path, status.st_uid)
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                return False
            old = os.lseek(fd, 0, os.SEEK_END)  # another program may have appended since fstat
            octets = content.size()
            if target.quota is not None and old + octets > target.quota:
                raise full(path, target.quota, octets, final=target.final)
            try:
                write_all(fd, [_missing_end(fd, old)])
                while piece := content.read():
                    write_all(fd, [piece])
                os.fsync(fd)
            except BaseException:
                os.ftruncate(fd, old)
                raise
        finally:
            os.close(fd)
    return True


@contextmanager
def _lock_file(path: Path) -> Iterator[bool]:
    """Create the lock file of a mailbox, and remove it at the end; whether that was possible."""
    lock = path.with_name(path.name + _LOCK)
    if not _created(lock):
        yield False
        return
    try:
        yield True
    finally:
        lock.unlink(missing_ok=True)


_creating: Final = Lock()
"""Held while a stale lock file is replaced, so that no other thread removes the new one. Another process may, but the
lock by fcntl keeps it away."""


def _created(lock: Path) -> bool:
    """Create a lock file, in the place of a stale one; whether that was possible."""
    with _creating:
        for _ in range(2):
            try:
                os.close(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            except FileExistsError:
                if time.time() - _changed(lock) <= STALE_SECONDS:
                    return False
                lock.unlink(missing_ok=True)
            else:
                return True
    return False


def _changed(lock: Path) -> float:
    """When a lock file was changed, in seconds since 1970; now if it was removed."""
    try:
        return lock.lstat().st_mtime
    except FileNotFoundError:
        return time.time()


def _opened(path: Path, *, create: bool) -> int:
    """Open the file for reading and writing; create it if it is missing."""
    try:
        return os.open(path, _FLAGS)
    except FileNotFoundError:
        if not create:
            raise not_created(path) from None
    fd = os.open(path, _FLAGS | os.O_CREAT, 0o600)
    sync_directory(path.parent)
    return fd


def _missing_end(fd: int, size: int) -> bytes:
    """What is missing for an empty line at the end of the file, such as after a crash."""
    end = os.pread(fd, 2, max(0, size - 2))
    return b"" if end in {b"", b"\n\n"} else b"\n" if end.endswith(b"\n") else b"\n\n"
