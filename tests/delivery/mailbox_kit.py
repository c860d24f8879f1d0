"""Messages for the tests of agents that write into mailboxes."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ironpost.model import Address, Envelope, Recipient
from ironpost.model.body import PIECE
from ironpost.queue.store import QueuedMessage, QueuedRecipient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONTENT = b"Received: by mx.example\r\nReturn-Path: <old@example.org>\r\nSubject: x\r\n\r\n.dot\r\nbare \r cr\r\n"


@dataclass
class Content:
    octets: bytes
    times: int = 1
    fails: type[OSError] | None = None

    @property
    def size(self) -> int:
        return len(self.octets) * self.times

    async def pieces(self) -> AsyncIterator[bytes]:
        for _ in range(self.times):
            for at in range(0, len(self.octets), PIECE):
                yield self.octets[at : at + PIECE]
        if self.fails is not None:
            raise self.fails(errno.EIO, "the disk is broken")

    async def head(self, limit: int) -> bytes:
        return self.octets[:limit]


class Clock:
    def now(self) -> float:
        return 1234567890.25

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


class Tokens:
    """A `Random` that counts."""

    def __init__(self, given: int = 0) -> None:
        self.given = given

    def token(self) -> str:
        self.given += 1
        return f"T{self.given}"

    def uniform(self, low: float, high: float) -> float:
        return low

    def shuffle(self, items: list[str]) -> None:
        del items


def queued(*recipients: str, content: Content | None = None, sender: str = "sender@example.org") -> QueuedMessage:
    rows = tuple(Recipient(Address.parse(recipient)) for recipient in recipients)
    return QueuedMessage(
        "Q1", Envelope(Address.parse(sender), rows), 0.0, content or Content(CONTENT),
        tuple(QueuedRecipient(number, row) for number, row in enumerate(rows)),
    )  # fmt: skip
