"""The HTTP client against servers on loopback: what works, and servers and names that are hostile."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import sys
import zlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.authority import DAY, Certificate, issue
from tests.http.https_kit import HttpsServer, Request, always, https_server, response, serving

from ironpost.http import HttpClient, HttpError, HttpFailure, HttpLimits
from ironpost.model.dns import Records, RecordType
from ironpost.model.network import LOOPBACK
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from pathlib import Path

    from tests.http.https_kit import Respond

    from ironpost.model.dns import Resolver

NAME = "www.a.example"
HERE = StaticResolver(addresses={NAME: ["127.0.0.1"], "other.example": ["127.0.0.1"]})
SMALL = HttpLimits(size=1000, seconds=20.0)


@pytest.fixture(scope="module")
def authority() -> Certificate:
    return issue(common_name="Test authority", authority=True)


@pytest.fixture(scope="module")
def trusted(authority: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the trusted authorities."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    path.write_bytes(authority.pem)
    return path


@pytest.fixture(scope="module")
def tls(authority: Certificate, tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    return serving(issue(NAME, "other.example", by=authority), tmp_path_factory.mktemp("server"))


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main

    asyncio.run(bounded())


@pytest.fixture
def pair(trusted: Path, tls: ssl.SSLContext) -> Callable[..., Any]:
    """A server that responds as given, and a client that may reach it."""

    @asynccontextmanager
    async def make(
        respond: Respond | bytes, *, context: ssl.SSLContext | None = None, resolver: Resolver = HERE, **options: Any
    ) -> AsyncIterator[tuple[HttpsServer, HttpClient, str]]:
        responding = always(respond) if isinstance(respond, bytes) else respond
        async with https_server(context or tls, responding) as server:
            options = {"authorities": trusted, "allowed": LOOPBACK, **options}
            yield server, HttpClient(resolver, **options), f"https://{NAME}:{server.port}"

    return make


async def failure(request: Awaitable[object]) -> HttpError:
    with pytest.raises(HttpError) as caught:
        await request
    return caught.value


# -- what works -------------------------------------------------------------------------------------------------------


def test_get_returns_status_headers_and_body(pair: Callable[..., Any]) -> None:
    async def main() -> None:
        async with pair(response(404, b"gone", Content_Type="Text/Plain; charset=utf-8", X_Test="1")) as (
            here,
            http,
            url,
        ):
            found = await http.get(f"{url}/a?secret=1", headers={"X-Mine": "2"}, limits=SMALL)
            assert (found.status, found.body, found.media_type) == (404, b"gone", "text/plain")
            assert found.headers["x-test"] == "1"
            (request,) = here.requests
            assert request.line == "GET /a?secret=1 HTTP/1.1"
            assert (request.headers["host"], request.headers["x-mine"]) == (f"{NAME}:{here.port}", "2")
            assert request.headers["user-agent"] == "ironpost"

    run(main())


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("/..%2Fa%40b%3Fc%23d%2Bx?e=%26f%3Dg%2Bh+i", "/..%2Fa%40b%3Fc%23d%2Bx?e=%26f%3Dg%2Bh+i"),
        ("/a@b!$&'()*+,;=:/?/?", "/a@b!$&'()*+,;=:/?/?"),
        ("/j\xf6?{", "/j%C3%B6?%7B"),
        ("", "/"),
    ],
)
def test_what_is_encoded_in_a_url_stays_so(pair: Callable[..., Any], given: str, sent: str) -> None:
    async def main() -> None:
        async with pair(response(204)) as (here, http, url):
            await http.get(url + given, limits=SMALL)
            assert here.requests[0].line == f"GET {sent} HTTP/1.1"

    run(main())


def test_post_sends_the_body(pair: Callable[..., Any]) -> None:
    async def main() -> None:
        async with pair(response(201)) as (here, http, url):
            found = await http.post(f"{url}/hook", b'{"x": 1}', headers={"Content-Type": "application/json"})
            assert found.status == 201
            (request,) = here.requests
            assert (request.line, request.body) == ("POST /hook HTTP/1.1", b'{"x": 1}')
            assert request.headers["content-type"] == "application/json"

    run(main())


def test_gzip_is_decompressed(pair: Callable[..., Any]) -> None:
    async def main() -> None:
        packed = gzip.compress(b"x" * 900)
        async with pair(response(200, packed, Content_Encoding="gzip")) as (_, http, url):
            assert (await http.get(url, limits=SMALL)).body == b"x" * 900

    run(main())


def test_the_addresses_of_a_host_are_tried_in_turn(pair: Callable[..., Any]) -> None:
    """The server does not listen on the first one."""
    resolver = StaticResolver(addresses={NAME: ["127.0.0.2", "127.0.0.1"]})

    async def main() -> None:
        async with pair(response(200, b"here"), resolver=resolver) as (_, http, url):
            assert (await http.get(url, limits=SMALL)).body == b"here"

    run(main())


def test_requests_beyond_the_limit_wait_for_their_turn(pair: Callable[..., Any]) -> None:
    async def main() -> None:
        running = most = 0
        full = asyncio.Event()

        async def respond(_request: Request, writer: asyncio.StreamWriter) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            if running == 2:
                full.set()
            await full.wait()
            running -= 1
            writer.write(response())

        async with pair(respond, concurrency=2) as (here, http, url):
            await asyncio.gather(*(http.get(url, limits=SMALL) for _ in range(6)))
            assert (most, here.connections) == (2, 6)

    run(main())


def test_a_missing_aiohttp_is_named_with_what_installs_it(trusted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)

    async def main() -> None:
        with pytest.raises(ImportError, match=r"pip install 'ironpost\[mta\]'"):
            await HttpClient(HERE, authorities=trusted, allowed=LOOPBACK).get(f"https://{NAME}/")

    run(main())


# -- redirects --------------------------------------------------------------------------------------------------------


def redirecting(port: Callable[[], int], status: int = 302) -> Respond:
    """`/other` redirects to another name, `/loop` to itself, `/inside` to a loopback address, `/http` to `http`."""

    async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
        places = {
            "/other": f"https://other.example:{port()}/end",
            "/loop": "/loop",
            "/inside": f"https://127.0.0.1:{port()}/end",
            "/mapped": f"https://[::ffff:127.0.0.1]:{port()}/end",
            "/http": "http://www.a.example/end",
        }
        place = places.get(request.line.split()[1])
        writer.write(response(200, b"end") if place is None else response(status, Location=place))

    return respond


def test_redirects_are_not_followed_by_default(pair: Callable[..., Any]) -> None:
    async def main() -> None:
        async with pair(redirecting(lambda: here.port)) as (here, http, url):
            assert (await http.get(f"{url}/other", limits=SMALL)).status == 302
            assert len(here.requests) == 1

    run(main())


def test_a_redirect_loses_secrets_at_another_origin_and_their_number_is_limited(pair: Callable[..., Any]) -> None:
    async def main() -> None:
        limits = HttpLimits(redirects=2)
        async with pair(redirecting(lambda: here.port)) as (here, http, url):
            sent = {"Authorization": "Bearer x", "X-Key": "secret", "Accept": "text/plain"}
            assert (await http.get(f"{url}/other", headers=sent, limits=limits)).body == b"end"
            first, second = here.requests
            assert (first.headers["authorization"], first.headers["x-key"]) == ("Bearer x", "secret")
            assert {"authorization", "x-key"}.isdisjoint(second.headers)
            assert second.headers["accept"] == "text/plain"
            error = await failure(http.get(f"{url}/loop", limits=limits))
            assert error.failure is HttpFailure.REDIRECTS
            assert len(here.requests) == 2 + 3

    run(main())


def test_a_redirect_to_an_invalid_url_is_an_error(pair: Callable[..., Any]) -> None:
    async def main() -> None:
        async with pair(response(301, Location="https://[::1")) as (_, http, url):
            error = await failure(http.get(url, limits=HttpLimits(redirects=1)))
            assert error.failure is HttpFailure.URL

    run(main())


@pytest.mark.parametrize(("status", "followed"), [(302, 1), (307, 2)])
def test_a_post_is_repeated_only_by_a_redirect_that_keeps_the_method(
    status: int, followed: int, pair: Callable[..., Any]
) -> None:
    async def main() -> None:
        async with pair(redirecting(lambda: here.port, status)) as (here, http, url):
            await http.post(f"{url}/other", b"body", limits=HttpLimits(redirects=1))
            assert [each.body for each in here.requests] == [b"body"] * followed

    run(main())


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/inside", HttpFailure.ADDRESS), ("/mapped", HttpFailure.ADDRESS), ("/http", HttpFailure.URL)],
)
def test_r45_a_redirect_to_an_address_inside_is_refused(
    path: str, kind: HttpFailure, trusted: Path, tls: ssl.SSLContext
) -> None:
    """The server itself seems to be public; the redirect leads to loopback."""

    class Public(HttpClient):
        def _may_contact(self, address: Any) -> bool:
            return self._resolving or super()._may_contact(address)

        async def _addresses(self, url: Any) -> Any:
            self._resolving = url.hostname == NAME
            return await super()._addresses(url)

    async def main() -> None:
        async with https_server(tls, redirecting(lambda: here.port)) as here:
            http = Public(HERE, authorities=trusted)
            error = await failure(http.get(f"https://{NAME}:{here.port}{path}", limits=HttpLimits(redirects=3)))
            assert error.failure is kind
            assert len(here.requests) == 1

    run(main())


# -- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "purpose"),
    [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("10.1.2.3", "private"),
        ("172.31.0.1", "private"),
        ("192.168.1.1", "private"),
        ("fd00::1", "private"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("100.64.0.1", "shared"),
        ("0.0.0.0", "this network"),
        ("::", "unspecified"),
        ("192.0.2.1", "documentation"),
        ("2001:db8::1", "documentation"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("64:ff9b::7f00:1", "NAT64"),
        ("2002:7f00:1::", "6to4"),
        ("2001:0:7f00:1::", "Teredo"),
        ("::7f00:1", "reserved"),
        ("4000::1", "reserved"),
    ],
)
def test_r45_a_name_or_url_with_an_address_that_is_not_public_is_refused(
    address: str, purpose: str, trusted: Path
) -> None:
    resolver = StaticResolver(addresses={NAME: [address]})

    async def main() -> None:
        literal = f"[{address}]" if ":" in address else address
        for host in (NAME, literal):
            error = await failure(HttpClient(resolver, authorities=trusted).get(f"https://{host}/"))
            assert error.failure is HttpFailure.ADDRESS
            assert purpose in error.detail
            assert str(error).startswith(f"https://{host if host == NAME else '['[: ':' in address]}")

    run(main())


@pytest.mark.parametrize("host", ["2130706433", "127.1", "017700000001", "127.0.0.1.", "0177.0.0.1", "1.2.3.4.5"])
def test_r45_other_forms_of_an_address_are_not_resolved_by_the_system(host: str, trusted: Path) -> None:
    async def main() -> None:
        error = await failure(HttpClient(StaticResolver(), authorities=trusted).get(f"https://{host}/"))
        assert error.failure in (HttpFailure.URL, HttpFailure.ADDRESS)

    run(main())


def test_r45_only_public_addresses_of_a_name_are_contacted() -> None:
    resolver = StaticResolver(addresses={NAME: ["127.0.0.1", "198.41.0.4", "::1"]})

    async def main() -> None:
        from urllib.parse import urlsplit

        found = await HttpClient(resolver)._addresses(urlsplit(f"https://{NAME}/"))
        assert list(map(str, found)) == ["198.41.0.4"]

    run(main())


class Changing:
    """A resolver whose second answer differs (DNS rebinding)."""

    def __init__(self) -> None:
        self.asked = 0

    async def resolve(self, name: str, kind: RecordType, /) -> Records[Any]:
        if kind is not RecordType.A:
            return Records(True)
        self.asked += 1
        return Records(True, ("127.0.0.1",) if self.asked == 1 else ("127.0.0.99",))


def test_r45_a_name_is_looked_up_once_for_check_and_connection(pair: Callable[..., Any]) -> None:
    resolver = Changing()

    async def main() -> None:
        async with pair(response(200, b"first"), resolver=resolver) as (_, http, url):
            assert (await http.get(url, limits=SMALL)).body == b"first"
            assert resolver.asked == 1

    run(main())


# -- hostile servers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (("mx.a.example",), {}),
        ((NAME,), {"until": -DAY / 2}),
        ((NAME,), {"by": None}),
        ((NAME,), {"by": issue(common_name="Another authority", authority=True)}),
        ((), {"common_name": NAME}),
    ],
)
def test_r45_a_certificate_that_is_not_valid_for_the_name_is_refused(
    names: tuple[str, ...],
    options: dict[str, Any],
    authority: Certificate,
    pair: Callable[..., Any],
    tmp_path: Path,
) -> None:
    context = serving(issue(*names, **{"by": authority, **options}), tmp_path)

    async def main() -> None:
        async with pair(response(), context=context) as (here, http, url):
            error = await failure(http.get(url, limits=SMALL))
            assert error.failure is HttpFailure.CERTIFICATE
            assert error.detail
            assert not here.requests

    run(main())


def test_tls_below_1_2_is_refused(authority: Certificate, pair: Callable[..., Any], tmp_path: Path) -> None:
    context = serving(issue(NAME, by=authority), tmp_path)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1

    async def main() -> None:
        async with pair(response(), context=context) as (_, http, url):
            # OpenSSL may close the connection without an alert.
            assert (await failure(http.get(url, limits=SMALL))).failure in (HttpFailure.TLS, HttpFailure.CONNECT)

    run(main())


async def endless(_request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 500)
        await writer.drain()


async def slow(_request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx")
    await writer.drain()
    await asyncio.Event().wait()


def bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(50)) + packer.flush()


def fields(number: int) -> bytes:
    """A response with many header fields, 1,000 octets each."""
    return response(200, b"x", **{f"X_{each}": "x" * 1000 for each in range(number)})


@pytest.mark.parametrize(
    ("respond", "limits", "kind"),
    [
        (endless, SMALL, HttpFailure.SIZE),
        (always(response(200, b"x" * 1001)), SMALL, HttpFailure.SIZE),
        (always(response(200, bomb(), Content_Encoding="gzip")), HttpLimits(size=100_000), HttpFailure.SIZE),
        (always(response(200, gzip.compress(b"x" * 1001), Content_Encoding="gzip")), SMALL, HttpFailure.SIZE),
        (slow, HttpLimits(seconds=0.2), HttpFailure.TIME),
        (always(response(200, gzip.compress(b"x")[:-4], Content_Encoding="gzip")), SMALL, HttpFailure.PROTOCOL),
        (always(response(200, b"not gzip", Content_Encoding="gzip")), SMALL, HttpFailure.PROTOCOL),
        (always(response(200, b"x", Content_Encoding="br")), SMALL, HttpFailure.PROTOCOL),
        (always(b"SSH-2.0-OpenSSH\r\n\r\n"), SMALL, HttpFailure.PROTOCOL),
        (always(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort"), SMALL, HttpFailure.PROTOCOL),
        (always(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"), SMALL, HttpFailure.PROTOCOL),
        (always(fields(5000)), SMALL, HttpFailure.PROTOCOL),
        (always(response(200, b"x", Content_Encoding="\x85\u202e")), SMALL, HttpFailure.PROTOCOL),
        (always(b""), SMALL, HttpFailure.PROTOCOL),
    ],
)
def test_r45_a_response_that_exceeds_a_limit_or_is_invalid_is_an_error(
    respond: Respond, limits: HttpLimits, kind: HttpFailure, pair: Callable[..., Any]
) -> None:
    async def main() -> None:
        async with pair(respond) as (_, http, url):
            error = await failure(http.get(f"{url}/x?token=secret", limits=limits))
            assert error.failure is kind
            assert str(error).startswith(f"{url}/x: ")
            assert "secret" not in str(error)
            assert str(error).isprintable()

    run(main())


def test_the_wait_for_a_turn_counts_as_time_of_the_request(pair: Callable[..., Any]) -> None:
    async def main() -> None:
        async with pair(slow, concurrency=1) as (here, http, url):
            found = await asyncio.gather(*(failure(http.get(url, limits=HttpLimits(seconds=0.2))) for _ in range(3)))
            assert {error.failure for error in found} == {HttpFailure.TIME}
            assert here.connections <= 2

    run(main())


# -- requests that cannot be made -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://www.a.example/",
        "ftp://www.a.example/",
        "https://user:word@www.a.example/",
        "https:///path",
        "https://a b.example/",
        "https://a.example/\r\nX: y",
        "https://a.example:99999/",
        "https://[::1/",
        "https://a%2eexample/",
        "https://good.example\\@127.0.0.1/",
        "https://-_~.example/",
        "",
    ],
)
def test_r45_other_urls_are_refused(url: str) -> None:
    async def main() -> None:
        error = await failure(HttpClient(HERE).get(url))
        assert error.failure is HttpFailure.URL
        assert "word" not in str(error)
        assert str(error).isprintable()

    run(main())


@pytest.mark.parametrize(
    ("resolver", "detail"),
    [
        (StaticResolver(), "does not exist"),
        (StaticResolver(addresses={NAME: []}), "has no address"),
        (StaticResolver(failing=[NAME]), "no name server answers"),
    ],
)
def test_a_name_without_address_is_an_error(resolver: StaticResolver, detail: str, trusted: Path) -> None:
    async def main() -> None:
        error = await failure(HttpClient(resolver, authorities=trusted).get(f"https://{NAME}/"))
        assert error.failure is HttpFailure.LOOKUP
        assert detail in str(error)

    run(main())


def test_a_host_that_does_not_answer_is_an_error(trusted: Path, tls: ssl.SSLContext) -> None:
    async def main() -> None:
        async with https_server(tls, always(response())) as here:
            port = here.port
        http = HttpClient(HERE, authorities=trusted, allowed=LOOPBACK)
        assert (await failure(http.get(f"https://{NAME}:{port}/"))).failure is HttpFailure.CONNECT

    run(main())
