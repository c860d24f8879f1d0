"""Connections that end in an unusual way leave nothing running."""

import asyncio
import gc
import ssl
import threading
import warnings

import pytest
from tests.server.server_kit import ENVELOPE, PATIENCE, Client, Open, codes

from ironpost import Server
from ironpost.accounts.passwords import PasswordPool, PasswordPoolBusy
from ironpost.server import BaseHandler, TlsContext, tls_transport
from ironpost.server.self_signed import write_self_signed


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    write_self_signed(folder / "chain", folder / "key", ["localhost"])
    return TlsContext.load([(folder / "chain", folder / "key")])


def test_f28_stop_does_not_wait_for_a_handshake_that_never_begins(run, tls):
    async def scenario():
        server = Server(BaseHandler(), "127.0.0.1", tls=tls)
        await server.start()
        client = await Client.to(server)
        await client.say(b"EHLO x.example\r\n")
        assert codes(await client.say(b"STARTTLS\r\n")) == [b"220"]
        await asyncio.wait_for(server.stop(grace=3600), PATIENCE)
        assert not server.connections
        client.writer.close()

    run(scenario())


def test_f28_starttls_after_the_end_of_the_stream_keeps_no_connection(run, tls):
    asked, go = asyncio.Event(), asyncio.Event()

    class Slow(BaseHandler):
        async def hello(self, session, verb, domain):
            asked.set()
            await go.wait()

    gone = asyncio.Event()

    class Watched(Slow):
        def disconnect(self, session):
            gone.set()

    async def scenario():
        async with Server(Watched(), "127.0.0.1", tls=tls) as server:
            client = await Client.to(server)
            client.writer.write(b"EHLO x.example\r\nSTARTTLS\r\n")
            await asked.wait()
            client.writer.write_eof()
            for _ in range(20):
                await asyncio.sleep(0)
            go.set()
            await asyncio.wait_for(gone.wait(), PATIENCE)
            assert not server.connections
            client.writer.close()

    run(scenario())


def test_f28_openssl_gets_large_content_in_pieces(run, tls, monkeypatch):
    most = 0

    feed = tls_transport.TlsTransport._feed

    def watched(self, rest):
        nonlocal most
        left = feed(self, rest)
        most = max(most, self._incoming.pending)
        return left

    async def scenario():
        handler = Open()
        async with Server(handler, "127.0.0.1", tls=tls) as server:
            client = await Client.to(server)
            await client.say(b"EHLO x.example\r\n")
            await client.say(b"STARTTLS\r\n")
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            await client.writer.start_tls(context)
            await client.say(b"EHLO x.example\r\n")
            content = b"x" * 70 + b"\r\n"
            for line in (*ENVELOPE.splitlines(), b"DATA"):
                await client.say(line + b"\r\n")
            reply = await client.say(content * 30_000 + b".\r\n")
            assert codes(reply) == [b"250"]
            assert handler.messages == [content * 30_000]
            client.writer.close()

    monkeypatch.setattr(tls_transport.TlsTransport, "_feed", watched)
    run(scenario())
    assert 0 < most <= 3 * tls_transport.PIECE


def test_a_hook_cancelled_by_the_end_of_the_server_accepts_nothing(run):
    """The commands that follow it in the same batch are not executed."""

    async def scenario():
        taken = []

        class Slow(BaseHandler):
            asked = asyncio.Event()

            async def recipient(self, session, address, parameters):
                self.asked.set()
                await asyncio.Event().wait()

            def message(self, session, content, facts):
                taken.append(content.content)

        handler = Slow()
        server = Server(handler, "127.0.0.1")
        await server.start()
        client = await Client.to(server)
        await client.say(b"EHLO x.example\r\n")
        client.writer.write(b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nBDAT 15 LAST\r\nSubject: x\r\n\r\nx")
        await handler.asked.wait()
        await server.stop(grace=0.0)
        client.writer.close()
        assert taken == []

    run(scenario())


def test_f28_a_hook_cancelled_before_its_first_step_leaves_no_task(run):
    async def scenario():
        class Later(BaseHandler):
            async def hello(self, session, verb, domain):
                raise AssertionError("the client was gone before")

        async with Server(Later(), "127.0.0.1", greeting_delay=None) as server:
            client = await Client.to(server)
            (connection,) = server.connections
            connection.data_received(b"EHLO x.example\r\n")
            connection.transport.abort()
            connection.connection_lost(None)
            client.writer.close()
            for _ in range(5):
                await asyncio.sleep(0)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(scenario())
        gc.collect()


def test_f28_one_network_cannot_fill_the_queue_of_logins(run):
    async def scenario():
        pool = PasswordPool(threads=1, waiting=10, share=3)
        blocked = threading.Event()
        waiting = [asyncio.ensure_future(pool.run_for("a", blocked.wait, PATIENCE)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(PasswordPoolBusy):
            await pool.run_for("a", int)
        other = asyncio.ensure_future(pool.run_for("b", int))
        await asyncio.sleep(0)
        blocked.set()
        assert await other == 0
        await asyncio.gather(*waiting)
        assert await pool.run_for("a", int) == 0
        assert not pool._clients

    run(scenario())
