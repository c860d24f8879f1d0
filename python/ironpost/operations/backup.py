"""Operations on backups of the data directory: back up, restore."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ironpost.model.text import error_text
from ironpost.operations.operation import Operation, OperationError, Reason, Scope
from ironpost.queue.store import StoreUnusable
from ironpost.storage.lock import DirectoryInUse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ironpost.operations.context import DataDirectory


@dataclass(frozen=True, slots=True)
class BackupRequest:
    """A backup to make."""

    directory: str
    """The directory of the backup, empty or new."""
    mail: bool = False
    """Include Maildirs."""


@dataclass(frozen=True, slots=True)
class BackupResponse:
    """A backup that was made."""

    data: str
    """The data directory."""
    messages: int
    """Messages of the queue."""
    finished: int
    """Messages that were delivered, returned or dropped meanwhile, and are not in the backup."""
    files: int
    octets: int
    damaged: list[str]
    """A sentence for each damaged message; it is in the backup as far as it can be read."""
    left_out: list[str]
    """Symbolic links in the data directory, which are not followed."""


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """A backup to restore."""

    directory: str
    """The directory of the backup."""
    release: bool = False
    """Do not hold the mail in the queue."""


@dataclass(frozen=True, slots=True)
class RestoreResponse:
    """A data directory that was made from a backup."""

    data: str
    """The data directory."""
    time: str
    """When the backup was begun, in ISO 8601."""
    messages: int
    """Messages of the queue."""
    held: int
    """Recipients that were queued and are held now."""


async def _back_up(data: DataDirectory, request: BackupRequest) -> BackupResponse:
    with _translated():
        made = await data.back_up(Path(request.directory), mail=request.mail)
    return BackupResponse(
        str(data.path),
        made.queue.messages,
        made.queue.finished,
        len(made.manifest.files),
        sum(listed.size for listed in made.manifest.files.values()),
        [f"{each.shard}: message {each.message} is damaged: {each.sentence}" for each in made.queue.damage],
        [str(path) for path in made.left_out],
    )


async def _restore(data: DataDirectory, request: RestoreRequest) -> RestoreResponse:
    with _translated():
        restored = await data.restore(Path(request.directory), release=request.release)
    return RestoreResponse(str(data.path), restored.time, restored.messages, restored.held)


@contextmanager
def _translated() -> Iterator[None]:
    """Convert errors of files into those of operations."""
    try:
        yield
    except StoreUnusable as error:
        raise OperationError(Reason.UNAVAILABLE, str(error)) from None
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        raise OperationError(_reason(error), f"{where}{error_text(error)}") from None


def _reason(error: OSError) -> Reason:
    if isinstance(error, DirectoryInUse):
        return Reason.IN_USE
    if isinstance(error, FileNotFoundError):
        return Reason.NOT_FOUND
    if isinstance(error, PermissionError):
        return Reason.FORBIDDEN
    return Reason.DAMAGED if error.errno == errno.EIO else Reason.NOT_WRITABLE


BACKUP: Final = Operation("backup", BackupRequest, BackupResponse, Scope.LOCAL, _back_up)
RESTORE: Final = Operation("restore", RestoreRequest, RestoreResponse, Scope.LOCAL, _restore)
