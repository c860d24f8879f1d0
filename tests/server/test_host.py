"""Connections without a `Server`: a program that embeds them implements the `Host` port itself."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from typing import TYPE_CHECKING

from server_kit import Client, Open, codes

from ironpost.model.ports import Uncounted
from ironpost.protocol import replies
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import Timeouts, TlsContext
from ironpost.server.connection import ServerConnection
from ironpost.server.fairness import CLOSES, READS, CallQueue
from ironpost.server.preamble import PendingConnection
from ironpost.server.self_signed import write_self_signed
from ironpost.server.tls_transport import BUFFER

if TYPE_CHECKING:
    from collections.abc import Callable

    from ironpost.model import Reply
    from ironpost.server.host import Host, HostedConnection


class EmbeddedHost:
    """The smallest host: no limits but one on the number of connections, no proxies, no sweep."""

    def __init__(self, handler, tls=None, implicit_tls=False, most=10):
        self.loop = asyncio.get_running_loop()
        self.handler = handler
        self.settings = ServerSettings("embedded.example", starttls=tls is not None and not implicit_tls)
        self.overrides = None
        self.timeouts = Timeouts()
        self.metrics = Uncounted()
        self.stopping = False
        self.tls = tls
        self.implicit_tls = implicit_tls
        self.read_buffer = memoryview(bytearray(BUFFER))
        self.greeting_delay: float | None = 0.0
        self.read_queue = CallQueue(self.loop, READS)
        self.close_queue = CallQueue(self.loop, CLOSES)
        self.connections: set[HostedConnection] = set()
        self.networks: list[str] = []
        self.most = most

    def is_proxy(self, ip: str) -> bool:
        return False

    def greet_later(self, greet: Callable[[], None]) -> None:
        self.loop.call_later(self.greeting_delay or 0.0, greet)

    def admit(self, connection: HostedConnection) -> Reply | None:
        if len(self.connections) >= self.most:
            return replies.TOO_MANY_CONNECTIONS
        self.connections.add(connection)
        return None

    def admit_client(self, ip: str) -> tuple[str, Reply | None]:
        self.networks.append(ip)
        return ip, None

    def replace(self, old: HostedConnection, new: HostedConnection) -> None:
        self.connections.remove(old)
        self.connections.add(new)

    def release(self, connection: HostedConnection, network: str = "", failures: int = 0) -> None:
        self.connections.remove(connection)
        self.networks.remove(network)


def certificate(tmp_path):
    pair = tmp_path / "a.pem", tmp_path / "a.key"
    write_self_signed(*pair, ["localhost"])
    return TlsContext.load([pair]), ssl.create_default_context(cafile=pair[0])


async def listen(host: Host, kind=ServerConnection):
    server = await host.loop.create_server(lambda: kind(host), "127.0.0.1")
    return server, server.sockets[0].getsockname()[1]


def deliver(port, context=None):
    with smtplib.SMTP("127.0.0.1", port, local_hostname="client.example") as smtp:
        if context is not None:
            smtp._host = "localhost"  # the name in the certificate
            smtp.starttls(context=context)
        smtp.sendmail("a@b.example", ["c@d.example"], b"Subject: x\r\n\r\nhello\r\n")


def test_a_program_without_a_server_accepts_mail(run):
    async def scenario():
        handler = Open()
        host = EmbeddedHost(handler)
        server, port = await listen(host)
        await asyncio.to_thread(deliver, port)
        await handler.gone.wait()
        assert handler.messages == [b"Subject: x\r\n\r\nhello\r\n"]
        await asyncio.sleep(0)
        assert (host.connections, host.networks) == (set(), [])
        server.close()

    run(scenario())


def test_a_program_without_a_server_offers_starttls(run, tmp_path):
    async def scenario():
        tls, context = certificate(tmp_path)
        handler, seen = Open(), []
        handler.mail = lambda session, *_: seen.append(session.tls.version)
        server, port = await listen(EmbeddedHost(handler, tls))
        await asyncio.to_thread(deliver, port, context)
        await handler.gone.wait()
        assert handler.messages == [b"Subject: x\r\n\r\nhello\r\n"]
        assert seen == ["TLSv1.3"]
        server.close()

    run(scenario())


def test_a_program_without_a_server_offers_implicit_tls(run, tmp_path):
    async def scenario():
        tls, context = certificate(tmp_path)
        host = EmbeddedHost(Open(), tls, implicit_tls=True)
        server, port = await listen(host, lambda host: PendingConnection(host, ServerConnection))
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        client = Client(reader, writer)
        assert codes(await client.reply()) == [b"220"]
        (connection,) = host.connections
        assert isinstance(connection, ServerConnection)
        assert codes(await client.say(b"QUIT\r\n")) == [b"221"]
        await client.close()
        await host.handler.gone.wait()
        server.close()

    run(scenario())


def test_the_host_decides_who_is_admitted(run):
    async def scenario():
        host = EmbeddedHost(Open(), most=1)
        server, port = await listen(host)
        first = Client(*await asyncio.open_connection("127.0.0.1", port))
        assert codes(await first.reply()) == [b"220"]
        second = Client(*await asyncio.open_connection("127.0.0.1", port))
        assert await second.rest() == replies.TOO_MANY_CONNECTIONS.octets
        (connection,) = host.connections
        connection.shutdown()
        assert await first.rest() == replies.SHUTTING_DOWN.octets
        for client in (first, second):
            await client.close()
        await host.handler.gone.wait()
        server.close()

    run(scenario())


def test_the_host_decides_when_to_greet(run):
    async def scenario():
        host = EmbeddedHost(Open())
        host.greeting_delay = 0.01
        server, port = await listen(host)
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        assert codes(await client.reply()) == [b"220"]
        await client.close()
        await host.handler.gone.wait()
        server.close()

    run(scenario())
