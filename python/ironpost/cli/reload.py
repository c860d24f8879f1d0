"""`reload`: make the running server reload its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ironpost.cli import exits
from ironpost.cli.call import call
from ironpost.operations.operation import EmptyRequest
from ironpost.operations.reload import RELOAD

if TYPE_CHECKING:
    from pathlib import Path


def reload(file: Path | None) -> None:
    """Reload, and print what changed.

    Raises:
        CommandError: the configuration cannot be used, or see `call`.
    """
    answer = call(file, RELOAD, EmptyRequest(), refused=exits.CONFIGURATION)
    typer.echo(answer.response.message)
    answer.require_complete()
