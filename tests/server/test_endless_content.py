"""Clients that never stop sending: they get the reason, and the server reads a bounded amount."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from api_kit import Takes
from server_kit import ENVELOPE, Client, Open, codes, talking
from tests.server.test_tls import Raw

from ironpost import Server
from ironpost.client.tls import verifying
from ironpost.protocol import replies
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import BodyRefused, Timeouts, TlsContext, connection
from ironpost.server.self_signed import write_self_signed

SETTINGS = ServerSettings(max_size=65_536)
ENDED = replies.TOO_LARGE.octets + replies.CONTENT_ENDLESS.octets
PIECE = (b"x" * 1022 + b"\r\n") * 256


async def send_endlessly(client, ended):
    """Write until the other end closes the connection."""
    with contextlib.suppress(ConnectionError):
        while not ended.done():
            client.writer.write(PIECE)
            await client.writer.drain()


@pytest.mark.parametrize("way", ["DATA", "BDAT"])
def test_f29_a_client_that_never_stops_sending_gets_the_reason(run, way):
    async def scenario():
        handler = Open()
        async with talking(handler, settings=SETTINGS) as (server, client):
            await client.say(b"EHLO x.example\r\n")
            start = b"DATA\r\n" if way == "DATA" else b"BDAT 100000000000 LAST\r\n"
            await client.say(ENVELOPE + start, 3 if way == "DATA" else 2)
            (served,) = server.connections
            ended = asyncio.ensure_future(client.rest())
            await send_endlessly(client, ended)
            assert await ended == ENDED
            assert served.session.octets <= SETTINGS.max_read + len(PIECE)
            await client.close()
            await handler.gone.wait()
        assert handler.messages == []

    run(scenario())


def test_f29_a_client_that_never_stops_sending_gets_the_reason_under_tls(run, tmp_path):
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    write_self_signed(chain, key, ["localhost", "127.0.0.1"])

    async def scenario():
        tls = TlsContext.load([(chain, key)])
        async with Server(Open(), "127.0.0.1", settings=SETTINGS, tls=tls, implicit_tls=True) as server:
            client = await Client.to(server, ssl=verifying(str(chain)), server_hostname="localhost")
            await client.say(b"EHLO x.example\r\n")
            await client.say(ENVELOPE + b"DATA\r\n", 3)
            ended = asyncio.ensure_future(client.rest())
            await send_endlessly(client, ended)
            assert await ended == ENDED
            await client.close()

    run(scenario())


def test_f29_after_the_last_reply_a_bounded_amount_is_read(run, monkeypatch):
    monkeypatch.setattr(connection, "LINGER", 1 << 20)

    async def scenario():
        async with talking(Open(), settings=SETTINGS, timeouts=Timeouts(linger=60.0)) as (server, client):
            await client.say(b"EHLO x.example\r\n")
            await client.say(ENVELOPE + b"BDAT 100000000000 LAST\r\n", 2)
            (served,) = server.connections
            while not served._discarded > connection.LINGER:
                client.writer.write(PIECE)
                await client.writer.drain()
            never = asyncio.get_running_loop().create_future()
            with pytest.raises(TimeoutError):  # the window is closed
                await asyncio.wait_for(send_endlessly(client, never), 0.3)
            assert served._discarded <= connection.LINGER + (1 << 20)
            assert await client.rest() == ENDED  # which the client can still read
            client.reset()
            served.abort()  # nothing is read, so the client's end is not noticed

    run(scenario())


def test_f29_after_the_last_reply_a_bounded_amount_is_read_under_tls(run, monkeypatch, tmp_path):
    monkeypatch.setattr(connection, "LINGER", 1 << 20)
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    write_self_signed(chain, key, ["localhost", "127.0.0.1"])
    tls = TlsContext.load([(chain, key)])

    async def scenario():
        options = {"settings": SETTINGS, "timeouts": Timeouts(linger=60.0), "tls": tls, "implicit_tls": True}
        async with Server(Open(), "127.0.0.1", **options) as server, Raw(verifying(str(chain)), server) as client:
            await client.shake_hands()
            assert codes(await client.say(b"")) == [b"220"]
            await client.say(b"EHLO x.example\r\n")
            said = await client.say(ENVELOPE + b"BDAT 100000000000 LAST\r\n", 4)
            assert codes(said) == [b"250", b"250", b"552", b"421"]
            (served,) = server.connections

            async def sends():
                while True:
                    await client.send(PIECE)  # the server no longer decrypts it

            with pytest.raises(TimeoutError):
                await asyncio.wait_for(sends(), 1.0)
            assert connection.LINGER < served._discarded <= connection.LINGER + (1 << 20)
            served.abort()

    run(scenario())


def test_f29_the_connection_is_aborted_after_the_timeout(run, monkeypatch):
    monkeypatch.setattr(connection, "LINGER", 1 << 20)

    async def scenario():
        handler = Open()
        async with talking(handler, settings=SETTINGS, timeouts=Timeouts(linger=0.2)) as (_, client):
            await client.say(b"EHLO x.example\r\n")
            await client.say(ENVELOPE + b"BDAT 100000000000 LAST\r\n", 2)
            await send_endlessly(client, asyncio.ensure_future(handler.gone.wait()))
            await handler.gone.wait()

    run(scenario())


def test_f29_a_hook_that_reads_the_body_gets_the_error_at_once(run):
    async def scenario():
        outcome = asyncio.get_running_loop().create_future()

        class Streams(Takes):
            message = None

            async def data(self, session, body):
                try:
                    async for _ in body:
                        pass
                except BodyRefused as error:
                    outcome.set_result(error.reply)
                    raise

        async with talking(Streams(), settings=SETTINGS) as (_, client):
            await client.say(b"EHLO x.example\r\n")
            await client.say(ENVELOPE + b"DATA\r\n", 3)
            client.writer.write(PIECE)  # over the limit, without an end
            assert await outcome is replies.TOO_LARGE
            assert await client.say(b".\r\n") == replies.TOO_LARGE.octets

    run(scenario())
