"""Helpers for tests of the Server API: a server on loopback, raw clients, and some hooks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from ironpost import Server
from ironpost.protocol.dialect import LMTP
from ironpost.protocol.server.settings import ServerSettings

PATIENCE = 20.0
"""Seconds to wait for something before a test fails."""
PER_RECIPIENT = ServerSettings(dialect=LMTP)


def run(scenario):
    """Run a scenario."""
    return asyncio.run(asyncio.wait_for(scenario, PATIENCE))


class Client:
    """A raw client: `say` sends lines and returns the replies."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def reply(self):
        """Read a reply of one or more lines; empty at the end of the stream."""
        lines = []
        while line := (await self.reader.readline()).decode():
            lines.append(line.rstrip("\r\n"))
            if line[3:4] != "-":
                break
        return "|".join(lines)

    async def say(self, *lines, replies=None):
        """Send lines in one write; return one reply for each, or as many as requested."""
        self.writer.write("".join(f"{line}\r\n" for line in lines).encode())
        return [await self.reply() for _ in range(len(lines) if replies is None else replies)]

    async def envelope(self, *recipients, sender="a@b.example"):
        """Send MAIL, RCPT for each recipient, and DATA."""
        rcpt = [f"RCPT TO:<{recipient}>" for recipient in recipients or ("c@d.example",)]
        return await self.say(f"MAIL FROM:<{sender}>", *rcpt, "DATA")

    async def send(self, *recipients, content="Subject: x\r\n\r\nhello\r\n", replies=1):
        """Send a message; return the reply after its content."""
        said = await self.envelope(*recipients)
        assert said[-1].startswith("354"), said
        self.writer.write(content.encode() + b".\r\n")
        answers = [await self.reply() for _ in range(replies)]
        return answers[0] if replies == 1 else answers

    def reset(self):
        """End the connection with RST, as a crashed client does."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self):
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def joined(server, hello="EHLO x.example"):
    """Connect a client and send EHLO."""
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
    """Start a server and connect a client; send EHLO, or LHLO for LMTP."""
    if options.get("settings") is PER_RECIPIENT:
        hello = hello.replace("EHLO", "LHLO")
    async with Server(handler, "127.0.0.1", **options) as server, joined(server, hello) as client:
        yield server, client


class Takes:
    """A handler that accepts everything and records it."""

    def __init__(self):
        self.took = []

    def recipient(self, session, forward_path, parameters):
        return None

    def message(self, session, content, facts):
        transaction = session.transaction
        rows = [str(recipient.address) for recipient in transaction.recipients]
        self.took.append((rows, transaction.quarantine, content.content))
