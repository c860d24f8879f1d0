"""A queue runner in virtual time over the SQLite store with a large queue, which is copied into the database from one
message."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import NamedTuple

from tests.mta.runner_kit import NOW, World

from ironpost.model import Address, Envelope, Origin, Recipient
from ironpost.queue.store import NewMessage
from ironpost.storage.sqlite.schema import DATABASE
from ironpost.storage.sqlite.store import SqliteStore


class Mail(NamedTuple):
    """Messages with one recipient each."""

    name: str
    """Ids are this and a number; domains `dN.NAME.example`."""
    count: int
    domains: int = 1
    tenant: str = "t"
    under: str = ""
    """In the domains instead of the name."""


_COPY = {
    "message": {"seq": ":last + n", "id": ":name || n", "accepted": "accepted + n"},
    "recipient": {"message": ":last + n", "due": "due + n", "domain": ":domain", "address": "'to@' || :domain"},
}
"""The columns in which copies of a message differ, by table."""


async def fill(folder, mail: list[Mail]) -> None:
    """Create a store with mail that is due."""
    store = SqliteStore.at(folder, now=lambda: NOW, reserve=0)
    for each in mail:
        spool = store.spool()
        spool.write(b"Subject: s\r\n\r\nx\r\n")
        to = Recipient(Address("to", f"d0.{each.under or each.name}.example"))
        envelope = Envelope(Address.parse("from@local.example"), (to,), origin=Origin(identity=each.tenant))
        await store.commit(NewMessage(f"{each.name}0", envelope, NOW, b"", spool))
    await store.close()
    with closing(sqlite3.connect(folder / DATABASE)) as database, database:
        for each in mail:
            (first,) = database.execute("SELECT seq FROM message WHERE id = ?", (f"{each.name}0",)).fetchone()
            (last,) = database.execute("SELECT max(seq) FROM message").fetchone()
            for table, key in (("message", "seq"), ("recipient", "message")):
                names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
                values = ", ".join(_COPY[table].get(name, name) for name in names)
                values = values.replace(":domain", "('d' || (n % :domains) || '.' || :under || '.example')")
                database.execute(
                    f"""WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count - 1)
                    INSERT INTO {table} SELECT {values} FROM numbers, {table} WHERE {key} = :first""",
                    {**each._asdict(), "under": each.under or each.name, "first": first, "last": last},
                )


class Backlog(World):
    """A world over the store in a folder, whose attempts at other systems take time."""

    def __init__(self, remote, folder, **options) -> None:
        self._sleeping = 0
        super().__init__(self._slowly, store=SqliteStore.at(folder, now=lambda: self.clock.time, reserve=0), **options)
        self.seconds = lambda address: 1.0
        """The duration of an attempt by the address of its recipient."""
        self.reply = remote

    async def _slowly(self, message, recipient):
        self._sleeping += 1
        try:
            await self.clock.sleep(self.seconds(recipient.recipient.address))
        finally:
            self._sleeping -= 1
        return self.reply(message, recipient)

    async def settle(self) -> None:
        """Wait until nothing more can happen at this time."""
        quiet = 0
        while quiet < 10:
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self.runner._active) == self._sleeping else 0

    def attempts(self) -> list[tuple[str, int]]:
        """Id and attempts of each recipient in the queue, in the order of acceptance."""
        query = "SELECT message, attempts FROM queue ORDER BY accepted"
        return self.store._writer.execute(query).fetchall()


def with_backlog(folder, mail, remote, act, **options) -> None:
    """Run `act(world)` with a started queue runner over a filled store."""

    async def main() -> None:
        await fill(folder, mail)
        world = Backlog(remote, folder, **options)
        world.runner.start()
        try:
            await asyncio.wait_for(act(world), 120)
        finally:
            await world.stop()
            await world.store.close()

    asyncio.run(main())
