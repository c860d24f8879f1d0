"""Sending reports about TLS in virtual time: when, to whom, once, and what happens if it fails."""

from __future__ import annotations

import asyncio
import threading
from email import message_from_bytes
from typing import TYPE_CHECKING, Any

import pytest
from tests.authority import issue
from tests.http.https_kit import https_server, response, serving
from tests.mta.report_kit import DROPPED, NOTHING, ONE, WAITING, ReportWorld, run
from tests.reports.dmarc_kit import MIDNIGHT

from ironpost.http import HttpClient, HttpError, HttpFailure, HttpResponse
from ironpost.model import Address
from ironpost.model.network import LOOPBACK
from ironpost.model.parameters import Notify
from ironpost.model.tls import PolicyType, PublishedPolicy, TlsFailure, TlsOutcome
from ironpost.mta import daily_reports, tls_reports
from ironpost.mta.daily_reports import (
    DELAY,
    FIRST_WAIT,
    LONGEST_WAIT,
    RETRY_SECONDS,
    SPREAD,
    Reporter,
    SentReports,
)
from ironpost.mta.tls_reports import REPORTS, TlsReports
from ironpost.reports.daily import DAY, DailyEntries, digest_of
from ironpost.reports.tlsrpt.counts import TlsCounts, summed
from ironpost.reports.tlsrpt.mail import extracted
from ironpost.reports.tlsrpt.report import Report, decoded
from ironpost.storage.memory import MemoryStore
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ironpost.reports.daily import DayOfDomain
    from ironpost.reports.tlsrpt.report import PolicyResult

HTTPS = "https://reports.a.example/tlsrpt"


class Posted:
    """An HTTP client that records requests; `answers` are statuses or errors, then 200."""

    def __init__(self) -> None:
        self.answers: list[int | Exception] = []
        self.requests: list[tuple[str, bytes, dict[str, str]]] = []

    async def post(self, url: str, body: bytes, *, headers: Mapping[str, str] | None = None) -> HttpResponse:
        answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, Exception):
            raise answer
        self.requests.append((url, body, dict(headers or {})))
        return HttpResponse(answer, {}, b"")


class World(ReportWorld):
    """A server that reports about TLS; `sender` is one worker."""

    def __init__(self) -> None:
        super().__init__()
        self.http: Any = Posted()

    def publish(self, *uris: str, domain: str = "a.example") -> None:
        self.txt[f"_smtp._tls.{domain}"] = [f"v=TLSRPTv1; rua={','.join(uris)}".encode()]

    def count(self, domain: str = "a.example", worker: int = 0) -> None:
        counts = TlsCounts(self.state, self.clock.now, worker=worker)
        counts(TlsOutcome(PublishedPolicy(PolicyType.NONE, domain)))
        counts(TlsOutcome(PublishedPolicy(PolicyType.NONE, domain), TlsFailure.STARTTLS_NOT_SUPPORTED))
        counts.flush()

    def sender(self) -> TlsReports:
        return TlsReports(
            Reporter("Ours Ltd", Address.parse("tls@ours.example")),
            TlsCounts(self.state, self.clock.now),
            self.state,
            http=self.http,
            **self.ports(),
        )

    async def run(self) -> SentReports:
        return await self.sender().run()

    def due(self, *uris: str, domains: Sequence[str] = ("a.example",)) -> None:
        """Publish where reports go, count connections, and wait until the reports about them are due."""
        for domain in domains:
            self.publish(*uris, domain=domain)
            self.count(domain)
        self.next_day()

    def reports(self) -> list[Report]:
        return [decoded(extracted(body)) for _, body, _ in self.http.requests]

    @property
    def results(self) -> dict[str, float]:
        return self.metrics.snapshot()["tls_reports"]


@pytest.fixture
def world() -> World:
    return World()


