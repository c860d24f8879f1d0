"""SMTP smuggling against a listening server: every end of data that some server has taken, cut at every octet.

The ends are those of the incident reports (CVE-2023-51764 to -51766, CVE-2023-51747, CVE-2024-27305) and of the public
tools SMTP-Smuggling-Tools and smtpsmug. `make test` runs this over both implementations of the wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from ipaddress import ip_network

import pytest

from ironpost import Server
from ironpost.protocol import replies
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import BaseHandler
from ironpost.server.connection import ServerConnection

PATIENCE = 60.0
"""Seconds after which a test fails that hangs."""
ENVELOPE = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"
FALSE_ENDS = {
    "LF.LF": b"\n.\n",
    "LF.CRLF": b"\n.\r\n",
    "LF.CR": b"\n.\r",
    "CR.CR": b"\r.\r",
    "CR.CRLF": b"\r.\r\n",
    "CR.LF": b"\r.\n",
    "CRLF.LF": b"\r\n.\n",
    "CRLF.CR": b"\r\n.\r",
    "CRLF.CRCRLF": b"\r\n.\r\r\n",
    "CRCRLF.CRCRLF": b"\r\r\n.\r\r\n",
    "LFCR.LFCR": b"\n\r.\n\r",
    "LFLF.LFLF": b"\n\n.\n\n",
    "CRLF.SP.CRLF": b"\r\n. \r\n",
    "CRLF.HT.CRLF": b"\r\n.\t\r\n",
    "CRLF..CRLF": b"\r\n..\r\n",
    "CRLF.NUL.CRLF": b"\r\n.\0\r\n",
    "CRLF.NUL.before": b"\r\n\0.\r\n",
    "CR.NUL.LF.before": b"\r\0\n.\r\n",
    "CR.NUL.LF.after": b"\r\n.\r\0\n",
    "NUL.all.over": b"\0\r\0\n\0.\0\r\0\n\0",
}
HIDDEN = b"RSET\r\nMAIL FROM:<evil@b.example>\r\nDATA\r\ntwo"
NEWLINE = re.compile(rb"\r\n|\r|\n")


class Open(BaseHandler):
    """Takes everything and keeps it."""

    def __init__(self):
        self.messages = []

    def recipient(self, session, forward_path, parameters):
        return None

    def message(self, session, content, facts):
        self.messages.append(content.content)


class Received:
    """How many octets the server has been given, so that a test can cut its input where it wants."""

    def __init__(self, monkeypatch):
        self.octets = 0
        real = ServerConnection.data_received

        def counting(connection, data):
            self.octets += len(data)
            real(connection, data)

        monkeypatch.setattr(ServerConnection, "data_received", counting)

    async def send(self, writer, octets):
        """Sends, and returns when the server has been given all of it."""
        wanted = self.octets + len(octets)
        writer.write(octets)
        while self.octets < wanted:
            await asyncio.sleep(0)


@pytest.fixture
def received(monkeypatch):
    return Received(monkeypatch)


def run(coroutine):
    asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


@contextlib.asynccontextmanager
async def talking(handler, received, **options):
    """A server, and a client that has said EHLO: reader and writer."""
    async with Server(handler, "127.0.0.1", settings=ServerSettings(max_errors=10_000, **options)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert (await reader.readline()).startswith(b"220 ")
        await received.send(writer, b"EHLO client.example\r\n")
        while (await reader.readline())[3:4] == b"-":
            pass
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def codes(reader, count):
    """Return the codes of this number of replies, each of one line."""
    return [(await reader.readline())[:3] for _ in range(count)]


def kept(content, newlines):
    """What the policy makes of the content, None if it is refused; worked out from the words of RFC 5321 §4.5.2."""
    if b"\0" in content or (newlines == "reject" and set(content.replace(b"\r\n", b"")) & set(b"\r\n")):
        return None
    plain = content.replace(b"\r\n.", b"\r\n")
    return NEWLINE.sub(b"\r\n", plain) if newlines == "normalise" else plain


HERE, ELSEWHERE = (ip_network("127.0.0.0/8"),), (ip_network("192.0.2.0/24"),)
POLICIES = {
    "reject": ("reject", {"newlines": "reject"}),
    "normalise": ("normalise", {"newlines": "normalise"}),
    "accept": ("accept", {"newlines": "accept"}),
    "lenient": ("normalise", {"newlines": "reject", "lenient": HERE}),
    "lenient to others": ("reject", {"newlines": "reject", "lenient": ELSEWHERE}),
}
"""What the client sees, and under which settings."""


@pytest.mark.parametrize(("newlines", "options"), POLICIES.values(), ids=POLICIES.keys())
@pytest.mark.parametrize("false_end", FALSE_ENDS.values(), ids=FALSE_ENDS.keys())
def test_r1_r2_one_message_whatever_looks_like_its_end_and_wherever_it_is_cut(received, false_end, newlines, options):
    content = b"one" + false_end + HIDDEN + b"\r\n"

    async def scenario():
        handler = Open()
        expected = kept(content, newlines)
        answer = b"550" if expected is None else b"250"
        async with talking(handler, received, **options) as (reader, writer):
            for cut in range(len(content)):
                await received.send(writer, ENVELOPE + b"DATA\r\n")
                assert await codes(reader, 3) == [b"250", b"250", b"354"]
                await received.send(writer, content[:cut])
                await received.send(writer, content[cut:] + b".\r\nNOOP\r\n")
                # An answer before the true end, or to what is hidden, would come first.
                assert await codes(reader, 2) == [answer, b"250"]
            await received.send(writer, b"QUIT\r\n")
            assert await reader.read() == replies.GOODBYE.octets
        assert handler.messages == ([] if expected is None else [expected] * len(content))

    run(scenario())


@pytest.mark.parametrize("newlines", ["reject", "normalise", "accept"])
def test_r1_the_true_end_is_taken_wherever_it_is_cut(received, newlines):
    async def scenario():
        handler = Open()
        async with talking(handler, received, newlines=newlines) as (reader, writer):
            for octets in (b"x\r\n.\r\n", b".\r\n", b"\r\n.\r\n"):
                for cut in range(len(octets)):
                    await received.send(writer, ENVELOPE + b"DATA\r\n")
                    assert await codes(reader, 3) == [b"250", b"250", b"354"]
                    await received.send(writer, octets[:cut])
                    await received.send(writer, octets[cut:])
                    assert await codes(reader, 1) == [b"250"]
                    assert handler.messages.pop() == octets.removesuffix(b".\r\n")

    run(scenario())


@pytest.mark.parametrize("size", [0, 1, 2, 8, 40])
def test_r4_a_chunk_is_its_octets_and_nothing_in_it_is_a_command_or_an_end(received, size):
    octets = (b"\r\n.\r\nQUIT\r\nDATA\r\n\r\n.\r\n" * 2)[:size]

    async def scenario():
        handler = Open()
        async with talking(handler, received, newlines="accept") as (reader, writer):
            command = b"BDAT %d LAST\r\n" % size
            whole = command + octets + b"NOOP\r\n"
            for cut in range(len(whole)):
                await received.send(writer, ENVELOPE)
                await received.send(writer, whole[:cut])
                await received.send(writer, whole[cut:])
                assert await codes(reader, 4) == [b"250"] * 4
                assert handler.messages.pop() == octets

    run(scenario())


@pytest.mark.parametrize(
    "argument",
    [b"", b"-1", b"+1", b"0x10", b"1 LAST LAST", b"9223372036854775808", b"18446744073709551616", b"9" * 30, b"1\0"],
)
def test_r4_r5_nothing_is_read_after_a_chunk_without_a_size(received, argument):
    async def scenario():
        handler = Open()
        async with talking(handler, received) as (reader, writer):
            await received.send(writer, ENVELOPE)
            assert await codes(reader, 2) == [b"250"] * 2
            await received.send(writer, b"BDAT " + argument + b"\r\n" + ENVELOPE + b"DATA\r\nx\r\n.\r\n")
            said = await reader.readline()
            if argument == b"1\0":  # a line with NUL is not a BDAT command, and so no octets are announced
                assert said.startswith(b"500 ")
            else:
                assert said.startswith(b"501 ")
                assert (await reader.readline()).startswith(b"421 ")
                assert await reader.read() == b""
        assert len(handler.messages) == (argument == b"1\0")

    run(scenario())


FAR = replies.TOO_LARGE.octets + replies.CONTENT_ENDLESS.octets


@pytest.mark.parametrize(("size", "said"), [(6, b""), (1 << 25, b""), (1 << 31, FAR), ((1 << 63) - 1, FAR)])
def test_r4_r6_a_chunk_cut_short_by_the_end_of_the_connection_is_discarded(received, size, said):
    async def scenario():
        handler = Open()
        async with talking(handler, received) as (reader, writer):
            await received.send(writer, ENVELOPE + b"BDAT %d LAST\r\nabcde" % size)
            assert await codes(reader, 2) == [b"250"] * 2
            writer.write_eof()
            assert await reader.read() == said
        assert handler.messages == []

    run(scenario())


@pytest.mark.parametrize("state", ["no EHLO", "no MAIL", "no RCPT", "after LAST", "after a refused chunk"])
def test_r5_a_chunk_out_of_order_is_consumed_wherever_it_is_cut(received, state):
    hidden = b"RSET\r\nMAIL FROM:<evil@b.example>\r\n"
    chunk = b"BDAT %d LAST\r\n" % len(hidden) + hidden + b"NOOP\r\n"
    before = {
        "no EHLO": b"",
        "no MAIL": b"",
        "no RCPT": b"MAIL FROM:<a@b.example>\r\n",
        "after LAST": ENVELOPE + b"BDAT 3 LAST\r\nx\r\n",
        "after a refused chunk": ENVELOPE + b"BDAT 2\r\nx\n",
    }[state]
    answers = [b"250"] * (before.count(b"\r\n") - before.count(b"x\r\n"))
    if state == "after a refused chunk":
        answers[-1] = b"550"

    async def scenario():
        async with Server(Open(), "127.0.0.1", settings=ServerSettings(max_errors=10_000)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            await reader.readline()
            if state != "no EHLO":
                await received.send(writer, b"EHLO client.example\r\n")
                while (await reader.readline())[3:4] == b"-":
                    pass
            for cut in range(len(chunk)):
                await received.send(writer, before)
                assert await codes(reader, len(answers)) == answers
                await received.send(writer, chunk[:cut])
                await received.send(writer, chunk[cut:])
                assert await codes(reader, 2) == [b"503", b"250"]
                await received.send(writer, b"RSET\r\n")
                assert await codes(reader, 1) == [b"250"]
            writer.close()
            await writer.wait_closed()

    run(scenario())
