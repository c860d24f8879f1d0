"""`ironpost directory find`: show what the directory says about an address, without a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.cli.call import call_local
from ironpost.cli.route import show
from ironpost.operations.directory import FIND, FindRequest

if TYPE_CHECKING:
    from pathlib import Path


def find(file: Path | None, address: str, *, as_json: bool) -> None:
    """Print the entry of an address, those of its targets, and where the mail of each goes.

    Raises:
        CommandError: the address is invalid.
        typer.Exit: mail for it would be refused or deferred.
    """
    show(call_local(file, FIND, FindRequest(address)), as_json=as_json)
