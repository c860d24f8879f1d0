"""Commands sent without reading replies cost at most a window of output, however many arrive in one read."""

import asyncio

import pytest
from tests.server.server_kit import LOOPS, PATIENCE

from ironpost import Server
from ironpost.protocol.server.session import SAMPLE, ServerSession
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import BaseHandler
from ironpost.server.connection import WINDOW, ServerConnection

HELLO = b"EHLO client.example\r\n"
MANY = ServerSettings(max_commands=1_000_000)


def test_f24_replies_are_produced_up_to_a_window_and_then_on_demand():
    session = ServerSession(BaseHandler(), MANY)
    session.window = WINDOW
    session.start()
    greeting = len(session.output())
    assert greeting > 0
    assert session.receive(HELLO) is None
    one = len(session.output())
    assert session.receive(HELLO * 10_000) is None
    replies = 0
    while session.full:
        out = session.output()
        assert len(out) <= WINDOW + SAMPLE * one
        replies += len(out) // one
        assert session.receive(HELLO) is None  # commands that arrive meanwhile are answered later
        assert session.output() == b""
        session.proceed()
    rounds = 10_000 // (WINDOW // one + SAMPLE)
    assert replies + len(session.output()) // one >= 10_000 + rounds


def test_f24_the_end_of_the_stream_is_handled_after_unanswered_commands():
    session = ServerSession(BaseHandler(), MANY)
    session.window = WINDOW
    session.start()
    session.receive(HELLO * 2_000)
    session.eof()
    session.shutdown()
    assert not session.closing
    replies = b""
    while session.full:
        replies += session.output()
        session.proceed()
    replies += session.output()
    assert replies.count(b"250 ") == 2_000
    assert session.closing


class Transport(asyncio.Transport):
    """A transport that pauses the protocol at 64 KiB and records its output."""

    def __init__(self):
        super().__init__()
        self.waiting = bytearray()
        self.most = 0
        self.protocol = None
        self.reading = True
        self.stopped = False

    def write(self, data):
        self.waiting += data
        self.most = max(self.most, len(self.waiting))
        if len(self.waiting) > WINDOW and not self.stopped:
            self.stopped = True
            self.protocol.pause_writing()

    def take(self):
        taken, self.waiting = bytes(self.waiting), bytearray()
        if self.stopped:
            self.stopped = False
            self.protocol.resume_writing()
        return taken

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True

    def is_closing(self):
        return False

    def get_extra_info(self, name, default=None):
        return ("192.0.2.1", 25000) if name == "peername" else default


def test_f24_nothing_is_answered_before_the_client_reads():
    async def run():
        async with Server(BaseHandler(), "127.0.0.1", settings=MANY, greeting_delay=None) as server:
            transport = Transport()
            transport.protocol = connection = ServerConnection(server)
            connection.connection_made(transport)
            while not transport.waiting:
                await asyncio.sleep(0)
            transport.take()
            connection.data_received(HELLO * 5_000)
            assert not transport.reading
            replies = 0
            while taken := transport.take():
                replies += taken.count(b"250 ")
            assert replies == 5_000
            assert transport.reading
            assert transport.most < 2 * WINDOW
            connection.connection_lost(None)
            while server.connections:
                await asyncio.sleep(0)

    asyncio.run(run())


@pytest.mark.parametrize("loop", LOOPS)
def test_f24_every_command_of_a_flood_is_answered_once_it_is_read(loop):
    async def run():
        async with Server(BaseHandler(), "127.0.0.1", settings=MANY) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            await reader.readline()
            writer.write(HELLO * 20_000 + b"QUIT\r\n")
            answered = (await asyncio.wait_for(reader.read(-1), PATIENCE)).count(b"250 ")
            writer.close()
            assert answered == 20_000

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(run())
