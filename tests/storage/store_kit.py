"""The stores of the contract suite, and functions that create messages."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

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
from ironpost.queue.store import NewMessage, RecipientState, Update
from ironpost.storage.memory import MemoryStore
from ironpost.storage.sqlite.shards import ShardedStore, lay_out
from ironpost.storage.sqlite.store import SqliteStore
from ironpost.testing.leased_store import LeasedShard, LeasedStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from ironpost.queue.store import QueuedMessage, Store

NOW = 1_700_000_000.0


@dataclass
class Clock:
    """Time that stands still until it is set."""

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
    elif kind == "leased":
        store = LeasedStore(LeasedShard(), now)
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


async def claim(store: Store, limit: int = 10) -> Sequence[QueuedMessage]:
    """Claims what is due in any queue, the queue with the earliest first."""
    found: list[QueuedMessage] = []
    for domain, tenant, priority, _ in sorted([queue async for queue in store.queues()], key=lambda queue: queue.due):
        if len(found) < limit:
            found += (await store.claim(domain, tenant, priority, limit - len(found), lambda _: True)).messages
    return found


async def next_due(store: Store) -> float | None:
    """When the first unclaimed recipient of any queue is due."""
    return min([queue.due async for queue in store.queues()], default=None)


S = TypeVar("S")


def at(store: S, when: float) -> S:
    """The store, after its clock was set to `when`."""
    clock = store._now  # type: ignore[attr-defined]
    assert isinstance(clock, Clock)
    clock.time = when
    return store


def envelope(*recipients: str, sender: str = "from@sender.example") -> Envelope:
    """A new message with parameters and an origin, to check that they are stored."""
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
    held: str | None = None,
) -> NewMessage:
    """A message whose content is spooled."""
    spool = store.spool()
    for start in range(0, len(content), 50_000):
        waiter = spool.write(content[start : start + 50_000])
        if waiter is not None:
            await waiter
    return NewMessage(identifier, envelope(*recipients, sender=sender), at, prefix, spool, due, held)


async def put(store: Store, identifier: str, *recipients: str, **options: object) -> QueuedMessage:
    """Commit a new message."""
    return await store.commit(await new(store, identifier, *recipients, **options))  # type: ignore[arg-type]


async def content(message: QueuedMessage) -> bytes:
    """Prefix and content, read in pieces."""
    return b"".join([piece async for piece in message.body.pieces()])


def delivered(identifier: str, number: int = 0) -> Update:
    outcome = Outcome.of(Reply(250, "2.0.0", ("Taken",)), "mx.rcpt.example [192.0.2.7]")
    return Update(identifier, number, RecipientState.DELIVERED, 1, NOW, outcome)


def deferred(identifier: str, number: int = 0, *, due: float = NOW + 600, attempts: int = 1) -> Update:
    outcome = Outcome(
        Disposition.DEFERRED, Reply(451, "4.7.1", ("Come back",)), "mx.rcpt.example [192.0.2.7]", asked=True
    )
    return Update(identifier, number, RecipientState.QUEUED, attempts, due, outcome)


def failed(identifier: str, number: int = 0) -> Update:
    outcome = Outcome.of(Reply(550, "5.1.1", ("Nobody",)), "mx.rcpt.example [192.0.2.7]")
    return Update(identifier, number, RecipientState.FAILED, 1, NOW, outcome)


def shards_of(store: Any) -> list[Any]:
    """The stores of the shards of a store."""
    return [store._main, *store._others] if isinstance(store, ShardedStore) else [store]


async def record(store: Store, updates: Sequence[Update], reports: Sequence[NewMessage] = ()) -> None:
    """Record under the lease of the shard that has the message."""
    holding = [shard for shard in shards_of(store) if await shard.get(updates[0].message) is not None]
    lease = (holding or shards_of(store))[0].lease
    await store.record(lease, updates, reports)


async def unclaim(store: Store, messages: Sequence[str]) -> None:
    """End all claims on the messages with these ids."""
    for shard in shards_of(store):
        found = [await shard.get(identifier) for identifier in messages]
        await store.unclaim([message._replace(lease=shard.lease) for message in found if message is not None])


def ids(messages: list[QueuedMessage]) -> list[str]:
    return [message.id for message in messages]


async def turns(count: int = 20) -> None:
    """Run everything that is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


def child(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a Python process whose streams are all pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
