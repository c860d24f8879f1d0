"""`dmarc check`: show what a domain publishes for DMARC, without a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ironpost.cli import exits
from ironpost.cli.call import call_local, report
from ironpost.model.text import escape
from ironpost.operations.dmarc import CHECK, DmarcCheckRequest, DmarcCheckResult

if TYPE_CHECKING:
    from pathlib import Path

    from ironpost.operations.dmarc import DmarcCheck

_EXITS = {
    DmarcCheckResult.ABSENT: exits.NO_INPUT,
    DmarcCheckResult.FAULTY: exits.NOT_CONFORMING,
    DmarcCheckResult.UNKNOWN: exits.TEMPORARY,
}


def check(file: Path | None, domain: str, *, as_json: bool) -> None:
    """Print the record that applies, its policy, where reports are wanted, and problems.

    Raises:
        CommandError: the domain is invalid.
        typer.Exit: no record applies, it is faulty, or DNS does not answer.
    """
    found = call_local(file, CHECK, DmarcCheckRequest(domain))
    report(found, _print, _EXITS.get(found.result), as_json=as_json)


def _print(found: DmarcCheck) -> None:
    if found.organization:
        typer.echo(f"domain     {escape(found.organization)} is the organizational domain")
    if found.policy_domain:
        typer.echo(f"record     {escape(found.record)}")
        typer.echo(f"policy     {found.policy}, published by {escape(found.policy_domain)}")
    for uri in found.aggregate:
        typer.echo(f"aggregate  {escape(uri)}")
    for uri in found.failure:
        typer.echo(f"failure    {escape(uri)}")
    for problem in found.problems:
        typer.echo(f"problem    {escape(problem)}")
    typer.echo(f"{escape(found.domain)}: {found.result.value}")
