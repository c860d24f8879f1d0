"""One round of the torture: mail through a server that is killed, restarted and cut off from its power.

Promises: `Round.run` carries out a round and adds its results to the figures. A round whose result says nothing about
the promises of the server, because something else went wrong, is listed in `Figures.broken`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from delivery_ledger import DeliveryFigures
from disk import TAILS, Cut, Disk
from faults import LOSE, SYNC, Fault, Faults
from ledger import ACCEPTED, REFUSED, SILENT, Ledger, Load, Progress, Receiver, Sent, sizes
from plan import FOR_GOOD, LOG, LOG_SYNC_LOSES, Step, plan

from server import Server, relay_all

if TYPE_CHECKING:
    from pathlib import Path

HANG_SECONDS = 300.0
"""Seconds after which the load of a round fails; it normally takes a few."""
QUIET_SECONDS = 2.0
"""Seconds without an arrival after which the queue is checked."""
STUCK_SECONDS = 20.0
"""Seconds without progress after which a queue that is being emptied counts as stuck."""
AFTER_A_CUT = 1 << 30
"""The epoch of copies that a server delivers after a power cut; no other copy has it."""


@dataclass
class Figures:
    """The totals of a run."""

    rounds: int = 0
    cuts: int = 0
    messages: int = 0
    accepted: int = 0
    refused: int = 0
    silent: int = 0
    delivered: int = 0
    restarts: int = 0
    checked: int = 0
    """Searches for a message with 250, in all rounds and after all cuts."""
    refusals: Counter[str] = field(default_factory=Counter)
    """The texts of 4yz and 5yz."""
    injected: Counter[str] = field(default_factory=Counter)
    triggered: Counter[str] = field(default_factory=Counter)
    survived: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    refused_but_delivered: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    delivery: DeliveryFigures = field(default_factory=DeliveryFigures)
    """Of the delivery rounds."""
    broken: list[str] = field(default_factory=list)
    """Rounds that could not be carried out, and exit codes that should be 0."""

    @property
    def violations(self) -> int:
        found = self.lost, self.refused_but_delivered, self.altered, self.unexplained, self.broken
        return sum(map(len, (*found, *self.delivery.violations.values())))

    def judge(self, ledger: Ledger, where: str, since: int = 0) -> None:
        """Add the results of a ledger; of second copies, only those since an epoch."""
        self.checked += len(ledger.of(ACCEPTED))
        self.lost += [f"{where}: {name}" for name in ledger.missing()]
        self.refused_but_delivered += [f"{where}: {name}" for name in ledger.refused_but_delivered()]
        self.altered += [f"{where}: {name}" for name in ledger.altered()]
        for window, names in ledger.duplicates(since).items():
            if window == "unexplained":
                self.unexplained += [f"{where}: {name}" for name in names]
            self.duplicates[window] += len(names)


@dataclass(frozen=True)
class Shape:
    """The size of a round."""

    messages: int = 300
    clients: int = 10
    faults: int = 8
    cuts: int = 6
    workers: int = 1


async def empty(server: Server, ledger: Ledger) -> list[dict[str, Any]]:
    """Retry the queue until it is empty or makes no progress; return the remaining messages."""
    moved = time.monotonic()
    while True:
        server.check()
        await server.command("queue", "retry", "--all")
        with contextlib.suppress(TimeoutError):
            while ledger.missing():
                ledger.arrived.clear()
                await asyncio.wait_for(ledger.arrived.wait(), QUIET_SECONDS)
                moved = time.monotonic()
        queue = await server.queue()
        if not queue or time.monotonic() - moved > STUCK_SECONDS:
            return queue


def stay(left: list[dict[str, Any]]) -> str:
    """Describe messages that stay in the queue."""
    return f"{len(left)} stay in the queue, the first with {left[0].get('recipients')}"


class Round:
    """One round, and the power cuts after it."""

    def __init__(self, seed: str, shape: Shape, folder: Path, figures: Figures, *, disk: bool) -> None:
        self.seed = seed
        self.shape = shape
        self.folder = folder
        self.figures = figures
        self.with_disk = disk
        self.chance = random.Random(seed)
        self.steps = plan(self.chance, shape.messages, shape.faults, disk=disk)
        # With the disk most mail is deferred, so that there is a queue after a power cut.
        self.defers, self.vanishes = (0.4, 0.01) if disk else (0.1, 0.01)
        self.size = sizes
        self.tls = "none"
        self.drains = True
        """The queue is emptied after the load, not only after the power cuts."""
        self.ports = 1
        """Of the receiver."""
        self.progress = Progress()
        """What the times of the faults count: the messages that have their reply."""
        self.ledger: Any = None
        self.receiver: Any = None
        self._rules: list[tuple[Step, int]] = []

    async def run(self) -> None:
        """Run the round and add its results to the figures."""
        figures, before = self.figures, self.figures.violations
        self.faults = Faults(self.folder)
        self._prepare()
        await self.receiver.start(self.ports)
        disk = Disk(self.folder, self.faults) if self.with_disk else None
        try:
            data = (disk.path if disk else self.folder) / "data"
            server = self._server(self.folder, data, self.faults.environment(), self.shape.workers)
            self.ledger.epoch = lambda: server.epoch
            await self._live(server)
            self._count(server)
            if disk is not None:
                disk.close()
                await self._cut(disk)
                disk.discard()
        finally:
            if disk is not None:
                disk.close()
            await self.receiver.close()
        figures.rounds += 1
        triggered = Counter(step.name for step, number in self._rules if number < 0 or self.faults.fired(number))
        figures.injected.update(step.name for step, _ in self._rules)
        figures.triggered.update(triggered)
        if figures.violations == before:
            figures.survived.update(triggered)

    # -- what rounds of another kind do in another way

    def _prepare(self) -> None:
        """Create the ledger and the receiver."""
        self.ledger = Ledger(records=lambda: self.faults.records)
        self.receiver = Receiver(self.ledger, random.Random(self.seed + "receiver"))
        self.receiver.defers, self.receiver.vanishes = self.defers, self.vanishes

    def _server(self, folder: Path, data: Path, faults: dict[str, str], workers: int) -> Server:
        return Server(folder, data, relay_all(self.receiver.port), faults, workers=workers, tls=self.tls)

    async def _live(self, server: Server) -> None:
        """Run the server under load and faults, empty its queue, and add the result to the figures."""
        await server.start()
        load = Load(self.ledger, random.Random(self.seed + "load"), server.listening, "m", self.progress)
        load.size = self.size
        work = asyncio.gather(load.send(self.shape.messages, self.shape.clients), self._inject(server))
        try:
            async with asyncio.timeout(HANG_SECONDS):
                await server.beside(work)
            self.faults.disarm_all()
            self.end = self.faults.records
            self.receiver.defers = self.receiver.vanishes = 0.0
            if not self.drains:
                await server.stop(signal.SIGKILL)
                return
            if left := await empty(server, self.ledger):
                self.figures.broken.append(f"seed {self.seed}: {stay(left)}")
            if code := await server.stop():
                self.figures.broken.append(f"seed {self.seed}: the server ended with {code} on SIGTERM")
            self.figures.judge(self.ledger, f"seed {self.seed}")
        finally:
            work.cancel()
            if server.running:
                await server.stop(signal.SIGKILL)

    def _place(self, first: int) -> int:
        """Return the record of a power cut, not before the first one after which mail was accepted."""
        return self.chance.randrange(first, self.end + 1)

    async def _after(self, folder: Path, data: Path, cut: Cut, where: str) -> None:
        """Start a server on what a power cut left, and add the result to the figures."""
        after, broken = await survivors(folder, data, self.ledger, cut, self.tls)
        if after is not None:
            self.figures.judge(after, where, AFTER_A_CUT)
        self.figures.broken += [f"{where}: {line}" for line in broken]

    # -- what all rounds do

    async def _inject(self, server: Server) -> None:
        for step in self.steps:
            await self.progress.reach(step.after)
            server.check()
            if isinstance(step.what, Fault):
                self._rules.append((step, self.faults.arm(step.what)))
                if step.what.times == FOR_GOOD:
                    await self._endure(server)
            else:
                self._signal(server, step)

    def _signal(self, server: Server, step: Step) -> None:
        """Carry out a step that is not the shim's."""
        self._rules.append((step, -1))
        if step.what == "SIGKILL":
            server.kill()
        else:
            server.terminate()

    async def _endure(self, server: Server) -> None:
        """Disarm a lasting fault when the server has ended, or after some progress."""
        number = self._rules[-1][1]
        ended = asyncio.Event()

        def lift() -> None:
            self.faults.disarm(number)
            ended.set()

        server.on_end = lift
        goal = min(self.progress.count + 30, self.shape.messages)
        waits = {asyncio.create_task(ended.wait()), asyncio.create_task(self.progress.reach(goal))}
        _, left = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        lift()

    def _count(self, server: Server) -> None:
        figures, ledger = self.figures, self.ledger
        figures.messages += len(ledger.sent)
        figures.accepted += len(ledger.of(ACCEPTED))
        figures.refused += len(ledger.of(REFUSED))
        figures.refusals.update(sent.text for sent in ledger.of(REFUSED))
        figures.silent += len(ledger.of(SILENT))
        figures.delivered += sum(map(len, ledger.copies.values()))
        figures.restarts += len(server.ends) - 1

    async def _cut(self, disk: Disk) -> None:
        """Cut the power at random records, and once after the load, to find data lost early in the round."""
        first = min((sent.record for sent in self.ledger.of(ACCEPTED)), default=0)
        places = [self.end] + [self._place(first) for _ in range(self.shape.cuts - 1)]
        cuts = [Cut(place, TAILS[number % len(TAILS)]) for number, place in enumerate(places)]
        for number, (cut, path) in enumerate(disk.cuts(cuts, self.chance)):
            where = f"seed {self.seed}, power cut at record {cut.record}, unflushed writes {cut.tail}"
            folder = self.folder / f"cut{number}"
            folder.mkdir()
            await self._after(folder, path / "data", cut, where)
            self.figures.cuts += 1


