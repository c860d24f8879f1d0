"""The asyncio client: `Client` for programs that send, `Connection` for those that manage their own connections."""

from ironpost.client.client import Client, SendResult
from ironpost.client.errors import (
    ClientError,
    ConnectFailed,
    ConnectionLost,
    ContentRefused,
    PeerFault,
    RecipientsRefused,
    Refused,
    SenderRefused,
    ServiceRefused,
    TimedOut,
    Unsupported,
)

__all__ = [
    "Client",
    "ClientError",
    "ConnectFailed",
    "ConnectionLost",
    "ContentRefused",
    "PeerFault",
    "RecipientsRefused",
    "Refused",
    "SendResult",
    "SenderRefused",
    "ServiceRefused",
    "TimedOut",
    "Unsupported",
]
