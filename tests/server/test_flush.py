"""`session.flush` on real sockets: the client gets the output of an override before the override returns."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from server_kit import Open, codes, talking

from ironpost.model import RawReply
from ironpost.protocol import replies
from ironpost.protocol.server.session import SAMPLE
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import TlsContext
from ironpost.server.connection import WINDOW
from ironpost.server.self_signed import write_self_signed

FLOOD = b"250-" + b"x" * 8000
ROUNDS = 4_000
"""A count of FLOOD: 32 MB, more than the kernel buffers for a client that does not read."""
WRITE_BUFFER = 65536
"""Octets at which both event loops call `pause_writing`."""


@pytest.mark.parametrize("protection", ["none", "STARTTLS"])
def test_the_client_gets_a_flushed_reply_before_the_override_returns(run, tmp_path, protection):
    async def scenario():
        event = asyncio.Event()

        async def early(session, command):
            session.write(b"250-early\r\n")
            session.flush()
            await event.wait()
            return RawReply("250 late")

        tls = None
        if protection == "STARTTLS":
            pair = tmp_path / "a.pem", tmp_path / "a.key"
            write_self_signed(*pair, ["localhost"])
            tls = TlsContext.load([pair])
        async with talking(Open(), overrides={"XSLOW": early}, tls=tls) as (_, client):
            await client.say(b"EHLO x.example\r\n")
            if tls is not None:
                await client.say(b"STARTTLS\r\n")
                context = ssl.create_default_context(cafile=pair[0])
                await client.writer.start_tls(context, server_hostname="localhost")
            client.writer.write(b"NOOP\r\nXSLOW\r\nNOOP\r\n")
            assert codes(await client.reply()) == [b"250"]
            assert await client.reader.readline() == b"250-early\r\n"
            event.set()
            assert await client.reply() == b"250 late\r\n"
            assert codes(await client.reply()) == [b"250"]

    run(scenario())


async def read_until(client, end):
    """Return the number of octets up to and including `end`, which must be the last ones."""
    octets, tail = 0, b""
    while tail != end:
        piece = await client.reader.read(1 << 20)
        assert piece, "the server closed the connection"
        octets += len(piece)
        tail = (tail + piece)[-len(end) :]
    return octets


def test_an_awaited_flush_waits_for_a_client_that_does_not_read(run):
    async def scenario():
        rounds = 0

        async def flood(session, command):
            nonlocal rounds
            for _ in range(ROUNDS):
                session.write(FLOOD + b"\r\n")
                await session.flush()
                rounds += 1
            return RawReply("250 end")

        async with talking(Open(), overrides={"XFLOOD": flood}) as (server, client):
            (connection,) = server.connections
            client.writer.transport.pause_reading()
            client.writer.write(b"XFLOOD\r\n")
            while connection._drained is None:
                await asyncio.sleep(0)
            assert rounds < ROUNDS
            assert connection.transport.get_write_buffer_size() < WRITE_BUFFER + 2 * len(FLOOD)
            client.writer.transport.resume_reading()
            assert await read_until(client, b"250 end\r\n") == ROUNDS * (len(FLOOD) + 2) + len("250 end\r\n")
            assert rounds == ROUNDS

    run(scenario())


def test_a_flush_that_is_not_awaited_does_not_write_to_a_client_that_does_not_read(run):
    async def scenario():
        def flood(session, command):
            session.write(FLOOD + b"\r\n")
            session.reply(RawReply("250 end"))
            session.flush()

        settings = ServerSettings(max_commands=10_000)
        async with talking(Open(), overrides={"X": flood}, settings=settings) as (server, client):
            (connection,) = server.connections
            client.writer.transport.pause_reading()
            client.writer.write(b"X\r\n" * ROUNDS + b"QUIT\r\n")
            while not connection.session.full:
                await asyncio.sleep(0)
            most = WRITE_BUFFER + WINDOW + (SAMPLE + 2) * len(FLOOD)
            assert connection.transport.get_write_buffer_size() < most
            client.writer.transport.resume_reading()
            assert await read_until(client, replies.GOODBYE.octets) > ROUNDS * len(FLOOD)

    run(scenario())


def test_a_waiting_flush_ends_when_the_client_disconnects(run):
    async def scenario():
        flushes = []

        def flood(session, command):
            async def write():
                while not flushes or not connection._writing_paused:
                    session.write(FLOOD + b"\r\n")
                    flushes.append(session.flush())
                    await asyncio.sleep(0)
                await flushes[-1]

            return asyncio.ensure_future(write())

        handler = Open()
        async with talking(handler, overrides={"X": flood}) as (server, client):
            (connection,) = server.connections
            client.writer.transport.pause_reading()
            client.writer.write(b"X\r\n")
            while not connection._writing_paused:
                await asyncio.sleep(0)
            client.reset()
            await handler.gone.wait()
            await flushes[-1]

    run(scenario())
