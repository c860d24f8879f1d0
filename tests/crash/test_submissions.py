"""SIGKILL of processes that store submissions with keys, and several of them at once: each key is stored once.

The victim prints a line for each acknowledgement and is killed after a random number of lines, so at most moments some
messages are durable without an acknowledgement. Then everything is submitted again, as their clients would.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

from ironpost.storage.sqlite.shards import ShardsReader, lay_out

if TYPE_CHECKING:
    from pathlib import Path

SUBMIT = """
import asyncio, os, random, sys
from pathlib import Path
from ironpost.model import Address, Envelope, Origin, Recipient
from ironpost.queue.store import NewMessage, Submission, SubmissionPending, SubmittedBefore
from ironpost.storage.sqlite.shards import ShardedStore

data, worker, workers, first, last = Path(sys.argv[1]), *map(int, sys.argv[2:])
chance = random.Random(worker)
say = lambda *words: os.write(1, (" ".join(words) + "\\n").encode())

async def submit(store, key):
    envelope = Envelope(Address.parse("ada@sender.example"), (Recipient(Address.parse(f"{key}@rcpt.example")),),
                        origin=Origin(identity="ada"))
    size = 70_000 if key % 5 == 0 else 300
    while True:
        spool = store.spool()
        if (waiter := spool.write(str(key).encode().ljust(size, b"."))) is not None:
            await waiter
        identifier = f"m{os.urandom(8).hex()}"
        new = NewMessage(identifier, envelope, 1.7e9, b"", spool, submission=Submission(f"key {key}", b"digest"))
        try:
            await store.commit(new)
        except SubmissionPending:
            spool.discard()
            await asyncio.sleep(0)
        except SubmittedBefore as before:
            spool.discard()
            assert before.same
            return say("stored", str(key), before.message)
        else:
            return say("stored", str(key), identifier)

async def main():
    store = ShardedStore.at(data, worker=worker, workers=workers, now=lambda: 1.7e9, reserve=0)
    say("ready")
    sys.stdin.readline()
    keys = list(range(first, last))
    chance.shuffle(keys)
    while keys:
        part, keys = keys[:20], keys[20:]
        await asyncio.gather(*(submit(store, key) for key in part))
    await store.close()

asyncio.run(main())
"""


def start(data: Path, worker: int, workers: int, first: int, last: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", SUBMIT, *map(str, (data, worker, workers, first, last))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def said(process: subprocess.Popen[bytes], lines: int = sys.maxsize) -> dict[int, str]:
    """Return the acknowledged keys with their ids, and kill the process after that many lines."""
    found = {}
    assert process.stdout is not None
    for number, line in enumerate(process.stdout):
        if not line.endswith(b"\n"):
            break  # cut short by the kill
        _, key, identifier = line.decode().split()
        found[int(key)] = identifier
        if number == lines:
            process.kill()
    process.wait()
    process.stdout.close()
    if process.stdin is not None:
        process.stdin.close()
    return found


def stored(data: Path) -> dict[str, list[str]]:
    """The ids of the stored messages, by recipient."""
    reader = ShardsReader.open_readonly(data)
    _, rows = reader.query("SELECT recipient, message FROM queue", 10**6)
    reader.close()
    found: dict[str, list[str]] = {}
    for recipient, message in rows:
        found.setdefault(recipient.partition("@")[0], []).append(message)
    return found


def test_after_a_kill_a_repeated_submission_is_stored_once(tmp_path):
    lay_out(tmp_path)
    chance = random.Random(2852)
    acknowledged: dict[int, str] = {}
    first = 0
    for _ in range(5):
        victim = start(tmp_path, 0, 1, first, first + 300)
        go(victim)
        acknowledged |= said(victim, chance.randrange(100))
        assert victim.returncode != 0
        # The number of processes may be another one after the restart.
        again = start(tmp_path, chance.randrange(2), 2, first, first + 300)
        go(again)
        repeated = said(again)
        assert again.returncode == 0
        assert {key: repeated[key] for key in acknowledged if key >= first} == {
            key: identifier for key, identifier in acknowledged.items() if key >= first
        }
        first += 300
    copies = Counter({key: len(messages) for key, messages in stored(tmp_path).items()})
    assert len(copies) == first
    assert set(copies.values()) == {1}


def test_processes_that_get_the_same_submissions_at_the_same_time_store_each_once(tmp_path):
    lay_out(tmp_path)
    workers = [start(tmp_path, number, 3, 0, 300) for number in range(3)]
    for worker in workers:
        go(worker)
    answers = [said(worker) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    found = stored(tmp_path)
    assert {len(messages) for messages in found.values()} == {1}
    assert len(found) == 300
    for answer in answers:
        assert {str(key): [identifier] for key, identifier in answer.items()} == found
