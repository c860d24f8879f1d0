"""What the tests of the Server API share: a server on loopback with raw clients, and a hook or two."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from ironpost import Server
from ironpost.protocol.dialect import LMTP
from ironpost.protocol.settings import Settings

PATIENCE = 20.0
"""Seconds after which a test fails that waits for something."""
PER_RECIPIENT = Settings(dialect=LMTP)


def run(scenario):
    """Runs a scenario to its end."""
    return asyncio.run(asyncio.wait_for(scenario, PATIENCE))


class Client:
    """A raw client: `say` sends lines and gives the replies to them."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def reply(self):
        """One reply, of one line or more, as one text; empty at the end of the stream."""
        lines = []
        while line := (await self.reader.readline()).decode():
            lines.append(line.rstrip("\r\n"))
            if line[3:4] != "-":
                break
        return "|".join(lines)

    async def say(self, *lines, replies=None):
        """Sends lines at once; one reply for each, or as many as are asked for."""
        self.writer.write("".join(f"{line}\r\n" for line in lines).encode())
        return [await self.reply() for _ in range(len(lines) if replies is None else replies)]

    async def envelope(self, *recipients, sender="a@b.example"):
        """MAIL, RCPT for each, DATA."""
        rcpt = [f"RCPT TO:<{recipient}>" for recipient in recipients or ("c@d.example",)]
        return await self.say(f"MAIL FROM:<{sender}>", *rcpt, "DATA")

    async def send(self, *recipients, content="Subject: x\r\n\r\nhello\r\n", replies=1):
        """A whole message; what is said to its end."""
        said = await self.envelope(*recipients)
        assert said[-1].startswith("354"), said
        self.writer.write(content.encode() + b".\r\n")
        answers = [await self.reply() for _ in range(replies)]
        return answers[0] if replies == 1 else answers

    def reset(self):
        """Ends the connection with RST, as a client does that crashed."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self):
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def joined(server, hello="EHLO x.example"):
    """A client that said EHLO."""
    client = Client(*await asyncio.open_connection("127.0.0.1", server.port))
    try:
        if hello:
            assert (await client.reply()).startswith("220")
            assert (await client.say(hello))[0].startswith("250")
        yield client
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def talking(handler, hello="EHLO x.example", **options):
    """A server and a client that said EHLO, or LHLO to one that speaks LMTP."""
    if options.get("settings") is PER_RECIPIENT:
        hello = hello.replace("EHLO", "LHLO")
    async with Server(handler, "127.0.0.1", **options) as server, joined(server, hello) as client:
        yield server, client


class Takes:
    """Takes everything, and keeps what it took."""

    def __init__(self):
        self.took = []

    def recipient(self, session, forward_path, parameters):
        return None

    def message(self, session, content, facts):
        transaction = session.transaction
        rows = [str(recipient.address) for recipient in transaction.recipients]
        self.took.append((rows, transaction.quarantine, content.content))
