"""A day of TLS becomes a report that arrives: counted by deliveries, sent by mail, read again (RFC 8460)."""

from __future__ import annotations

import asyncio
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import TYPE_CHECKING

from ironpost.compose.keyed_state import NAMESPACES
from ironpost.http import HttpClient
from ironpost.model import Address
from ironpost.model.keyed_state import MemoryState
from ironpost.mta.daily_reports import DELAY, SPREAD, Reporter, SentReports
from ironpost.mta.tls_reports import TlsReports
from ironpost.processes.clock import SystemRandom
from ironpost.reports.daily import DAY
from ironpost.reports.tlsrpt.counts import TlsCounts
from ironpost.reports.tlsrpt.mail import extracted
from ironpost.reports.tlsrpt.report import Report, decoded
from ironpost.telemetry.metrics import Counters
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.scenarios.conftest import System


def reports(system: System, counts: TlsCounts, state: MemoryState, *uris: str) -> TlsReports:
    """Send reports of the system about `by-mx.example`, which publishes these destinations."""
    dns = StaticResolver(txt={"_smtp._tls.by-mx.example": [f"v=TLSRPTv1; rua={','.join(uris)}".encode()]})
    return TlsReports(
        Reporter("Here Ltd", Address.parse("tls@here.example")),
        counts,
        state,
        resolver=dns,
        http=HttpClient(dns),
        mail=system.report_mail(),
        clock=system.clock,
        random=SystemRandom(),
        metrics=Counters(),
    )


def read(octets: bytes) -> tuple[EmailMessage, Report]:
    message = message_from_bytes(octets, policy=policy.default)
    assert isinstance(message, EmailMessage)
    _, attached = message.iter_parts()
    assert isinstance(attached, EmailMessage)
    return message, decoded(extracted(attached.get_payload(decode=True)))


def test_a_day_of_deliveries_is_reported_by_mail(system: Callable[..., System]) -> None:
    async def scenario() -> tuple[list[bytes], list[tuple[str, list[str], bytes]]]:
        async with system(tls_recorder=lambda outcome: counts(outcome)) as here:
            state = MemoryState(NAMESPACES, here.clock.now)
            counts = TlsCounts(state, here.clock.now)
            for number in range(2):
                await here.submit("jo@here.example", "flo@by-mx.example", b"Subject: %d\r\n\r\nx\r\n" % number)
                await here.queue_empty()
            counts.flush()
            here.clock.pass_time(DAY + DELAY + SPREAD)
            here.next_hop.taken.clear()
            sender = reports(here, counts, state, "mailto:tls@by-mx.example", "mailto:jo@here.example")
            assert await sender.run() == SentReports(2, 0, 0)
            await here.queue_empty()
            counts.flush()
            here.clock.pass_time(DAY)
            assert await sender.run() == SentReports(0, 0, 0), "the report itself was not counted"
            return here.delivered(), here.next_hop.taken

    ((local,), ((reverse_path, recipients, relayed),)) = asyncio.run(scenario())
    assert (reverse_path, recipients) == ("tls@here.example", ["tls@by-mx.example"])
    for octets in (local, relayed):
        message, report = read(octets)
        assert message["TLS-Report-Domain"] == "by-mx.example"
        assert message["TLS-Report-Submitter"] == "here.example"
        assert report.organization == "Here Ltd"
        (result,) = report.policies
        assert (result.policy.type, result.successes, result.failures) == ("no-policy-found", 0, 1)
        ((failure, _),) = result.details
        assert (failure.type, failure.host, failure.host_ip) == (
            "starttls-not-supported",
            "mx.by-mx.example",
            "127.0.0.1",
        )
