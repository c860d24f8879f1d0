"""ATRN on real sockets, with and without TLS: the connection reverses its roles and leaves the server."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from server_kit import LOOPS, Client, Open, codes

from ironpost import Server
from ironpost.client.connection import Connection
from ironpost.model import Address, Disposition, Envelope, Recipient
from ironpost.protocol.client.session import OutgoingTransaction
from ironpost.protocol.server.transaction import HandOver, Identity
from ironpost.server import TlsContext
from ironpost.server.fairness import LARGE
from ironpost.server.self_signed import write_self_signed


class Provider(Open):
    """A provider that delivers one message over the customer's connection."""

    def __init__(self, suspends=False):
        super().__init__()
        self.suspends = suspends
        self.outcomes = asyncio.get_running_loop().create_future()

    def hello(self, session, verb, domain):
        session.identity = Identity("jo", "TEST")

    def turn(self, session, domains):
        return self.later() if self.suspends else HandOver(self.successor)

    async def later(self):
        await asyncio.sleep(0)
        return HandOver(self.successor)

    def successor(self):
        connection = Connection("provider.example", "customer")
        self.task = asyncio.get_running_loop().create_task(self.deliver(connection))
        return connection

    async def deliver(self, connection):
        await connection.opened()
        envelope = Envelope(Address.parse("a@b.example"), (Recipient(Address.parse("c@d.example")),))
        transaction = OutgoingTransaction(envelope, content=b"Subject: x\r\n\r\n.dot\r\n")
        await connection.transact(transaction)
        self.outcomes.set_result(transaction.outcomes)
        await connection.quit()


async def serve(client):
    """Act as the customer's server, from the greeting to the end."""
    client.writer.write(b"220 customer.example\r\n")
    heard = []
    while line := await client.reader.readline():
        heard.append(line)
        if line.startswith(b"DATA"):
            client.writer.write(b"354 go\r\n")
            while (line := await client.reader.readline()) != b".\r\n":
                heard.append(line)
        client.writer.write(b"250 OK\r\n")
    return heard


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("suspends", [False, True])
@pytest.mark.parametrize("protection", ["clear", "starttls", "implicit"])
def test_the_connection_changes_its_direction(loop, suspends, protection, tmp_path) -> None:
    async def main():
        tls = context = None
        if protection != "clear":
            files = tmp_path / "a.pem", tmp_path / "a.key"
            write_self_signed(*files, ["localhost"])
            tls, context = TlsContext.load([files]), ssl.create_default_context(cafile=files[0])
        handler = Provider(suspends)
        implicit = protection == "implicit"
        async with Server(handler, "127.0.0.1", tls=tls, implicit_tls=implicit) as server:
            options = {"ssl": context, "server_hostname": "localhost"} if implicit else {}
            client = await Client.to(server, **options)
            if protection == "starttls":
                await client.say(b"EHLO customer.example\r\n")
                assert codes(await client.say(b"STARTTLS\r\n")) == [b"220"]
                await client.writer.start_tls(context, server_hostname="localhost")
            assert b"250-ATRN\r\n" in await client.say(b"EHLO customer.example\r\n")
            assert codes(await client.say(b"ATRN\r\n")) == [b"250"]
            assert not server.connections  # the server no longer owns it, and may stop
            heard = await asyncio.wait_for(serve(client), 20)
            await client.close()
            await handler.task
        assert heard[0] == b"EHLO provider.example\r\n"
        assert heard[1].startswith(b"MAIL FROM:<a@b.example>")
        assert heard[-4:-1] == [b"Subject: x\r\n", b"\r\n", b"..dot\r\n"]
        assert heard[-1] == b"QUIT\r\n"
        assert [each.disposition for each in await handler.outcomes] == [Disposition.DELIVERED]
        assert handler.gone.is_set()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


def test_r9_a_greeting_before_the_reply_to_atrn_closes() -> None:
    async def main():
        handler = Provider(suspends=True)
        async with Server(handler, "127.0.0.1") as server:
            client = await Client.to(server)
            await client.say(b"EHLO customer.example\r\n")
            client.writer.write(b"ATRN\r\n220 customer.example\r\n")
            assert await client.rest() == b""
            await client.close()
        assert not handler.outcomes.done()

    asyncio.run(main())


def test_r9_a_queued_large_read_after_atrn_closes() -> None:
    async def scenario():
        made = []

        class Asked(Provider):
            def turn(self, session, domains):
                self.answer = asyncio.get_running_loop().create_future()
                return self.answer

        handler = Asked()
        async with Server(handler, "127.0.0.1") as server:
            client = await Client.to(server)
            await client.say(b"EHLO x.example\r\n")
            client.writer.write(b"ATRN\r\n")
            (connection,) = server.connections
            while connection.session.pending is None:
                await asyncio.sleep(0)
            handler.answer.set_result(HandOver(lambda: made.append(1) or asyncio.Protocol()))
            connection.data_received(bytes(LARGE))  # in the pieces that the loop reads
            await client.rest()
            assert not made
            await client.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))
