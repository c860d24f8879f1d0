"""`status`: what the running server is, and which of its workers answer."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import typer

from ironpost.cli.settings import command, configuration, silent

if TYPE_CHECKING:
    from pathlib import Path


def show(named: Path | None, *, as_json: bool) -> None:
    """Prints it. Workers that do not answer are named on standard error; what they have is missing from the numbers."""
    answer = command(configuration(named), {"do": "status"})
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        typer.echo(f"configuration {answer['configuration']}, {answer['connections']} connections")
        for place in answer["listening"]:
            typer.echo(f"listening on {place['at']} for {place['role']}")
        for worker in answer.get("workers", ()):
            state = "ready" if worker["ready"] else "not ready"
            typer.echo(f"worker {worker['number']}: process {worker['pid']}, {state}, starts: {worker['starts']}")
    for line in silent(answer):
        sys.stderr.write(f"ironpost: {line}\n")
