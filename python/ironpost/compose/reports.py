"""Composes reports to other domains: what each worker counts for them, and their senders."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ironpost.model import Address
from ironpost.mta.daily_reports import Reporter
from ironpost.mta.dmarc_failures import FailureReports
from ironpost.mta.dmarc_reports import DmarcReports
from ironpost.mta.report_mail import ReportMail
from ironpost.mta.tls_reports import TlsReports
from ironpost.reports.dmarc.counts import DmarcCounts
from ironpost.reports.tlsrpt.counts import TlsCounts

if TYPE_CHECKING:
    from collections.abc import Callable

    from ironpost.compose.delivery import DeliveryAgents
    from ironpost.config import Configuration
    from ironpost.config.reports import ReportsSection
    from ironpost.mail_auth import DmarcEvaluation, DmarcRecorder
    from ironpost.model.keyed_state import KeyedState
    from ironpost.model.ports import Clock, Metrics, Random
    from ironpost.mta.daily_reports import DailyReports, SentReports
    from ironpost.mta.queue_runner import QueueRunner
    from ironpost.mta.signing import Signing
    from ironpost.policy.buckets import Buckets
    from ironpost.queue.store import Store

DOMAINS_AT_ONCE: Final = 100
"""Domains whose counts of TLS are stored in one iteration of the event loop."""


class Counting:
    """Component: counts what one worker does for the reports that the server sends."""

    def __init__(
        self, configuration: Configuration, state: KeyedState, clock: Clock, metrics: Metrics, worker: int
    ) -> None:
        self.tls: TlsCounts | None = None
        """Records the TLS of outgoing connections; None if that is not reported."""
        if configuration.tlsrpt.contact is not None:
            self.tls = TlsCounts(state, clock.now, worker=worker, metrics=metrics)
        self.dmarc: DmarcCounts | None = None
        """Counts evaluations of DMARC; None if they are not reported."""
        if configuration.dmarc_reports.contact is not None:
            self.dmarc = DmarcCounts(state, clock.now, worker=worker, metrics=metrics)

    async def store(self) -> None:
        """Add what was counted to the state: TLS a few domains at a time, DMARC, which is larger, in a thread."""
        left = True
        while left:
            left = self.tls is not None and self.tls.flush(DOMAINS_AT_ONCE)
            await asyncio.sleep(0)
        if self.dmarc is not None:
            await _store_evaluations(self.dmarc)

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        """Keep what was counted for the next start."""
        for counts in (self.tls, self.dmarc):
            if counts is not None:
                counts.flush()


async def _store_evaluations(counts: DmarcCounts) -> None:
    for _ in range(counts.waiting):  # what is counted meanwhile waits for the next time
        if (counted := counts.take()) is None:
            return
        try:
            sums = await asyncio.to_thread(counted.summed)
        except BaseException:
            counts.put_back(counted)
            raise
        counts.put(counted, sums)


class ReportSenders:
    """The senders of one worker; None for reports that the server does not send."""

    def __init__(
        self,
        configuration: Configuration,
        counting: Counting,
        state: KeyedState,
        *,
        host: str,
        agents: DeliveryAgents,
        store: Store,
        runner: QueueRunner,
        signing: Signing,
        clock: Clock,
        random: Random,
        metrics: Metrics,
        share: Callable[[str, Buckets], None] | None,
    ) -> None:
        mail = ReportMail(
            store=store,
            accept=runner.accept,
            directory=lambda: runner.routes.directory,
            signing=signing,
            clock=clock,
            random=random,
        )
        self.tls: TlsReports | None = None
        if counting.tls is not None:
            self.tls = TlsReports(
                _reporter(configuration.tlsrpt),
                counting.tls,
                state,
                resolver=agents.resolver,
                http=agents.http,
                mail=mail,
                clock=clock,
                random=random,
                metrics=metrics,
            )
        self.dmarc: DmarcReports | None = None
        if counting.dmarc is not None:
            self.dmarc = DmarcReports(
                _reporter(configuration.dmarc_reports),
                counting.dmarc,
                state,
                resolver=agents.resolver,
                mail=mail,
                clock=clock,
                random=random,
                metrics=metrics,
            )

        self.failures: FailureReports | None = None
        if configuration.dmarc_reports.failures:
            self.failures = FailureReports(
                _reporter(configuration.dmarc_reports).contact,
                host,
                resolver=agents.resolver,
                mail=mail,
                clock=clock,
                random=random,
                metrics=metrics,
                share=share,
            )

    async def stop(self) -> None:
        """Wait for the reports that are being sent, at most `daily_reports.STOP_SECONDS`."""
        senders = self.tls, self.dmarc, self.failures
        await asyncio.gather(*(sender.stop() for sender in senders if sender is not None))


def dmarc_recorder(counting: Counting, senders: ReportSenders) -> DmarcRecorder | None:
    """Return what records evaluations of DMARC in one worker; None if they are not reported."""
    counts, failures = counting.dmarc, senders.failures
    if counts is None or failures is None:
        return counts  # failures are reported only beside counts

    def both(evaluation: DmarcEvaluation) -> None:
        counts(evaluation)
        failures(evaluation)

    return both


def _reporter(section: ReportsSection) -> Reporter:
    contact = Address.parse(section.contact or "")
    return Reporter(section.organization or contact.key, contact)


async def send_due(sender: DailyReports | None) -> SentReports | None:
    """Send the reports that are due; None if the server sends none."""
    return None if sender is None else await sender.run()
