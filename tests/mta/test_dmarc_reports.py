"""Sending reports about DMARC in virtual time; what all daily reports share is tested in test_tls_reports.py."""

from __future__ import annotations

import threading
from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import TYPE_CHECKING

import pytest
from tests.mta.report_kit import NOTHING, ONE, WAITING, ReportWorld, run
from tests.reports.dmarc_kit import FAILED, MIDNIGHT, PASSED, POLICY

from ironpost.model import Address
from ironpost.model.parameters import Notify
from ironpost.mta import dmarc_reports
from ironpost.mta.daily_reports import FIRST_WAIT, Reporter, SentReports
from ironpost.mta.dmarc_reports import DmarcReports
from ironpost.reports.daily import DAY
from ironpost.reports.dmarc import counts as dmarc_counts
from ironpost.reports.dmarc.counts import DmarcCounts, DomainCounts, summed
from ironpost.reports.dmarc.mail import extracted
from ironpost.reports.dmarc.reading import decoded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.mail_auth import DmarcEvaluation
    from ironpost.reports.dmarc.report import Report

CONSENT = "a.example._report._dmarc.other.example"


class World(ReportWorld):
    """A server that reports about DMARC."""

    def publish(self, uris: str) -> None:
        self.txt["_dmarc.a.example"] = [f"v=DMARC1; p=reject; rua={uris}".encode()]

    def count(self, *evaluations: DmarcEvaluation, worker: int = 0) -> None:
        counts = DmarcCounts(self.state, self.clock.now, worker=worker)
        for each in evaluations:
            counts(each)
        counts.flush()

    def due(self, uris: str) -> None:
        """Publish where reports go, count evaluations, and wait until the report about them is due."""
        self.publish(uris)
        self.count(PASSED, FAILED)
        self.count(PASSED, worker=1)
        self.next_day()

    async def run(self) -> SentReports:
        sender = DmarcReports(
            Reporter("Ours Ltd", Address.parse("dmarc@ours.example")),
            DmarcCounts(self.state, self.clock.now),
            self.state,
            **self.ports(),
        )
        return await sender.run()

    async def only(self) -> tuple[EmailMessage, Report]:
        """The one message that was queued, and its report."""
        (message,) = self.accepted
        content = b"".join([piece async for piece in message.body.pieces()])
        read = message_from_bytes(content, policy=policy.default)
        assert isinstance(read, EmailMessage)
        return read, decoded(extracted(content).content)

    def recipients(self) -> list[str]:
        return [str(each.address) for message in self.accepted for each in message.envelope.recipients]


@pytest.fixture
def world() -> World:
    return World()


def test_what_was_counted_is_added_up_in_a_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def observed(values: Sequence[bytes]) -> DomainCounts:
        threads.append(threading.current_thread())
        return summed(values)

    async def main() -> None:
        world.due("mailto:dmarc@a.example")
        assert await world.run() == ONE

    monkeypatch.setattr(dmarc_reports, "summed", observed)
    run(main())
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_a_day_is_reported_once_by_mail(world: World) -> None:
    async def main() -> None:
        world.due("mailto:dmarc@a.example")
        assert await world.run() == ONE
        assert await world.run() == NOTHING, "a new object has no memory, as after a restart"
        (message,) = world.accepted
        envelope = message.envelope
        assert str(envelope.reverse_path) == "dmarc@ours.example"
        ((address, parameters, _),) = envelope.recipients
        assert (str(address), parameters) == ("dmarc@a.example", {"NOTIFY": Notify.NEVER})
        read, report = await world.only()
        assert read["Subject"] == (
            "Report Domain: a.example Submitter: ours.example Report-ID: <19675.a.example@ours.example>"
        )
        assert (report.organization, report.contact) == ("Ours Ltd", "dmarc@ours.example")
        assert (report.start, report.end) == (MIDNIGHT, MIDNIGHT + DAY - 1)
        assert report.policy == POLICY
        assert sorted((row.disposition, count) for row, count in report.rows) == [("pass", 2), ("reject", 1)]
        assert not report.error

    run(main())
    assert world.metrics.snapshot()["dmarc_reports"] == {"sent": 1}


def test_a_domain_without_a_record_gets_no_report(world: World) -> None:
    async def main() -> None:
        world.due("mailto:dmarc@a.example")
        world.txt.clear()
        assert await world.run() == NOTHING
        world.publish("mailto:dmarc@a.example")
        assert await world.run() == NOTHING, "the counts were removed"

    run(main())


def test_another_organization_gets_no_report_without_its_consent(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        world.due("mailto:dmarc@a.example,mailto:x@other.example")
        with caplog.at_level("INFO", "ironpost.reports"):
            assert await world.run() == ONE
        assert world.recipients() == ["dmarc@a.example"]
        assert "dmarc-report-unwanted" in caplog.text
        world.txt[CONSENT] = [b"v=DMARC1"]
        assert await world.run() == NOTHING

    run(main())


def test_another_organization_can_consent_and_name_other_addresses(world: World) -> None:
    async def main() -> None:
        world.txt[CONSENT] = [b"v=DMARC1; rua=mailto:p@other.example,mailto:q@other.example"]
        world.due("mailto:x@other.example")
        assert await world.run() == ONE
        assert world.recipients() == ["p@other.example", "q@other.example"]
        read, _ = await world.only()
        assert read["To"] == "p@other.example, q@other.example"

    run(main())


@pytest.mark.parametrize(("failing", "first"), [("_dmarc.a.example", 0), (CONSENT, 1)])
def test_r27_a_failed_lookup_decides_nothing(world: World, failing: str, first: int) -> None:
    async def main() -> None:
        world.failing = [failing]
        world.txt[CONSENT] = [b"v=DMARC1"]
        world.due("mailto:dmarc@a.example,mailto:x@other.example")
        assert await world.run() == SentReports(first, 1, 0)
        assert await world.run() == WAITING
        world.failing = []
        world.clock.time += FIRST_WAIT
        assert await world.run() == SentReports(2 - first, 0, 0)
        assert world.recipients() == ["dmarc@a.example", "x@other.example"]

    run(main())


def test_a_report_says_what_it_lacks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dmarc_counts, "ROWS", 2)

    async def main() -> None:
        world.count(*(replace(FAILED, ip=f"192.0.2.{number}") for number in range(5)))
        world.due("mailto:dmarc@a.example")
        assert await world.run() == ONE
        _, report = await world.only()
        assert len(report.rows) == 2
        assert report.error.endswith(f"too large: {8 - sum(count for _, count in report.rows)}")

    run(main())
