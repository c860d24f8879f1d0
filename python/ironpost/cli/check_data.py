"""`check --data`: read the whole queue and report damage."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

from ironpost.cli import exits
from ironpost.cli.app import CommandError
from ironpost.cli.settings import configuration
from ironpost.compose.data_directory import LocalData

if TYPE_CHECKING:
    from pathlib import Path


def show(named: Path | None) -> None:
    """Print a line for each damaged message or shard, and a summary; exit with IO_ERROR if there is damage."""
    data = LocalData(configuration(named))
    damaged = 0

    async def check() -> None:
        nonlocal damaged
        async for finding in data.verify():
            damaged += finding.damage
            typer.echo(finding.text)

    try:
        asyncio.run(check())
    except FileNotFoundError as error:
        raise CommandError(exits.NO_INPUT, str(error)) from None
    if damaged:
        raise typer.Exit(exits.IO_ERROR)
