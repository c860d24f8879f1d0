"""`mtasts check` and `show`: what a domain publishes for MTA-STS, and what ours should. Need no server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ironpost.cli import exits
from ironpost.cli.call import PUBLISHED, call_local, report
from ironpost.model.text import escape
from ironpost.operations.mtasts import CHECK, SHOW, StsCheckRequest
from ironpost.operations.operation import EmptyRequest
from ironpost.routing.tls.mta_sts import POLICY_PATH

if TYPE_CHECKING:
    from pathlib import Path

    from ironpost.operations.mtasts import ConfiguredPolicies, StsCheck


def check(file: Path | None, domain: str, *, as_json: bool) -> None:
    """Print record, policy, hosts and problems.

    Raises:
        CommandError: the domain is invalid.
        typer.Exit: the policy is missing or faulty, or DNS does not answer.
    """
    found = call_local(file, CHECK, StsCheckRequest(domain))
    report(found, _print, PUBLISHED[found.result.name], as_json=as_json)


def _print(found: StsCheck) -> None:
    for record in found.records:
        typer.echo(f"record     {escape(record)}")
    for line in found.policy:
        typer.echo(f"policy     {escape(line)}")
    for each in found.hosts:
        preference = "no MX" if each.preference is None else f"MX {each.preference}"
        matches = f", matches {each.pattern}" if each.pattern is not None else ""
        typer.echo(f"host       {escape(each.host) or '.'} ({preference}){escape(matches)}")
    for problem in found.problems:
        typer.echo(f"problem    {escape(problem)}")
    typer.echo(f"{found.domain}: {found.result.value}")


def show(file: Path | None, *, as_json: bool) -> None:
    """Print the configured policies, and what must be in DNS for them.

    Raises:
        typer.Exit: none is configured.
    """
    found = call_local(file, SHOW, EmptyRequest())
    report(found, _print_policies, None if found.policies else exits.NO_INPUT, as_json=as_json)


def _print_policies(found: ConfiguredPolicies) -> None:
    if not found.policies:
        typer.echo("the configuration has no policy ([[mta_sts]])")
    for each in found.policies:
        typer.echo(f'{each.name} TXT "{each.record}"')
        typer.echo(f"https://{each.host}{POLICY_PATH}")
        for line in each.policy:
            typer.echo(f"  {line}")
