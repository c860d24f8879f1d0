"""Mailboxes and aliases in text files, with lines as in aliases(5).

    # a comment
    ada@mail.example:
    team@mail.example: ada@mail.example, jo@mail.example,
        guest@other.example
    @shop.example: ada@mail.example

Promises: an address without targets is a mailbox, `@` and a domain is a catch-all, and a line that starts with a space
or a tab continues the one before. A change counts within `INTERVAL`; one that cannot be used leaves the records read
before, and is logged. Files are read in threads.
Refuses: a file that every user may write; with its number, a line of another form, such as a name without a domain, a
program or a file as a target, an address listed twice, and one in a domain that the directory does not have.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from functools import partial
from typing import TYPE_CHECKING, Final

from ironpost.accounts.watched_file import WatchedFile
from ironpost.model import Address
from ironpost.model.address import AddressOrDomain
from ironpost.model.text import complaint, error_text
from ironpost.routing.directory import MAX_TARGETS
from ironpost.routing.mail_directory import key_of
from ironpost.routing.records import Record, listed_targets

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    from ironpost.model.ports import Clock

INTERVAL: Final = 1.0
"""Seconds for which the records are used without looking whether the file was changed."""
MAX_FAULTS: Final = 20
"""Number of refused lines that are reported at a time."""
_LINE: Final = re.compile(r'((?:"(?:\\.|[^"\\])*"|\[[^\]]*\]|[^":\[])+):(.*)', re.DOTALL)


class RecordFileError(ValueError):
    """Not a file of mailboxes and aliases."""

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults
        """Where and why, for each line that is refused."""


class RecordFile:
    """Implements `routing.records.RecordSource`: a file that is read as a whole."""

    def __init__(self, file: WatchedFile[Mapping[str, Record]], clock: Clock) -> None:
        """Read the file. Blocks.

        Raises:
            ValueError, OSError: the file cannot be used.
        """
        self._file = file
        self._clock = clock
        self._records = file.current()
        self._looked = clock.monotonic()

    @property
    def records(self) -> Mapping[str, Record]:
        """The records by their keys, as they were last read."""
        return self._records

    def lookup(self, key: str, /) -> Record | Awaitable[Record | None] | None:
        """See `RecordSource.lookup`."""
        if self._clock.monotonic() < self._looked + INTERVAL:
            return self._records.get(key)
        return self._reread(key)

    async def _reread(self, key: str) -> Record | None:
        self._looked = self._clock.monotonic()  # one lookup waits for the disk, others use what was read before
        self._records = await asyncio.to_thread(self._file.current)
        return self._records.get(key)


def alias_file(path: Path, serves: Callable[[str], bool], clock: Clock) -> RecordFile:
    """Return the source of a file. Blocks.

    Args:
        path: the file.
        serves: whether the directory has the domain of a key.
        clock: the clock.

    Raises:
        RecordFileError: the file cannot be used.
    """
    return RecordFile(WatchedFile(path, partial(_read, serves), "mailboxes and aliases"), clock)


def _read(serves: Callable[[str], bool], path: Path) -> Mapping[str, Record]:
    records: dict[str, Record] = {}
    faults: list[str] = []
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        try:
            key, targets = _parsed(line)
            if not serves(key):
                raise ValueError(f"{key} is in no local domain and no relay domain")
            if key in records:
                raise ValueError(f"{key} is listed twice, first in {records[key].where}")
        except ValueError as error:
            if len(faults) == MAX_FAULTS:
                faults.append(f"{path}: what follows was not read")
                break
            faults.append(f"{where}: {error}")
        else:
            records[key] = Record(where, targets)
    if faults:
        raise RecordFileError(*faults)
    return records


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines with their continuations, without comments, each with its number."""
    start, whole = 0, ""
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0] in " \t" and start:
            whole += line
            continue
        if start:
            yield start, whole
        start, whole = number, line
    if start:
        yield start, whole


def _text(path: Path) -> str:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise RecordFileError(f"{path} is not a regular file")
            if mode & stat.S_IWOTH:
                sentence = f"every user may write to it ({stat.S_IMODE(mode):04o}); run: chmod o-w {path}"
                raise RecordFileError(f"{path}: {sentence}")
            return file.read()
    except UnicodeDecodeError:
        raise RecordFileError(f"{path} is not UTF-8") from None
    except OSError as error:
        raise RecordFileError(f"{path}: {error_text(error)}") from error


def _parsed(line: str) -> tuple[str, tuple[Address, ...]]:
    """The key and the targets of a line."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError("expected an address and a colon, like team@mail.example: ada@mail.example, jo@mail.example")
    name, rest = match[1].strip(), match[2].strip()
    targets = tuple(map(_address, listed_targets(rest)))
    if len(targets) > MAX_TARGETS:
        raise ValueError(f"{name} has more than {MAX_TARGETS} targets")
    key = AddressOrDomain.parse(name, _address)
    if key.local_part is None and not targets:
        raise ValueError(f"{name} needs a target: it is the catch-all of a domain")
    return key_of(key), targets


def _address(text: str) -> Address:
    if text.startswith(("|", "/", ":")):
        raise ValueError(f"{text} is not an address: programs and files cannot be targets")
    if "@" not in text:
        raise ValueError(f"{text} has no domain: write the whole address, like {text}@mail.example")
    try:
        return Address.parse(text)
    except ValueError as fault:
        raise ValueError(f"{text} is not a valid address: {complaint(text, fault)}") from None
