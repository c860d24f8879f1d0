"""One spoofed message: it arrives over a socket, is refused, and its failure report is delivered (RFC 9991)."""

from __future__ import annotations

import asyncio
import smtplib
from email import message_from_bytes
from typing import TYPE_CHECKING

import pytest

from ironpost.model import Address
from ironpost.mta.dmarc_failures import FailureReports
from ironpost.policy.options import Enforcement
from ironpost.processes.clock import SystemRandom
from ironpost.telemetry.metrics import Counters

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.scenarios.conftest import System

MESSAGE = b"From: <jo@from-here.example>\r\nTo: flo@here.example\r\nSubject: plan\r\n\r\nsecret\r\n"


def test_a_spoofed_message_is_reported(system: Callable[..., System]) -> None:
    metrics = Counters()

    async def scenario() -> None:
        async with system(
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
            _, octets = here.delivered()
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

    asyncio.run(scenario())
    assert metrics.snapshot()["dmarc_failure_reports"] == {"sent": 1}
