"""Outbound SMTP smuggling (R3): stored content is relayed as one message, however the next hop ends lines.

A listener that accepts bare CR and LF receives the message and stores it unchanged; it is relayed to scripted peers:
strict ones, and lax ones that also end lines elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from email import message_from_bytes
from typing import TYPE_CHECKING

import pytest
from tests.scenarios.conftest import into

from ironpost import Server
from ironpost.client.connection import HELD
from ironpost.model import Address, Envelope, Recipient
from ironpost.protocol.client.envelope import CHUNK_LIMIT
from ironpost.protocol.server.settings import ServerSettings
from ironpost.queue.store import NewMessage
from ironpost.routing.route import Route, Routes, Rule
from ironpost.testing.directory import local
from ironpost.wire import dot_stuff

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ENDS = [
    b"\r\n.\r\n",
    b"\n.\n",
    b"\n.\r\n",
    b"\n.\r",
    b"\r.\r",
    b"\r.\r\n",
    b"\r.\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n",
    b"\n\r.\n\r",
    b"\r\n. \r\n",
    b"\n..\n",
    b"\r..\r",
]
HIDDEN = b"MAIL FROM:<evil@evil.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nSubject: hidden\r\n\r\ntwo"
CONTENT = b"Subject: x\r\n\r\n" + b"".join(end + HIDDEN for end in ENDS) + b"\r\n"
LINE_ENDS = {
    "CRLF": rb"\r\n",
    "CRLF or LF": rb"\r?\n",
    "CRLF, LF or CR": rb"\r\n|\r|\n",
    "any run of CR, then LF": rb"\r*\n",
}
SMALL, LARGE = b"", b"x" * 70 + b"\r\n"


class Peer:
    """A server that ends lines, and so DATA, at `line_end`; it records every command and message."""

    def __init__(self, line_end: bytes, extension: bytes) -> None:
        self.commands: list[bytes] = []
        self.messages: list[bytes] = []
        self.octets = b""
        self._line = re.compile(line_end)
        self._end = re.compile(rb"(?:\A|" + line_end + rb")\.(?:" + line_end + rb")")
        self._extension = extension

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await self._talk(reader, writer)
        writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 peer.example\r\n")
        unread, wanted = b"", -1
        in_data = False
        while True:
            if in_data:
                found = self._end.search(unread)
                if found is not None:
                    self.messages.append(unread[: found.start()])
                    unread, in_data = unread[found.end() :], False
                    writer.write(b"250 taken\r\n")
                    continue
            elif wanted >= 0:
                if len(unread) >= wanted:
                    self.messages.append(unread[:wanted])
                    unread, wanted = unread[wanted:], -1
                    writer.write(b"250 taken\r\n")
                    continue
            elif (found := self._line.search(unread)) is not None:
                line, unread = unread[: found.start()], unread[found.end() :]
                verb = line.split(b" ")[0]
                self.commands.append(verb)
                in_data = verb == b"DATA"
                if verb == b"BDAT":
                    wanted = int(line.split(b" ")[1])
                else:
                    answers = {
                        b"EHLO": b"250-peer.example\r\n250-PIPELINING\r\n250 %b\r\n" % self._extension,
                        b"DATA": b"354 go\r\n",
                    }
                    writer.write(answers.get(verb, b"250 fine\r\n"))
                continue
            piece = await reader.read(1 << 16)
            if not piece:
                return
            unread += piece
            self.octets += piece


@contextlib.asynccontextmanager
async def relaying(system: Callable, peer: Peer) -> AsyncIterator[tuple[object, int]]:
    """Start a mail system with that next hop; yield it with the port of a listener that accepts bare CR and LF."""
    listener = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    async with system() as here:
        port = listener.sockets[0].getsockname()[1]
        to_next_hop = [Rule(("*",), Route.smart([f"127.0.0.1:{port}"]))]
        here.runner.routes = Routes(local(["here.example"]), to_next_hop, local=into(here.mail))
        settings = ServerSettings("mx.here.example", newlines="accept")
        async with Server(here.server.handler, "127.0.0.1", 0, settings=settings) as lax:
            yield here, lax.port
    listener.close()
    await listener.wait_closed()


async def submit(port: int, content: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"EHLO client.example\r\nMAIL FROM:<a@here.example>\r\nRCPT TO:<b@peer.example>\r\nDATA\r\n")
    while not (line := await reader.readline()).startswith(b"354"):
        assert line[:3] in {b"220", b"250"}, line
    writer.write(dot_stuff(content) + b".\r\n")
    assert (await reader.readline()).startswith(b"250 ")
    writer.close()
    await writer.wait_closed()


def normalised(content: bytes) -> bytes:
    return re.sub(rb"\r\n|\r|\n", b"\r\n", content)


@pytest.mark.parametrize("extension", [b"8BITMIME", b"CHUNKING"])
@pytest.mark.parametrize("padding", [SMALL, LARGE * 3000], ids=["small", "large"])
@pytest.mark.parametrize("line_end", LINE_ENDS.values(), ids=LINE_ENDS.keys())
def test_r3_stored_content_with_every_false_end_is_relayed_as_one_message(
    system: Callable, line_end: bytes, padding: bytes, extension: bytes
) -> None:
    peer = Peer(line_end, extension)
    content = CONTENT + padding + CONTENT
    assert (len(content) > max(HELD, CHUNK_LIMIT)) == bool(padding)

    async def scenario() -> None:
        async with relaying(system, peer) as (here, port):
            await submit(port, content)
            await here.queue_empty()

    asyncio.run(scenario())
    by_bdat = b"CHUNKING" in extension and not padding
    assert peer.commands == [b"EHLO", b"MAIL", b"RCPT", b"BDAT" if by_bdat else b"DATA", b"QUIT"]
    (message,) = peer.messages
    assert b"\r" not in peer.octets.replace(b"\r\n", b"")
    assert b"\n" not in peer.octets.replace(b"\r\n", b"")
    if not by_bdat:
        message = re.sub(rb"(\A|\r\n)\.", rb"\1", message + b"\r\n")
    trace, _, rest = message.partition(b"Subject: ")
    assert message_from_bytes(trace).keys() == ["Received"]
    assert b"Subject: " + rest == normalised(content)


@pytest.mark.parametrize("padding", [SMALL, LARGE * 3000], ids=["small", "large"])
@pytest.mark.parametrize("nul", [b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\0\n.\r\n", b"\r\n.\r\0\n"])
def test_r3_content_with_nul_is_bounced_and_never_terminated_at_a_peer(
    system: Callable, nul: bytes, padding: bytes
) -> None:
    """A peer that drops NUL would see other line starts. SMTP refuses NUL, so the test puts it into the store."""
    peer = Peer(LINE_ENDS["CRLF"], b"8BITMIME")
    content = b"Subject: x\r\n\r\n" + padding + b"one" + nul + HIDDEN + b"\r\n"

    async def scenario() -> bytes:
        async with relaying(system, peer) as (here, _):
            spool = here.store.spool()
            spool.write(content)
            envelope = Envelope(Address.parse("a@here.example"), (Recipient(Address.parse("b@peer.example")),))
            here.runner.accept(await here.store.commit(NewMessage("q1", envelope, here.clock.now(), b"", spool)))
            await here.queue_empty()
            (report,) = here.delivered()
            return report

    assert b"\nStatus: 5.6.3\n" in asyncio.run(scenario())
    assert peer.messages == []
    assert b"evil" not in peer.octets
