"""The HTTP client: GET and POST over HTTPS, with limits, to addresses that may be contacted.

Promises: the host name is looked up once, by the `Resolver`, and the connection goes to one of the addresses that were
checked, so an answer that changes afterwards has no effect (DNS rebinding). The check covers every redirect and both
families (SECURITY R45). The certificate is valid for the name in the URL; TLS is 1.2 or later. A response that exceeds
a limit is not read to its end: the size limit applies to the body, both as received and after decompression; the time
limit to the whole request, including the wait for its turn. aiohttp, from version 3.14 on, limits the header section.
Proxies, cookies and credentials of the environment are not used.
Refuses: URLs other than `https`, or with a user name; responses with a content coding other than gzip.
Limitations: connections are not reused.
Standards: RFC 9110 §15.4 (redirects), §8.4 (content coding).
"""

from __future__ import annotations

import asyncio
import re
import socket
import zlib
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import SplitResult, quote

from ironpost.client.reach import connect_text
from ironpost.client.tls import failure_text, verifying
from ironpost.http.errors import HttpError, HttpFailure
from ironpost.model import dns
from ironpost.model.dns import ResolverError
from ironpost.model.network import special_purpose, unmapped
from ironpost.model.text import escape
from ironpost.model.url import https_parts

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from aiohttp import ClientResponse
    from aiohttp.abc import ResolveResult

    from ironpost.model.dns import Resolver
    from ironpost.model.network import IPAddress, Network

CONCURRENCY: Final = 100
"""Requests at a time; further ones wait in order."""
_PIECE: Final = 16_384
"""Octets read, and decompressed, at once."""
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
"""RFC 9110 §15.4."""
_KEEPS_METHOD: Final = frozenset({307, 308})
_FOR_ANY_ORIGIN: Final = frozenset({"accept", "content-type"})
"""The caller's header fields that are also sent to another origin after a redirect; others may be secret."""
_RESERVED: Final = ":/?#[]@!$&'()*+,;=%"
"""Characters that have a meaning in a URL (RFC 3986): what is percent-encoded stays so, and what is not, too."""
_CREDENTIALS: Final = re.compile(r"//[^/]*@")


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """The limits of one request."""

    size: int = 1 << 20
    """Octets of the body, before and after decompression."""
    seconds: float = 60.0
    """Seconds from the call to the end of the response."""
    redirects: int = 0
    """Redirects that are followed; with 0 the first redirect is the response."""


