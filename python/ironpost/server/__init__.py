"""The asyncio server: sockets around the sans-IO `protocol.server.session.ServerSession`.

`Server` listens; `BaseHandler` is the base class for handlers; `MemorySpool` stores content in memory; `IncomingBody`
streams content to a hook; `blocking` marks a hook for the thread pool; `TlsContext` holds certificates;
`ConnectionLimits` and `Timeouts` bound the resources that clients use.
"""

from ironpost.model.blocking import blocking
from ironpost.model.memory import MemorySpool
from ironpost.server.body import BodyError, BodyLost, BodyRefused, IncomingBody
from ironpost.server.handler import BaseHandler
from ironpost.server.limits import ConnectionLimits
from ironpost.server.listener import Server
from ironpost.server.timeouts import Timeouts
from ironpost.server.tls import TlsContext, TlsError

__all__ = [
    "BaseHandler",
    "BodyError",
    "BodyLost",
    "BodyRefused",
    "ConnectionLimits",
    "IncomingBody",
    "MemorySpool",
    "Server",
    "Timeouts",
    "TlsContext",
    "TlsError",
    "blocking",
]
