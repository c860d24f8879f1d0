"""SIGKILL at random moments, then a check of the store: no acknowledged message is lost, and no change is incomplete.

The victim is a separate process that commits and records from many tasks, and prints a line for each acknowledgement
before it continues. It is killed after a random number of lines, many times over the same directory. (A kill preserves
the page cache; the tests of the store check that an acknowledgement waits for the sync.)
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING

from ironpost.model import Address
from ironpost.queue.store import RecipientState
from ironpost.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 18
VICTIM = """
import asyncio, hashlib, itertools, os, sys
from pathlib import Path
from ironpost.model import Address, Disposition, Envelope, Outcome, Recipient, Reply, NULL
from ironpost.queue.store import NewMessage, Update
from ironpost.queue.store import RecipientState as State
from ironpost.storage.sqlite.store import SqliteStore

round_, numbers = sys.argv[2], itertools.count()
YES = Outcome.of(Reply(250, "2.0.0", ("Taken",)))
NO = Outcome.of(Reply(550, "5.1.1", ("Nobody",)))
say = lambda *words: os.write(1, (" ".join(words) + "\\n").encode())

async def new(store, name, sender, *to):
    spool = store.spool()
    size = 150_000 if hashlib.sha256(name.encode()).digest()[0] < 40 else 300
    for start in range(0, size, 50_000):
        if (waiter := spool.write(name.encode().ljust(50, b".") * min(1000, (size - start) // 50))) is not None:
            await waiter
    envelope = Envelope(Address.parse(sender), tuple(Recipient(Address.parse(a)) for a in to))
    return NewMessage(name, envelope, 1.7e9, b"Received: x\\r\\n", spool)

async def work(store):
    while True:
        name = f"m{round_}x{next(numbers)}"
        message = await store.commit(await new(store, name, "from@sender.example", "a@rcpt.example", "b@rcpt.example"))
        say("committed", name)
        kind = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 4
        if kind == 0:
            continue  # stays
        say("recording", name)
        if kind == 1:
            await store.record(message.lease, [Update(name, n, State.DELIVERED, 1, 0.0, YES) for n in (0, 1)])
            say("gone", name)
        elif kind == 2:
            report = await new(store, "r" + name, "", "from@sender.example")
            await store.record(message.lease, [Update(name, n, State.FAILED, 1, 0.0, NO) for n in (0, 1)], [report])
            say("failed", name)
        else:
            updates = [Update(name, 0, State.DELIVERED, 1, 0.0, YES), Update(name, 1, State.QUEUED, 1, 1.8e9)]
            await store.record(message.lease, updates)
            say("half", name)

async def main():
    store = SqliteStore.at(Path(sys.argv[1]), reserve=0)
    say("ready")
    await asyncio.gather(*(work(store) for _ in range(20)))

asyncio.run(main())
"""


def killed_after(lines: int, directory: Path, round_: int) -> list[list[str]]:
    """Return the victim's output before it was killed, including buffered output."""
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(directory), str(round_)],
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert victim.stdout is not None
    said = []
    for line in victim.stdout:
        said.append(line.decode().split())
        if len(said) > lines:
            break
    victim.kill()
    # The kill may have cut the last line short: it does not count.
    said += [line.decode().split() for line in victim.stdout if line.endswith(b"\n")]
    victim.wait()
    victim.stdout.close()
    assert said, "the victim never started"
    return said[1:]


def test_sigkill_at_random_moments_loses_nothing_acknowledged_and_leaves_nothing_half_done(tmp_path):
    chance = random.Random(5321)
    story: dict[str, str] = {}

    async def look() -> None:
        store = SqliteStore.at(tmp_path, reserve=0)
        try:
            there = {message.id: message for message in await store.list(10**6)}
            for name, last in story.items():
                message, report = there.get(name), there.get("r" + name)
                if last == "committed":
                    assert message is not None, f"{name} was acknowledged and is lost"
                elif last == "gone":
                    assert message is None, f"{name} was recorded as delivered and is back"
                elif last == "failed":
                    assert message is None, f"{name} was recorded as failed and is back"
                    assert report is not None, f"{name} failed and its report is lost"
                elif last == "half":
                    assert message is not None
                    assert [r.state for r in message.recipients] == [RecipientState.DELIVERED, RecipientState.QUEUED]
                assert message is None or report is None, f"{name}: failed and not failed"
            for name, message in there.items():
                to = "from" if name.startswith("r") else "a b"
                assert " ".join(r.recipient.address.local_part for r in message.recipients) == to
                assert message.envelope.reverse_path == Address.parse("" if name[0] == "r" else "from@sender.example")
                body = b"".join([piece async for piece in message.body.pieces()])
                assert len(body) == message.body.size
                assert body.removeprefix(b"Received: x\r\n").replace(name.encode().ljust(50, b"."), b"") == b""
            owned = {row[0] for row in store._writer.execute("SELECT file FROM message WHERE file IS NOT NULL")}
            files = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("bodies/*/*")}
            assert files == owned
            assert store._writer.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            orphans = "SELECT count(*) FROM recipient WHERE message NOT IN (SELECT seq FROM message)"
            assert store._writer.execute(orphans).fetchone() == (0,)
            # Requests that were not acknowledged may have been done or not; from here on the result is fixed.
            for name, last in story.items():
                if last == "recording":
                    settled = there.get(name)
                    story[name] = "gone" if settled is None else "committed"
        finally:
            await store.close()

    for round_ in range(ROUNDS):
        said = killed_after(chance.choice((0, 1, 5, 30, 100, 300)), tmp_path, round_)
        story.update({name: kind for kind, name in said})
        asyncio.run(look())
    kinds = set(story.values())
    assert kinds == {"committed", "gone", "failed", "half"}, "the victim was not killed at enough different moments"
    assert len(story) > 500
