"""The asyncio server: sockets around the sans-IO `protocol.server.ServerSession`.

`Server` listens, `BaseHandler` is where a handler of one's own begins, `MemorySpool` holds content in memory, `Body` is
content as it comes, `blocking` marks a hook for the thread pool, `TlsContext` holds certificates, `Limits` and
`Timeouts` say what clients may cost.
"""

from ironpost.server.body import Body, BodyError, BodyLost, BodyRefused
from ironpost.server.handler import BaseHandler
from ironpost.server.hooks import blocking
from ironpost.server.limits import Limits
from ironpost.server.listener import Server
from ironpost.server.spool import MemorySpool
from ironpost.server.timeouts import Timeouts
from ironpost.server.tls import TlsContext, TlsError

__all__ = [
    "BaseHandler",
    "Body",
    "BodyError",
    "BodyLost",
    "BodyRefused",
    "Limits",
    "MemorySpool",
    "Server",
    "Timeouts",
    "TlsContext",
    "TlsError",
    "blocking",
]
