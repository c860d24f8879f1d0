"""The asyncio server: sockets around the sans-IO `protocol.server.ServerSession`.

`Server` listens, `BaseHandler` is where a handler of one's own begins, `MemorySpool` holds content in memory.
"""

from ironpost.server.handler import BaseHandler
from ironpost.server.listener import Server
from ironpost.server.spool import MemorySpool
from ironpost.server.timeouts import Timeouts

__all__ = ["BaseHandler", "MemorySpool", "Server", "Timeouts"]
