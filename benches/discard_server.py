"""Accept and discard on `ironpost.Server`, for load comparisons.

With `--tally FILE` it keeps the numbers of messages, recipients and connections it has accepted, and of TLS handshakes
that were resumed, in the first 32 octets of that file, which must exist, as unsigned integers in native byte order: the
load scripts read it while the server runs.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import mmap
import signal
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from ironpost.model import Reply
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import BaseHandler, ConnectionLimits, Server
from ironpost.server.tls import TICKETS, TlsContext

if TYPE_CHECKING:
    from ironpost.model import Address
    from ironpost.model.body import Spool
    from ironpost.protocol.extensions import Parameters
    from ironpost.protocol.server.handler import HookResult
    from ironpost.protocol.server.session import ServerSession
    from ironpost.wire import BodyEnd

LIMIT = 1 << 30
"""Octets of one message."""
HEADER = 4096
"""Octets in which signatures are searched."""
UNSIGNED = Reply(554, "5.7.20", ("signatures are missing",))
TALLY = struct.Struct("=QQQQ")


class Nowhere:
    """A spool that counts and forgets."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0

    def write(self, piece: bytes) -> None:
        self.size += len(piece)

    def discard(self) -> None:
        pass


class Signed(Nowhere):
    """A spool that keeps the start of the content."""

    __slots__ = ("start",)

    def __init__(self) -> None:
        super().__init__()
        self.start = b""

    def write(self, piece: bytes) -> None:
        super().write(piece)
        if len(self.start) < HEADER:
            self.start += piece


class Discard(BaseHandler):
    """Takes everything, keeps nothing."""

    def recipient(self, session: ServerSession, forward_path: Address, parameters: Parameters) -> HookResult:
        return None

    def content(self, session: ServerSession) -> Nowhere:
        return Nowhere()

    def message(self, session: ServerSession, content: Spool, facts: BodyEnd) -> HookResult:
        assert content.size == facts.size
        return None


class Counted(Discard):
    """The same, with a count in a file that others can read."""

    def __init__(self, file: Path, tls: TlsContext | None, signatures: int) -> None:
        """`signatures`: how many fields DKIM-Signature each message must have."""
        self.messages = self.recipients = self.connections = 0
        self._tls = tls
        self._signatures = signatures
        with file.open("r+b") as handle:
            self._shared = mmap.mmap(handle.fileno(), TALLY.size)

    def connect(self, session: ServerSession) -> HookResult:
        self.connections += 1
        self._write()
        return None

    def content(self, session: ServerSession) -> Nowhere:
        return Signed() if self._signatures else Nowhere()

    def message(self, session: ServerSession, content: Spool, facts: BodyEnd) -> HookResult:
        assert session.transaction is not None
        if isinstance(content, Signed) and content.start.count(b"DKIM-Signature:") != self._signatures:
            return UNSIGNED
        self.messages += 1
        self.recipients += len(session.transaction.recipients)
        self._write()
        return super().message(session, content, facts)

    def _write(self) -> None:
        resumed = self._tls.pick("").context.session_stats()["hits"] if self._tls else 0
        TALLY.pack_into(self._shared, 0, self.messages, self.recipients, self.connections, resumed)


class Hooked(Discard):
    """The same with a Python function of its own for every command, and one that counts the content's pieces."""

    def __init__(self) -> None:
        self.calls = 0

    def connect(self, session: ServerSession) -> HookResult:
        self.calls += 1
        return None

    def hello(self, session: ServerSession, verb: str, domain: str) -> HookResult:
        self.calls += len(domain) > 0
        return None

    def mail(self, session: ServerSession, reverse_path: Address, parameters: Parameters) -> HookResult:
        self.calls += not reverse_path.is_null
        return None

    def recipient(self, session: ServerSession, forward_path: Address, parameters: Parameters) -> HookResult:
        self.calls += forward_path.key == "localhost"
        return None

    def message(self, session: ServerSession, content: Spool, facts: BodyEnd) -> HookResult:
        self.calls += 1
        return super().message(session, content, facts)

    def disconnect(self, session: ServerSession) -> None:
        self.calls += 1


async def main(asked: argparse.Namespace) -> None:
    tls = TlsContext.load([(asked.pem, None)], tickets=asked.tickets) if asked.pem else None
    handler = Counted(asked.tally, tls, asked.signatures) if asked.tally else Hooked() if asked.hooks else Discard()
    settings = ServerSettings(max_size=LIMIT)
    limits = ConnectionLimits(connections=20_000)
    servers = [Server(handler, "127.0.0.1", asked.port, settings=settings, limits=limits, tls=tls)]
    if asked.implicit:
        servers.append(
            Server(handler, "127.0.0.1", asked.implicit, settings=settings, limits=limits, tls=tls, implicit_tls=True)
        )
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    for server in servers:
        await server.start()
    gc.freeze()
    await stopped.wait()
    for server in servers:
        await server.stop(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--asyncio", action="store_true", help="instead of uvloop")
    parser.add_argument("--hooks", action="store_true", help="a Python function for every command")
    parser.add_argument("--tally", type=Path, help="a file that holds the number of messages accepted")
    parser.add_argument(
        "--signatures", type=int, default=0, help="with --tally: refuse mail with another number of them"
    )
    parser.add_argument("--pem", help="a certificate with its key, for STARTTLS")
    parser.add_argument("--tickets", type=int, default=TICKETS, help="0: no TLS session is resumed")
    parser.add_argument("--implicit", type=int, help="a port for TLS from the start")
    asked = parser.parse_args()
    if asked.asyncio:
        asyncio.run(main(asked))
    else:
        import uvloop

        uvloop.run(main(asked))
