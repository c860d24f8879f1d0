"""Accept and discard on `ironpost.Server`, for load comparisons: `discard_server.py PORT [asyncio|uvloop]`."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from typing import TYPE_CHECKING

from ironpost.protocol.settings import Settings
from ironpost.server import BaseHandler, Limits, Server

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Address
    from ironpost.model.body import Spool
    from ironpost.protocol.handler import Answer
    from ironpost.protocol.server import ServerSession
    from ironpost.wire import BodyEnd

LIMIT = 1 << 30
"""Octets of one message."""


class Nowhere:
    """A spool that counts and forgets."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0

    def write(self, piece: bytes) -> None:
        self.size += len(piece)

    def discard(self) -> None:
        pass


class Discard(BaseHandler):
    """Takes everything, keeps nothing."""

    def recipient(self, session: ServerSession, forward_path: Address, parameters: Mapping[str, str | None]) -> Answer:
        return None

    def content(self, session: ServerSession) -> Nowhere:
        return Nowhere()

    def message(self, session: ServerSession, content: Spool, facts: BodyEnd) -> Answer:
        assert content.size == facts.size
        return None


async def main(port: int) -> None:
    server = Server(Discard(), "127.0.0.1", port, settings=Settings(max_size=LIMIT), limits=Limits(connections=20_000))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: asyncio.ensure_future(server.stop(1)))
    await server.start()
    gc.freeze()
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[2:] == ["uvloop"]:
        import uvloop

        uvloop.run(main(int(sys.argv[1])))
    else:
        asyncio.run(main(int(sys.argv[1])))