DEFAULT_LIMITS: Final = HttpLimits()


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A response, whatever its status."""

    status: int
    headers: Mapping[str, str]
    """Header fields by name in lower case; of a repeated field the first one."""
    body: bytes

    @property
    def media_type(self) -> str:
        """The media type in lower case, without parameters; empty if there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class HttpClient:
    """Makes requests. It holds no connection between them, so it needs no `close`."""

    def __init__(
        self,
        resolver: Resolver,
        *,
        authorities: Path | None = None,
        allowed: Sequence[Network] = (),
        concurrency: int = CONCURRENCY,
    ) -> None:
        """Create a client; nothing is loaded before the first request.

        Args:
            resolver: DNS.
            authorities: PEM file of the authorities that verify servers; the system's if None.
            allowed: networks that may be contacted although they are not public, for intranets and tests.
            concurrency: requests at a time.
        """
        self._resolver = resolver
        self._authorities = authorities
        self._allowed = tuple(allowed)
        self._turns = asyncio.Semaphore(concurrency)
        self._context: ssl.SSLContext | None = None

    async def get(
        self, url: str, *, headers: Mapping[str, str] | None = None, limits: HttpLimits = DEFAULT_LIMITS
    ) -> HttpResponse:
        """Get a resource.

        Args:
            url: an `https` URL.
            headers: further header fields of the request.
            limits: the limits of this request.

        Raises:
            HttpError: there is no response, or it exceeds a limit.
            ImportError: aiohttp is not installed.
            OSError: the authorities cannot be read.
        """
        return await self._request("GET", url, None, headers or {}, limits)

    async def post(
        self,
        url: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        limits: HttpLimits = DEFAULT_LIMITS,
    ) -> HttpResponse:
        """Post a body. A redirect is followed only if it keeps the method (307, 308). See `get`."""
        return await self._request("POST", url, body, headers or {}, limits)

    async def _request(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], limits: HttpLimits
    ) -> HttpResponse:
        parts = _parse(url)
        try:
            async with asyncio.timeout(limits.seconds), self._turns:
                for followed in range(limits.redirects + 1):
                    response = await self._exchange(method, parts, body, headers, limits.size)
                    location = response.headers.get("location")
                    again = method == "GET" or response.status in _KEEPS_METHOD
                    if not limits.redirects or response.status not in _REDIRECTS or location is None or not again:
                        return response
                    if followed == limits.redirects:
                        break
                    former, parts = parts, _parse(location, parts.geturl())
                    if former.netloc != parts.netloc:
                        headers = {name: value for name, value in headers.items() if name.lower() in _FOR_ANY_ORIGIN}
        except TimeoutError:
            raise HttpError(HttpFailure.TIME, _shown(parts), f"no response in {limits.seconds:g} seconds") from None
        raise HttpError(HttpFailure.REDIRECTS, _shown(parts), f"more than {limits.redirects}")

    async def _exchange(
        self, method: str, url: SplitResult, body: bytes | None, headers: Mapping[str, str], size: int
    ) -> HttpResponse:
        """One request and its response."""
        context = await self._prepared()
        import aiohttp  # `_prepared` has loaded it
        import yarl

        addresses = await self._addresses(url)
        shown = _shown(url)
        try:
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(
                        resolver=cast("Any", _Checked(addresses)),
                        use_dns_cache=False,
                        ssl=context,
                        force_close=True,
                    ),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    timeout=aiohttp.ClientTimeout(total=None),
                    auto_decompress=False,
                    skip_auto_headers=("User-Agent",),
                ) as session,
                session.request(
                    method,
                    yarl.URL(quote(url.geturl(), safe=_RESERVED), encoded=True),
                    data=body,
                    headers={"User-Agent": "ironpost", "Accept-Encoding": "gzip", **headers},
                    allow_redirects=False,
                ) as response,
            ):
                return await _read(response, size, shown)
        except aiohttp.ClientConnectorCertificateError as error:
            raise HttpError(HttpFailure.CERTIFICATE, shown, _why(error)) from None
        except aiohttp.ClientSSLError as error:
            raise HttpError(HttpFailure.TLS, shown, _why(error)) from None
        except aiohttp.ClientConnectorError as error:
            raise HttpError(HttpFailure.CONNECT, shown, connect_text(error.os_error)) from None
        except aiohttp.ClientResponseError as error:  # its text has the whole URL
            raise HttpError(HttpFailure.PROTOCOL, shown, escape(error.message)) from None
        except (aiohttp.ClientError, OSError) as error:
            raise HttpError(HttpFailure.PROTOCOL, shown, escape(str(error)) or type(error).__name__) from None

    async def _addresses(self, url: SplitResult) -> list[IPAddress]:
        """The addresses of the host that may be contacted."""
        host, shown = url.hostname or "", _shown(url)
        try:
            found = [ip_address(host)]
        except ValueError:
            try:
                answer = await dns.addresses(self._resolver, host)
            except ResolverError as error:
                raise HttpError(HttpFailure.LOOKUP, shown, str(error)) from None
            found = [ip_address(text) for text in answer.data]
            if not found:
                why = "has no address" if answer.exists else "does not exist"
                raise HttpError(HttpFailure.LOOKUP, shown, f"{host} {why}") from None
        found = [unmapped(address) for address in found]
        public = [address for address in found if self._may_contact(address)]
        if not public:
            raise HttpError(HttpFailure.ADDRESS, shown, f"{found[0]} is {special_purpose(found[0])} (see http.allow)")
        return public

    def _may_contact(self, address: IPAddress) -> bool:
        return special_purpose(address) is None or any(address in network for network in self._allowed)

    async def _prepared(self) -> ssl.SSLContext:
        """The TLS context; loads it and aiohttp for the first request, in a thread because that takes a while."""
        if self._context is None:
            self._context = await asyncio.to_thread(self._load)
        return self._context

    def _load(self) -> ssl.SSLContext:
        try:
            import aiohttp  # noqa: F401 - see `_prepared`
        except ImportError as error:
            raise ImportError(f"HTTP needs the package aiohttp, from pip install 'ironpost[mta]' ({error})") from None
        return verifying(None if self._authorities is None else str(self._authorities), common_name=False)


def _parse(url: str, base: str = "") -> SplitResult:
    """Split a URL (`model.url.https_parts`); `url` may be relative to `base`.

    Raises:
        HttpError: it is not valid.
    """
    try:
        return https_parts(url, base)
    except ValueError as error:
        shown = _CREDENTIALS.sub("//", url.partition("?")[0])
        raise HttpError(HttpFailure.URL, escape(shown), str(error)) from None


def _shown(url: SplitResult) -> str:
    return url._replace(query="").geturl()


class _Checked:
    """Implements `aiohttp.abc.AbstractResolver`: every name has the addresses that were checked."""

    def __init__(self, addresses: Sequence[IPAddress]) -> None:
        self._addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:  # noqa: ARG002
        """Return the addresses; the request is for `host`."""
        return [
            {
                "hostname": host,
                "host": str(address),
                "port": port,
                "family": socket.AF_INET if address.version == 4 else socket.AF_INET6,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in self._addresses
        ]

    async def close(self) -> None:
        """Do nothing."""


async def _read(response: ClientResponse, size: int, shown: str) -> HttpResponse:
    """The whole response, as long as it is within `size`."""
    headers = {name.lower(): value for name, value in reversed(tuple(response.headers.items()))}
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "gzip", "x-gzip"):
        raise HttpError(HttpFailure.PROTOCOL, shown, f"unknown content coding {coding[:40]!a}")
    unzip = None if coding == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 16)
    body = bytearray()
    received = 0
    async for piece in response.content.iter_chunked(_PIECE):
        received += len(piece)
        if received <= size:
            try:
                body += piece if unzip is None else unzip.decompress(piece, size + 1 - len(body))
            except zlib.error as error:
                raise HttpError(HttpFailure.PROTOCOL, shown, f"invalid gzip: {error}") from None
        if max(received, len(body)) > size:
            raise HttpError(HttpFailure.SIZE, shown, f"more than {size} octets")
    if unzip is not None and received and not unzip.eof:
        raise HttpError(HttpFailure.PROTOCOL, shown, "invalid gzip: it is incomplete")
    return HttpResponse(response.status, headers, bytes(body))


def _why(error: Any) -> str:
    """The text of an error of TLS that aiohttp has wrapped."""
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
    return failure_text(inner) if isinstance(inner, OSError) else str(inner or error)
