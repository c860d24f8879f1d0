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


def explain(file: Path | None, request: ExplainRequest, *, as_json: bool) -> None:
    """Print the decision of each stage with its reasons.

    Raises:
        CommandError: an argument is invalid.
        typer.Exit: the recipient would be refused or deferred, or mail for one of its targets would fail or wait.
    """
    show(call_local(file, EXPLAIN, request), as_json=as_json)


def show(explanation: Explanation, *, as_json: bool) -> None:
    """Print the steps and the outcome.

    Raises:
        typer.Exit: the recipient would be refused or deferred, or mail for one of its targets would fail or wait.
    """
    report(explanation, _print, _exit_code(explanation), as_json=as_json)


def _exit_code(explanation: Explanation) -> int | None:
    if explanation.outcome is RouteOutcome.REFUSED or explanation.failing:
        return exits.REFUSED
    if explanation.outcome is RouteOutcome.DEFERRED or explanation.deferred:
        return exits.TEMPORARY
    return None


def _print(explanation: Explanation) -> None:
    for step in explanation.steps:
        indent = "  " * step.level
        typer.echo(f"{indent}{step.name:<10} {escape(step.about)}: {escape(step.answer)}")
        for reason in step.reasons:
            typer.echo(f"{indent}{'':<10}   {escape(reason)}")
    typer.echo(_summary(explanation))


def _summary(explanation: Explanation) -> str:
    """The reply to RCPT, and what happens to mail that is accepted, if it is not delivered."""
    text = explanation.outcome.value
    for count, what in ((explanation.failing, "fails"), (explanation.deferred, "is deferred")):
        if count:
            whose = "its mail" if explanation.targets == 1 else f"mail for {count} of {explanation.targets} targets"
            text += f"; {whose} {what}"
    return text
