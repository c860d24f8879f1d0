"""`tlsrpt check` and `show`: what a domain publishes about TLS reports, and a received report. Need no server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from ironpost.cli.call import PUBLISHED, call_local, print_json, report
from ironpost.cli.input_file import read_report
from ironpost.model.text import escape
from ironpost.operations.queue import moment
from ironpost.operations.tlsrpt import CHECK, TlsrptCheckRequest
from ironpost.reports.tlsrpt.mail import extracted
from ironpost.reports.tlsrpt.report import decoded, encoded

if TYPE_CHECKING:
    from pathlib import Path

    from ironpost.operations.tlsrpt import TlsrptCheck
    from ironpost.reports.tlsrpt.report import Failure, Report


def check(file: Path | None, domain: str, *, as_json: bool) -> None:
    """Print record, destinations and problems.

    Raises:
        CommandError: the domain is invalid.
        typer.Exit: the record is missing or faulty, or DNS does not answer.
    """
    found = call_local(file, CHECK, TlsrptCheckRequest(domain))
    report(found, _print, PUBLISHED[found.result.name], as_json=as_json)


def _print(found: TlsrptCheck) -> None:
    for record in found.records:
        typer.echo(f"record     {escape(record)}")
    for each in found.destinations:
        typer.echo(f"reports to {escape(each.uri)} ({each.way})")
    for problem in found.problems:
        typer.echo(f"problem    {escape(problem)}")
    typer.echo(f"{found.domain}: {found.result.value}")


def show(file: str, *, as_json: bool) -> None:
    """Print a report from a file, or from standard input (`-`).

    Raises:
        CommandError: the file cannot be read, or has no valid report.
    """
    found = read_report(file, lambda octets: decoded(extracted(octets)))
    if as_json:
        print_json(json.loads(encoded(found)))
    else:
        _print_report(found)


def _print_report(found: Report) -> None:
    typer.echo(f"from       {escape(found.organization)} ({escape(found.contact)})")
    typer.echo(f"period     {moment(found.start)} to {moment(found.end)}")
    typer.echo(f"report     {escape(found.id)}")
    for result in found.policies:
        policy = result.policy
        typer.echo(
            f"{escape(policy.domain)} ({escape(policy.type)}): {result.successes} sessions succeeded, "
            f"{result.failures} failed"
        )
        for failure, count in result.details:
            typer.echo(f"  {count} {failure_text(failure)}")


def failure_text(failure: Failure) -> str:
    """Describe a failure in one line, escaped."""
    at = f" at {failure.host or failure.host_ip}" if failure.host or failure.host_ip else ""
    source = f" from {failure.our_ip}" if failure.our_ip else ""
    reason = f": {failure.reason}" if failure.reason else ""
    more = f" ({failure.information})" if failure.information else ""
    return escape(f"{failure.type}{at}{source}{reason}{more}")
