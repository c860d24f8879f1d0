"""The HTTP server over real sockets: what works, and clients that are hostile, slow or gone."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from tests.authority import issue

from ironpost.http import HttpClient, server
from ironpost.http.exchange import Request, Response
from ironpost.http.server import FIELD, FIELDS, LINE, HttpServer
from ironpost.model.network import LOOPBACK
from ironpost.server import ConnectionLimits, Timeouts, TlsContext
from ironpost.telemetry.metrics import Counters
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path

NAME = "www.a.example"
LIMIT = 100
"""Octets of a body."""


class Echo:
    """Answers with what it understood; `/body` is read, `/fails` raises, `/waits` answers after `go`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.waiting = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self, request: Request) -> Response:
        self.requests.append(request)
        body = b""
        if request.path == "/body":
            body = await request.read(LIMIT)
        if request.path == "/fails":
            raise RuntimeError("a bug")
        if request.path == "/waits":
            self.waiting.set()
            await self.go.wait()
        return Response(200, b"%s %s %s %s" % (request.method.encode(), request.host.encode(), body, b"done"))


class Here:
    """A server, its handler and its metrics."""

    def __init__(self, listening: HttpServer, echo: Echo, metrics: Counters) -> None:
        self.server = listening
        self.echo = echo
        self.metrics = metrics

    async def sent(self, octets: bytes, *, eof: bool = False) -> bytes:
        """Send octets, and return everything that is received."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            writer.write(octets)
            if eof:
                writer.write_eof()
            return await reader.read()
        finally:
            writer.close()

    def counted(self, name: str) -> dict[str, float]:
        return {label: count for label, count in self.metrics.snapshot()[name].items() if count}


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Here]:
    echo, metrics = Echo(), Counters()
    async with HttpServer(echo, "127.0.0.1", 0, metrics=metrics, name="http", **options) as listening:
        yield Here(listening, echo, metrics)


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main

    asyncio.run(bounded())


def request(line: str = "GET / HTTP/1.1", *fields: str, body: bytes = b"", host: str = NAME) -> bytes:
    return "\r\n".join([line, f"Host: {host}", *fields, "", ""]).encode("latin-1") + body


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_a_request_is_answered_and_the_connection_closed() -> None:
    async def main() -> None:
        async with serving() as here:
            answer = await here.sent(request("GET /a%20b?c HTTP/1.1", host="WWW.a.example.:8080"))
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\nConnection: close" in head
            assert b"\r\nServer: ironpost\r\n" in head
            assert body == b"GET www.a.example  done"
            (seen,) = here.echo.requests
            assert (seen.path, seen.ip) == ("/a%20b", "127.0.0.1")
            assert (await here.sent(request("HEAD / HTTP/1.1"))).endswith(b"\r\n\r\n")
            assert status(await here.sent(b"GET / HTTP/1.0\r\n\r\n")) == 200
            assert (await here.sent(request("GET https://other.example/x HTTP/1.1"))).endswith(
                b"GET other.example  done"
            )
            assert here.counted("http_requests") == {"200": 4}
            assert here.counted("connections") == {"http": 4}
            assert not here.server.connections

    run(main())


def test_a_client_that_has_closed_its_side_gets_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.1)

    async def main() -> None:
        async with serving(timeouts=Timeouts(handshake=0.1)) as here:
            octets = request("POST /body HTTP/1.1", "Content-Length: 3", body=b"abc")
            assert b"abc" in await here.sent(octets, eof=True)
            assert await here.sent(octets[:-1], eof=True) == b""
            assert await here.sent(b"GET", eof=True) == b""

    run(main())


@pytest.mark.parametrize(
    "octets",
    [
        request("GET / HTTP/1.1", "Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        request("GET / HTTP/1.1", "Content-Length: 5", "Content-Length: 6", body=b"aaaaaa"),
        request("GET / HTTP/1.1", "Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
        request("GET / HTTP/1.1", "Content-Length : 0"),
        request("GET / HTTP/1.1", "Content-Length: +1", body=b"a"),
        request("GET / HTTP/1.1", " folded: x"),
        request("GET / HTTP/1.1", "a\x00b: c"),
        request("GET / HTTP/1.1", f"Host: {NAME}"),
        request(f"GET /{'a' * LINE} HTTP/1.1"),
        request("GET / HTTP/1.1", f"a: {'b' * (FIELD + 1)}"),
        request("GET / HTTP/1.1", *(f"a{number}: b" for number in range(FIELDS + 1))),
        request("GET / HTTP/2.0"),
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        b"EHLO mx.a.example\r\n",
        b"\r\n\r\n\r\nx\r\n\r\n",
    ],
)
def test_r24_malformed_and_ambiguous_requests_are_refused(octets: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving() as here:
            answer = await here.sent(octets + request("GET /smuggled HTTP/1.1"))
            assert status(answer) == 400
            assert answer.endswith((b"\r\n\r\nBad Request\n", b"several Host fields\n"))
            assert here.echo.requests == []
            assert here.counted("http_requests") == {"400": 1}
            assert status(await here.sent(request())) == 200

    run(main())
    assert not [each for each in caplog.records if each.exc_info]


def test_what_follows_a_request_is_not_another_one() -> None:
    async def main() -> None:
        async with serving() as here:
            for body in (b"", b"abc"):
                first = request("POST /body HTTP/1.1", f"Content-Length: {len(body)}", body=body)
                answer = await here.sent(first + 100 * request("GET /smuggled HTTP/1.1"))
                assert answer.count(b"HTTP/1.1 ") == 1
            upgrade = request("GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket")
            assert (await here.sent(upgrade + request("GET /smuggled HTTP/1.1"))).count(b"HTTP/1.1 ") == 1
            assert [each.path for each in here.echo.requests] == ["/body", "/body", "/"]

    run(main())


def test_r23_a_body_is_limited_and_not_decompressed() -> None:
    async def main() -> None:
        async with serving() as here:
            post = "POST /body HTTP/1.1"
            stated = await here.sent(request(post, "Content-Length: 101", body=b"a" * 101))
            assert status(stated) == 413
            chunk = b"%x\r\n%s\r\n" % (90, b"a" * 90)
            chunked = request(post, "Transfer-Encoding: chunked")
            assert status(await here.sent(chunked + 2 * chunk + b"0\r\n\r\n")) == 413
            assert b"a" * 90 in await here.sent(chunked + chunk + b"0\r\n\r\n")
            assert status(await here.sent(chunked + b"zz\r\n")) == 400
            coded = request(post, "Content-Encoding: gzip", "Content-Length: 1", body=b"a")
            assert status(await here.sent(coded)) == 415
            assert status(await here.sent(request(post, "Content-Length: 99999999999999999999"))) == 400

    run(main())


def test_a_client_that_expects_100_continue_gets_it_first() -> None:
    async def main() -> None:
        async with serving() as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.server.port)
            writer.write(request("POST /body HTTP/1.1", "Content-Length: 3", "Expect: 100-continue"))
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"abc")
            assert (await reader.read()).endswith(b"abc done")
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", here.server.port)
            writer.write(request("POST /body HTTP/1.1", "Content-Length: 300", "Expect: 100-continue"))
            assert status(await reader.readuntil(b"\r\n\r\n")) == 413
            writer.close()

    run(main())


@pytest.mark.parametrize(
    ("version", "fields", "body"),
    [
        ("1.0", ["Content-Length: 3"], b"abc"),
        ("1.1", ["Content-Length: 3"], b"abc"),
        ("1.1", ["Transfer-Encoding: chunked"], b"3\r\nabc\r\n0\r\n\r\n"),
        ("1.1", ["Content-Length: 0"], b""),
    ],
)
def test_a_body_that_is_there_is_not_asked_for(version: str, fields: list[str], body: bytes) -> None:
    async def main() -> None:
        async with serving() as here:
            line = f"POST /body HTTP/{version}"
            assert status(await here.sent(request(line, *fields, "Expect: 100-continue", body=body))) == 200

    run(main())


def test_a_client_of_http_1_0_never_gets_100_continue() -> None:
    async def main() -> None:
        async with serving() as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.server.port)
            writer.write(request("POST /body HTTP/1.0", "Content-Length: 3", "Expect: 100-continue"))
            while not here.echo.requests:
                await asyncio.sleep(0)
            writer.write(b"abc")
            assert status(await reader.read()) == 200
            writer.close()

    run(main())


def test_r22_a_handler_that_fails_answers_500(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving() as here:
            assert status(await here.sent(request("GET /fails HTTP/1.1"))) == 500
            assert status(await here.sent(request())) == 200

    run(main())
    assert "a bug" in caplog.text


@pytest.mark.parametrize(
    ("octets", "ended"),
    [
        (b"", "head"),
        (b"GET / HTTP/1.1\r\nHost: a", "head"),
        (request("POST /body HTTP/1.1", "Content-Length: 50", body=b"a"), "request"),
    ],
)
def test_r23_a_slow_client_is_disconnected(octets: bytes, ended: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.05)
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.1)

    async def main() -> None:
        async with serving(timeouts=Timeouts(handshake=0.1)) as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.server.port)
            writer.write(octets)
            assert await reader.read() == b""
            writer.close()
            assert here.counted("sessions_ended") == {ended: 1}

    run(main())


def test_a_client_that_does_not_read_its_answer_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.3)

    async def main() -> None:
        async with serving(timeouts=Timeouts(handshake=0.1)) as here:
            here.server.handler = large
            _, writer = await asyncio.open_connection("127.0.0.1", here.server.port, limit=1)
            writer.write(request())
            while not here.counted("sessions_ended"):
                await asyncio.sleep(0)
            assert here.counted("sessions_ended") == {"request": 1}
            writer.close()

    async def large(_: Request) -> Response:
        return Response(200, bytes(32 << 20))

    run(main())


def test_a_refused_connection_gets_503() -> None:
    async def main() -> None:
        async with serving(limits=ConnectionLimits(connections=1)) as here:
            _, writer = await asyncio.open_connection("127.0.0.1", here.server.port)
            while not here.server.connections:
                await asyncio.sleep(0)
            assert status(await here.sent(b"")) == 503
            assert here.counted("connections_refused") == {"total": 1}
            writer.close()

    run(main())


def test_a_stop_closes_idle_connections_and_lets_a_request_finish() -> None:
    async def main() -> None:
        async with serving() as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.server.port)
            answer = asyncio.ensure_future(here.sent(request("GET /waits HTTP/1.1")))
            await here.echo.waiting.wait()
            stop = asyncio.ensure_future(here.server.stop())
            assert await reader.read() == b""
            writer.close()
            assert not stop.done()
            here.echo.go.set()
            assert status(await answer) == 200
            await stop

    run(main())


def test_a_stop_aborts_what_does_not_finish_in_time() -> None:
    async def main() -> None:
        async with serving() as here:
            answer = asyncio.ensure_future(here.sent(request("GET /waits HTTP/1.1")))
            await here.echo.waiting.wait()
            await here.server.stop(grace=0.05)
            assert await answer == b""
            here.echo.go.set()

    run(main())


def test_a_shortage_ends_what_is_idle_and_what_sends_a_body(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving() as here:
            ended = []
            for octets in (b"", request("POST /body HTTP/1.1", "Content-Length: 3", body=b"ab")):
                reader, writer = await asyncio.open_connection("127.0.0.1", here.server.port)
                writer.write(octets)
                ended.append((reader, writer))
            answer = asyncio.ensure_future(here.sent(request("GET /waits HTTP/1.1")))
            await here.echo.waiting.wait()
            while len(here.echo.requests) < 2 or len(here.server.connections) < 3:
                await asyncio.sleep(0)
            here.server.retire()
            for reader, writer in ended:
                with suppress(ConnectionResetError):
                    assert await reader.read() == b""
                writer.close()
            here.echo.go.set()
            assert status(await answer) == 200
            assert here.counted("http_requests") == {"200": 1}

    run(main())
    assert not [each for each in caplog.records if each.exc_info]


def test_the_client_of_a_proxy_is_named_by_the_header() -> None:
    async def main() -> None:
        async with serving(proxy=["127.0.0.1/32"]) as here:
            header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 443\r\n"
            assert status(await here.sent(header + request())) == 200
            assert here.echo.requests[0].ip == "192.0.2.1"
            assert await here.sent(request()) == b""

    run(main())


def test_https_with_certificates_by_name_that_can_be_replaced(tmp_path: Path) -> None:
    authority = issue(common_name="Test authority", authority=True)
    (tmp_path / "ca.pem").write_bytes(authority.pem)

    def certificates(*names: str) -> TlsContext:
        pairs = []
        for name in names:
            chain, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
            issue(name, by=authority).write(chain, key)
            pairs.append((chain, key))
        return TlsContext.load(pairs)

    async def main() -> None:
        resolver = StaticResolver(addresses={name: ["127.0.0.1"] for name in (NAME, "b.example", "c.example")})
        client = HttpClient(resolver, authorities=tmp_path / "ca.pem", allowed=LOOPBACK)
        async with serving(tls=certificates("b.example", NAME), implicit_tls=True) as here:
            for name in (NAME, "b.example"):
                found = await client.get(f"https://{name}:{here.server.port}/")
                assert (found.status, found.body) == (200, f"GET {name}  done".encode())
            here.server.tls = certificates("c.example")
            assert (await client.get(f"https://c.example:{here.server.port}/")).status == 200
            assert (await client.post(f"https://c.example:{here.server.port}/body", b"abc")).body.endswith(b"abc done")
            assert here.counted("handshakes") == {"TLSv1.3": 4}
            assert b"HTTP" not in await here.sent(request())  # without TLS

    run(main())


def test_tls_is_refused_without_certificates() -> None:
    with pytest.raises(ValueError, match="TLS needs certificates"):
        HttpServer(Echo.__call__, "127.0.0.1", 0, implicit_tls=True)  # type: ignore[arg-type]


def test_r15_a_handshake_has_a_timeout(tmp_path: Path) -> None:
    chain, key = tmp_path / "a.pem", tmp_path / "a.key"
    issue(NAME).write(chain, key)

    async def main() -> None:
        tls = TlsContext.load([(chain, key)])
        async with serving(tls=tls, implicit_tls=True, timeouts=Timeouts(handshake=0.05)) as here:
            assert await here.sent(b"") == b""
            assert here.counted("sessions_ended") == {"handshake": 1}

    run(main())
