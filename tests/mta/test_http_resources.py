"""What a listener with the role `http` serves: policies at their hosts, and reports that become mail."""

from __future__ import annotations

import asyncio
import gzip
import threading
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from tests.mta.runner_kit import VirtualClock

from ironpost.http.exchange import HttpRefusal, Request, Response
from ironpost.model import Address, Envelope
from ironpost.mta.http_resources import (
    BODIES,
    BODIES_OF_NETWORK,
    POSTED_REPORTS,
    REPORT_OCTETS,
    HttpResources,
    ReceiptLimits,
    ReportReceipt,
)
from ironpost.policy.options import Quota
from ironpost.reports.received import ReportError
from ironpost.reports.tlsrpt import posted
from ironpost.reports.tlsrpt.mail import extracted
from ironpost.reports.tlsrpt.report import Policy, PolicyResult, Report, compressed, decoded, encoded
from ironpost.routing.tls.mta_sts import StsMode, StsPolicy
from ironpost.storage import drop
from ironpost.telemetry.metrics import Counters

if TYPE_CHECKING:
    from pathlib import Path

POLICY = StsPolicy(StsMode.ENFORCE, ("mx.a.example",), 86400)
WELL_KNOWN = "/.well-known/mta-sts.txt"
TO = Address.parse("tls@a.example")
GZIP, JSON = "application/tlsrpt+gzip", "application/tlsrpt+json"
REPORT = Report(
    "Sender Ltd",
    "tls@b.example",
    "2026@b.example",
    0,
    86399,
    (PolicyResult(Policy("sts", "a.example"), 3, 1),),
)


class Served:
    """The resources, with reports for a drop directory."""

    def __init__(self, directory: Path, quota: Quota = POSTED_REPORTS, to: Address = TO, reserve: int = 0) -> None:
        self.directory = directory
        self.clock = VirtualClock()
        self.metrics = Counters()
        limits = ReceiptLimits(self.clock, quota)
        self.listeners = [
            HttpResources({"a.example": POLICY}, ReportReceipt(to, directory, reserve, limits, self.metrics))
            for _ in range(2)
        ]
        self.resources = self.listeners[0]

    def ask(self, method: str, path: str, *, host: str = "mta-sts.a.example") -> Response:
        async def read(_: int) -> bytes:
            pytest.fail("nothing is read")

        return answered(self.resources, Request(method, host, path, "", "192.0.2.1", read))

    def post(self, octets: bytes, media_type: str = GZIP, ip: str = "192.0.2.1") -> Response:
        async def read(limit: int) -> bytes:
            assert limit == REPORT_OCTETS
            return octets

        return answered(self.resources, Request("POST", "mx.a.example", "/tlsrpt", media_type, ip, read))

    def messages(self) -> list[tuple[Envelope, bytes]]:
        """The envelope and the content of each message in the drop directory."""
        found = []
        for name in drop.waiting(self.directory):
            file = drop.DropFile(self.directory, name)
            found.append((file.envelope, b"".join(iter(file.read, b""))))
            file.close()
        return found


def answered(resources: HttpResources, request: Request) -> Response:
    return asyncio.run(answer(resources, request))


async def answer(resources: HttpResources, request: Request) -> Response:
    try:
        return await resources(request)
    except HttpRefusal as refusal:
        return refusal.response


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


def test_a_policy_is_served_at_its_policy_host_only(served: Served) -> None:
    found = served.ask("GET", WELL_KNOWN)
    assert (found.status, found.media_type) == (200, "text/plain; charset=us-ascii")
    assert found.body == b"version: STSv1\r\nmode: enforce\r\nmx: mx.a.example\r\nmax_age: 86400\r\n"
    assert served.ask("HEAD", WELL_KNOWN).status == 200
    for host in ("a.example", "mta-sts.b.example", "mx.a.example", ""):
        assert served.ask("GET", WELL_KNOWN, host=host).status == 404


@pytest.mark.parametrize("path", ["/", "", "/.well-known/", WELL_KNOWN + "/", "/.well-known/%6dta-sts.txt", "//tlsrpt"])
def test_nothing_else_is_served(path: str, served: Served) -> None:
    for method in ("GET", "POST", "TRACE"):
        assert served.ask(method, path).status == 404


def test_other_methods_are_refused_with_those_that_exist(served: Served) -> None:
    assert served.ask("POST", WELL_KNOWN).headers == (("Allow", "GET, HEAD"),)
    found = served.ask("GET", "/tlsrpt")
    assert (found.status, found.headers) == (405, (("Allow", "POST"),))


