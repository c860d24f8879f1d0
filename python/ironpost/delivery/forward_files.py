r"""Forward files: the users of this system redirect the mail of their mailboxes, as by `.forward` in a home directory.

    # on leave until May
    ann@mail.example, jo@other.example
    \jo

Promises: a line has one address, or several with commas; what follows a `#` is a comment. An address without a domain
is in the domain of the mailbox. The mailbox's own address, with `\` in front or without, keeps a copy. A missing file,
or one without an address, changes nothing. A file is read again when it has changed, never in the event loop. If the
server runs as root, a process with the rights of the mailbox's user and no others reads it (SECURITY R47). A file that
cannot be used raises `DirectoryError`, so that mail waits until it is repaired.
Refuses: programs, files and lists as targets; a symbolic link; a file that other users may replace or write, or that
belongs to another user than the mailbox's and root; files larger than `OCTETS`, and more than `TARGETS` addresses.

The user of a mailbox is the owner of the first directory on the path, below its fixed part, that is not root's, or else
the owner of the file: with `/home/{local}/.forward`, of the home directory.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import stat
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.delivery import as_user, programs
from ironpost.delivery.as_user import AsUserError
from ironpost.delivery.path_template import PathError
from ironpost.model import Address
from ironpost.model.text import complaint, error_text, escape
from ironpost.routing.directory import DirectoryError
from ironpost.routing.mail_directory import key_of
from ironpost.routing.records import Record, listed_targets
from ironpost.storage.ownership import open_private

if TYPE_CHECKING:
    from pathlib import Path

    from ironpost.delivery.path_template import PathTemplate
    from ironpost.model.ports import Metrics

OCTETS: Final = 64 << 10
"""Maximum size of a file."""
TARGETS: Final = 100
"""Maximum number of addresses in a file."""
TIMEOUT: Final = 10.0
"""Seconds in which a file must be read: it may be on a file system of another machine."""
CONCURRENCY: Final = 8
"""Threads, and processes of users, that read files at the same time."""
KNOWN: Final = 10_000
"""Maximum number of files whose addresses are kept in memory."""

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_READER: Final = "/usr/bin/head"
_COMMENT: Final = re.compile(r"(?:^|\s)#.*")
_UNSUPPORTED: Final = re.compile(r'"?\s*(?:[|/]|:include:)')


class ForwardFileError(ValueError):
    """A file cannot be used. The text is the reason, without the path."""

    def __init__(self, reason: str, text: str) -> None:
        """`reason` is the label of the metric."""
        super().__init__(text)
        self.reason = reason


class _Examined(NamedTuple):
    """A file that may be read."""

    user: int
    """The user of the mailbox."""
    stamp: tuple[int, ...]
    """Differs when the file has changed."""


def verify(template: PathTemplate) -> None:
    """Look for the directory above the files of all mailboxes. Blocks.

    Raises:
        ValueError: it cannot be used; the text says why.
    """
    try:
        mode = template.base.stat().st_mode
    except OSError as error:
        raise ValueError(f"{template.base}: {error_text(error)}") from None
    if not stat.S_ISDIR(mode):
        raise ValueError(f"{template.base} is not a directory")
    if mode & _OTHERS_WRITE:
        raise ValueError(f"other users may write in {template.base}; run: chmod go-w {template.base}")


class ForwardFiles:
    """Finds the forward file of a mailbox."""

    def __init__(self, template: PathTemplate, metrics: Metrics | None = None) -> None:
        """`template` gives the path of a mailbox's file."""
        self._template = template
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(CONCURRENCY, "forward-files")
        self._turns = asyncio.Semaphore(CONCURRENCY)
        self._known: OrderedDict[str, tuple[tuple[int, ...], Record]] = OrderedDict()
        """The stamp and the record of the files that were read, by the key of the mailbox, the oldest first."""

    async def record(self, mailbox: Address) -> Record | None:
        """Return what the file of a mailbox says; None if it has no file.

        Raises:
            DirectoryError: the file cannot be used.
        """
        try:
            path = self._template.path(mailbox, mailbox.domain)
        except PathError:
            return None  # a file with this name cannot exist
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._record(path, mailbox)
        except ForwardFileError as error:
            raise self._failed(path, error.reason, str(error)) from None
        except TimeoutError:
            raise self._failed(path, "unreadable", f"it was not read within {TIMEOUT:.0f} seconds") from None
        except OSError as error:
            raise self._failed(path, "unreadable", error_text(error)) from None

    async def _record(self, path: Path, mailbox: Address) -> Record | None:
        loop = asyncio.get_running_loop()
        examined = await loop.run_in_executor(self._threads, _examined, path, self._template.base)
        key = key_of(mailbox)
        if examined is None:
            self._known.pop(key, None)
            return None
        known = self._known.get(key)
        if known is not None and known[0] == examined.stamp:
            return known[1]
        if os.geteuid() == 0 and examined.user != 0:
            content = await self._read_as(examined.user, path)
        else:
            content = await loop.run_in_executor(self._threads, _read, path, examined)
        targets, keep = parsed(content, mailbox)
        record = Record(str(path), targets, keep)
        self._known[key] = examined.stamp, record
        self._known.move_to_end(key)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return record

    async def _read_as(self, user: int, path: Path) -> bytes:
        """Read a file with the rights of a user, so that a link in its directories leads to nothing else."""
        rights = await asyncio.get_running_loop().run_in_executor(self._threads, _rights, user)
        command = as_user.command(rights, (_READER, "-c", str(OCTETS + 1), "--", str(path)))
        async with self._turns:
            ended = await programs.run(command, {}, timeout=TIMEOUT, limit=OCTETS + 1, errors=True)
        if ended.code != 0:
            line = ended.output.decode("utf-8", "backslashreplace").partition("\n")[0]
            raise ForwardFileError("unreadable", f"{rights.name} cannot read it: {escape(line)}")
        return ended.output

    def _failed(self, path: Path, reason: str, text: str) -> DirectoryError:
        if self._metrics is not None:
            self._metrics.count("forward_file_failures", reason)
        return DirectoryError(f"{path}: {text}")


