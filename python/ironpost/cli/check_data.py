"""`check --data`: reads the whole queue and names what is damaged."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

from ironpost.cli import exits
from ironpost.cli.app import Stop
from ironpost.cli.settings import configuration
from ironpost.storage.ownership import acting_for
from ironpost.storage.verify import Extent, verify

if TYPE_CHECKING:
    from pathlib import Path


def show(named: Path | None) -> None:
    """Prints one line for each damage and a summary; exits with IO_ERROR if there was any."""
    data = configuration(named).data

    async def look() -> int:
        count = 0
        async for found in verify(data):
            if isinstance(found, Extent):
                typer.echo(f"{found.messages} messages read, {found.octets} octets; {count} damaged")
            else:
                count += 1
                what = f"message {found.message}" if found.message else "the shard"
                typer.echo(f"{found.shard}: {what} is damaged: {found.sentence}")
        return count

    try:
        with acting_for(data):
            damaged = asyncio.run(look())
    except FileNotFoundError as error:
        raise Stop(exits.NO_INPUT, str(error)) from None
    if damaged:
        raise typer.Exit(exits.IO_ERROR)
