"""`tlsrpt report`: what others report about TLS to our hosts, summed up from the messages of a mailbox (RFC 8460).

Promises: a report that its sender sent again counts once. In a directory, files that are not reports are skipped, so
it may be a Maildir with other mail. No server is needed, and nothing is changed.
Limitations: everything is what others claim; signatures are not verified.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from ironpost.cli import exits
from ironpost.cli.app import CommandError
from ironpost.cli.call import print_json
from ironpost.cli.input_file import read_report
from ironpost.cli.tlsrpt import failure_text
from ironpost.model.text import counted, escape
from ironpost.operations.queue import moment
from ironpost.reports.tlsrpt.mail import extracted
from ironpost.reports.tlsrpt.report import decoded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ironpost.reports.tlsrpt.report import Report

SHOWN: Final = 20
"""Failures of a policy that are listed, the most frequent ones."""


@dataclass(slots=True)
class TlsSummary:
    """The sessions that one organization reports under one policy."""

    organization: str
    domain: str
    """The policy domain."""
    policy: str
    """Its type: `tlsa`, `sts` or `no-policy-found`."""
    reports: int = 0
    start: int = field(default=0, metadata={"json": moment})
    """The start of the earliest period, in seconds since 1970."""
    end: int = field(default=0, metadata={"json": moment})
    """The end of the latest one."""
    successes: int = 0
    failures: int = 0
    details: Counter[str] = field(default_factory=Counter)
    """The number of failed sessions by their description."""


def summarise(places: Sequence[str], *, as_json: bool) -> None:
    """Print the sums of the reports in files and directories.

    Raises:
        CommandError: a file cannot be read or has no valid report, or no report is found.
    """
    found = _sums({(each.submitter, each.id): each for each in _reports(places)}.values())
    if not found:
        raise CommandError(exits.NO_INPUT, "no reports")
    if as_json:
        print_json(found)
        return
    for each in found:
        typer.echo(
            f"{escape(each.organization)} about {escape(each.domain)} ({escape(each.policy)}): "
            f"{each.successes} sessions succeeded, {each.failures} failed; {counted(each.reports, 'report')}, "
            f"{moment(each.start)} to {moment(each.end)}"
        )
        for text, count in each.details.most_common(SHOWN):
            typer.echo(f"  {count} {text}")
        if len(each.details) > SHOWN:
            typer.echo(f"  {counted(len(each.details) - SHOWN, 'more kind')} of failures")


def _reports(places: Iterable[str]) -> Iterator[Report]:
    for place in places:
        if not Path(place).is_dir():
            yield read_report(place, lambda octets: decoded(extracted(octets)))
            continue
        for file in sorted(each for each in Path(place).rglob("*") if each.is_file()):
            try:
                yield read_report(str(file), lambda octets: decoded(extracted(octets)))
            except CommandError as error:
                if error.code != exits.NOT_CONFORMING:
                    raise


def _sums(reports: Iterable[Report]) -> list[TlsSummary]:
    """The sums by organization, policy domain and type, in that order."""
    sums: dict[tuple[str, str, str], TlsSummary] = {}
    for report in reports:
        for result in report.policies:
            key = report.organization, result.policy.domain, result.policy.type
            each = sums.setdefault(key, TlsSummary(*key, start=report.start))
            each.reports += 1
            each.start, each.end = min(each.start, report.start), max(each.end, report.end)
            each.successes += result.successes
            each.failures += result.failures
            for failure, count in result.details:
                each.details[failure_text(failure)] += count
    return [sums[key] for key in sorted(sums)]
