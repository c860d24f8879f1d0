"""`spf check`: show what SPF says about a client and a sender, without a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ironpost.cli import exits
from ironpost.cli.call import call_local, report
from ironpost.mail_auth import SpfResult
from ironpost.mail_auth.spf import LOOKUP_LIMIT
from ironpost.model.text import escape
from ironpost.operations.spf import CHECK

if TYPE_CHECKING:
    from pathlib import Path

    from ironpost.operations.spf import SpfCheck, SpfCheckRequest

_EXITS = {
    SpfResult.NONE: exits.NO_INPUT,
    SpfResult.NEUTRAL: exits.NOT_CONFORMING,
    SpfResult.SOFTFAIL: exits.NOT_CONFORMING,
    SpfResult.FAIL: exits.NOT_CONFORMING,
    SpfResult.PERMERROR: exits.NOT_CONFORMING,
    SpfResult.TEMPERROR: exits.TEMPORARY,
}


def check(file: Path | None, request: SpfCheckRequest, *, as_json: bool) -> None:
    """Print the result, its reason and the number of lookups.

    Raises:
        CommandError: the address of the client is invalid, or there is nothing to check.
        typer.Exit: the result is not `pass`.
    """
    found = call_local(file, CHECK, request)
    report(found, _print, _EXITS.get(found.result), as_json=as_json)


def _print(found: SpfCheck) -> None:
    typer.echo(f"reason     {escape(found.reason)}")
    if found.explanation:
        typer.echo(f"explained  {escape(found.explanation)}")
    for problem in found.problems:
        typer.echo(f"problem    {escape(problem)}")
    typer.echo(f"lookups    {found.lookups} of {LOOKUP_LIMIT} terms; DNS queries: {found.queries}")
    typer.echo(f"{escape(found.domain)} ({found.identity}): {found.result.value}")
