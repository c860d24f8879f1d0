"""`backup` and `restore`: copy the data directory of a server that runs or not, and make one from such a copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ironpost.cli import exits
from ironpost.cli.call import call_local, print_json, report, warn
from ironpost.model.text import counted
from ironpost.operations.backup import BACKUP, RESTORE, BackupRequest, BackupResponse, RestoreRequest

if TYPE_CHECKING:
    from pathlib import Path


def back_up(file: Path | None, request: BackupRequest, *, as_json: bool) -> None:
    """Make a backup; exit with IO_ERROR if a message is damaged."""
    made = call_local(file, BACKUP, request)
    failed = exits.IO_ERROR if made.damaged else None
    report(made, lambda made: _print(request.directory, made), failed, as_json=as_json)


def restore(file: Path | None, request: RestoreRequest, *, as_json: bool) -> None:
    """Make the data directory from a backup."""
    restored = call_local(file, RESTORE, request)
    if as_json:
        print_json(restored)
        return
    typer.echo(
        f"{restored.data}: restored from the backup of {restored.time},"
        f" {counted(restored.messages, 'message')} in the queue"
    )
    if restored.held:
        typer.echo(
            f"{counted(restored.held, 'recipient')} held: mail that was delivered after the backup would be delivered"
            " again; start the server, then: ironpost queue list, ironpost queue release"
        )


def _print(directory: str, made: BackupResponse) -> None:
    typer.echo(
        f"{directory}: backup of {made.data}, {counted(made.messages, 'message')} in the queue,"
        f" {counted(made.files, 'file')}, {counted(made.octets, 'octet')}"
    )
    if made.finished:
        typer.echo(f"{counted(made.finished, 'message')} delivered, returned or dropped meanwhile, and not in it")
    warn([f"{path} is a symbolic link, and not in the backup" for path in made.left_out])
    warn(made.damaged)
