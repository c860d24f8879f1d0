"""The files of a Maildir: written in `tmp`, synced, then linked into `new`. Everything here blocks and runs in threads.

Promises: a file becomes visible only when its content is durable, and is delivered once the directory is too; an error
of one file affects that message only. A reader never sees a partial message, and no file is replaced.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.delivery import maildir_quota
from ironpost.delivery.mailbox import DELIVERED, create_directories, full, not_created, not_written, refuse_foreign
from ironpost.delivery.path_template import PathTemplate
from ironpost.storage.bodies.spool import write_all
from ironpost.storage.directory import sync_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ironpost.model import Outcome

AT_ONCE: Final = 1 << 20
"""Bytes of content written in one call to a thread; larger content is written in pieces of this size."""
STALE_SECONDS: Final = 36 * 3600.0
"""Age after which a file in `tmp` belongs to no delivery any more (maildir(5))."""
_PARTS: Final = ("cur", "new", "tmp")
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV})


class Target(NamedTuple):
    """Where a message goes."""

    maildir: Path
    base: Path
    """The directory that must exist; below it, directories are created."""
    create: bool = True
    """Whether a Maildir that does not exist is created."""
    folder: str = ""
    """A folder of the Maildir++ layout (`.news`), which takes the message if it exists; empty for the inbox."""
    create_folder: bool = False
    """Whether that folder is created."""
    quota: int | None = None
    """The most octets that the Maildir may hold; None for no limit."""


def remove_stale(template: PathTemplate, now: float) -> int:
    """Remove files in `tmp` that a crash left there, older than `STALE_SECONDS`, from all Maildirs of a template.

    Args:
        template: the Maildirs; those that do not exist yet are left out.
        now: seconds since 1970.

    Returns:
        How many files were removed.

    Raises:
        OSError: a `tmp` cannot be read or written, or is a symbolic link.
    """
    return sum(
        _remove_stale(place / "tmp", now)
        for maildir in template.base.glob(template.pattern())
        for place in (maildir, *maildir.glob(".*"))
        if all((place / part).is_dir() for part in _PARTS)
    )


def _remove_stale(tmp: Path, now: float) -> int:
    folder = os.open(tmp, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
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


class File:
    """One file that moves from `tmp` to `new`.

    A batch calls `complete`, `admit`, `write_back`, `sync`, `copy`, `show` and `remove`, unless `abandon` comes first.
    """

    def __init__(self, target: Target, name: str) -> None:
        self.place = target.maildir
        """The Maildir or its folder, which is known once the file exists."""
        self.size = 0
        """Octets written."""
        self._target = target
        self._name = name
        self._path = self.place
        """In `tmp`, once the file exists."""
        self._fd: int | None = None
        self._lock = Lock()
        self._abandoned = False
        self._publishing = False
        self._copies: list[Path] = []
        self._shown: list[Path] = []

    def __reduce__(self) -> tuple[type[File], tuple[Target, str]]:
        """Pickle a file that does not exist yet, for the process that will create it."""
        assert self._fd is None, "the file exists"
        return File, (self._target, self._name)

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append; create the file, and the Maildir if it is missing."""
        with self._lock:
            self._append(pieces, {})

    def abandon(self) -> None:
        """Discard the file, unless it is being published: then it is delivered now, and possibly a second time."""
        with self._lock:
            self._abandoned = True
            if not self._publishing:
                self.remove()

    def complete(self, pieces: Sequence[bytes], ready: dict[Target, Path]) -> None:
        """Append the last pieces; from now on the file is being published.

        Args:
            pieces: the content that is not written yet.
            ready: the places that this batch has found ready; added to.
        """
        with self._lock:
            self._publishing = not self._abandoned
            self._append(pieces, ready)

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
            path = self.place / "tmp" / name
            fd = _create(path)
            self._copies.append(path)
            try:
                write_all(fd, [top])
                at = len(tops[0])
                while piece := os.pread(self._fd, AT_ONCE, at):
                    write_all(fd, [piece])
                    at += len(piece)
                os.fsync(fd)
            finally:
                os.close(fd)

    def show(self, names: Sequence[str]) -> list[Outcome]:
        """Link the file and its copies into `new` under `names`."""
        outcomes: list[Outcome] = []
        for source, name in zip((self._path, *self._copies), names, strict=True):
            target = self.place.joinpath("new", name)
            try:
                _link(source, target)
            except OSError as error:
                outcomes.append(not_written(error, self.place))
            else:
                self._shown.append(target)
                outcomes.append(DELIVERED)
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

    def _append(self, pieces: Sequence[bytes], ready: dict[Target, Path]) -> None:
        if self._abandoned:
            raise InterruptedError(errno.EINTR, "the delivery was abandoned", str(self._path))
        fd = self._fd
        if fd is None:
            place = ready.get(self._target)
            if place is None:
                place = ready[self._target] = _ready(self._target)
            self.place = place
            self._path = place.joinpath("tmp", self._name)
            try:
                fd = _create(self._path)
            except FileNotFoundError:
                _create_parts(self.place)
                fd = _create(self._path)
            self._fd = fd
        for piece in pieces:
            write_all(fd, [piece])
            self.size += len(piece)


