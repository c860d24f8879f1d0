"""The drop directory: messages that `ironpost sendmail` leaves for the server.

A file is one line of JSON with the envelope, then the content. Its name is random, and identifies the submission.

Promises: a file gets its name when it is complete and synced; what is found without one is the remnant of a command
that was killed. Users cannot list the directory. Only the file's owner and the server can read a file: it is 0600, or
0640 if the directory gives its files the server's group (set-group-ID).
Refuses: a directory in which every user may write without the sticky bit, because any user could replace the files of
others; on reading, whatever is not a regular file with one name (SECURITY R47), and an envelope that is not valid.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

from ironpost.model import Address, Envelope, Origin, Recipient
from ironpost.model.body import PIECE
from ironpost.model.text import counted, error_text
from ironpost.protocol.extensions import checked_parameters
from ironpost.queue.codec import NO_PARAMETERS, decode_parameters, encode_parameters
from ironpost.queue.store import StoreFull
from ironpost.storage.directory import sync_directory
from ironpost.storage.ownership import open_private
from ironpost.storage.reserve import disk_space, refuse_reserve

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ironpost.protocol.extensions import Parameters

ORIGIN: Final = Origin(protocol="local", listener="sendmail")
"""The origin of messages from the drop directory."""
MAIL: Final = frozenset({"ENVID", "RET", "SMTPUTF8"})
"""Parameters of MAIL that a file may have."""
RCPT: Final = frozenset({"NOTIFY"})
"""Parameters of RCPT that a file may have."""
ENVELOPE_OCTETS: Final = 4 << 20
"""Maximum size of an envelope in a file, in octets."""
PARAMETERS_LIMIT: Final = 2048
"""Characters of the parameters of a command in a file: `decode_parameters` keeps what it has read."""
FILES: Final = 1000
"""Number of files at which the directory takes no more messages that anyone may have sent."""
STALE_SECONDS: Final = 24 * 3600.0
"""Age in seconds after which an incomplete file is removed."""
_NAME: Final = re.compile("[0-9a-f]{32}")
_INCOMPLETE: Final = "incomplete."
_REFUSED: Final = ".refused"


class DropError(ValueError):
    """A file is not one that `leave` wrote. The text is the reason."""


def prepare(directory: Path) -> None:
    """Create the directory, 0700, if it does not exist.

    Raises:
        OSError: it cannot be created or used.
    """
    if not directory.exists():
        directory.mkdir(mode=0o700)
        sync_directory(directory.parent)
    if why := _unusable(directory):
        raise OSError(errno.EPERM, why, str(directory))


def verify(directory: Path) -> None:
    """Look whether the directory can be used, or can be created if it does not exist. Blocks.

    Raises:
        ValueError: it cannot; the text says why.
    """
    try:
        if why := _unusable(directory):
            raise ValueError(f"{directory}: {why}")
    except FileNotFoundError:
        if not directory.parent.is_dir():
            raise ValueError(f"{directory}: its parent does not exist: create it") from None
    except OSError as error:
        raise ValueError(f"{directory}: {error_text(error)}") from None


def _unusable(directory: Path) -> str:
    """Why an existing directory cannot be used, a sentence without its name; empty if it can."""
    mode = directory.stat().st_mode
    if not stat.S_ISDIR(mode):
        return "not a directory"
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return "every user may replace the files of others there; run: chmod 3733"
    return ""


# -- the command


def leave(directory: Path, envelope: Envelope, content: Iterable[bytes]) -> None:
    """Write a message, and return when it is durable.

    Args:
        directory: the drop directory.
        envelope: the parameters of all recipients are those of the first.
        content: header section and body, in pieces.

    Raises:
        OSError: it cannot be written; nothing remains.
        ValueError: a parameter cannot be stored.
    """
    values = {
        "sender": str(envelope.reverse_path),
        "recipients": [str(each.address) for each in envelope.recipients],
        "mail": encode_parameters(envelope.parameters),
        "rcpt": encode_parameters(envelope.recipients[0].parameters),
    }
    name = secrets.token_hex(16)
    path, incomplete = directory / name, directory / f"{_INCOMPLETE}{name}"
    file = open_private(incomplete, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(file, "wb") as out:
            # A directory with a set-group-ID bit has the server's group, and gives it to its files.
            os.fchmod(file, 0o640 if directory.stat().st_mode & stat.S_ISGID else 0o600)
            out.write(json.dumps(values).encode() + b"\n")
            for piece in content:
                out.write(piece)
            out.flush()
            os.fsync(file)
            incomplete.rename(path)
            try:
                sync_directory(directory)
            except PermissionError:  # users cannot open it; file systems with a journal sync the name with the file
                os.fsync(file)
    except BaseException:
        incomplete.unlink(missing_ok=True)
        raise


# -- the server


def check_room(directory: Path, reserve: int) -> None:
    """Check that the directory can take a message that anyone may have sent. Blocks.

    Args:
        directory: the drop directory.
        reserve: octets of the disk that new mail never takes.

    Raises:
        StoreFull: it has `FILES` files, whatever they are, or less of the disk is free than the reserve.
        OSError: it cannot be read.
    """
    with os.scandir(directory) as entries:
        if sum(1 for _ in islice(entries, FILES)) == FILES:
            raise StoreFull(errno.ENOSPC, f"{counted(FILES, 'file')} wait there, or were refused", str(directory))
    refuse_reserve(directory, disk_space(directory).free, reserve)


def waiting(directory: Path) -> list[str]:
    """The names of the complete files, oldest first."""
    with os.scandir(directory) as entries:
        found = {each.name: each.stat(follow_symlinks=False).st_mtime for each in entries if _NAME.fullmatch(each.name)}
    return sorted(found, key=lambda name: (found[name], name))


class DropFile:
    """A complete file, open for reading. Its methods block."""

    def __init__(self, directory: Path, name: str) -> None:
        """Open the file and read its envelope.

        Raises:
            DropError: it has no valid envelope.
            OSError: it cannot be opened (`storage.ownership.open_private`).
        """
        descriptor = open_private(directory / name, os.O_RDONLY)
        self._file = os.fdopen(descriptor, "rb")
        self.owner = os.fstat(descriptor).st_uid
        """The user who wrote it."""
        self._digest = hashlib.sha256()
        try:
            line = self._file.readline(ENVELOPE_OCTETS)
            self._digest.update(line)
            self.envelope = _envelope(line)
        except BaseException:
            self._file.close()
            raise

    def read(self) -> bytes:
        """The next piece of the content; empty at its end."""
        piece = self._file.read(PIECE)
        self._digest.update(piece)
        return piece

    def digest(self) -> bytes:
        """A digest of what was read."""
        return self._digest.digest()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def remove(directory: Path, name: str) -> None:
    """Remove a file whose message is queued. It may come back after a power failure."""
    (directory / name).unlink(missing_ok=True)


def set_aside(directory: Path, name: str) -> Path:
    """Rename a file that is refused, so that it is not read again; return its new path."""
    return (directory / name).rename(directory / f"{name}{_REFUSED}")


def remove_stale(directory: Path, now: float) -> None:
    """Remove incomplete files of commands that were killed."""
    for path in directory.glob(f"{_INCOMPLETE}*"):
        with suppress(FileNotFoundError):  # its command has finished it
            if now - path.lstat().st_mtime > STALE_SECONDS and not path.is_dir():
                path.unlink()


def _envelope(line: bytes) -> Envelope:
    try:
        values = json.loads(line)
        sender, recipients = Address.parse(values["sender"]), [Address.parse(each) for each in values["recipients"]]
        mail, rcpt = _parameters(values["mail"], MAIL), _parameters(values["rcpt"], RCPT)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DropError(f"its envelope is not valid: {type(error).__name__}") from None
    if not recipients or any(each.is_null for each in recipients):
        raise DropError("its envelope has no recipient, or an empty one")
    return Envelope(sender, tuple(Recipient(each, rcpt) for each in recipients), mail, ORIGIN)


def _parameters(text: str, allowed: frozenset[str]) -> Parameters:
    if not text:
        return NO_PARAMETERS
    if len(text) > PARAMETERS_LIMIT:
        raise ValueError("the parameters are too long")
    parameters = checked_parameters(decode_parameters(text))
    if not parameters.keys() <= allowed:
        raise ValueError("a parameter that is not allowed here")
    return parameters
