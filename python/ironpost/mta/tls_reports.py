"""Sends daily reports about TLS to the domains that ask for them (RFC 8460).

Promises: those of `mta.daily_reports`. A domain that publishes no valid record gets no report. Reports are delivered
whatever TLS policy their recipient publishes, and their own connections are not counted.
Standards: RFC 8460 §3 (destinations), §5.3 (mail), §5.4 (HTTPS).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from ironpost.model.dns import txt
from ironpost.model.envelope import TLS_REQUIRED
from ironpost.mta.daily_reports import DailyReport, DailyReports, SendError, progress_namespace
from ironpost.reports.tlsrpt import mail
from ironpost.reports.tlsrpt.counts import summed
from ironpost.reports.tlsrpt.record import RecordError, name_of, select
from ironpost.reports.tlsrpt.report import Report, compressed
from ironpost.telemetry.events import record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.http import HttpResponse
    from ironpost.model import Address
    from ironpost.model.dns import Resolver
    from ironpost.model.keyed_state import KeyedState
    from ironpost.model.ports import Clock, Metrics, Random
    from ironpost.mta.daily_reports import Reporter
    from ironpost.mta.report_mail import ReportMail
    from ironpost.reports.daily import DayOfDomain
    from ironpost.reports.destination import Destination
    from ironpost.reports.tlsrpt.counts import TlsCounts

REPORTS: Final = progress_namespace("tls-reports")
"""The progress of each report, by day and domain."""

log = logging.getLogger("ironpost.reports")


class Posts(Protocol):
    """The part of the HTTP client that sends reports."""

    async def post(self, url: str, body: bytes, *, headers: Mapping[str, str] | None = None) -> HttpResponse:
        """See `http.HttpClient.post`."""
        ...


class _Ports(NamedTuple):
    """What sending a report needs."""

    resolver: Resolver
    http: Posts
    mail: ReportMail
    clock: Clock
    random: Random


class TlsReports(DailyReports):
    """Sends the reports of one server."""

    progress = REPORTS
    kind = "TLS"
    metric = "tls_reports"

    def __init__(
        self,
        reporter: Reporter,
        counts: TlsCounts,
        state: KeyedState,
        *,
        resolver: Resolver,
        http: Posts,
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
            http: posts reports to HTTPS destinations.
            mail: takes reports that are sent by mail.
            clock: time.
            random: ids of messages.
            metrics: counts reports.
        """
        super().__init__(reporter, counts.entries, state, clock, metrics)
        self._ports = _Ports(resolver, http, mail, clock, random)

    async def report(self, day: DayOfDomain) -> TlsReport | None:
        """See `DailyReports.report`."""
        domain, values = self._entries.values(day)
        results = await asyncio.to_thread(summed, values)
        if not results:
            return None
        organization, contact = self.reporter
        identifier = self.reporter.report_id(day, domain)
        report = Report(organization, str(contact), identifier, day.start, day.end - 1, results)
        return TlsReport(domain, report, contact, self._ports)


class TlsReport(DailyReport):
    """The report of one day of a domain."""

    def __init__(self, domain: str, report: Report, sender: Address, ports: _Ports) -> None:
        self.domain = domain
        self._report = report
        self._sender = sender
        self._ports = ports

    async def destinations(self) -> tuple[Destination, ...]:
        """See `DailyReport.destinations`."""
        answer = await txt(self._ports.resolver, name_of(self.domain))
        try:
            return select(answer.data).destinations
        except RecordError:
            return ()

    async def send(self, destination: Destination) -> bool:
        """See `DailyReport.send`."""
        report, identifier = self._report, None
        if destination.address is None:
            response = await self._ports.http.post(
                destination.uri, compressed(report), headers={"Content-Type": mail.GZIP_TYPE}
            )
            if not 200 <= response.status < 300:
                raise SendError(f"HTTP status {response.status}")
        else:
            token, now = self._ports.random.token(), self._ports.clock.now()
            to = destination.address
            content = mail.message(report, self.domain, to, now=now, token=token)
            identifier = await self._ports.mail.queue(self._sender, content, [to], {TLS_REQUIRED: "No"})
        record(
            log,
            "tls-report",
            domain=self.domain,
            uri=destination.uri,
            id=identifier,
            successes=sum(each.successes for each in report.policies),
            failures=sum(each.failures for each in report.policies),
        )
        return True
