"""The asyncio client: `Client`, its result, and its errors. `connection` drives the protocol session."""

from ironpost.client.client import Client, SendResult
from ironpost.client.errors import (
    ClientError,
    ConnectFailed,
    ConnectionLost,
    ContentRefused,
    Insecure,
    LoginRefused,
    PeerFault,
    RecipientsRefused,
    Refused,
    SenderRefused,
    ServiceRefused,
    TimedOut,
    Unsupported,
)
from ironpost.protocol.client.tolerance import Tolerance

__all__ = [
    "Client",
    "ClientError",
    "ConnectFailed",
    "ConnectionLost",
    "ContentRefused",
    "Insecure",
    "LoginRefused",
    "PeerFault",
    "RecipientsRefused",
    "Refused",
    "SendResult",
    "SenderRefused",
    "ServiceRefused",
    "TimedOut",
    "Tolerance",
    "Unsupported",
]
