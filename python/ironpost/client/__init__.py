"""The asyncio client: `Client`, what it returns, and its errors. `connection` holds the protocol beneath it."""

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
from ironpost.protocol.client_tolerance import Tolerance

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
