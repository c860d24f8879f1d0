"""A day of mail becomes a report that arrives and is shown: evaluated, counted, sent and read again (RFC 9990)."""

from __future__ import annotations

import asyncio
import smtplib
from typing import TYPE_CHECKING

import pytest

from ironpost.compose.keyed_state import NAMESPACES
from ironpost.delivery.dmarc_reports import DmarcReportsOptions
from ironpost.model import Address
from ironpost.model.keyed_state import MemoryState
from ironpost.model.patterns import AddressPattern, DomainPattern
from ironpost.mta.daily_reports import DELAY, SPREAD, Reporter, SentReports
from ironpost.mta.dmarc_reports import DmarcReports
from ironpost.policy.options import Enforcement
from ironpost.processes.clock import SystemRandom
from ironpost.reports.daily import DAY
from ironpost.reports.dmarc.counts import DmarcCounts
from ironpost.routing.route import Kind, LocalRule, Route
from ironpost.storage.sqlite.received_reports import ReportedDomain, ReportedSource, reported
from ironpost.telemetry.metrics import Counters

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.scenarios.conftest import System

MESSAGE = b"From: <jo@from-here.example>\r\nSubject: x\r\n\r\nx\r\n"


def sender(here: System, counts: DmarcCounts, state: MemoryState) -> DmarcReports:
    return DmarcReports(
        Reporter("Here Ltd", Address.parse("dmarc-reports@here.example")),
        counts,
        state,
        resolver=here.resolver,
        mail=here.report_mail(),
        clock=here.clock,
        random=SystemRandom(),
        metrics=Counters(),
    )


def test_a_day_of_mail_is_reported(system: Callable[..., System], tmp_path: Path) -> None:
    rule = LocalRule(
        (AddressPattern("dmarc@here.example"),),
        Route.local(Kind.DMARC_REPORTS, DmarcReportsOptions((DomainPattern("from-here.example"),))),
        "local.delivery[1]",
    )

    async def scenario() -> None:
        async with system(
            local_rules=[rule],
            dmarc_recorder=lambda evaluation: counts(evaluation),
            trusted=(),
            spf=Enforcement.RECORD,
            dkim=Enforcement.RECORD,
            dmarc=Enforcement.REJECT,
        ) as here:
            state = MemoryState(NAMESPACES, here.clock.now)
            counts = DmarcCounts(state, here.clock.now)
            for _ in range(2):
                await here.submit("jo@from-here.example", "flo@here.example", MESSAGE, source="127.0.0.2")
            with pytest.raises(smtplib.SMTPDataError, match="DMARC policy"):
                await here.submit("spoofer@from-here.example", "flo@here.example", MESSAGE, source="127.0.0.3")
            await here.queue_empty()
            counts.flush()
            here.clock.pass_time(DAY + DELAY + SPREAD)
            assert await sender(here, counts, state).run() == SentReports(1, 0, 0)
            await here.queue_empty()
            assert len(here.delivered()) == 2, "the report went to its agent, not into the Maildir"

    asyncio.run(scenario())
    found = reported(tmp_path, 0.0, "from-here.example")
    (domain,) = found.domains
    start = domain.end + 1 - DAY
    assert domain == ReportedDomain("from-here.example", 1, 0, 1, start, domain.end, 2, 1)
    assert found.sources == [
        ReportedSource("127.0.0.3", "from-here.example", "fail", "fail", "reject", False, 1, 0, 1),
        ReportedSource("127.0.0.2", "from-here.example", "fail", "pass", "pass", True, 2, 0, 1),
    ]
