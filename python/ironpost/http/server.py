"""The HTTP server: for a few small resources, on the sockets, limits and TLS of every other listener.

Promises: a connection has one request, so what follows a request is never taken for another. Its head must be complete
within `HEAD_SECONDS`, the response within `REQUEST_SECONDS`; a slower client is disconnected. The head is bounded by
aiohttp, a body by the handler, before it is read where its length is stated; nothing is decompressed. A handler that
raises answers 500, and affects no other request (SECURITY R22, R24). `stop` lets requests that have begun finish;
`retire` aborts those whose body is incomplete.
Refuses: with 400, what is not HTTP/1.1 or 1.0, a request with two lengths, and one with several Host fields; with 415,
a body with a content coding.
Standards: RFC 9110 §10.1.1 (Expect), §15.5 (client errors), RFC 9112 §3.2 (Host), §6.3 (length of a body).
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar, Final

from aiohttp import HttpVersion11, web

from ironpost.http.exchange import HttpRefusal, Request, Response
from ironpost.model.text import escape
from ironpost.server.acceptor import Acceptor
from ironpost.server.limits import Excess
from ironpost.server.preamble import PendingConnection
from ironpost.telemetry.events import record

if TYPE_CHECKING:
    from typing import Unpack

    from ironpost.http.exchange import HttpHandler
    from ironpost.protocol.server.transaction import Peer, TlsInfo
    from ironpost.server.acceptor import AcceptorOptions

HEAD_SECONDS: Final = 15.0
"""Seconds from the end of the TLS handshake to the end of the header section."""
REQUEST_SECONDS: Final = 60.0
"""Seconds from the end of the TLS handshake to the end of the response."""
LINE: Final = 2048
"""Octets of a request line."""
FIELD: Final = 4096
"""Octets of a header field."""
FIELDS: Final = 64
"""Header fields of a request."""
LINGER: Final = 5.0
"""Seconds for which a body that nobody wants is read, so that the client sees the response."""

LOG = logging.getLogger("ironpost.http")


class _Unavailable:
    """What is sent to a connection that is refused; see `Refusal`."""

    octets: Final = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class HttpServer(Acceptor):
    """A server of HTTP or HTTPS. Its options are those of `Acceptor`; STARTTLS does not exist here."""

    refusals: ClassVar = dict.fromkeys(Excess, _Unavailable())

    def __init__(self, handler: HttpHandler, host: str | None, port: int, **options: Unpack[AcceptorOptions]) -> None:
        """Create it, as `Acceptor`; the handler may be replaced while it runs."""
        super().__init__(host, port, **options)
        self.handler = handler

    def connection(self) -> asyncio.Protocol:
        """See `Acceptor.connection`."""
        return PendingConnection(self, HttpConnection)


class HttpConnection(asyncio.Protocol):
    """One client's connection, for one request."""

    __slots__ = (
        "_exchange",
        "_input_ended",
        "_ip",
        "_received",
        "_request",
        "_started",
        "host",
        "network",
        "transport",
    )

    def __init__(self, host: HttpServer) -> None:
        self.host = host
        self.transport: asyncio.Transport
        """The TCP or Unix transport, or the `TlsTransport` on top of it."""
        self.network = ""
        """The network for which the host counts the client; empty if it is not counted."""
        self._ip = ""
        self._request: web.BaseRequest | None = None
        """The request, once its head was received."""
        self._received = False
        """Something was received."""
        self._input_ended = False
        """The client will send no more."""
        self._started = 0.0
        """The time at which the request was awaited, by `loop.time()`."""
        self._exchange: _Exchange
        """The protocol of aiohttp."""

    def begin(
        self,
        transport: asyncio.Transport,
        peer: Peer,
        network: str,
        tls: TlsInfo | None,  # noqa: ARG002 - as for `ServerConnection`
        received: bytes = b"",
        *,
        early: bool = False,  # noqa: ARG002 - as above
    ) -> None:
        """Await the request; see `ServerConnection.begin`."""
        self.transport, self.network, self._ip = transport, network, peer.ip
        self._started = self.host.loop.time()
        self._exchange = _Exchange(self)
        self._exchange.connection_made(transport)
        if received:
            self.data_received(received)
        if self.host.stopping:
            self.shutdown()

    # -----------------------------------------------------------------------------------------------------------------
    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Pass input to aiohttp."""
        self._received = True
        self._exchange.data_received(data)

    def eof_received(self) -> bool:
        """Handle the end of the client's input; a client whose request is complete may still read."""
        self._input_ended = True
        # aiohttp may have parsed a request that `answer` has not seen yet.
        return self._received if self._request is None else self._request.content.is_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection."""
        self._exchange.connection_lost(exc)
        self.host.release(self, self.network)

    def pause_writing(self) -> None:
        """Pass back-pressure to aiohttp."""
        self._exchange.pause_writing()

    def resume_writing(self) -> None:
        """Pass the end of back-pressure to aiohttp."""
        self._exchange.resume_writing()

    # -----------------------------------------------------------------------------------------------------------------
    # HostedConnection

    def sweep(self, now: float) -> None:
        """See `HostedConnection`."""
        begun = self._request is not None
        if now - self._started > (REQUEST_SECONDS if begun else HEAD_SECONDS):
            self.host.metrics.count("sessions_ended", "request" if begun else "head")
            LOG.info("%s took too long for its request", self._ip or "a client")
            self.transport.abort()

    def shutdown(self) -> None:
        """See `HostedConnection`: a request that has begun is answered, which ends the connection."""
        if self._request is None:
            self.transport.close()

    def retire(self) -> None:
        """See `HostedConnection`: a request whose body is still being received is aborted, which frees its memory."""
        if self._request is not None and not self._request.content.is_eof():
            self.transport.abort()
        else:
            self.shutdown()

    def abort(self) -> None:
        """See `HostedConnection`."""
        self.transport.abort()

    # -----------------------------------------------------------------------------------------------------------------
    # The request

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Answer the request.

        Raises:
            ConnectionError: the client has gone.
        """
        self._request = request
        if self._input_ended and not request.content.is_eof():
            raise ConnectionResetError("the body is incomplete")
        hosts = request.headers.getall("Host", [])
        try:
            if len(hosts) > 1:
                raise HttpRefusal(Response.of(HTTPStatus.BAD_REQUEST, "several Host fields"))
            host = request.host.partition(":")[0].removesuffix(".").lower() if hosts else ""
            media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            path = request.rel_url.raw_path
            wanted = Request(request.method, host, path, media_type, self._ip, self._read)
            response = await self.host.handler(wanted)
        except HttpRefusal as refusal:
            response = refusal.response
        except ConnectionError:
            raise
        except Exception:
            LOG.exception("a request of %s failed", self._ip or "a client")
            response = Response.of(HTTPStatus.INTERNAL_SERVER_ERROR)
        return self.sent(request, response)

    def sent(self, request: web.BaseRequest, response: Response) -> web.Response:
        """Log and count a response, and give it the form of aiohttp."""
        self.host.metrics.count("http_requests", str(int(response.status)))
        record(
            LOG,
            "http-request",
            ip=self._ip,
            method=escape(request.method, ascii_only=True),
            host=escape(request.headers.get("Host", ""), ascii_only=True),
            path=escape(request.rel_url.raw_path, ascii_only=True),
            status=int(response.status),
        )
        headers = {
            "Content-Type": response.media_type,
            "Cache-Control": "no-store",
            "Server": "ironpost",
            "X-Content-Type-Options": "nosniff",
            **dict(response.headers),
        }
        made = web.Response(status=response.status, body=response.body, headers=headers)
        made.force_close()
        return made

    async def _read(self, limit: int) -> bytes:
        """See `Request.read`."""
        request = self._request
        assert request is not None
        if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise HttpRefusal(Response.of(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "content coding"))
        too_large = HttpRefusal(Response.of(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"maximum: {limit} octets"))
        if (request.content_length or 0) > limit:
            raise too_large
        expected = request.headers.get("Expect", "").lower() == "100-continue"
        if expected and request.version >= HttpVersion11 and not request.content.is_eof():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = bytearray()
        try:
            async for piece in request.content.iter_any():
                body += piece
                if len(body) > limit:
                    raise too_large
        except web.RequestPayloadError:
            raise HttpRefusal(Response.of(HTTPStatus.BAD_REQUEST, "invalid chunks")) from None
        return bytes(body)


class _Exchange(web.RequestHandler):
    """What aiohttp does on one connection: it parses the request and writes the response."""

    __slots__ = ("_connection",)

    def __init__(self, connection: HttpConnection) -> None:
        self._connection = connection
        super().__init__(
            web.Server(connection.answer),
            loop=connection.host.loop,
            keepalive_timeout=0.0,
            logger=LOG,
            access_log=None,  # type: ignore[arg-type] # `None` is allowed
            max_line_size=LINE,
            max_field_size=FIELD,
            max_headers=FIELDS,
            lingering_time=LINGER,
            auto_decompress=False,
        )

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it repeats the octets of the request
    ) -> web.StreamResponse:
        """Answer a request that could not be parsed; there is no traceback of it in the log."""
        if isinstance(exc, ConnectionError):
            raise exc  # ends the connection without an answer
        return self._connection.sent(request, Response.of(HTTPStatus(status)))
