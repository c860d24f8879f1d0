"""The agent that reads received reports about DMARC: what each message becomes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.delivery.mailbox_kit import Clock, Content, queued
from tests.reports.dmarc_kit import FAILURE_MESSAGE, MIDNIGHT, REPORT

from ironpost.delivery import dmarc_reports
from ironpost.delivery.dmarc_reports import DmarcReports, DmarcReportsOptions
from ironpost.model import Address, Disposition, Outcome
from ironpost.model.body import BodyDamaged
from ironpost.model.patterns import DomainPattern, Domains
from ironpost.reports.dmarc import mail
from ironpost.routing.route import Kind, Route
from ironpost.storage.sqlite.received_reports import REPORTS_FILE, reported

if TYPE_CHECKING:
    from pathlib import Path

ROUTE = Route.local(Kind.DMARC_REPORTS, DmarcReportsOptions())
OURS = Domains(("a.example",))
MESSAGE = mail.message(REPORT, [Address.parse("dmarc@here.example")], now=MIDNIGHT, token="T0KEN")


def delivered(
    data: Path, content: Content, *recipients: str, route: Route = ROUTE, ours: Domains = OURS
) -> list[Outcome]:
    message = queued(*(recipients or ("dmarc@here.example",)), content=content)
    agent = DmarcReports(data, Clock(), lambda: ours)
    outcomes = dict(asyncio.run(agent.deliver(message, message.recipients, route)))
    return [outcomes[each.number] for each in message.recipients]


def test_a_report_is_stored_once_for_all_recipients(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "ironpost.reports"):
        first = delivered(tmp_path, Content(MESSAGE), "dmarc@here.example", "all@here.example")
    assert [each.disposition for each in first] == [Disposition.DELIVERED] * 2
    (again,) = delivered(tmp_path, Content(MESSAGE))
    assert again.disposition is Disposition.DELIVERED
    assert "before" in str(again.reply)
    (found,) = reported(tmp_path, 0.0, None).domains
    assert (found.domain, found.passed, found.failed) == ("a.example", 3, 2)
    (logged,) = caplog.messages
    assert '"event":"dmarc-report-received"' in logged
    assert '"report_sender":"example.org","authenticated":false,"passed":3,"failed":2' in logged


def test_a_forged_report_does_not_count_instead_of_an_authenticated_one(tmp_path: Path) -> None:
    results = b"Authentication-Results: here.example; dmarc=pass header.from=example.org\r\n"
    trace = b"Received: by here.example; Tue, 14 Nov 2023 00:00:00 +0000\r\n"
    for stored in (trace + results + MESSAGE, results + trace + MESSAGE):
        (outcome,) = delivered(tmp_path, Content(stored))
        assert "before" not in str(outcome.reply)
        (again,) = delivered(tmp_path, Content(stored))
        assert "before" in str(again.reply)
    (found,) = reported(tmp_path, 0.0, None).domains
    assert (found.reports, found.authenticated) == (2, 1)


def test_a_failure_report_is_stored_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "ironpost.reports"):
        for reply in ("Report stored", "Report was stored before"):
            (outcome,) = delivered(tmp_path, Content(FAILURE_MESSAGE))
            assert str(outcome.reply) == f"250 2.0.0 {reply}"
    (found,) = reported(tmp_path, 0.0, "a.example").failures
    assert (found.ip, found.sender, found.incidents) == ("192.0.2.1", "news@a.example", 7)
    (logged,) = caplog.messages
    assert '"event":"dmarc-failure-received"' in logged
    (refused,) = delivered(tmp_path, Content(FAILURE_MESSAGE), ours=Domains(("b.example",)))
    assert "it is about 'a.example', which is not a domain of this server" in str(refused.reply)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (Content(FAILURE_MESSAGE.replace(b"auth-failure", b"abuse")), "5.6.0"),
        (Content(b"Subject: hello\r\n\r\nwords\r\n"), "5.6.0"),
        (Content(MESSAGE.replace(b"H4sI", b"AAAA")), "5.6.0"),
        (Content(b"\r\n" + b"x" * 1022, times=40_000), "5.3.4"),
    ],
)
def test_other_messages_fail(tmp_path: Path, content: Content, status: str) -> None:
    (outcome,) = delivered(tmp_path, content)
    assert outcome.disposition is Disposition.FAILED
    assert str(outcome.reply).startswith(f"554 {status} ")
    assert not (tmp_path / REPORTS_FILE).exists()


def test_r23_a_report_about_a_domain_of_others_fails(tmp_path: Path) -> None:
    (outcome,) = delivered(tmp_path, Content(MESSAGE), ours=Domains(("here.example", "*.a.example")))
    assert outcome.disposition is Disposition.FAILED
    assert "it is about 'a.example', which is not a domain of this server" in str(outcome.reply)
    assert not (tmp_path / REPORTS_FILE).exists()


def test_a_report_about_a_listed_domain_is_stored(tmp_path: Path) -> None:
    route = Route.local(Kind.DMARC_REPORTS, DmarcReportsOptions((DomainPattern("A.example"),)))
    (outcome,) = delivered(tmp_path, Content(MESSAGE), route=route, ours=Domains())
    assert outcome.disposition is Disposition.DELIVERED


def test_the_reply_to_a_hostile_report_is_ascii(tmp_path: Path) -> None:
    xml = "<feedback><report_metadata><ä/>\x1b</report_metadata></feedback>".encode()
    hostile = b"Content-Type: text/xml\r\n\r\n" + xml
    (outcome,) = delivered(tmp_path, Content(hostile))
    assert outcome.disposition is Disposition.FAILED
    assert str(outcome.reply).isascii()
    assert str(outcome.reply).isprintable()


def test_a_report_that_cannot_be_stored_is_deferred(tmp_path: Path) -> None:
    (tmp_path / REPORTS_FILE).write_bytes(b"no database" * 100)
    (outcome,) = delivered(tmp_path, Content(MESSAGE))
    assert outcome.disposition is Disposition.DEFERRED
    assert REPORTS_FILE in outcome.reply.detail


@pytest.mark.parametrize(("fault", "expected"), [(OSError, Disposition.DEFERRED), (BodyDamaged, Disposition.HELD)])
def test_a_message_that_cannot_be_read_is_kept(tmp_path: Path, fault: type[OSError], expected: Disposition) -> None:
    (outcome,) = delivered(tmp_path, Content(MESSAGE, fails=fault))
    assert outcome.disposition is expected


def test_one_report_is_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0
    stored = dmarc_reports._stored

    def watched(*arguments: object) -> object:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return stored(*arguments)  # type: ignore[arg-type]
        finally:
            running -= 1

    monkeypatch.setattr(dmarc_reports, "_stored", watched)
    agent = DmarcReports(tmp_path, Clock(), lambda: OURS)
    message = queued("dmarc@here.example", content=Content(MESSAGE))

    async def main() -> None:
        await asyncio.gather(*(agent.deliver(message, message.recipients, ROUTE) for _ in range(5)))

    asyncio.run(main())
    assert most == 1


def test_the_preview() -> None:
    agent = DmarcReports(None, Clock(), Domains)
    assert asyncio.run(agent.preview(Address.parse("x@here.example"), ROUTE)).text == "reports about DMARC"
    assert str(ROUTE) == "dmarc reports"
