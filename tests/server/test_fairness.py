"""Large reads and mass disconnects are spread over iterations of the event loop; nothing is lost or reordered."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import ssl
from functools import partial

import pytest
from server_kit import ENVELOPE, Client, Open, codes, talking

from ironpost import Server
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import TlsContext
from ironpost.server.fairness import CLOSES, DEFERRED_READS, LARGE, CallQueue
from ironpost.server.self_signed import write_self_signed

ROOMY = ServerSettings(max_size=1 << 28, max_body_line=1 << 28)
CONTENT = os.urandom(64).hex().encode() * 30_000  # 3.8 MB


class Digests(Open):
    """Records digests of the content."""

    def message(self, session, content, facts):
        self.messages.append(hashlib.sha256(content.content).digest())


def test_a_queue_runs_few_callbacks_in_one_iteration_in_order(run):
    async def scenario():
        queue, order = CallQueue(asyncio.get_running_loop(), 4), []

        def again():
            order.append("again")
            if order.count("again") < 3:
                queue.add(again)

        queue.add(again)
        for number in range(9):
            queue.add(partial(order.append, number))
        assert (order, len(queue)) == ([], 10)
        seen = [0]
        while len(order) < 12:
            await asyncio.sleep(0)
            seen.append(len(order))
        assert order == ["again", *range(9), "again", "again"]
        assert all(later - sooner <= 4 for sooner, later in itertools.pairwise(seen))
        assert len(queue) == 0
        queue.add(partial(order.append, "last"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order[-1] == "last"

    run(scenario())


def test_a_queue_runs_callbacks_at_once_when_the_loop_is_closed():
    loop, ran = asyncio.new_event_loop(), []
    loop.close()
    CallQueue(loop, 1).add(partial(ran.append, True))
    assert ran == [True]


def test_reads_beyond_the_queue_are_handled_at_once(run):
    async def scenario():
        async with talking(Digests(), settings=ROOMY) as (server, client):
            await client.say(b"EHLO x.example\r\n")
            await client.say(ENVELOPE + b"DATA\r\n", 3)
            (connection,) = server.connections
            for _ in range(DEFERRED_READS):
                server.read_queue.add(lambda: None)
            connection.data_received(b"x" * LARGE)
            assert connection.session.octets == LARGE

    run(scenario())


@pytest.mark.parametrize("way", ["plain", "TLS"])
@pytest.mark.parametrize("start", [b"DATA\r\n", b"BDAT %d LAST\r\n" % len(CONTENT)])
def test_many_large_messages_at_once_arrive_whole(run, tmp_path, way, start):
    pair = tmp_path / "a.pem", tmp_path / "a.key"
    write_self_signed(*pair, ["localhost"])
    options, connect = {}, {}
    if way == "TLS":
        options = {"tls": TlsContext.load([pair]), "implicit_tls": True}
        connect = {"ssl": ssl.create_default_context(cafile=pair[0]), "server_hostname": "localhost"}

    async def send(server):
        client = await Client.to(server, **connect)
        await client.say(b"EHLO x.example\r\n")
        if start.startswith(b"DATA"):
            await client.say(ENVELOPE + start, 3)
            client.writer.write(CONTENT + b"\r\n.\r\nQUIT\r\n")
        else:
            await client.say(ENVELOPE, 2)
            client.writer.write(start + CONTENT + b"QUIT\r\n")
        said = await client.rest()
        await client.close()
        return codes(said)

    async def scenario():
        handler = Digests()
        async with Server(handler, "127.0.0.1", settings=ROOMY, **options) as server:
            answers = await asyncio.gather(*(send(server) for _ in range(6)))
        assert answers == [[b"250", b"221"]] * 6
        expected = CONTENT + (b"\r\n" if start.startswith(b"DATA") else b"")
        assert set(handler.messages) == {hashlib.sha256(expected).digest()}

    run(scenario())


def test_r6_the_end_of_the_connection_is_handled_after_waiting_input(run):
    """The message is complete, and the client has closed its side before the queued read is handled."""

    async def scenario():
        handler = Digests()
        async with talking(handler, settings=ROOMY) as (server, client):
            await client.say(b"EHLO x.example\r\n")
            await client.say(ENVELOPE + b"DATA\r\n", 3)
            (connection,) = server.connections
            piece = b"x" * LARGE
            connection.data_received(piece + b"\r\n")
            connection.data_received(b".\r\n")
            assert connection._deferred_data == piece + b"\r\n.\r\n"
            connection.eof_received()
            assert connection._deferred_data == b""
            assert handler.messages == [hashlib.sha256(piece + b"\r\n").digest()]
            assert codes(await client.reply()) == [b"250"]

    run(scenario())


def test_a_small_command_is_answered_while_others_send_large_content(run):
    async def scenario():
        handler = Digests()
        async with talking(handler, settings=ROOMY) as (server, client):
            await client.say(b"EHLO x.example\r\n")
            senders = []
            for _ in range(8):
                sender = await Client.to(server)
                await sender.say(b"EHLO x.example\r\n")
                await sender.say(ENVELOPE + b"DATA\r\n", 3)
                sender.writer.write(CONTENT * 4)
                senders.append(sender)
            while not len(server.read_queue):
                await asyncio.sleep(0)
            assert codes(await client.say(b"NOOP\r\n")) == [b"250"]
            assert any(connection.session.octets < len(CONTENT) * 4 for connection in server.connections)
            for sender in senders:
                assert codes(await sender.say(b"\r\n.\r\n")) == [b"250"]
                await sender.close()

    run(scenario())


def test_the_disconnect_hook_is_called_for_each_of_many_lost_connections(run):
    class Counting(Open):
        left = 0

        def disconnect(self, session):
            self.left += 1

    async def scenario():
        handler = Counting()
        async with Server(handler, "127.0.0.1") as server:
            crowd = [await Client.to(server) for _ in range(CLOSES + 20)]
            for client in crowd:
                client.reset()
            while server.connections:
                await asyncio.sleep(0)
            assert handler.left == CLOSES + 20
            other = await Client.to(server)
            assert codes(await other.say(b"NOOP\r\n")) == [b"250"]
            await other.close()

    run(scenario())
