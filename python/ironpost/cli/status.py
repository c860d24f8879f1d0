"""`status`: show listeners, connections and jobs of the running server, and which of its workers answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import typer

from ironpost.cli.call import call, print_json
from ironpost.model.text import counted, escape
from ironpost.operations.operation import EmptyRequest
from ironpost.operations.status import STATUS
from ironpost.processes.resources import DISK

if TYPE_CHECKING:
    from pathlib import Path


MIB: Final = 1 << 20


def show(file: Path | None, *, as_json: bool) -> None:
    """Print the status. Workers that do not answer are named on standard error, and not counted."""
    answer = call(file, STATUS, EmptyRequest())
    status = answer.response
    if as_json:
        print_json(answer.json)
    else:
        typer.echo(f"configuration {status.configuration}, {counted(status.connections, 'connection')}")
        for address in status.listening:
            typer.echo(f"listening on {address.at} for {address.role}")
        for worker in status.workers:
            state = "ready" if worker.ready else "not ready"
            typer.echo(f"worker {worker.number}: process {worker.pid}, {state}, starts: {worker.starts}")
        for found in status.resources:
            unit = 1 if found.resource == "descriptors" else MIB
            amount = f"{found.used // unit} of {found.most // unit}{' MiB' if unit == MIB else ''}"
            refused = "mail is" if found.resource == DISK else "connections are"
            short = f"; short: new {refused} refused" if found.short else ""
            typer.echo(f"{found.resource} (worker {found.worker}): {amount}{short}")
        for job in status.jobs:
            last = (
                "not run yet" if job.last is None else f"{'failed' if job.failed else 'done'} {job.last}: {job.result}"
            )
            typer.echo(f"job {job.name} (worker {job.worker}): next {job.next}, {last}")
        for each in status.state:
            typer.echo(f"state {each.namespace}: {counted(each.entries, 'key')}, {counted(each.octets, 'octet')}")
        for stopped in status.suspended:
            end = f"until {stopped.until}" if stopped.until else "until it is resumed"
            typer.echo(f"suspended {stopped.name} {end}{': ' if stopped.why else ''}{stopped.why}")
        for down in {each.destination: each for each in status.down}.values():  # workers may share one
            end = f" until {down.until}" if down.until else ""
            typer.echo(escape(f"down {down.destination}{end}: {down.why}"))
    answer.warn_of_silent()