def test_reports_are_received_only_if_somebody_gets_them() -> None:
    resources = HttpResources({}, None)
    request = Request("POST", "mx.a.example", "/tlsrpt", GZIP, "", lambda _: pytest.fail("nothing is read"))
    assert answered(resources, request).status == 404


@pytest.mark.parametrize(("octets", "media_type"), [(compressed(REPORT), GZIP), (encoded(REPORT), JSON)])
def test_a_report_becomes_a_message(octets: bytes, media_type: str, served: Served) -> None:
    assert served.post(octets, media_type).status == 201
    ((envelope, content),) = served.messages()
    (recipient,) = envelope.recipients
    assert (envelope.reverse_path, recipient.address) == (TO, TO)
    assert str(recipient.parameters["NOTIFY"]) == "NEVER"
    assert decoded(extracted(content)) == REPORT
    subject = b"\r\nSubject: Report Domain: a.example Submitter: b.example Report-ID: <2026@b.example>\r\n"
    assert subject in content.replace(b"\r\n ", b" ")
    assert b"posted by 192.0.2.1." in content
    assert served.metrics.snapshot()["tls_reports"] == {"received": 1}


def test_a_recipient_may_need_smtputf8(tmp_path: Path) -> None:
    served = Served(tmp_path, to=Address.parse("b\u00fccher@a.example"))
    assert served.post(compressed(REPORT)).status == 201
    assert served.messages()[0][0].smtputf8


def forged(**values: Any) -> Report:
    return REPORT._replace(**values)


@pytest.mark.parametrize(
    "report",
    [
        forged(id="a\r\nBcc: all@b.example\r\n\r\n--tlsrpt"),
        forged(contact="x@b\n--tlsrptx--\u2028\x1b[2J"),
        forged(policies=(PolicyResult(Policy("sts", "\u0130.example\r\nX: y"), 0, 0),)),
        forged(id="a" * 5000),
    ],
)
def test_r43_a_report_can_add_neither_field_nor_part(report: Report, served: Served) -> None:
    assert served.post(compressed(report)).status == 201
    ((_, content),) = served.messages()
    head, _, body = content.partition(b"\r\n\r\n")
    names = [line.partition(b":")[0] for line in head.split(b"\r\n") if line[:1] not in b" \t"]
    assert names == [b"From", b"To", b"Subject", b"Auto-Submitted", b"MIME-Version", b"Content-Type"]
    assert body.count(b"\r\n--tlsrptx") == 2
    assert head.isascii()
    assert max(map(len, content.split(b"\r\n"))) <= 998
    assert decoded(extracted(content)) == report


@pytest.mark.parametrize(
    ("octets", "media_type", "status"),
    [
        (b"", GZIP, 400),
        (b"{}", GZIP, 400),
        (encoded(REPORT), GZIP, 400),
        (compressed(REPORT), JSON, 400),
        (compressed(REPORT)[:-1], GZIP, 400),
        (compressed(REPORT) + b"x", GZIP, 400),
        (encoded(forged(policies=())), JSON, 400),
        (encoded(forged(organization="")), JSON, 400),
        (b"[" * 100_000, JSON, 400),
        (gzip.compress(bytes(10 << 20)), GZIP, 400),
        (gzip.compress(encoded(forged(organization="a" * 2_000_000)), 1), GZIP, 400),
        (encoded(REPORT), "application/json", 415),
        (encoded(REPORT), "", 415),
    ],
    ids=count(),  # what is compressed holds the time, so it differs between processes
)
def test_r23_other_content_is_refused(octets: bytes, media_type: str, status: int, served: Served) -> None:
    found = served.post(octets, media_type)
    assert (found.status, served.messages()) == (status, [])
    assert found.body.isascii()
    assert b"\x1b" not in found.body


def test_r23_a_network_has_a_quota(tmp_path: Path) -> None:
    served = Served(tmp_path, Quota(2, 3600.0))
    assert [served.post(compressed(REPORT)).status for _ in range(3)] == [201, 201, 429]
    assert served.post(compressed(REPORT)).headers == (("Retry-After", "1800"),)
    assert served.post(compressed(REPORT), ip="192.0.2.2").status == 201
    served.clock.time += 1800
    assert served.post(compressed(REPORT)).status == 201


