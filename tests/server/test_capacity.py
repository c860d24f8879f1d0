"""A server whose process is short of resources: who is refused, and whose session ends when."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from server_kit import ENVELOPE, Client, Open, codes, talking

from ironpost import Server
from ironpost.protocol import replies
from ironpost.server.limits import Capacity, Excess


class Counted:
    """A `Metrics` that remembers."""

    def __init__(self):
        self.counts = {}

    def count(self, name, label="", amount=1):
        self.counts[name, label] = self.counts.get((name, label), 0) + amount


@contextlib.asynccontextmanager
async def connecting(server):
    """Return a function that connects clients, which are closed at the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def connect(greeted=True):
            client = await Client.to(server, greeted)
            stack.push_async_callback(client.close)
            return client

        yield connect


@pytest.mark.parametrize("resource", [Excess.MEMORY, Excess.DESCRIPTORS])
def test_during_a_shortage_new_connections_get_421_and_open_ones_continue(run, resource):
    async def scenario():
        capacity, metrics = Capacity(), Counted()
        async with (
            talking(Open(), capacity=capacity, metrics=metrics) as (server, client),
            connecting(server) as connect,
        ):
            capacity.shortage = resource
            refused = await connect(greeted=False)
            assert await refused.rest() == b"421 4.3.2 Insufficient system resources, try again later\r\n"
            assert metrics.counts["connections_refused", resource.value] == server.refused == 1
            assert codes(await client.say(b"EHLO x.example\r\n")) == [b"250"]
            capacity.shortage = None
            assert codes(await (await connect()).say(b"QUIT\r\n")) == [b"221"]

    run(scenario())


def test_a_connection_before_its_session_is_refused_as_well(run):
    async def scenario():
        capacity = Capacity(shortage=Excess.MEMORY)
        async with (
            Server(Open(), "127.0.0.1", capacity=capacity, proxy=["127.0.0.1/32"]) as server,
            connecting(server) as connect,
        ):
            refused = await connect(greeted=False)
            assert await refused.rest() == replies.SHORTAGE.octets
            assert server.connections == set()

    run(scenario())


def test_connections_leave_the_reserved_descriptors_free(run):
    async def scenario():
        capacity, metrics = Capacity(), Counted()
        async with (
            talking(Open(), capacity=capacity, metrics=metrics) as (server, client),
            connecting(server) as connect,
        ):
            (connection,) = server.connections
            # Both ends are in this process: each connection takes two.
            capacity.descriptors = connection.transport.get_extra_info("socket").fileno() + 5
            clients = [await connect(greeted=False) for _ in range(50)]
            replied = [(await each.reply())[:3] for each in clients]
            assert replied.count(b"220") == len(server.connections) - 1 < 5
            assert replied.count(b"421") == metrics.counts["connections_refused", "descriptors"]
            assert len(replied) == replied.count(b"220") + replied.count(b"421")
            assert codes(await client.say(b"EHLO x.example\r\n")) == [b"250"]
            for each in clients:
                await each.close()
            while len(server.connections) > 1:
                await asyncio.sleep(0)
            assert codes(await (await connect()).say(b"QUIT\r\n")) == [b"221"]

    run(scenario())


def test_sessions_retire_when_their_transaction_has_ended(run):
    async def scenario():
        handler = Open()
        async with talking(handler) as (server, idle), connecting(server) as connect:
            unnamed = await connect()
            busy, sending = await connect(), await connect()
            for each in (idle, busy, sending):
                await each.say(b"EHLO x.example\r\n")
            await busy.say(b"MAIL FROM:<a@b.example>\r\n")
            await sending.say(ENVELOPE + b"DATA\r\n", 3)
            server.retire()
            server.retire()
            ended = replies.SHORTAGE.octets
            assert await idle.rest() == await unnamed.rest() == ended
            assert codes(await busy.say(b"RCPT TO:<c@d.example>\r\nDATA\r\n", 2)) == [b"250", b"354"]
            assert codes(await sending.say(b"one\r\n.\r\n")) == [b"250"]
            assert codes(await busy.say(b"two\r\n.\r\n")) == [b"250"]
            assert await sending.rest() == await busy.rest() == ended
            assert handler.messages == [b"one\r\n", b"two\r\n"]
            assert codes(await (await connect()).say(b"QUIT\r\n")) == [b"221"], "new ones are accepted"

    run(scenario())


def test_a_client_that_sends_without_pause_retires_too(run):
    async def scenario():
        handler = Open()
        async with talking(handler) as (server, client):
            await client.say(b"EHLO x.example\r\n")
            await client.say(ENVELOPE + b"DATA\r\n", 3)
            (connection,) = server.connections
            connection.retire()  # `server.retire` does it in a later iteration of the event loop
            assert codes(await client.say(b"one\r\n.\r\n" + ENVELOPE + b"DATA\r\n")) == [b"250"]
            assert await client.rest() == replies.SHORTAGE.octets
            assert handler.messages == [b"one\r\n"]

    run(scenario())


def test_a_session_retires_once_its_hook_has_answered(run):
    async def scenario():
        asked, answer = asyncio.Event(), asyncio.Event()

        class Slow(Open):
            async def hello(self, session, verb, domain):
                asked.set()
                await answer.wait()

        async with talking(Slow()) as (server, client):
            client.writer.write(b"EHLO x.example\r\n")
            await asked.wait()
            server.retire()
            await asyncio.sleep(0)
            answer.set()
            assert codes(await client.reply()) == [b"250"]
            assert await client.rest() == replies.SHORTAGE.octets

    run(scenario())


def test_a_shutdown_ends_sessions_that_were_retiring(run):
    async def scenario():
        async with talking(Open()) as (server, client):
            await client.say(b"EHLO x.example\r\n")
            await client.say(b"MAIL FROM:<a@b.example>\r\n")
            server.retire()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await server.stop()
            assert await client.rest() == replies.SHUTTING_DOWN.octets

    run(scenario())


def test_a_connection_that_waits_for_its_proxy_header_is_closed(run):
    async def scenario():
        async with Server(Open(), "127.0.0.1", proxy=["127.0.0.1/32"]) as server, connecting(server) as connect:
            client = await connect(greeted=False)
            while not server.connections:
                await asyncio.sleep(0)
            server.retire()
            assert await client.rest() == b""
            while server.connections:
                await asyncio.sleep(0)

    run(scenario())
