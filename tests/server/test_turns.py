"""Large pieces take turns: nothing is lost or reordered, and small commands are answered between them."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import ssl

import pytest
from server_kit import ENVELOPE, Client, Open, codes, talking

from ironpost import Server
from ironpost.protocol.settings import Settings
from ironpost.server import TlsContext
from ironpost.server.self_signed import write_self_signed
from ironpost.server.turns import KEPT, LARGE, PARTINGS, PIECES, Partings, Turns

ROOMY = Settings(max_size=1 << 28, max_body_line=1 << 28)
CONTENT = os.urandom(64).hex().encode() * 30_000  # 3.8 MB


class Digests(Open):
    """Remembers what came."""

    def message(self, session, content, facts):
        self.messages.append(hashlib.sha256(content.content).digest())


def test_a_turn_works_on_few_pieces_the_first_first(run):
    async def scenario():
        turns, order = Turns(asyncio.get_running_loop()), []

        class Party:
            def __init__(self, number):
                self.number = number

            def take_turn(self):
                order.append(self.number)
                if self.number == 0 and order.count(0) < 3:
                    turns.wait(self)

        for number in range(10):
            turns.wait(Party(number))
        assert order == []
        seen = []
        while len(order) < 12:
            await asyncio.sleep(0)
            seen.append(len(order))
        assert order[:10] == list(range(10))
        assert order[10:] == [0, 0]
        assert all(later - sooner <= PIECES for sooner, later in itertools.pairwise(seen))
        assert not turns.full
        for number in range(KEPT):
            turns.wait(Party(number + 1))
        assert turns.full
        while len(order) < 12 + KEPT:
            await asyncio.sleep(0)

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


def test_r6_the_end_of_the_connection_comes_behind_what_waits(run):
    """The message is whole, and the client has closed its side before the piece had its turn."""

    async def scenario():
        handler = Digests()
        async with talking(handler, settings=ROOMY) as (server, client):
            await client.say(b"EHLO x.example\r\n")
            await client.say(ENVELOPE + b"DATA\r\n", 3)
            (connection,) = server.connections
            piece = b"x" * LARGE
            connection.data_received(piece + b"\r\n")
            connection.data_received(b".\r\n")
            assert connection._kept == piece + b"\r\n.\r\n"
            connection.eof_received()
            assert connection._kept == b""
            assert handler.messages == [hashlib.sha256(piece + b"\r\n").digest()]
            assert codes(await client.reply()) == [b"250"]

    run(scenario())


def test_a_small_command_is_answered_while_others_send_much(run):
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
            while not server.turns._running:
                await asyncio.sleep(0)
            assert codes(await client.say(b"NOOP\r\n")) == [b"250"]
            assert any(connection.session.octets < len(CONTENT) * 4 for connection in server.connections)
            for sender in senders:
                assert codes(await sender.say(b"\r\n.\r\n")) == [b"250"]
                await sender.close()

    run(scenario())


def test_many_that_go_at_once_are_written_down_in_turns(run):
    async def scenario():
        partings, gone = Partings(asyncio.get_running_loop()), []

        class Party:
            def __init__(self, number):
                self.number = number

            def part(self):
                gone.append(self.number)

        for number in range(3 * PARTINGS):
            partings.end(Party(number))
        assert len(gone) == PARTINGS  # few are written down at once, and none of a crowd is held up by the rest
        seen = [PARTINGS]
        while len(gone) < 3 * PARTINGS:
            await asyncio.sleep(0)
            seen.append(len(gone))
        assert gone == list(range(3 * PARTINGS))
        assert all(later - sooner <= PARTINGS for sooner, later in itertools.pairwise(seen))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        partings.end(Party(-1))
        assert gone[-1] == -1

    run(scenario())


def test_a_crowd_that_is_cut_off_is_told_to_the_handler_one_by_one(run):
    class Counting(Open):
        left = 0

        def disconnect(self, session):
            self.left += 1

    async def scenario():
        handler = Counting()
        async with Server(handler, "127.0.0.1") as server:
            crowd = [await Client.to(server) for _ in range(PARTINGS + 20)]
            for client in crowd:
                client.reset()
            while server.connections:
                await asyncio.sleep(0)
            assert handler.left == PARTINGS + 20
            other = await Client.to(server)
            assert codes(await other.say(b"NOOP\r\n")) == [b"250"]
            await other.close()

    run(scenario())