@dataclass(slots=True, eq=False)
class Job:
    """One message whose content is complete."""

    file: File
    pieces: list[bytes]
    """The content that is not written yet."""
    target: Target
    names: list[str]
    tops: list[bytes]
    """The trace fields of each name, in the same order; `file` begins with the first."""
    now: float
    """Seconds since 1970."""
    final: bool
    """Whether the message has waited long enough for room in a full mailbox."""

    @property
    def sizes(self) -> list[int]:
        """The octets of the file of each name, once `file` is complete."""
        rest = self.file.size - len(self.tops[0])
        return [rest + len(top) for top in self.tops]

    @property
    def shown_names(self) -> list[str]:
        """The names in `new`: with the size, so that a reader does not have to ask for it (Maildir++)."""
        return [f"{name},S={size}" for name, size in zip(self.names, self.sizes, strict=True)]

    def admit(self, uncounted: set[Path]) -> None:
        """Count the files against the quota.

        Args:
            uncounted: the Maildirs of this batch that have no quota, and nobody counts; added to.

        Raises:
            MailboxError: they do not fit.
        """
        octets = sum(self.sizes)
        maildir, quota = self.target.maildir, self.target.quota
        if quota is None:
            if maildir not in uncounted and not maildir_quota.count(maildir, octets, len(self.names)):
                uncounted.add(maildir)
        elif not maildir_quota.admit(maildir, quota, octets, len(self.names), self.now):
            raise full(maildir, quota, octets, final=self.final)

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Stop counting the files that were not delivered."""
        missing = [size for size, each in zip(self.sizes, outcomes, strict=False) if each is not DELIVERED]
        if missing:
            maildir_quota.give_back(self.target.maildir, sum(missing), len(missing))


@dataclass(frozen=True, slots=True)
class MaildirWriter:
    """Writes one message in the process of the Maildir's user. Implements `mailbox_process.Writer`."""

    job: Job

    @property
    def path(self) -> Path:
        """The Maildir."""
        return self.job.target.maildir

    def write(self, pieces: Iterator[bytes]) -> Outcome:
        """See `mailbox_process.Writer`. Also removes stale files, which the server does not do for other users."""
        job = self.job
        with suppress(OSError):
            remove_stale(PathTemplate.fixed(self.path), job.now)
        try:
            for piece in pieces:
                job.file.write([piece])
            return publish([job])[0][0]
        finally:
            job.file.abandon()


def publish(jobs: Sequence[Job]) -> list[list[Outcome]]:
    """Write, sync and show several messages; the outcome of each name of each job.

    The directory `new` of each Maildir is synced once.
    """
    outcomes: list[list[Outcome]] = [[] for _ in jobs]

    def fail(numbers: Sequence[int], error: OSError) -> None:
        for number in numbers:
            job = jobs[number]
            outcomes[number] = [not_written(error, job.file.place)] * len(job.names)

    def attempt(step: Callable[[Job], object], numbers: Sequence[int]) -> list[int]:
        """The jobs whose step succeeded; an error of one file affects that message only."""
        worked = []
        for number in numbers:
            try:
                step(jobs[number])
            except OSError as error:
                fail((number,), error)
            else:
                worked.append(number)
        return worked

    admitted: list[int] = []
    try:
        ready: dict[Target, Path] = {}
        good = attempt(lambda job: job.file.complete(job.pieces, ready), range(len(jobs)))
        uncounted: set[Path] = set()
        good = admitted = attempt(lambda job: job.admit(uncounted), good)
        good = attempt(lambda job: job.file.write_back(), good)
        good = attempt(lambda job: job.file.sync(), good)
        good = attempt(lambda job: job.file.copy(job.names, job.tops), good)
        for number in good:
            job = jobs[number]
            outcomes[number] = job.file.show(job.shown_names)
        shown: dict[Path, list[int]] = {}
        for number in good:
            shown.setdefault(jobs[number].file.place, []).append(number)
        for place, numbers in shown.items():
            try:
                sync_directory(place / "new")
            except OSError as error:
                # It is not known whether the files are durable: the messages stay in the queue, so the files go.
                for number in numbers:
                    jobs[number].file.hide()
                fail(numbers, error)
    finally:
        for job in jobs:
            job.file.remove()
        for number in admitted:
            jobs[number].settle(outcomes[number])
    return outcomes


def _create(path: Path) -> int:
    # O_EXCL: fail if the name exists; O_NOFOLLOW: never write through a symbolic link. Readable for `copy`.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _ready(target: Target) -> Path:
    """The Maildir of a target, or its folder.

    Raises:
        MailboxError: it belongs to another user, or does not exist and must not be created.
        OSError: a directory cannot be created.
    """
    maildir = target.maildir
    try:
        refuse_foreign(maildir, maildir.stat().st_uid)
    except FileNotFoundError:
        if not target.create:
            raise not_created(maildir) from None
        create_directories(maildir, target.base)
    if not target.folder:
        return maildir
    folder = maildir / target.folder
    if (folder / "tmp").is_dir():
        return folder
    if not target.create_folder:
        return maildir
    folder.mkdir(mode=0o700, exist_ok=True)
    _create_parts(folder)
    os.close(os.open(folder / "maildirfolder", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    sync_directory(folder)
    sync_directory(maildir)
    return folder


def _create_parts(place: Path) -> None:
    for name in _PARTS:
        (place / name).mkdir(mode=0o700, exist_ok=True)
    sync_directory(place)


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
