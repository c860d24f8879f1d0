"""The error and exit code for a data directory that cannot be used, for `serve` and `check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.cli import exits
from ironpost.cli.app import CommandError
from ironpost.model.text import error_text
from ironpost.storage.lock import DirectoryInUse
from ironpost.storage.ownership import DirectoryExposed

if TYPE_CHECKING:
    from ironpost.compose.data_lock import DataError


def cannot_use(error: DataError) -> CommandError:
    """The error for the user, with its exit code."""
    cause = error.__cause__
    assert isinstance(cause, OSError)
    if isinstance(cause, DirectoryInUse):
        return CommandError(exits.TEMPORARY, f"{error.path}: {error_text(cause)}")
    if isinstance(cause, DirectoryExposed):
        return CommandError(exits.CONFIGURATION, f"{error}: {error_text(cause)}")
    if isinstance(cause, FileExistsError | NotADirectoryError):
        return CommandError(exits.CANNOT_CREATE, f"{error}: not a directory")
    elsewhere = cause.filename is not None and not str(cause.filename).startswith(str(error.path))
    if elsewhere:  # a program that should be started, for instance
        return CommandError(exits.SOFTWARE, f"{cause.filename}: {error_text(cause)}")
    if isinstance(cause, PermissionError):
        return CommandError(exits.CANNOT_CREATE, f"permission denied: {error}")
    return CommandError(exits.CANNOT_CREATE, f"{error}: {error_text(cause)}")