def known_at(cut: Cut, messages: dict[str, Sent]) -> dict[str, Sent]:
    """Return the messages as of a power cut: a reply that was read after it does not bind the server."""
    return {
        name: sent if sent.record <= cut.record else replace(sent, reply=SILENT, text="")
        for name, sent in messages.items()
    }


async def survivors(folder: Path, data: Path, ledger: Ledger, cut: Cut, tls: str) -> tuple[Ledger | None, list[str]]:
    """Return the ledger as of a power cut, with the mail that a server delivers afterwards, and the faults found.

    A reply that was read at the record of the cut or before it binds the server; one that was read later does not.
    There is no ledger if no server starts.
    """
    after = Ledger(epoch=lambda: AFTER_A_CUT, sent=known_at(cut, ledger.sent))
    for name, copies in ledger.copies.items():
        if earlier := [copy for copy in copies if copy.record <= cut.record]:
            after.copies[name] = earlier
    broken: list[str] = []
    receiver = Receiver(after, random.Random(0))
    await receiver.start()
    try:
        server = Server(folder, data, relay_all(receiver.port), {}, tls=tls)
        await server.start()
        try:
            if left := await empty(server, after):
                broken.append(stay(left))
            if code := await server.stop():
                broken.append(f"the server ended with {code} on SIGTERM")
        finally:
            if server.running:
                await server.stop(signal.SIGKILL)
    except RuntimeError as error:
        return None, [str(error)]
    finally:
        await receiver.close()
    return after, broken


def failed_sync(seed: str, folder: Path, figures: Figures) -> Round:
    """Run a log sync that fails because the disk refuses a write, then 20 messages, then a power cut.

    No message is delivered before the power cut.
    """
    round_ = Round(seed, Shape(messages=25, clients=1, cuts=1), folder, figures, disk=True)
    round_.steps = [Step(5, Fault(LOG_SYNC_LOSES, SYNC, LOG, LOSE, amount=1))]
    round_.defers = 1.0
    round_.drains = False
    round_.size = lambda chance: chance.randint(1 << 10, 20 << 10)
    return round_


def first_start(seed: str, folder: Path, figures: Figures) -> Round:
    """Cut the power soon after the first start of a server that creates its certificate."""
    round_ = Round(seed, Shape(messages=5, clients=1, cuts=1), folder, figures, disk=True)
    round_.steps = []
    round_.defers = 1.0
    round_.drains = False
    round_.tls = "starttls"
    round_.size = lambda chance: chance.randint(1 << 10, 20 << 10)
    return round_
