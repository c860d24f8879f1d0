"""The cost of a scheduling decision against the size of the queue, and of a start with a large queue.

    python benches/scheduler.py decisions     10 to 1,000,000 queued recipients, up to 10,000 destinations
    python benches/scheduler.py start         a store with 1,000,000 recipients in 10,000 domains: time and memory

`decisions` plays the queue runner over a store that only counts: it claims, starts and ends deliveries, of which one in
ten does not reach its destination. Each row is the median of several runs, and every run checks that no delivery was
lost. `start` opens the SQLite store in a process of its own and reports until when every queue was known to the
scheduler and the first message was claimed.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from ironpost.model import Address, Envelope, Origin, Recipient
from ironpost.processes.clock import SystemRandom
from ironpost.queue.scheduler import FOREVER, Claim, Queue, Result, Scheduler, Start
from ironpost.queue.store import NewMessage
from ironpost.storage.sqlite.shards import ShardedStore, lay_out

DECISIONS = 20_000
"""Decisions that one run measures, at most."""
RUNS = 5
DESTINATIONS = 10_000
LARGEST = 1_000_000
BAR = 50
"""Characters of the longest bar of the plot."""


def decide(recipients: int) -> float:
    """Return the seconds for each decision with this number of recipients queued."""
    chance = Random(1)
    destinations = min(recipients, DESTINATIONS)
    left = Counter({f"d{number}.example": recipients // destinations for number in range(destinations)})
    back: list[str] = []
    scheduler: Scheduler[str] = Scheduler(
        SystemRandom(), lambda _queue, domain: back.append(domain), leaves=200, stays=200
    )

    def queue(domain: str) -> Queue[str]:
        return scheduler.queue(domain, "tenant", 0, scheduler.destination(domain))

    now = 1_700_000_000.0
    for domain in left:
        scheduler.stored(queue(domain), now, now)
    running: list[tuple[float, int, Start[str]]] = []
    decisions = ended = delivered = 0
    total = sum(left.values())
    begun = time.perf_counter()
    while decisions < DECISIONS and delivered < total:
        decision = scheduler.next(now)
        if decision is None:
            if not running:
                now += max(scheduler.wait(now), 0.001)
                continue
            now, _, start = heapq.heappop(running)
            domain = start.part
            ended += 1
            if chance.random() < 0.1:
                left[domain] += 1
                scheduler.stored(queue(domain), now + 900, now)
                scheduler.ended(start, Result.UNREACHABLE, now, "refused")
            else:
                delivered += 1
                scheduler.ended(start, Result.REACHED, now)
            while back:
                domain = back.pop()
                left[domain] += 1
                scheduler.stored(queue(domain), now, now)
            continue
        decisions += 1
        if isinstance(decision, Claim):
            domain = decision.queue.key.domain
            found = min(decision.limit, left[domain])
            left[domain] -= found
            scheduler.claimed(decision, [domain] * found, now if left[domain] else FOREVER, now)
        else:
            heapq.heappush(running, (now + chance.uniform(0.5, 1.5), decisions, decision))
    seconds = time.perf_counter() - begun
    assert delivered + len(running) + scheduler.parts + sum(left.values()) == total, "a delivery was lost"
    return seconds / decisions


def decisions() -> None:
    """Print the table and the plot."""
    rows = []
    size = 10
    while size <= LARGEST:
        rows.append((size, statistics.median(decide(size) for _ in range(RUNS)) * 1e6))
        size *= 10
    longest = max(micros for _, micros in rows)
    print("recipients  destinations  µs/decision")
    for size, micros in rows:
        bar = "#" * round(BAR * micros / longest)
        print(f"{size:10,}  {min(size, DESTINATIONS):12,}  {micros:11.2f}  {bar}")


async def fill(data: Path) -> None:
    """A store with `LARGEST` recipients, ten in each message."""
    lay_out(data)
    store = ShardedStore.at(data)
    sender, origin = Address.parse("from@sender.example"), Origin("192.0.2.1", "a.example", identity="tenant")
    body = b"Subject: x\r\n\r\n" + b"x" * 1000 + b"\r\n"
    batch = []
    for number in range(LARGEST // 10):
        domain = f"d{number % DESTINATIONS}.example"
        to = tuple(Recipient(Address(f"r{each}", domain)) for each in range(10))
        spool = store.spool()
        spool.write(body)
        envelope = Envelope(sender, to, origin=origin)
        batch.append(store.commit(NewMessage(f"m{number}", envelope, time.time(), b"", spool)))
        if len(batch) == 1000:
            await store.unclaim(await asyncio.gather(*batch))
            batch.clear()
    await store.close()


async def open_filled(data: Path) -> None:
    """Print seconds and resident memory until all queues are known and the first mail is claimed."""
    begun = time.perf_counter()
    store = ShardedStore.at(data)
    opened = time.perf_counter()
    scheduler: Scheduler[str] = Scheduler(SystemRandom(), lambda _queue, _part: None, leaves=200, stays=200)
    now = time.time()
    async for domain, tenant, priority, due in store.queues():
        scheduler.stored(scheduler.queue(domain, tenant, priority, scheduler.destination(domain)), due, now)
    known = time.perf_counter()
    decision = scheduler.next(now)
    assert isinstance(decision, Claim)
    domain, tenant, priority, _ = decision.queue.key
    messages, _ = await store.claim(domain, tenant, priority, decision.limit)
    claimed = time.perf_counter()
    assert len(scheduler) == DESTINATIONS
    assert sum(len(message.recipients) for message in messages) == LARGEST // DESTINATIONS
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"store opened after {opened - begun:.2f} s, {len(scheduler):,} queues known after {known - begun:.2f} s,")
    print(f"first mail claimed after {claimed - begun:.2f} s; {resident:.0f} MB resident at most")
    await store.close()


def start() -> None:
    """Fill a store, and open it in another process."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        asyncio.run(fill(data))
        subprocess.run([sys.executable, __file__, "open", "--data", folder], check=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["decisions", "start", "open"])
    parser.add_argument("--data", type=Path)
    asked = parser.parse_args()
    if asked.what == "decisions":
        decisions()
    elif asked.what == "start":
        start()
    else:
        asyncio.run(open_filled(asked.data))


if __name__ == "__main__":
    main()