def test_a_report_is_posted_once_some_hours_after_the_end_of_the_day(world: World) -> None:
    async def main() -> None:
        world.publish(HTTPS)
        world.count()
        world.clock.time = MIDNIGHT + DAY + DELAY - 1
        assert await world.run() == NOTHING
        world.clock.time += 1 + SPREAD
        assert await world.run() == ONE
        for _ in range(3):  # a new object has no memory, as after a restart
            assert await world.run() == NOTHING
            world.clock.time += 3600

    run(main())
    ((url, _, headers),) = world.http.requests
    (report,) = world.reports()
    assert (url, headers) == (HTTPS, {"Content-Type": "application/tlsrpt+gzip"})
    assert (report.organization, report.contact) == ("Ours Ltd", "tls@ours.example")
    assert report.id == "19675.a.example@ours.example"
    assert (report.start, report.end) == (MIDNIGHT, MIDNIGHT + DAY - 1)
    (result,) = report.policies
    assert (result.policy.domain, result.successes, result.failures) == ("a.example", 1, 1)
    assert world.results == {"sent": 1}


def test_reports_are_spread_over_hours_and_their_times_survive_a_restart(world: World) -> None:
    async def main() -> list[int]:
        domains = [f"a{number}.example" for number in range(20)]
        for domain in domains:
            world.publish(HTTPS, domain=domain)
            world.count(domain)
        sent = []
        for hour in range(6):
            world.clock.time = MIDNIGHT + DAY + DELAY + hour * 3600
            sent.append((await world.run()).sent)
        return sent

    sent = asyncio.run(main())
    assert sum(sent) == 20
    assert sent[0] == 0 < sent[1] < 20
    assert sent[5] == 0


def test_a_report_has_the_counts_of_all_workers(world: World) -> None:
    async def main() -> None:
        world.publish(HTTPS)
        for worker in range(3):
            world.count(worker=worker)
        world.next_day()
        assert await world.run() == ONE

    run(main())
    assert world.reports()[0].policies[0].failures == 3


def test_what_a_worker_adds_after_the_report_is_not_sent(world: World) -> None:
    async def main() -> None:
        yesterday = world.clock.time
        world.due(HTTPS)
        assert await world.run() == ONE
        now, world.clock.time = world.clock.time, yesterday
        world.count(worker=1)
        world.clock.time = now
        assert await world.run() == NOTHING

    run(main())
    assert len(world.http.requests) == 1


@pytest.mark.parametrize(
    "records", [[], [b"v=spf1 -all"], [b"v=TLSRPTv1;rua=ftp:x"], [b"v=TLSRPTv1;rua=mailto:x@y"] * 2]
)
def test_domains_without_a_valid_record_get_no_report(world: World, records: list[bytes]) -> None:
    async def main() -> None:
        world.txt["_smtp._tls.a.example"] = records
        world.count()
        world.next_day()
        assert await world.run() == NOTHING
        world.publish(HTTPS)
        assert await world.run() == NOTHING, "the counts were removed"

    run(main())
    assert not world.results


def test_every_destination_gets_the_report(world: World) -> None:
    async def main() -> None:
        world.due(HTTPS, "mailto:tls@a.example", HTTPS + "2")
        assert await world.run() == SentReports(3, 0, 0)

    run(main())
    assert [url for url, _, _ in world.http.requests] == [HTTPS, HTTPS + "2"]
    assert len(world.accepted) == 1
    assert world.results == {"sent": 3}


def test_only_the_destination_that_failed_is_tried_again(world: World) -> None:
    async def main() -> None:
        world.due(HTTPS, HTTPS + "2")
        world.http.answers = [503]
        assert await world.run() == SentReports(1, 1, 0)
        assert await world.run() == WAITING
        world.clock.time += FIRST_WAIT
        assert await world.run() == ONE
        assert await world.run() == NOTHING

    run(main())
    assert [url for url, _, _ in world.http.requests] == [HTTPS, HTTPS + "2", HTTPS]
    assert world.results == {"failed": 1, "sent": 2}


