"""`conform`: run the conformance suite against a server; shows progress, a table by topic and the dialogues of failed
cases, or one JSON value."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import typer

import ironpost.conform as suite
from ironpost.cli import exits
from ironpost.cli.app import CommandError
from ironpost.conform import CaseOutcome, Level, Profile, Target, Unusable
from ironpost.model.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ironpost.conform import Case, Result, Survey

OUTCOMES: Final = (CaseOutcome.PASS, CaseOutcome.FAIL, CaseOutcome.WARN, CaseOutcome.ERROR, CaseOutcome.NOT_APPLICABLE)
COLOURS: Final = {
    CaseOutcome.PASS: "green",
    CaseOutcome.FAIL: "bold red",
    CaseOutcome.WARN: "yellow",
    CaseOutcome.ERROR: "magenta",
}


class View(NamedTuple):
    """Output options."""

    as_json: bool
    verbose: bool
    list_only: bool


def conform(server: str, target: Target, patterns: Sequence[str], parallel: int, view: View) -> None:
    """Run the cases that the patterns select.

    Raises:
        CommandError: nothing can be tested.
        typer.Exit: a MUST is violated.
    """
    cases = suite.chosen(suite.cases(), patterns)
    if not cases:
        raise CommandError(exits.USAGE, f"no case matches {' '.join(patterns)}; use --list to see all cases")
    if view.list_only:
        _list(cases, as_json=view.as_json)
        return
    began = datetime.now(UTC)
    try:
        target, survey, results = asyncio.run(_run(target, cases, parallel, silent=view.as_json))
    except Unusable as error:
        raise CommandError(exits.UNAVAILABLE, str(error)) from None
    if view.as_json:
        typer.echo(json.dumps(_report(server, target, survey, results, began, dialogues=view.verbose), indent=1))
    else:
        _show(target, survey, results, verbose=view.verbose)
    if suite.exit_code(results):
        raise typer.Exit(exits.NOT_CONFORMING)


def place(server: str) -> tuple[str, int]:
    """Parse `HOST:PORT`; also `[::1]:25`.

    Raises:
        CommandError: not in this form.
    """
    host, colon, port = server.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise CommandError(exits.USAGE, f"invalid server {server}: expected HOST:PORT, for example 127.0.0.1:2525")
    return host.removeprefix("[").removesuffix("]"), int(port)


async def _run(
    target: Target, cases: Sequence[Case], parallel: int, *, silent: bool
) -> tuple[Target, Survey, list[Result]]:
    target, survey = await suite.survey(target)
    with ExitStack() as stack:
        done = _bar(len(cases), stack) if not silent and sys.stderr.isatty() else lambda _result: None
        results = await suite.run(target, survey, cases, parallel=parallel, done=done)
    return target, survey, results


def _bar(total: int, stack: ExitStack) -> Callable[[Result], object]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description:14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    progress = stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
    task = progress.add_task("", total=total)
    return lambda result: progress.update(task, advance=1, description=result.case.topic)


def _list(cases: Sequence[Case], *, as_json: bool) -> None:
    if as_json:
        rows = [
            {
                "id": case.id, "topic": case.topic, "level": case.level.value, "cites": case.cites, "does": case.does,
                "profiles": sorted(profile.value for profile in case.profiles), "needs": list(case.needs),
            }
            for case in cases
        ]  # fmt: skip
        typer.echo(json.dumps(rows, indent=1))
        return
    for case in cases:
        typer.echo(f"{case.id}\n    {case.level.value}, {case.cites}: {case.does}")
    typer.echo(counted(len(cases), "case"))


def _counts(results: Sequence[Result]) -> dict[str, int]:
    counted = Counter(result.outcome for result in results)
    return {outcome.value: counted[outcome] for outcome in OUTCOMES}


def _report(
    server: str, target: Target, survey: Survey, results: Sequence[Result], began: datetime, *, dialogues: bool
) -> dict[str, Any]:
    return {
        "server": server, "profile": target.profile.value, "greeting": survey.greeting, "began": began.isoformat(),
        "extensions": dict(survey.offers), "recipient": target.recipient, "second": target.second,
        "rejected": target.rejected, "counts": _counts(results),
        "cases": [
            result.json(dialogue=dialogues or result.outcome in {CaseOutcome.FAIL, CaseOutcome.ERROR})
            for result in results
        ],
    }  # fmt: skip


def _show(target: Target, survey: Survey, results: Sequence[Result], *, verbose: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    console.print(escape(f"{target.host}:{target.port} as {target.profile.value}: {survey.greeting}"))
    for result in results:
        shown = result.outcome in {CaseOutcome.FAIL, CaseOutcome.ERROR, CaseOutcome.WARN}
        if not shown and not verbose:
            continue
        colour = COLOURS.get(result.outcome, "dim")
        level = "" if result.case.level is Level.MUST else f" ({result.case.level.value})"
        console.print(f"[{colour}]{result.outcome.value:5}[/] {escape(result.case.id)}{level}")
        console.print(f"      {escape(result.case.does)} [dim]{escape(result.case.cites)}[/]")
        if result.why:
            console.print(f"      {escape(result.why)}")
        if verbose or result.outcome in {CaseOutcome.FAIL, CaseOutcome.ERROR}:
            for line in result.dialogue:
                console.print(f"      [dim]| {escape(line)}[/]")
    table = Table("topic", *(outcome.value for outcome in OUTCOMES), box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for topic in suite.TOPICS:
        counted = _counts([result for result in results if result.case.topic == topic.name])
        if any(counted.values()):
            table.add_row(topic.title, *(str(count or "") for count in counted.values()))
    table.add_section()
    table.add_row("all", *(str(count) for count in _counts(results).values()), style="bold")
    console.print(table)


def profile(name: str) -> Profile:
    """Return the profile of that name.

    Raises:
        CommandError: the name is unknown.
    """
    try:
        return Profile(name)
    except ValueError:
        raise CommandError(
            exits.USAGE, f"invalid profile {name}: expected one of {', '.join(p.value for p in Profile)}"
        ) from None