def _examined(path: Path, fixed: Path) -> _Examined | None:
    """Look at the file and its directories without reading; None if it does not exist."""
    try:
        status = path.lstat()
        owners = (each.stat().st_uid for each in reversed(path.parents) if fixed in each.parents)
        user = next((owner for owner in owners if owner != 0), status.st_uid)
        directory = path.parent.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(status.st_mode):
        raise ForwardFileError("unsafe", "not a regular file")
    if status.st_uid not in (user, 0):
        raise ForwardFileError("unsafe", "it does not belong to the user of the mailbox")
    if status.st_mode & _OTHERS_WRITE:
        raise ForwardFileError("unsafe", f"other users may write it; run: chmod go-w {path}")
    if directory.st_mode & _OTHERS_WRITE:
        raise ForwardFileError("unsafe", f"other users may replace it; run: chmod go-w {path.parent}")
    return _Examined(user, _stamp(status))


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(path: Path, examined: _Examined) -> bytes:
    with os.fdopen(open_private(path, os.O_RDONLY), "rb") as file:
        if _stamp(os.fstat(file.fileno())) != examined.stamp:
            raise ForwardFileError("unreadable", "it was changed while it was read")
        return file.read(OCTETS + 1)


def _rights(user: int) -> as_user.Identity:
    try:
        return as_user.identity(pwd.getpwuid(user).pw_name)
    except KeyError:
        raise ForwardFileError("unsafe", f"the user id {user} of the mailbox has no account") from None
    except AsUserError as error:
        raise ForwardFileError("unsafe", str(error)) from None


def parsed(content: bytes, mailbox: Address) -> tuple[tuple[Address, ...], bool]:
    """Return the addresses in a file, and whether the mailbox keeps a copy.

    Raises:
        ForwardFileError: a line is not valid, or the file is too large.
    """
    if len(content) > OCTETS:
        raise ForwardFileError("invalid", f"larger than {OCTETS >> 10} KiB")
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError:
        raise ForwardFileError("invalid", "not UTF-8") from None
    texts = [(number, text) for number, line in enumerate(lines, 1) for text in listed_targets(_COMMENT.sub("", line))]
    if len(texts) > TARGETS:
        raise ForwardFileError("invalid", f"more than {TARGETS} addresses")
    targets: dict[Address, None] = {}
    keep = False
    for number, text in texts:
        address = _target(text.removeprefix("\\"), mailbox, number)
        if key_of(address) == key_of(mailbox):
            keep = True
        elif text.startswith("\\"):
            raise ForwardFileError("invalid", f"line {number}: only {mailbox} can have a backslash in front")
        else:
            targets[address] = None
    return tuple(targets), keep


def _target(text: str, mailbox: Address, number: int) -> Address:
    if _UNSUPPORTED.match(text):
        raise ForwardFileError("unsupported", f"line {number}: a program, file or list cannot be a target")
    full = text if "@" in text else f"{text}@{mailbox.domain}"
    try:
        return Address.parse(full)
    except ValueError as fault:
        raise ForwardFileError("invalid", f"line {number}: {complaint(full, fault)}") from None