def test_a_report_that_fails_for_a_day_is_dropped(world: World, caplog: pytest.LogCaptureFixture) -> None:
    waits: list[float] = []

    async def main() -> None:
        world.due(HTTPS)
        first = last = world.clock.time
        world.http.answers = [HttpError(HttpFailure.CONNECT, HTTPS, "refused")] * 99
        while (done := await world.run()) == WAITING:
            if len(waits) < (failures := int(world.results["failed"])):
                waits.extend([world.clock.time - last] * (failures - len(waits)))
                last = world.clock.time
            world.clock.time += 300
        assert done == DROPPED
        assert RETRY_SECONDS - LONGEST_WAIT <= world.clock.time - first <= RETRY_SECONDS
        assert await world.run() == NOTHING

    with caplog.at_level("INFO", "ironpost.reports"):
        run(main())
    assert waits[:4] == [0, FIRST_WAIT, 2 * FIRST_WAIT, 4 * FIRST_WAIT]
    assert max(waits) == LONGEST_WAIT
    assert "report-dropped" in caplog.messages[-1]
    assert "cannot connect" in caplog.messages[-1]
    assert world.results == {"failed": len(waits) + 1, "dropped": 1}


def test_r27_a_failed_lookup_decides_nothing(world: World) -> None:
    async def main() -> None:
        world.failing = ["_smtp._tls.a.example"]
        world.count()
        world.next_day()
        assert await world.run() == WAITING
        world.failing = []
        world.publish(HTTPS)
        world.clock.time += FIRST_WAIT
        assert await world.run() == ONE

    run(main())


def test_r25_one_report_that_raises_does_not_stop_the_others(world: World) -> None:
    async def main() -> None:
        world.due(HTTPS, domains=("a.example", "b.example"))
        world.http.answers = [RuntimeError("a bug")]
        assert await world.run() == SentReports(1, 1, 0)

    run(main())


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"5",
        b"{}",
        b"[1, 2, 3, [], false, 0]",
        b'["a", 0, 0, [], false]',
        b"[1, 0, null, [], false]",
        b"[1, Infinity, 0, [], false]",
    ],
)
def test_r25_an_entry_of_another_version_does_not_stop_reports(world: World, value: bytes) -> None:
    async def main() -> None:
        world.due(HTTPS, domains=("a.example", "b.example"))
        key = f"{19_675}/{digest_of('a.example')}".encode()
        world.state.put(REPORTS, key, value, DAY)
        assert await world.run() == SentReports(2, 0, 0)
        assert await world.run() == NOTHING

    run(main())


def test_what_was_counted_is_added_up_in_a_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def observed(values: Sequence[bytes]) -> tuple[PolicyResult, ...]:
        threads.append(threading.current_thread())
        return summed(values)

    async def main() -> None:
        world.due(HTTPS)
        assert await world.run() == ONE

    monkeypatch.setattr(tls_reports, "summed", observed)
    run(main())
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_r25_an_error_in_one_domain_does_not_stop_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    values = DailyEntries.values

    def broken(self: DailyEntries, day: DayOfDomain) -> tuple[str, Sequence[bytes]]:
        if day.digest == digest_of("a.example"):
            raise RuntimeError("a bug")
        return values(self, day)

    monkeypatch.setattr(DailyEntries, "values", broken)

    async def main() -> None:
        world.due(HTTPS, domains=("a.example", "b.example"))
        assert await world.run() == SentReports(1, 1, 0)

    run(main())
    assert digest_of("a.example") in caplog.text
    monkeypatch.undo()
    assert asyncio.run(world.run()) == ONE


def test_a_report_by_mail_is_queued(world: World) -> None:
    async def main() -> None:
        world.due("mailto:tls@a.example")
        assert await world.run() == ONE
        (message,) = world.accepted
        envelope = message.envelope
        assert str(envelope.reverse_path) == "tls@ours.example"
        ((address, parameters, _),) = envelope.recipients
        assert str(address) == "tls@a.example"
        assert parameters == {"NOTIFY": Notify.NEVER}
        assert envelope.tls_optional
        assert not envelope.smtputf8
        content = b"".join([piece async for piece in message.body.pieces()])
        _, attached = message_from_bytes(content).get_payload()
        report = decoded(extracted(attached.get_payload(decode=True)))
        assert report.id == "19675.a.example@ours.example"
        assert [each.id for each in await world.store.list()] == [message.id]

    run(main())