def test_a_client_that_disconnects_frees_its_place(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    async def read(_: int) -> bytes:
        raise ConnectionResetError

    request = Request("POST", "mx.a.example", "/tlsrpt", GZIP, "192.0.2.1", read)
    for _ in range(BODIES + 1):
        with pytest.raises(ConnectionResetError):
            answered(served.resources, request)
    assert not caplog.records


def test_a_report_that_cannot_be_stored_is_not_acknowledged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    served = Served(tmp_path / "missing")
    assert served.post(compressed(REPORT)).status == 503
    assert "tls-report-not-stored" in caplog.text
    assert not served.metrics.snapshot()["tls_reports"]


def test_r23_the_listeners_of_a_worker_hold_few_bodies(served: Served) -> None:
    async def main() -> None:
        sent, begun = asyncio.Event(), []

        async def read(_: int) -> bytes:
            begun.append(True)
            await sent.wait()
            return b""

        def request(network: int) -> Request:
            return Request("POST", "mx.a.example", "/tlsrpt", GZIP, f"10.0.{network}.1", read)

        listeners = BODIES // 2 * served.listeners
        slow = [asyncio.ensure_future(answer(each, request(number))) for number, each in enumerate(listeners)]
        while len(begun) < BODIES:
            await asyncio.sleep(0)
        for each in served.listeners:
            async with asyncio.timeout(30):
                refused = await answer(each, request(BODIES))
            assert (refused.status, refused.headers) == (503, (("Retry-After", "60"),))
        assert len(begun) == BODIES
        sent.set()
        assert {each.status for each in await asyncio.gather(*slow)} == {400}
        assert (await answer(served.resources, request(BODIES))).status == 400, "each has left its place to others"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("near", "far"),
    [("192.0.2.{}", "192.0.3.1"), ("2001:db8:0:{}::1", "2001:db8:1::1")],
)
def test_r23_a_network_does_not_take_the_places_of_others(served: Served, near: str, far: str) -> None:
    async def main() -> None:
        sent, begun = asyncio.Event(), []

        async def read(_: int) -> bytes:
            begun.append(True)
            await sent.wait()
            return b""

        def posted_by(ip: str) -> asyncio.Future[Response]:
            request = Request("POST", "mx.a.example", "/tlsrpt", GZIP, ip, read)
            return asyncio.ensure_future(answer(served.resources, request))

        slow = [posted_by(near.format(number)) for number in range(BODIES_OF_NETWORK)]
        while len(begun) < BODIES_OF_NETWORK:
            await asyncio.sleep(0)
        refused = await posted_by(near.format(99))
        assert (refused.status, refused.headers) == (429, (("Retry-After", "60"),))
        slow.append(posted_by(far))
        while len(begun) == BODIES_OF_NETWORK:
            await asyncio.sleep(0)
        sent.set()
        assert {each.status for each in await asyncio.gather(*slow)} == {400}
        assert (await posted_by(near.format(99))).status == 400, "each has left its place to others"

    asyncio.run(main())


def test_r23_the_listeners_of_a_worker_read_one_report_at_a_time(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = []
    together = threading.Barrier(2, action=lambda: met.append(True), timeout=0.2)

    def meeting(*_: Any, **__: Any) -> bytes:
        with suppress(threading.BrokenBarrierError):
            together.wait()
        raise ReportError("unreadable")

    async def read(_: int) -> bytes:
        return b""

    async def main() -> None:
        request = Request("POST", "mx.a.example", "/tlsrpt", GZIP, "192.0.2.1", read)
        found = await asyncio.gather(*(answer(each, request) for each in 2 * served.listeners))
        assert {each.status for each in found} == {400}

    monkeypatch.setattr(posted, "message", meeting)
    asyncio.run(main())
    assert not met


def test_r23_reports_do_not_take_the_reserve(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    served = Served(tmp_path, reserve=1 << 60)
    found = served.post(compressed(REPORT))
    assert (found.status, found.headers) == (503, (("Retry-After", "60"),))
    assert served.messages() == []
    assert f"{1 << 60} kept in reserve" in caplog.text


def test_r23_reports_do_not_fill_the_drop_directory(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    refused = [served.directory / f"{number}.refused" for number in range(drop.FILES - 1)]
    for path in refused:
        path.touch()
    assert [served.post(compressed(REPORT)).status for _ in range(2)] == [201, 503]
    assert len(served.messages()) == 1
    assert f"{drop.FILES} files wait there" in caplog.text
    refused[0].unlink()
    assert served.post(compressed(REPORT)).status == 201
