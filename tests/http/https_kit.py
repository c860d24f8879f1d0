"""An HTTPS server on loopback whose responses are written by the test, octet by octet if necessary."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.authority import Certificate

    Respond: TypeAlias = Callable[["Request", asyncio.StreamWriter], Awaitable[None]]


def serving(certificate: Certificate, folder: Path) -> ssl.SSLContext:
    """The TLS context of a server with a certificate, which is written into a folder."""
    chain, key = folder / "chain.pem", folder / "key.pem"
    certificate.write(chain, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    return context


class Request(NamedTuple):
    """A request as it was received."""

    line: str
    headers: dict[str, str]
    body: bytes


class HttpsServer:
    """The server; `respond` may be replaced."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.requests: list[Request] = []
        self.connections = 0
        self.port = 0
        self._running: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in head[1:-2])}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.requests.append(Request(head[0], headers, body))
            await self.respond(self.requests[-1], writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):  # ssl.SSLError is an OSError
            pass
        finally:
            self._running.discard(task)
            writer.close()

    async def close(self) -> None:
        for task in list(self._running):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*self._running, return_exceptions=True)


def response(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    """The octets of a response; `_` in the name of a header field stands for `-`."""
    fields = {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def always(octets: bytes) -> Respond:
    """Respond to everything with these octets."""

    async def respond(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(octets)

    return respond


@asynccontextmanager
async def https_server(context: ssl.SSLContext, respond: Respond) -> AsyncIterator[HttpsServer]:
    """Serve on a free port of 127.0.0.1."""
    here = HttpsServer(respond)
    server = await asyncio.start_server(here.serve, "127.0.0.1", 0, ssl=context, limit=1 << 20)
    here.port = server.sockets[0].getsockname()[1]
    try:
        yield here
    finally:
        server.close()
        await here.close()
        await server.wait_closed()