def test_a_report_to_an_internationalised_address_needs_smtputf8(world: World) -> None:
    async def main() -> None:
        world.due("mailto:j%C3%B6@a.example")
        assert await world.run() == ONE
        assert world.accepted[0].envelope.smtputf8

    run(main())


def test_a_full_store_delays_a_report(world: World) -> None:
    async def main() -> None:
        world.store = MemoryStore(now=world.clock.now, capacity=10)
        world.due("mailto:tls@a.example")
        assert await world.run() == WAITING
        world.store = MemoryStore(now=world.clock.now)
        world.clock.time += FIRST_WAIT
        assert await world.run() == ONE

    run(main())


class Slow(Posted):
    """It waits for `go` before it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived, self.go = asyncio.Event(), asyncio.Event()

    async def post(self, url: str, body: bytes, *, headers: Mapping[str, str] | None = None) -> HttpResponse:
        self.arrived.set()
        await self.go.wait()
        return await super().post(url, body, headers=headers)


async def cancelled(world: World) -> tuple[Slow, TlsReports]:
    """Cancel a run while its report is being sent; the client and the object that sends."""
    world.due(HTTPS)
    world.http = slow = Slow()
    sender = world.sender()
    running = asyncio.create_task(sender.run())
    await slow.arrived.wait()
    running.cancel()
    await asyncio.wait([running])
    return slow, sender


def test_a_stop_waits_for_a_report_that_is_being_sent(world: World) -> None:
    async def main() -> None:
        slow, sender = await cancelled(world)
        stopping = asyncio.create_task(sender.stop())
        await asyncio.sleep(0)
        assert not stopping.done()
        slow.go.set()
        await stopping
        assert await world.run() == NOTHING, "recorded before the stop ended"
        await sender.stop()

    run(main())
    assert len(world.http.requests) == 1


def test_a_stop_does_not_wait_for_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daily_reports, "STOP_SECONDS", 0.0)

    async def main() -> None:
        slow, sender = await cancelled(world)
        await sender.stop()
        assert len(asyncio.all_tasks()) == 1, "nothing is left that could use a closed store"
        slow.go.set()
        assert await world.run() == ONE

    run(main())
    assert len(world.http.requests) == 1


def test_reports_reach_an_https_server(world: World, tmp_path: Path) -> None:
    """The real client and a server with a certificate of the test authority; it fails first."""
    authority = issue(common_name="Test authority", authority=True)
    trusted = tmp_path / "ca.pem"
    trusted.write_bytes(authority.pem)
    answers = [response(500), response(201)]

    async def respond(_request: object, writer: asyncio.StreamWriter) -> None:
        writer.write(answers.pop(0))

    async def main() -> None:
        made = issue("reports.a.example", by=authority)
        async with https_server(serving(made, tmp_path), respond) as server:
            resolver = StaticResolver(addresses={"reports.a.example": ["127.0.0.1"]})
            world.http = HttpClient(resolver, authorities=trusted, allowed=LOOPBACK)
            world.due(f"https://reports.a.example:{server.port}/tlsrpt?key=1")
            assert await world.run() == WAITING
            world.clock.time += FIRST_WAIT
            assert await world.run() == ONE
            first, request = server.requests
            assert first.body == request.body
            assert request.line == "POST /tlsrpt?key=1 HTTP/1.1"
            assert request.headers["content-type"] == "application/tlsrpt+gzip"
            assert decoded(extracted(request.body)).contact == "tls@ours.example"

    run(main())


def test_r45_reports_are_not_posted_into_private_networks(world: World) -> None:
    async def main() -> None:
        world.http = HttpClient(StaticResolver(addresses={"reports.a.example": ["10.0.0.1"]}))
        world.due(HTTPS)
        assert await world.run() == WAITING

    run(main())
    assert world.results == {"failed": 1}
