"""What the contract suite runs over, and small makers of messages."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ironpost.model import Address, BodyType, Disposition, Envelope, Origin, Outcome, Recipient, Reply
from ironpost.model.parameters import (
    DeliverBy,
    EnvelopeId,
    HoldUntil,
    Notify,
    OriginalRecipient,
    Return,
    Solicitation,
    ValidSince,
)
from ironpost.queue.store import NewMessage, State, Update
from ironpost.storage.memory import MemoryStore
from ironpost.storage.shards import ShardedStore, lay_out
from ironpost.storage.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ironpost.queue.store import QueuedMessage, Store

NOW = 1_700_000_000.0


@dataclass
class Clock:
    """Time that stands until it is moved."""

    time: float = NOW

    def __call__(self) -> float:
        return self.time


@contextlib.asynccontextmanager
async def opened(kind: str, directory: Path, clock: Clock | None = None, **options: Any) -> AsyncIterator[Store]:
    """A store of that kind, closed at the end."""
    now = clock or Clock()
    store: Store
    if kind == "memory":
        store = MemoryStore(now=now)
    elif kind == "sqlite":
        store = SqliteStore.at(directory, now=now, **{"reserve": 0, **options})
    else:
        directory.mkdir(exist_ok=True)
        lay_out(directory)
        store = ShardedStore.at(directory, now=now, **{"reserve": 0, **options})
    try:
        yield store
    finally:
        await store.close()


def envelope(*recipients: str, sender: str = "from@sender.example") -> Envelope:
    """With parameters and an origin, so that they are seen to come back."""
    return Envelope(
        Address.parse(sender),
        tuple(
            Recipient(
                Address.parse(to),
                {
                    "NOTIFY": Notify.FAILURE | Notify.DELAY,
                    "ORCPT": OriginalRecipient.parse("utf-8;jö@rcpt.example"),
                    "RRVS": ValidSince.parse("2014-04-03T23:01:00Z;C"),
                    "X": None,
                    "Y": "a=b",
                },
            )
            for to in recipients or ("to@rcpt.example",)
        ),
        {
            "BODY": BodyType.EIGHT_BIT,
            "SMTPUTF8": None,
            "SIZE": 1234,
            "RET": Return.HDRS,
            "ENVID": EnvelopeId.of("an id"),
            "REQUIRETLS": None,
            "BY": DeliverBy.parse_seconds("120;RT", NOW),
            "HOLDFOR": 60,
            "HOLDUNTIL": HoldUntil(int(NOW) + 60),
            "MT-PRIORITY": -3,
            "SOLICIT": Solicitation(("net.example:ADV", "other")),
        },
        Origin("192.0.2.1", "client.example", "ESMTP"),
    )


async def new(
    store: Store,
    identifier: str,
    *recipients: str,
    content: bytes = b"Subject: x\r\n\r\nhello\r\n",
    at: float = NOW,
    prefix: bytes = b"Received: trace\r\n",
    sender: str = "from@sender.example",
    due: float | None = None,
    held: bool = False,
) -> NewMessage:
    """A message whose content is spooled."""
    spool = store.spool()
    for start in range(0, len(content), 50_000):
        waiter = spool.write(content[start : start + 50_000])
        if waiter is not None:
            await waiter
    return NewMessage(identifier, envelope(*recipients, sender=sender), at, prefix, spool, due, held)


async def put(store: Store, identifier: str, *recipients: str, **options: object) -> QueuedMessage:
    """Committed."""
    return await store.commit(await new(store, identifier, *recipients, **options))  # type: ignore[arg-type]


async def content(message: QueuedMessage) -> bytes:
    """Prefix and content, read in pieces."""
    return b"".join([piece async for piece in message.body.pieces()])


def delivered(identifier: str, number: int = 0) -> Update:
    outcome = Outcome.of(Reply(250, "2.0.0", ("Taken",)), "mx.rcpt.example [192.0.2.7]")
    return Update(identifier, number, State.DELIVERED, 1, NOW, outcome)


def deferred(identifier: str, number: int = 0, *, due: float = NOW + 600, attempts: int = 1) -> Update:
    outcome = Outcome(
        Disposition.DEFERRED, Reply(451, "4.7.1", ("Come back",)), "mx.rcpt.example [192.0.2.7]", asked=True
    )
    return Update(identifier, number, State.QUEUED, attempts, due, outcome)


def failed(identifier: str, number: int = 0) -> Update:
    outcome = Outcome.of(Reply(550, "5.1.1", ("Nobody",)), "mx.rcpt.example [192.0.2.7]")
    return Update(identifier, number, State.FAILED, 1, NOW, outcome)


def ids(messages: list[QueuedMessage]) -> list[str]:
    return [message.id for message in messages]


async def turns(count: int = 20) -> None:
    """Lets everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


def child(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process of its own, all of whose streams are ours."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
