"""A round of the delivery torture: kills and power cuts while the server claims, delivers, defers and bounces.

Remote hosts (`remote`) accept, defer, greylist and refuse by recipient, or disconnect; bounces go to the Maildir of
the same server, and the ledger (`delivery_ledger`) compares. Half of the faults are a SIGKILL right after a reply of a
remote host, the moment in which an attempt has a result that only memory knows. Mail that no host ever accepts is
bounced by an operator at the end, with one more SIGKILL.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from delivery_ledger import DeliveryLedger
from faults import DELAY, RULES, SYNC, Fault
from ledger import Load
from plan import FOR_GOOD, LOG, REMOTE_KINDS, WORKER_KINDS, Step, delivery_plan
from remote import DOMAINS, HOME, NEVER, Remote, conduct
from rounds import AFTER_A_CUT, HANG_SECONDS, STUCK_SECONDS, Figures, Round, Shape, known_at

from server import Server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from disk import Cut

RETRY_SECONDS = 0.3
"""Interval at which all mail is made due, so that a round does not wait for its schedule."""
SLOW_MICROSECONDS = 10_000
QUEUE = f"""greylist_wait = "1s"
warn_after = "never"
[[queue.retry]]
age = "1h"
wait = "1s"
[local]
domains = ["{HOME}"]
"""
LEFT = "SELECT message, recipient, last FROM queue WHERE state IN ('queued', 'held')"
EVENTS = "SELECT address, kind, at, attempts FROM events WHERE kind IN ('delivered', 'deferred', 'failed')"


class DeliveryRound(Round):
    """One round, and the power cuts after it."""

    def __init__(self, seed: str, shape: Shape, folder: Path, figures: Figures, *, disk: bool) -> None:
        super().__init__(seed, shape, folder, figures, disk=disk)
        self.ports = len(DOMAINS)
        # Each message has two or three recipients, and some of them are asked more than once.
        self.steps = delivery_plan(self.chance, 2 * shape.messages, shape.faults, shape.workers, disk=disk)
        self.size = lambda chance: chance.choice((1 << 10, 4 << 10, 20 << 10, 100 << 10))

    def _prepare(self) -> None:
        self.ledger = DeliveryLedger(records=lambda: self.faults.records)
        self.receiver = Remote(self.ledger, random.Random(self.seed + "remote"))
        self.progress = self.receiver.progress

    def _server(self, folder: Path, data: Path, faults: dict[str, str], workers: int) -> Server:
        return Server(folder, data, QUEUE + self.receiver.routes(), faults, workers=workers)

    def _signal(self, server: Server, step: Step) -> None:
        moment = (REMOTE_KINDS | WORKER_KINDS).get(step.name)
        if moment is None:
            super()._signal(server, step)
            return
        end = server.kill if step.name in REMOTE_KINDS else partial(server.kill_worker, self.chance)
        delay = self.chance.choice((0.0, 0.0, 0.001, 0.003))

        def kill() -> None:
            self._rules.append((step, -1))
            if delay:
                asyncio.get_running_loop().call_later(delay, end)
            else:
                end()

        self.receiver.traps[moment] = kill

    def _place(self, first: int) -> int:
        # Half of the cuts come when the server had just logged a result: it must be in the database then.
        logged = self.chance.choice(self.ledger.logged).record
        return max(first, logged) if self.chance.random() < 0.5 else super()._place(first)

    async def _live(self, server: Server) -> None:
        ledger: DeliveryLedger = self.ledger
        ledger.ended = server.ended
        watch = asyncio.create_task(ledger.watch(server.folder / "log"))
        load = Load(ledger, random.Random(self.seed + "load"), server.listening, "m")
        load.size, load.envelope = self.size, self.receiver.envelope
        where = f"seed {self.seed}"
        if self.with_disk:
            # A slow disk: what the server does before a sync has ended, it does long before.
            slow = Fault("slow disk", SYNC, LOG, DELAY, times=FOR_GOOD, amount=SLOW_MICROSECONDS)
            self.faults.arm(slow, RULES - 1)
        try:
            await server.start()
            faults = asyncio.create_task(self._inject(server))
            work = asyncio.create_task(self._deliver(server, load, faults))
            try:
                async with asyncio.timeout(HANG_SECONDS):
                    await server.beside(work)
            finally:
                work.cancel()
                faults.cancel()
            await self._finish(server, ledger, where, kill=True)
            self.end = self.faults.records
            self.figures.delivery.judge(ledger, where)
        finally:
            watch.cancel()
            if server.running:
                await server.stop(signal.SIGKILL)

    async def _deliver(self, server: Server, load: Load, faults: asyncio.Task[None]) -> None:
        """Run the load and its deliveries, until only mail that no host accepts is left."""
        sending = asyncio.create_task(load.send(self.shape.messages, self.shape.clients))
        try:
            await settled(server, self.ledger, lambda: not sending.done())
            await sending
        finally:
            sending.cancel()
        if faults.done():
            faults.result()
        faults.cancel()
        self.receiver.traps.clear()
        self.faults.disarm_all()

    async def _finish(self, server: Server, ledger: DeliveryLedger, where: str, *, kill: bool) -> None:
        """Bounce the mail that no host accepts, empty the queue, stop the server and read its events."""
        bounce = {"do": "bounce", "domain": NEVER, "why": "nobody accepts it"}
        bouncing = asyncio.create_task(server.ask(bounce))
        if kill:
            await asyncio.sleep(self.chance.uniform(0.0, 0.05))
            await server.listening()
            ended = asyncio.Event()
            server.on_end = ended.set
            server.kill()
            await ended.wait()
            await server.listening()
        await bouncing
        moved, seen = time.monotonic(), 0
        while left := server.query(LEFT):
            if len(left) != seen:
                moved, seen = time.monotonic(), len(left)
            elif time.monotonic() > moved + STUCK_SECONDS:
                ledger.queued = {row["recipient"] for row in left}
                self.figures.broken.append(f"{where}: {len(left)} stay in the queue, the first is {left[0]}")
                break
            await server.listening()
            await server.ask(bounce)
            await server.ask({"do": "retry", "domain": HOME})
            await asyncio.sleep(RETRY_SECONDS / 3)
        ledger.read_events(server.query(EVENTS))
        ledger.read_maildir(server.data / "mail")
        if code := await server.stop():
            self.figures.broken.append(f"{where}: the server ended with {code} on SIGTERM")

    async def _after(self, folder: Path, data: Path, cut: Cut, where: str) -> None:
        before: DeliveryLedger = self.ledger
        after = DeliveryLedger(
            epoch=lambda: AFTER_A_CUT, ended=before.ended, sent=known_at(cut, before.sent), logged=before.logged
        )
        for recipient, asks in before.asks.items():
            after.asks[recipient] = [ask for ask in asks if ask.record <= cut.record]
        for recipient, copies in before.copies.items():
            if earlier := [copy for copy in copies if copy.record <= cut.record]:
                after.copies[recipient] = earlier
        self.receiver = Remote(after, random.Random(0))
        await self.receiver.start(len(DOMAINS))
        try:
            server = self._server(folder, data, {}, 1)
            await server.start()
            try:
                await server.beside(asyncio.create_task(settled(server, after, lambda: False)))
                await self._finish(server, after, where, kill=False)
            finally:
                if server.running:
                    await server.stop(signal.SIGKILL)
        except (RuntimeError, TimeoutError) as error:
            self.figures.broken.append(f"{where}: {error}")
            return
        finally:
            await self.receiver.close()
        self.figures.delivery.judge(after, where, AFTER_A_CUT, until=cut.record)


class WorkersRound(DeliveryRound):
    """The same for a server with at least two workers, one of which is killed in half of the cases."""

    def __init__(self, seed: str, shape: Shape, folder: Path, figures: Figures, *, disk: bool) -> None:
        super().__init__(seed, replace(shape, workers=max(2, shape.workers)), folder, figures, disk=disk)


async def settled(server: Server, ledger: DeliveryLedger, busy: Callable[[], bool]) -> None:
    """Make all mail due again and again, until every accepted recipient that a host may accept or refuse is settled.

    Raises:
        TimeoutError: there was no progress for `STUCK_SECONDS`.
    """
    moved, seen = time.monotonic(), (0, 0)
    while True:
        await server.listening()
        await server.ask({"do": "retry", "all": True})
        ledger.read_maildir(server.data / "mail")
        left = [each for each in ledger.unsettled() if conduct(each) != "never"]
        now = len(left), len(ledger.sent)
        if now != seen or busy():
            moved, seen = time.monotonic(), now
        elif not left:
            return
        elif time.monotonic() > moved + STUCK_SECONDS:
            raise TimeoutError(f"{len(left)} recipients stay in the queue, the first is {left[0]}")
        await asyncio.sleep(RETRY_SECONDS)
