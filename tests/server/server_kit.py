"""Helpers for tests of the server: a handler that accepts everything, a raw client, both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct

from ironpost import Server
from ironpost.server import BaseHandler

ENVELOPE = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"
PATIENCE = 20.0
"""Seconds to wait for something before a test fails."""

LOOPS = {"asyncio": asyncio.new_event_loop}
with contextlib.suppress(ImportError):
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop


class Open(BaseHandler):
    def __init__(self):
        self.messages = []
        self.gone = asyncio.Event()

    def recipient(self, session, forward_path, parameters):
        return None

    def message(self, session, content, facts):
        self.messages.append(content.content)

    def disconnect(self, session):
        self.gone.set()


class Client:
    """A raw client."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, server, greeted=True, **options):
        """Connect a client; `options` are those of `asyncio.open_connection`."""
        self = cls(*await asyncio.open_connection("127.0.0.1", server.port, **options))
        if greeted:
            assert (await self.reply()).startswith(b"220")
        return self

    async def reply(self):
        """Read one reply; empty at the end of the stream."""
        octets = b""
        while line := await self.reader.readline():
            octets += line
            if line[3:4] != b"-":
                break
        return octets

    async def say(self, octets, replies=1):
        """Send octets and read this number of replies."""
        self.writer.write(octets)
        return b"".join([await self.reply() for _ in range(replies)])

    async def rest(self):
        """Read until the server closes the connection, even if it closes while the client is still sending."""
        found = b""
        with contextlib.suppress(ConnectionError):
            while piece := await self.reader.read(65536):
                found += piece
        return found

    def reset(self):
        """End the connection with RST, as a crashed client does."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self):
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def talking(handler, greeted=True, **options):
    """Start a server and connect one client."""
    async with Server(handler, "127.0.0.1", **options) as server:
        client = await Client.to(server, greeted)
        try:
            yield server, client
        finally:
            await client.close()


def codes(octets):
    return [line[:3] for line in octets.splitlines() if line[3:4] != b"-"]
