"""The agent for the address where reports about DMARC arrive (RFC 9990, RFC 9991): reads them and stores what they say.

Promises: DELIVERED means that the counts of an aggregate report, or the main fields of a failure report, are stored; a
report that its sender sends again counts once. The sender is the domain that the server confirmed for the message, so a
forged report does not count instead of a real one. One report is read at a time, in a thread. If it cannot be stored,
the message is deferred.
Refuses: a message without a valid report, one larger than `LARGEST`, and a report about a domain that is neither this
server's nor listed, because such reports could displace the others. They fail, and their sender gets a bounce.
Limitations: reports of senders that nothing confirms count too; `policy.dmarc` refuses forged ones.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ironpost.delivery import NextHops, unreadable
from ironpost.delivery.mailbox import not_written
from ironpost.model import Disposition, Outcome, Reply
from ironpost.model.patterns import DomainPattern, Domains
from ironpost.model.text import escape
from ironpost.telemetry.events import record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ironpost.model import Address
    from ironpost.model.ports import Clock
    from ironpost.queue.store import QueuedMessage, QueuedRecipient
    from ironpost.reports.dmarc.failure_reading import ReceivedFailure
    from ironpost.reports.dmarc.report import Report
    from ironpost.routing.route import Route
    from ironpost.storage.sqlite.received_reports import ReportSender

LARGEST: Final = 32 << 20
"""Octets of the largest message that is read: the largest report, in base64."""

_STORED: Final = Outcome(Disposition.DELIVERED, Reply(250, "2.0.0", ("Report stored",)))
_AGAIN: Final = Outcome(Disposition.DELIVERED, Reply(250, "2.0.0", ("Report was stored before",)))
_TOO_LARGE: Final = Outcome(Disposition.FAILED, Reply(554, "5.3.4", (f"The report has more than {LARGEST} octets",)))

log = logging.getLogger("ironpost.reports")


@dataclass(frozen=True, slots=True)
class DmarcReportsOptions:
    """`[[local.delivery]] dmarc_reports = {}`: read reports about DMARC and store what they say."""

    domains: tuple[DomainPattern, ...] = ()
    """Reports about DMARC are read, and what they say is stored: `dmarc_reports = {}`
    ([Reports about DMARC](#reports-about-dmarc)). These are domains that they may be about besides
    this server's."""

    def __str__(self) -> str:
        return ""


class DmarcReports:
    """Implements `ironpost.delivery.RouteAgent`."""

    def __init__(self, data: Path | None, clock: Clock, domains: Callable[[], Domains]) -> None:
        """Store reports.

        Args:
            data: the data directory; None where nothing is delivered.
            clock: time.
            domains: returns the domains that reports may be about.
        """
        self._data = data
        self._clock = clock
        self._domains = domains
        self._turn = asyncio.Lock()
        """Held while a report is in memory."""

    async def deliver(
        self,
        message: QueuedMessage,
        recipients: Sequence[QueuedRecipient],
        route: Route,
    ) -> Sequence[tuple[int, Outcome]]:
        """Store the report once for all recipients."""
        assert isinstance(route.options, DmarcReportsOptions)
        async with self._turn:
            outcome = await self._outcome(message, (self._domains(), Domains(route.options.domains)))
        return [(each.number, outcome) for each in recipients]

    async def preview(self, address: Address, route: Route) -> NextHops:  # noqa: ARG002 - the agent port's
        """The report is read, whatever the address."""
        return NextHops("reports about DMARC")

    def close(self) -> None:
        """Nothing to release."""

    async def _outcome(self, message: QueuedMessage, ours: Sequence[Domains]) -> Outcome:
        from ironpost.reports.received import ReportError  # slow to load; not needed to read a configuration
        from ironpost.storage.sqlite.received_reports import REPORTS_FILE

        assert self._data is not None
        if message.body.size > LARGEST:
            return _TOO_LARGE
        try:
            octets = b"".join([piece async for piece in message.body.pieces()])
        except OSError as error:
            return unreadable(error)
        try:
            report, sender, stored = await asyncio.to_thread(
                _stored, self._data, octets, message.envelope.reverse_path.key, self._clock.now(), ours
            )
        except ReportError as error:
            text = f"The message has no valid report about DMARC: {escape(str(error), ascii_only=True)}"
            return Outcome(Disposition.FAILED, Reply(554, "5.6.0", (text,)))
        except OSError as error:
            return not_written(error, self._data / REPORTS_FILE)
        if not stored:
            return _AGAIN
        _log(report, sender, message.id)
        return _STORED


def _stored(
    data: Path, octets: bytes, reverse_path: str, now: float, ours: Sequence[Domains]
) -> tuple[Report | ReceivedFailure, ReportSender, bool]:
    """Read and store a report about a domain of ours; return it, who sent it, and whether it is new. Blocks.

    Args:
        data: the data directory.
        octets: the stored message.
        reverse_path: the domain of its reverse-path.
        now: seconds since 1970.
        ours: the domains that it may be about.
    """
    from ironpost.mail_auth.results import confirmed_domain
    from ironpost.reports.dmarc.failure_reading import ReceivedFailure
    from ironpost.reports.dmarc.received import read
    from ironpost.reports.received import ReportError
    from ironpost.storage.sqlite.received_reports import NAME, ReportSender, add, add_failure

    report, header = read(octets)
    if not any(report.domain.lower() in each for each in ours):
        raise ReportError(f"it is about {report.domain[:NAME]!a}, which is not a domain of this server")
    confirmed = confirmed_domain(header)
    sender = ReportSender(confirmed or reverse_path, bool(confirmed))
    if isinstance(report, ReceivedFailure):
        return report, sender, add_failure(data, report, sender, now)
    return report, sender, add(data, report, sender, now)


def _log(report: Report | ReceivedFailure, sender: ReportSender, identifier: str) -> None:
    from ironpost.reports.dmarc.report import Report

    if isinstance(report, Report):
        record(
            log,
            "dmarc-report-received",
            id=identifier,
            domain=report.domain,
            organization=report.organization,
            report_sender=sender.domain,
            authenticated=sender.authenticated,
            passed=report.passed,
            failed=report.failed,
        )
    else:
        record(
            log,
            "dmarc-failure-received",
            id=identifier,
            domain=report.domain,
            organization=report.organization,
            report_sender=sender.domain,
            authenticated=sender.authenticated,
            ip=report.ip,
            sender=report.sender,
            incidents=report.incidents,
        )
