"""The quota of a Maildir, counted in its file `maildirsize` as the Maildir++ specification says.

Promises: a delivery is counted before it is visible, so that those at the same time see each other; the file is created
if there is a quota, and kept up to date if another program has created it. All mail is counted again if the quota
changed, the file is longer than 5,120 octets, or a message does not fit and the count may be old. As with Dovecot, all
folders count, including Trash. All functions block.
Limitations: readers do not lock the file, so what is admitted in the same moment can exceed the quota together.
Sources: https://www.courier-mta.org/imap/README.maildirquota.html
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE: Final = "maildirsize"
_LONGEST: Final = 5120
"""Octets from which all mail is counted again."""
_OLD_SECONDS: Final = 15 * 60.0
"""Age from which a count is not believed when a message does not fit."""
_OCTETS: Final = re.compile(r",S=([0-9]+)")
_LINE: Final = re.compile(rb" *(-?[0-9]+) +(-?[0-9]+) *")


def count(maildir: Path, octets: int, messages: int) -> bool:
    """Count messages that are about to be delivered to a Maildir without a quota; return whether anybody counts.

    Raises:
        OSError: the Maildir cannot be written.
    """
    try:
        _append(maildir, octets, messages)
    except FileNotFoundError:
        return False
    return True


def admit(maildir: Path, quota: int, octets: int, messages: int, now: float) -> bool:
    """Count messages that are about to be delivered, unless they do not fit.

    Args:
        maildir: the Maildir; not one of its folders.
        quota: the most octets that it may hold.
        octets: the size of the messages together.
        messages: how many there are.
        now: seconds since 1970.

    Returns:
        Whether they fit.

    Raises:
        OSError: the Maildir cannot be read or written.
    """
    used, sure = _read(maildir, quota, now)
    if used is None or (used + octets > quota and not sure):
        used = _recount(maildir, quota)
    if used + octets > quota:
        return False
    with suppress(FileNotFoundError):  # a reader has removed it: the next delivery counts again
        _append(maildir, octets, messages)
    return True


def give_back(maildir: Path, octets: int, messages: int) -> None:
    """Undo `admit` for messages that were not delivered; an error is left to the next count."""
    with suppress(OSError):
        _append(maildir, -octets, -messages)


def _read(maildir: Path, quota: int, now: float) -> tuple[int | None, bool]:
    """The octets in use, or None if they must be counted; and whether that is certain."""
    try:
        with open(maildir / FILE, "rb", opener=_not_through_links) as file:
            text = file.read(_LONGEST + 1)
            age = now - os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None, False
    limits, *lines = text.split(b"\n")
    if len(text) > _LONGEST or b"%dS" % quota not in limits.strip().split(b","):
        return None, False
    used = 0
    for line in filter(None, lines):
        match = _LINE.fullmatch(line)
        if match is None:
            return None, False
        used += int(match[1])
    return used, len(lines) <= 2 and 0 <= age < _OLD_SECONDS


def _recount(maildir: Path, quota: int) -> int:
    """Count what is in the Maildir and its folders, and write the file."""
    octets = messages = 0
    for size in _sizes(maildir):
        octets += size
        messages += 1
    fresh = maildir / "tmp" / f"{FILE}.{os.getpid()}.{os.urandom(8).hex()}"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, b"%dS\n%d %d\n" % (quota, octets, messages))
    finally:
        os.close(fd)
    fresh.replace(maildir / FILE)
    return octets


def _sizes(maildir: Path) -> Iterator[int]:
    """The octets of each message."""
    with os.scandir(maildir) as entries:
        folders = [maildir, *(maildir / entry.name for entry in entries if entry.name.startswith("."))]
    for folder in folders:
        for part in ("cur", "new"):
            try:
                listing = os.scandir(folder / part)
            except (FileNotFoundError, NotADirectoryError):  # not a folder of mail
                continue
            with listing:
                for entry in listing:
                    size = _OCTETS.search(entry.name)
                    if size is not None:
                        yield int(size[1])
                    else:
                        with suppress(FileNotFoundError):  # a reader has just moved it
                            yield entry.stat(follow_symlinks=False).st_size


def _append(maildir: Path, octets: int, messages: int) -> None:
    fd = os.open(maildir / FILE, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.write(fd, b"%d %d\n" % (octets, messages))
    finally:
        os.close(fd)


def _not_through_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
