"""One spoofed message: it arrives over a socket, is refused, and its failure report is delivered (RFC 9991)."""

from __future__ import annotations

import asyncio
import smtplib
from email import message_from_bytes
from typing import TYPE_CHECKING

import pytest

from ironpost.delivery.dmarc_reports import DmarcReportsOptions
from ironpost.model import Address
from ironpost.model.patterns import AddressPattern, DomainPattern
from ironpost.mta.dmarc_failures import FailureReports
from ironpost.policy.options import Enforcement
from ironpost.processes.clock import SystemRandom
from ironpost.routing.route import Kind, LocalRule, Route
from ironpost.storage.sqlite.received_reports import reported
from ironpost.telemetry.metrics import Counters

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.scenarios.conftest import System

MESSAGE = b"From: <jo@from-here.example>\r\nTo: flo@here.example\r\nSubject: plan\r\n\r\nsecret\r\n"


async def spoofed(system: Callable[..., System], *rules: LocalRule) -> tuple[list[bytes], Counters]:
    """What a Maildir has after a genuine message, a spoofed one and a spoofed bounce, and what was counted."""
    metrics = Counters()
    async with system(
        local_rules=rules,
        dmarc_recorder=lambda evaluation: failures(evaluation),
        trusted=(),
        spf=Enforcement.RECORD,
        dkim=Enforcement.RECORD,
        dmarc=Enforcement.REJECT,
    ) as here:
        failures = FailureReports(
            Address.parse("reports@here.example"),
            "mx.here.example",
            resolver=here.resolver,
            mail=here.report_mail(),
            clock=here.clock,
            random=SystemRandom(),
            metrics=metrics,
        )
        await here.submit("jo@from-here.example", "flo@here.example", MESSAGE, source="127.0.0.2")
        for sender in ("spoofer@from-here.example", ""):
            with pytest.raises(smtplib.SMTPDataError, match="DMARC policy"):
                await here.submit(sender, "flo@here.example", MESSAGE, source="127.0.0.3")
        await failures.stop()
        await here.queue_empty()
        return here.delivered(), metrics


def test_a_spoofed_message_is_reported(system: Callable[..., System]) -> None:
    delivered, metrics = asyncio.run(spoofed(system))
    (octets,) = [each for each in delivered if b"multipart/report" in each]
    report = message_from_bytes(octets)
    assert (report["From"], report["To"]) == ("<reports@here.example>", "<failures@here.example>")
    _, fields, section = report.get_payload()
    (found,) = fields.get_payload()
    assert found["Auth-Failure"] == "dmarc"
    assert found["Identity-Alignment"] == "dkim, spf"
    assert found["Original-Mail-From"] == "<spoofer@from-here.example>"
    assert found["Source-IP"] == "127.0.0.3"
    assert found["Delivery-Result"] == "reject"
    assert found["SPF-DNS"] == 'txt : from-here.example : "v=spf1 ip4:127.0.0.2 -all"'
    assert "Subject: plan" in section.get_payload()
    for private in (b"flo@", b"secret"):
        assert private not in octets
    assert metrics.snapshot()["dmarc_failure_reports"] == {"sent": 1}


def test_a_report_of_ours_is_read_by_the_agent_for_reports(system: Callable[..., System], tmp_path: Path) -> None:
    rule = LocalRule(
        (AddressPattern("failures@here.example"),),
        Route.local(Kind.DMARC_REPORTS, DmarcReportsOptions((DomainPattern("from-here.example"),))),
        "local.delivery[1]",
    )
    delivered, _ = asyncio.run(spoofed(system, rule))
    assert len(delivered) == 1, "the report went to its agent, not into the Maildir"
    (found,) = reported(tmp_path, 0.0, "from-here.example").failures
    assert (found.kind, found.ip, found.sender) == ("dmarc", "127.0.0.3", "spoofer@from-here.example")
    assert (found.organization, found.incidents) == ("here.example", 1)
