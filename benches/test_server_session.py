"""What the server session adds to a socket: one 1 KB message in round trips, pipelined, and by BDAT, without any I/O.

The budget for session, framer and connection together is 40 µs a message above a protocol that checks nothing.
"""

from __future__ import annotations

import pytest

from ironpost.protocol.server.session import ServerSession
from ironpost.server import BaseHandler
from ironpost.wire import IMPLEMENTATION

LINE = b"x" * 76 + b"\r\n"
CONTENT = LINE * 13
ENVELOPE = [b"MAIL FROM:<sender@example.org>\r\n", b"RCPT TO:<rcpt@example.net>\r\n"]
FLOWS = {
    "round-trips": [*ENVELOPE, b"DATA\r\n", CONTENT + b".\r\n"],
    "pipelined": [b"".join(ENVELOPE) + b"DATA\r\n", CONTENT + b".\r\n"],
    "bdat": [b"".join(ENVELOPE) + b"BDAT %d LAST\r\n" % len(CONTENT) + CONTENT],
}


class Nowhere:
    __slots__ = ("size",)

    def __init__(self):
        self.size = 0

    def write(self, piece):
        self.size += len(piece)

    def discard(self):
        pass


class Discard(BaseHandler):
    taken = 0

    def recipient(self, session, forward_path, parameters):
        return None

    def content(self, session):
        return Nowhere()

    def message(self, session, content, facts):
        self.taken += content.size


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.benchmark(group="server session, one message of 1 KB")
def test_message(benchmark, flow):
    handler, pieces = Discard(), FLOWS[flow]
    session = ServerSession(handler)
    session.start()
    session.receive(b"EHLO client.example\r\n")
    session.output()

    def message():
        for piece in pieces:
            session.receive(piece)
            out = session.output()
        session.commands = 0
        return out

    benchmark.extra_info["wire"] = IMPLEMENTATION
    assert message().endswith(b"250 2.0.0 Message accepted\r\n")
    assert handler.taken == len(CONTENT)
    benchmark(message)
    assert handler.taken % len(CONTENT) == 0
    assert session.errors == 0


@pytest.mark.benchmark(group="server session, connect and EHLO")
def test_hello(benchmark):
    handler = Discard()

    def hello():
        session = ServerSession(handler)
        session.start()
        session.receive(b"EHLO client.example\r\n")
        return session.output()

    assert hello().endswith(b"250 HELP\r\n")
    benchmark(hello)
