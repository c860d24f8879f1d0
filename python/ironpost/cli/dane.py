"""`dane check`: show what a domain publishes for DANE, and whether its hosts match."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ironpost.cli import exits
from ironpost.cli.call import call_local, report
from ironpost.model.text import escape
from ironpost.operations.dane import CHECK, DaneOutcome, DaneReport, DaneRequest

if TYPE_CHECKING:
    from pathlib import Path

_EXITS = {
    DaneOutcome.INCOMPLETE: exits.NOT_CONFORMING,
    DaneOutcome.NONE: exits.NO_INPUT,
    DaneOutcome.DEFERRED: exits.TEMPORARY,
    DaneOutcome.REFUSED: exits.REFUSED,
}


def check(file: Path | None, request: DaneRequest, *, as_json: bool) -> None:
    """Print the records of a domain and of its hosts, and what follows.

    Raises:
        CommandError: the domain is invalid.
        typer.Exit: DANE does not authenticate every host, or mail would be deferred or refused.
    """
    found = call_local(file, CHECK, request)
    report(found, _print, _EXITS.get(found.outcome), as_json=as_json)


def _print(found: DaneReport) -> None:
    typer.echo(f"resolver: {escape(found.obstacle) or 'validates DNSSEC'}")
    typer.echo(f"{escape(found.domain)}: {_signed(signed=found.signed)}")
    for line in found.mx:
        typer.echo(f"  {escape(line)}")
    for host in found.hosts:
        addresses = ", ".join(host.addresses)
        typer.echo(f"{escape(host.name)} ({addresses}): {_signed(signed=host.signed)}")
        if host.base:
            typer.echo(f"  TLSA records of {escape(host.base)}:")
        for record in host.records:
            typer.echo(f"    {record.record}: {record.fault or 'usable'}")
        for each in host.handshakes:
            typer.echo(f"  {each.address}: {each.reached or 'no connection'}: {escape(each.reason)}")
        typer.echo(f"  {host.state.value}: {escape(host.reason)}")
    if found.failure:
        typer.echo(escape(found.failure))
    typer.echo(found.outcome.value)


def _signed(*, signed: bool) -> str:
    return "signed" if signed else "not signed"
