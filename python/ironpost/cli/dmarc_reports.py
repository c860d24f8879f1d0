"""`dmarc report` and `show`: what others report about our domains, and one received report. Need no server."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Final

import typer

from ironpost.cli import exits
from ironpost.cli.call import call_local, print_json, report
from ironpost.cli.input_file import read_report
from ironpost.cli.settings import configuration
from ironpost.model.text import counted, escape
from ironpost.operations.dmarc_reports import REPORT, DmarcReportRequest
from ironpost.operations.queue import moment
from ironpost.reports.dmarc.failure_reading import ReceivedFailure
from ironpost.reports.dmarc.received import read
from ironpost.routing.route import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from ironpost.operations.dmarc_reports import DmarcFailure, DmarcReportResult, DmarcSource
    from ironpost.reports.dmarc.report import Report, Row

_RESULT: Final = {True: "pass", False: "FAIL"}


def summarise(file: Path | None, domain: str, days: int, *, as_json: bool) -> None:
    """Print the sums of the reports that arrived, and for one domain the sources of its mail.

    Raises:
        CommandError: the domain is invalid, or the reports cannot be read.
        typer.Exit: there are no reports.
    """
    found = call_local(file, REPORT, DmarcReportRequest(domain, days))
    empty = not (found.domains or found.failures)
    reads = any(each.route.kind is Kind.DMARC_REPORTS for each in configuration(file).local.rules)
    report(found, partial(_print_sums, domain, reads), exits.NO_INPUT if empty else None, as_json=as_json)


def _print_sums(domain: str, reads: bool, found: DmarcReportResult) -> None:
    for each in found.domains:
        typer.echo(
            f"{escape(each.domain)}: {each.passed} passed, {each.failed} failed; {counted(each.reports, 'report')} "
            f"({each.authenticated} authenticated) from {counted(each.organizations, 'organization')}, "
            f"{moment(each.start)} to {moment(each.end)}"
        )
    for source in found.sources:
        typer.echo(f"  {_source(source)}")
    for failure in found.failures if domain else ():
        typer.echo(f"  {_failure(failure)}")
    if found.failures and not domain:
        typer.echo(f"{counted(len(found.failures), 'failure report')}; give a domain to list them")
    if not found.domains and not found.failures:
        typer.echo("no reports" if reads else "no reports: no [[local.delivery]] has dmarc_reports, which reads them")


def _source(found: DmarcSource) -> str:
    words = f"{found.ip}  dkim {found.dkim}, spf {found.spf}, {found.disposition}, From {found.author}"
    unconfirmed = found.messages - found.authenticated
    note = f" ({unconfirmed} in reports that are not authenticated)" if unconfirmed else ""
    return f"{_RESULT[found.passed]} {found.messages} from {escape(words)}{note}"


def _failure(found: DmarcFailure) -> str:
    words = f"{found.ip or 'an unknown client'}  {found.kind}, sender <{found.sender}>, From {found.domain}"
    by = f"{escape(found.organization)}{'' if found.authenticated else ' (not authenticated)'}"
    return f"failure {found.incidents} from {escape(words)}, {moment(found.received)} by {by}"


def show(file: str, *, as_json: bool) -> None:
    """Print a report from a file, or from standard input (`-`).

    Raises:
        CommandError: the file cannot be read, or has no valid report.
    """
    found, _ = read_report(file, read)
    if isinstance(found, ReceivedFailure):
        _print_failure(found, as_json=as_json)
    elif as_json:
        print_json(_as_json(found))
    else:
        _print_report(found)


def _print_failure(found: ReceivedFailure, *, as_json: bool) -> None:
    if as_json:
        print_json(found._asdict())
        return
    typer.echo(f"from       {escape(found.organization)}")
    for name, value in found.fields:
        typer.echo(escape(f"{name}: {value}"))


def _as_json(found: Report) -> object:
    values = found._asdict()
    values["policy"] = found.policy._asdict()
    values["rows"] = [_row_as_json(row) | {"messages": count} for row, count in found.rows]
    return json.loads(json.dumps(values))


def _row_as_json(row: Row) -> dict[str, object]:
    return row._asdict() | {
        "reasons": [each._asdict() for each in row.reasons],
        "dkim_results": [each._asdict() for each in row.dkim_results],
        "spf_results": [each._asdict() for each in row.spf_results],
    }


def _print_report(found: Report) -> None:
    policy = found.policy
    typer.echo(f"from       {escape(found.organization)} ({escape(found.contact)})")
    typer.echo(f"period     {moment(found.start)} to {moment(found.end)}")
    typer.echo(f"report     {escape(found.id)}")
    typer.echo(f"policy     {escape(policy.policy)}, published by {escape(policy.domain)}")
    if found.error:
        typer.echo(f"error      {escape(found.error)}")
    for row, count in found.rows:
        words = f"{row.ip}  dkim {row.dkim}, spf {row.spf}, {row.disposition}, From {row.author}"
        typer.echo(f"{_RESULT[row.passed]} {count} from {escape(words)}")
        for reason in row.reasons:
            typer.echo(f"  because  {escape(': '.join(filter(None, reason)))}")
        for signature in row.dkim_results:
            typer.echo(f"  dkim     {escape(f'{signature.result} {signature.domain} {signature.selector}')}")
        for spf in row.spf_results:
            typer.echo(f"  spf      {escape(f'{spf.result} {spf.domain}')}")
