"""Sends daily aggregate reports about DMARC to the domains that ask for them (RFC 9990).

Promises: those of `mta.daily_reports`. A destination in another organization gets reports only if it wants them; what
it does not want is not sent, with an event.
Standards: RFC 9990 §3.5 (delivery), §4 (external destinations).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.mta.daily_reports import DailyReport, DailyReports, progress_namespace
from ironpost.reports.dmarc import mail
from ironpost.reports.dmarc.counts import summed
from ironpost.reports.dmarc.destinations import published_destinations, willing_recipients
from ironpost.reports.dmarc.report import Report
from ironpost.telemetry.events import record

if TYPE_CHECKING:
    from ironpost.model import Address
    from ironpost.model.dns import Resolver
    from ironpost.model.keyed_state import KeyedState
    from ironpost.model.ports import Clock, Metrics, Random
    from ironpost.mta.daily_reports import Reporter
    from ironpost.mta.report_mail import ReportMail
    from ironpost.reports.daily import DayOfDomain
    from ironpost.reports.destination import Destination
    from ironpost.reports.dmarc.counts import DmarcCounts

REPORTS: Final = progress_namespace("dmarc-reports")
"""The progress of each report, by day and domain."""

log = logging.getLogger("ironpost.reports")


class _Ports(NamedTuple):
    """What sending a report needs."""

    resolver: Resolver
    mail: ReportMail
    clock: Clock
    random: Random


class DmarcReports(DailyReports):
    """Sends the reports of one server."""

    progress = REPORTS
    kind = "DMARC"
    metric = "dmarc_reports"

    def __init__(
        self,
        reporter: Reporter,
        counts: DmarcCounts,
        state: KeyedState,
        *,
        resolver: Resolver,
        mail: ReportMail,
        clock: Clock,
        random: Random,
        metrics: Metrics,
    ) -> None:
        """Create the sender.

        Args:
            reporter: who reports.
            counts: what is reported.
            state: the namespace `REPORTS`.
            resolver: DNS.
            mail: takes the reports.
            clock: time.
            random: ids of messages.
            metrics: counts reports.
        """
        super().__init__(reporter, counts.entries, state, clock, metrics)
        self._ports = _Ports(resolver, mail, clock, random)

    async def report(self, day: DayOfDomain) -> DmarcReport | None:
        """See `DailyReports.report`."""
        counts = await asyncio.to_thread(summed, self._entries.values(day)[1])
        if not counts.rows:
            return None
        organization, contact = self.reporter
        domain, lacking = counts.policy.domain, counts.dropped
        report = Report(
            organization,
            str(contact),
            self.reporter.report_id(day, domain),
            day.start,
            day.end - 1,
            counts.policy,
            tuple(counts.rows.items()),
            f"messages that this report lacks, because it would be too large: {lacking}" if lacking else "",
        )
        return DmarcReport(report, contact, self._ports)


class DmarcReport(DailyReport):
    """The report of one day of a domain."""

    def __init__(self, report: Report, sender: Address, ports: _Ports) -> None:
        self.domain = report.policy.domain
        self._report = report
        self._sender = sender
        self._ports = ports

    async def destinations(self) -> tuple[Destination, ...]:
        """See `DailyReport.destinations`."""
        return await published_destinations(self.domain, self._ports.resolver)

    async def send(self, destination: Destination) -> bool:
        """See `DailyReport.send`."""
        ports, to = self._ports, destination.address
        assert to is not None  # `published_destinations` returns no others
        recipients = await willing_recipients(self.domain, to, ports.resolver)
        if not recipients:
            record(log, "dmarc-report-unwanted", domain=self.domain, uri=destination.uri)
            return False
        now, token = ports.clock.now(), ports.random.token()
        content = await asyncio.to_thread(mail.message, self._report, recipients, now=now, token=token)
        identifier = await ports.mail.queue(self._sender, content, recipients)
        messages = self._report.passed + self._report.failed
        record(log, "dmarc-report", domain=self.domain, uri=destination.uri, id=identifier, messages=messages)
        return True
