"""`route explain`: show how a recipient would be handled, without a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ironpost.cli import exits
from ironpost.cli.call import call_local, report
from ironpost.model.text import escape
from ironpost.operations.explain import EXPLAIN, ExplainRequest, Explanation, RouteOutcome

if TYPE_CHECKING:
    from pathlib import Path

_EXITS = {RouteOutcome.REFUSED: exits.REFUSED, RouteOutcome.DEFERRED: exits.TEMPORARY}


def explain(file: Path | None, request: ExplainRequest, *, as_json: bool) -> None:
    """Print the decision of each stage with its reasons.

    Raises:
        CommandError: an argument is invalid.
        typer.Exit: the recipient would be refused or deferred.
    """
    show(call_local(file, EXPLAIN, request), as_json=as_json)


def show(explanation: Explanation, *, as_json: bool) -> None:
    """Print the steps and the outcome.

    Raises:
        typer.Exit: the recipient would be refused or deferred.
    """
    report(explanation, _print, _EXITS.get(explanation.outcome), as_json=as_json)


def _print(explanation: Explanation) -> None:
    for step in explanation.steps:
        indent = "  " * step.level
        typer.echo(f"{indent}{step.name:<10} {escape(step.about)}: {escape(step.answer)}")
        for reason in step.reasons:
            typer.echo(f"{indent}{'':<10}   {escape(reason)}")
    typer.echo(explanation.outcome.value)
