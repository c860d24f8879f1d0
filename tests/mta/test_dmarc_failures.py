"""Sending failure reports about DMARC in virtual time: destinations, limits, loops and the end of a server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
from tests.mta.report_kit import ReportWorld, run
from tests.reports.dmarc_kit import FAILED

from ironpost.mail_auth.dmarc_record import parse_record
from ironpost.message.section import Header
from ironpost.model import NULL, Address
from ironpost.model.parameters import Notify
from ironpost.mta import daily_reports, dmarc_failures
from ironpost.mta.dmarc_failures import FROM_NETWORK, IN_ALL, PENDING, SIMILAR, TO_DOMAIN, FailureReports

if TYPE_CHECKING:
    from ironpost.mail_auth import DmarcEvaluation
    from ironpost.policy.buckets import Buckets

CONSENT = "a.example._report._dmarc.other.example"


def failed(uris: str = "mailto:x@a.example", *, author: str = "a.example", ip: str = "192.0.2.1") -> DmarcEvaluation:
    record = parse_record(f"v=DMARC1; p=reject; ruf={uris}".encode())
    answer = replace(FAILED.answer, record=record, author=author, policy_domain=author)
    return replace(FAILED, answer=answer, ip=ip, header=Header(b"Subject: plan\r\n"))


class World(ReportWorld):
    """A server that sends failure reports."""

    def __init__(self) -> None:
        super().__init__()
        self.txt["_dmarc.a.example"] = [b"v=DMARC1; p=reject"]
        self.shared: dict[str, Buckets] = {}

    def sender(self) -> FailureReports:
        contact = Address.parse("dmarc@ours.example")
        return FailureReports(contact, "mx.ours.example", **self.ports(), share=self.shared.__setitem__)

    async def report(self, *evaluations: DmarcEvaluation, sender: FailureReports | None = None) -> None:
        """Report messages, and wait until that is done."""
        sender = sender or self.sender()
        for each in evaluations:
            sender(each)
        await sender.stop()

    async def reports(self) -> list[EmailMessage]:
        """The reports that were queued."""
        found = []
        for message in self.accepted:
            octets = b"".join([piece async for piece in message.body.pieces()])
            read = message_from_bytes(octets, policy=policy.default)
            assert isinstance(read, EmailMessage)
            found.append(read)
        return found

    @property
    def recipients(self) -> list[str]:
        return [str(each.address) for message in self.accepted for each in message.envelope.recipients]

    @property
    def results(self) -> dict[str, float]:
        return dict(self.metrics.snapshot().get("dmarc_failure_reports", {}))


@pytest.fixture
def world() -> World:
    return World()


def test_a_failure_is_reported_to_each_address_of_the_domain(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with caplog.at_level("INFO", "ironpost.reports"):
            await world.report(failed("mailto:x@a.example,mailto:y@news.a.example,https://a.example/"))
        assert world.recipients == ["x@a.example", "y@news.a.example"]
        envelope = world.accepted[0].envelope
        assert str(envelope.reverse_path) == "dmarc@ours.example"
        assert envelope.recipients[0].parameters == {"NOTIFY": Notify.NEVER}
        first, second = await world.reports()
        assert first["To"] == "x@a.example"
        assert first["Message-ID"] != second["Message-ID"]

    run(main())
    assert world.results == {"sent": 2}
    assert caplog.text.count('"event":"dmarc-failure-report","domain":"a.example","uri":"mailto:') == 2
    assert '"ip":"192.0.2.1","incidents":1' in caplog.text


def test_a_message_that_is_not_to_be_reported_costs_nothing(world: World) -> None:
    async def main() -> None:
        answers = (replace(failed(), reverse_path=NULL), failed("https://a.example/"), FAILED)
        await world.report(*answers, replace(failed(), header=Header(b"Auto-Submitted: auto-replied\r\n")))

    run(main())
    assert (world.accepted, world.results) == ([], {})


def test_another_organization_gets_no_report_without_its_consent(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with caplog.at_level("INFO", "ironpost.reports"):
            await world.report(failed("mailto:x@other.example,mailto:x@a.example"))
        assert world.recipients == ["x@a.example"]
        world.txt[CONSENT] = [b"v=DMARC1; rua=mailto:no@other.example; ruf=mailto:p@other.example"]
        await world.report(failed("mailto:x@other.example"))

    run(main())
    assert world.recipients == ["x@a.example", "p@other.example"], "the address for failure reports is used"
    assert world.results == {"sent": 2, "unwanted": 1}
    assert "dmarc-report-unwanted" in caplog.text


def test_r27_a_failed_lookup_sends_nothing_and_the_other_addresses_get_theirs(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        world.failing = [CONSENT]
        await world.report(failed("mailto:x@other.example,mailto:x@a.example"))

    run(main())
    assert world.recipients == ["x@a.example"]
    assert world.results == {"sent": 1, "dropped": 1}
    assert '"event":"dmarc-failure-report-dropped"' in caplog.text


def test_a_report_that_cannot_be_queued_is_dropped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(size: int | None = None) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(world.store, "spool", full)
    run(world.report(failed()))
    assert world.results == {"dropped": 1}


def test_r23_similar_messages_have_one_report_and_the_next_one_counts_them(world: World) -> None:
    async def main() -> None:
        sender = world.sender()
        same = [failed(ip=f"2001:db8::{number:x}") for number in range(5)]
        await world.report(*same, failed(ip="192.0.2.1"), failed(author="news.a.example"), sender=sender)
        assert world.results == {"sent": 3, "limited": 4}
        world.clock.time += SIMILAR.seconds
        await world.report(failed(ip="2001:db8::9"), sender=sender)
        first, *_, last = await world.reports()
        assert b"Incidents" not in first.as_bytes()
        assert b"Incidents: 5\r\n" in last.as_bytes(policy=policy.SMTP)

    run(main())


def test_r23_automatic_messages_use_up_no_limit_and_are_not_looked_for_beyond_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Mock(side_effect=dmarc_failures.is_automatic)
    monkeypatch.setattr(dmarc_failures, "is_automatic", looks)
    automatic = replace(failed(), header=Header(b"Auto-Submitted: auto-replied\r\n"))
    bounce = replace(failed(), reverse_path=NULL)
    run(world.report(automatic, failed("https://a.example/"), failed(), automatic, bounce, failed()))
    assert world.results == {"sent": 1, "limited": 2}
    assert looks.call_count == 2


def test_r23_one_domain_and_all_have_limits_that_workers_share(world: World) -> None:
    async def main() -> None:
        sender = world.sender()
        for number in range(TO_DOMAIN.many + 2):
            await world.report(failed(ip=f"198.51.{number}.1"), sender=sender)
        assert world.results == {"sent": TO_DOMAIN.many, "limited": 2}
        for number in range(IN_ALL.many):
            domain = f"b{number}.example"
            ip = f"2001:db8:0:{number:x}::1"
            await world.report(failed(f"mailto:x@{domain}", author=domain, ip=ip), sender=sender)
        assert world.results == {"sent": IN_ALL.many, "limited": 2 + TO_DOMAIN.many}

    run(main())
    assert sorted(world.shared) == [
        "failure reports", "failure reports about a network", "failure reports to a domain",
    ]  # fmt: skip


def test_r23_one_client_does_not_silence_the_reports_about_others(world: World) -> None:
    async def main() -> None:
        sender = world.sender()
        for number in range(IN_ALL.many + 1):
            domain = f"b{number}.example"
            await world.report(failed(f"mailto:x@{domain}", author=domain), sender=sender)
        assert world.results["sent"] == FROM_NETWORK.many
        await world.report(failed(ip="192.0.2.2"), sender=sender)
        assert world.recipients[-1] == "x@a.example"

    run(main())


def test_r23_authors_in_subdomains_of_one_policy_domain_are_similar(world: World) -> None:
    async def main() -> None:
        sender = world.sender()
        for number in range(3):
            each = failed()
            author = f"b{number}.a.example"
            await world.report(replace(each, answer=replace(each.answer, author=author)), sender=sender)

    run(main())
    assert world.results == {"sent": 1, "limited": 2}


def test_messages_that_nobody_was_told_about_are_in_the_next_report(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(size: int | None = None) -> None:
        raise OSError(28, "No space left on device")

    async def main() -> None:
        sender = world.sender()
        with monkeypatch.context() as patched:
            patched.setattr(world.store, "spool", full)
            await world.report(failed(), failed(), sender=sender)
        assert world.results == {"limited": 1, "dropped": 1}
        world.clock.time += SIMILAR.seconds
        await world.report(failed(), sender=sender)
        (report,) = await world.reports()
        assert b"Incidents: 3\r\n" in report.as_bytes(policy=policy.SMTP)

    run(main())


def test_a_message_that_another_limit_stops_does_not_count_as_the_similar_one(world: World) -> None:
    async def main() -> None:
        sender = world.sender()
        for _ in range(TO_DOMAIN.many):
            world.shared["failure reports to a domain"].take("a.example")
        await world.report(failed(), sender=sender)
        assert world.results == {"limited": 1}
        world.clock.time += TO_DOMAIN.seconds / TO_DOMAIN.many
        await world.report(failed(), sender=sender)
        (report,) = await world.reports()
        assert b"Incidents: 2\r\n" in report.as_bytes(policy=policy.SMTP)

    run(main())


def test_r23_few_reports_are_prepared_at_a_time_and_few_kinds_remembered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dmarc_failures, "KEYS", 3)

    async def main() -> None:
        sender = world.sender()
        await world.report(*(failed(author=f"b{number}.example") for number in range(PENDING + 5)), sender=sender)
        assert len(sender._unreported) == 3

    run(main())
    assert world.results["limited"] >= 5


def test_a_stop_does_not_wait_for_a_resolver_that_is_silent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daily_reports, "STOP_SECONDS", 0.0)

    async def silent(*_: object) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        monkeypatch.setattr(dmarc_failures, "willing_recipients", silent)
        sender = world.sender()
        await world.report(failed(), sender=sender)
        await sender.stop()

    run(main())
    assert world.accepted == []
