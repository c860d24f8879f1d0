"""Torture: mail through a real server under storage faults, kills and power cuts, and an account of every message.

    python tests/crash/torture.py --seconds 3600 --seeds 1,2,3

A round sends a few hundred messages of 1 KB to 6 MiB through `ironpost serve` to a receiver in this process, injects
faults from a seeded plan, restarts the server whenever it ends, then empties the queue and compares. Every other round
has its data directory on the disk in user space (disk.py) and is followed by power cuts: each leaves a file system on
which a new server is started, whose queue is emptied and compared in the same way.

Promises: exit code 0 if everything that got 250 arrived once at least and unaltered, nothing that got 4yz or 5yz
arrived, and every second copy was made in a documented window; 1 otherwise, after the seeds that show it; 2 if a round
could not be carried out. Needs root for the disk; without it, such rounds are left out, with the reason.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from disk import TAILS, Cut, Disk, enclosed, unavailable
from faults import LOSE, SYNC, Fault, Faults
from ledger import ACCEPTED, REFUSED, SILENT, Ledger, Load, Receiver, sizes
from plan import DISK_KINDS, FOR_GOOD, KINDS, LOG, LOG_SYNC_LOSES, Step, plan

from server import Server

HANG_SECONDS = 300.0
"""A guard: a round's load takes seconds."""
QUIET_SECONDS = 2.0
"""Without an arrival for so long, the queue is looked at."""
STUCK_SECONDS = 20.0
"""After so long without progress a queue that is being emptied is taken to be stuck."""
ENCLOSED = "IRONPOST_TORTURE_ENCLOSED"
AFTER_A_CUT = 1 << 30
"""The epoch of copies that a server delivers after a power cut: no other copy was made in it."""


@dataclass
class Figures:
    """What happened, in sum."""

    rounds: int = 0
    cuts: int = 0
    messages: int = 0
    accepted: int = 0
    refused: int = 0
    silent: int = 0
    delivered: int = 0
    restarts: int = 0
    checked: int = 0
    """Messages with a 250 that were looked for, in all rounds and after all cuts."""
    refusals: Counter[str] = field(default_factory=Counter)
    """The texts of 4yz and 5yz."""
    injected: Counter[str] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)
    survived: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    refused_but_delivered: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Rounds that could not be carried out, and exit codes that should be 0."""

    @property
    def violations(self) -> int:
        return sum(map(len, (self.lost, self.refused_but_delivered, self.altered, self.unexplained, self.broken)))

    def judge(self, ledger: Ledger, where: str, since: int = 0) -> None:
        """Adds what a ledger shows; of second copies, those since an epoch."""
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
    """How large a round is."""

    messages: int = 300
    clients: int = 10
    faults: int = 8
    cuts: int = 6
    workers: int = 1


async def empty(server: Server, ledger: Ledger) -> list[dict[str, Any]]:
    """Has the queue delivered; what stays in it though it is tried again and again."""
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
    """What is said of messages that do not leave the queue."""
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
        # With the disk most mail waits: after a power cut there is to be a queue.
        self.defers, self.vanishes = (0.4, 0.01) if disk else (0.1, 0.01)
        self.size = sizes
        self.tls = "none"
        self.drains = True
        """The queue is emptied after the load, not only after the power cuts."""
        self._rules: list[tuple[Step, int]] = []

    async def run(self) -> None:
        """Carries it out and adds to the figures."""
        figures, before = self.figures, self.figures.violations
        self.faults = Faults(self.folder)
        ledger = Ledger(records=lambda: self.faults.records)
        receiver = Receiver(ledger, random.Random(self.seed + "receiver"))
        receiver.defers, receiver.vanishes = self.defers, self.vanishes
        await receiver.start()
        disk = Disk(self.folder, self.faults) if self.with_disk else None
        try:
            data = (disk.path if disk else self.folder) / "data"
            server = Server(
                self.folder,
                data,
                receiver.port,
                self.faults.environment(),
                workers=self.shape.workers,
                tls=self.tls,
            )
            ledger.epoch = lambda: server.epoch
            await self._live(server, ledger, receiver)
            self._count(ledger, server)
            if disk is not None:
                disk.close()
                await self._cut(disk, ledger)
                disk.discard()
        finally:
            if disk is not None:
                disk.close()
            await receiver.close()
        figures.rounds += 1
        met = Counter(step.name for step, number in self._rules if number < 0 or self.faults.fired(number))
        figures.injected.update(step.name for step, _ in self._rules)
        figures.met.update(met)
        if figures.violations == before:
            figures.survived.update(met)

    async def _live(self, server: Server, ledger: Ledger, receiver: Receiver) -> None:
        await server.start()
        load = Load(ledger, random.Random(self.seed + "load"), server.listening, "m")
        load.size = self.size
        work = asyncio.gather(load.send(self.shape.messages, self.shape.clients), self._inject(server, load))
        try:
            async with asyncio.timeout(HANG_SECONDS):
                await server.beside(work)
            self.faults.disarm_all()
            self.end = self.faults.records
            receiver.defers = receiver.vanishes = 0.0
            if not self.drains:
                await server.stop(signal.SIGKILL)
                return
            if left := await empty(server, ledger):
                self.figures.broken.append(f"seed {self.seed}: {stay(left)}")
            if code := await server.stop():
                self.figures.broken.append(f"seed {self.seed}: the server ended with {code} on SIGTERM")
            self.figures.judge(ledger, f"seed {self.seed}")
        finally:
            work.cancel()
            if server.running:
                await server.stop(signal.SIGKILL)

    async def _inject(self, server: Server, load: Load) -> None:
        for step in self.steps:
            await load.reach(step.after)
            server.check()
            if isinstance(step.what, Fault):
                self._rules.append((step, self.faults.arm(step.what)))
                if step.what.times == FOR_GOOD:
                    await self._endure(server, load)
                continue
            self._rules.append((step, -1))
            if step.what == "SIGKILL":
                server.kill()
            else:
                server.terminate()

    async def _endure(self, server: Server, load: Load) -> None:
        """A fault that does not pass by itself ends with the server, or after some messages."""
        number = self._rules[-1][1]
        ended = asyncio.Event()

        def lift() -> None:
            self.faults.disarm(number)
            ended.set()

        server.on_end = lift
        goal = min(load.settled + 30, self.shape.messages)
        waits = {asyncio.create_task(ended.wait()), asyncio.create_task(load.reach(goal))}
        _, left = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        lift()

    def _count(self, ledger: Ledger, server: Server) -> None:
        figures = self.figures
        figures.messages += len(ledger.sent)
        figures.accepted += len(ledger.of(ACCEPTED))
        figures.refused += len(ledger.of(REFUSED))
        figures.refusals.update(sent.text for sent in ledger.of(REFUSED))
        figures.silent += len(ledger.of(SILENT))
        figures.delivered += sum(map(len, ledger.copies.values()))
        figures.restarts += len(server.ends) - 1

    async def _cut(self, disk: Disk, ledger: Ledger) -> None:
        """Power cuts at random records: one at the end of the load, when a hole of long ago would show."""
        first = min((sent.record for sent in ledger.of(ACCEPTED)), default=0)
        places = [self.end] + [self.chance.randrange(first, self.end + 1) for _ in range(self.shape.cuts - 1)]
        cuts = [Cut(place, TAILS[number % len(TAILS)]) for number, place in enumerate(places)]
        for number, (cut, path) in enumerate(disk.cuts(cuts, self.chance)):
            where = f"seed {self.seed}, power cut at record {cut.record}, unflushed writes {cut.tail}"
            after, broken = await survivors(self.folder / f"cut{number}", path / "data", ledger, cut, self.tls)
            if after is not None:
                self.figures.judge(after, where, AFTER_A_CUT)
            self.figures.broken += [f"{where}: {line}" for line in broken]
            self.figures.cuts += 1


async def survivors(folder: Path, data: Path, ledger: Ledger, cut: Cut, tls: str) -> tuple[Ledger | None, list[str]]:
    """What a server delivers after a power cut: the ledger as of the cut, with what arrives afterwards; and what broke.

    A reply that was read at the record of the cut or before it binds the server; one that was read later does not.
    There is no ledger if no server starts.
    """
    folder.mkdir(exist_ok=True)
    after = Ledger(epoch=lambda: AFTER_A_CUT)
    for name, sent in ledger.sent.items():
        known = sent.reply != SILENT and sent.record <= cut.record
        after.sent[name] = sent if known else type(sent)(name, sent.digest)
    for name, copies in ledger.copies.items():
        if earlier := [copy for copy in copies if copy.record <= cut.record]:
            after.copies[name] = earlier
    broken: list[str] = []
    receiver = Receiver(after, random.Random(0))
    await receiver.start()
    try:
        server = Server(folder, data, receiver.port, {}, tls=tls)
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
    """A log sync that fails because the disk refuses a write, then 20 messages, then a power cut: nothing may be lost.

    No message is delivered before the power cut.
    """
    round_ = Round(seed, Shape(messages=25, clients=1, cuts=1), folder, figures, disk=True)
    round_.steps = [Step(5, Fault(LOG_SYNC_LOSES, SYNC, LOG, LOSE, amount=1))]
    round_.defers = 1.0
    round_.drains = False
    round_.size = lambda chance: chance.randint(1 << 10, 20 << 10)
    return round_


def first_start(seed: str, folder: Path, figures: Figures) -> Round:
    """A power cut soon after the first start of a server that makes a certificate for itself."""
    round_ = Round(seed, Shape(messages=5, clients=1, cuts=1), folder, figures, disk=True)
    round_.steps = []
    round_.defers = 1.0
    round_.drains = False
    round_.tls = "starttls"
    round_.size = lambda chance: chance.randint(1 << 10, 20 << 10)
    return round_


SCENARIOS = {"failed-sync": failed_sync, "first-start": first_start}


def table(figures: Figures) -> str:
    """The figures as docs/reliability.md has them."""
    lines = [
        "| fault | injected | met | survived |",
        "|---|---|---|---|",
    ]
    for name in sorted(KINDS | DISK_KINDS):
        counts = figures.injected[name], figures.met[name], figures.survived[name]
        lines.append(f"| {name} | {counts[0]} | {counts[1]} | {counts[2]} |")
    lines.append(f"| power cut | {figures.cuts} | {figures.cuts} | {figures.cuts if not figures.violations else '?'} |")
    lines += [
        "",
        "| what | count |",
        "|---|---|",
        f"| rounds | {figures.rounds} |",
        f"| messages sent | {figures.messages} |",
        f"| answered 250 | {figures.accepted} |",
        f"| answered 4yz or 5yz | {figures.refused} |",
        f"| no reply | {figures.silent} |",
        f"| restarts of the server | {figures.restarts} |",
        f"| looked for after a 250, power cuts included | {figures.checked} |",
        f"| lost | {len(figures.lost)} |",
        f"| refused and delivered | {len(figures.refused_but_delivered)} |",
        f"| delivered with other content | {len(figures.altered)} |",
        f"| second copies: the server ended between the remote's reply and our commit | {figures.duplicates['kill']} |",
        f"| second copies: the remote's reply was lost | {figures.duplicates['lost reply']} |",
        f"| second copies without such a reason | {figures.duplicates['unexplained']} |",
    ]
    return "\n".join(lines)


def publish(document: Path, text: str) -> None:
    """Replaces what stands between the markers of a document."""
    before, marker, rest = document.read_text().partition("<!-- figures -->\n")
    _, end, after = rest.partition("<!-- end of figures -->")
    if not (marker and end):
        raise SystemExit(f"{document} has no markers for the figures")
    document.write_text(f"{before}{marker}\n{text}\n\n{end}{after}")


def once(scenario: str, seed: str) -> Figures:
    """One of SCENARIOS."""
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as folder:
        try:
            asyncio.run(SCENARIOS[scenario](seed, Path(folder), figures).run())
        except (RuntimeError, TimeoutError) as error:
            figures.broken.append(f"{scenario}: {type(error).__name__}: {error}")
    return figures


def torture(seeds: list[str], seconds: float, shape: Shape, kinds: str, keep: Path | None) -> Figures:
    """Rounds until `seconds` are over, one of each kind and seed at least."""
    figures = Figures()
    start = time.monotonic()
    end = start + seconds
    number = 0
    while True:
        for seed in seeds:
            for disk in (False, True):
                if kinds not in ("all", "disk" if disk else "plain"):
                    continue
                name = f"{seed}.{number}.{'disk' if disk else 'plain'}"
                folder = Path(tempfile.mkdtemp(prefix="torture-"))
                before = figures.violations
                try:
                    asyncio.run(Round(name, shape, folder, figures, disk=disk).run())
                except (RuntimeError, TimeoutError) as error:
                    figures.broken.append(f"seed {name}: {type(error).__name__}: {error}")
                if figures.violations > before and keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    for log in (folder / "log", *folder.glob("cut*/log")):
                        if log.exists():
                            shutil.copy(log, keep / f"{name}.{log.parent.name}.log")
                shutil.rmtree(folder, ignore_errors=True)
                print(
                    f"{name}: {figures.messages} messages, {sum(figures.met.values())} faults, "
                    f"{figures.cuts} power cuts, {figures.violations} violations, {time.monotonic() - start:.0f} s",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
                if number and time.monotonic() > end:
                    return figures
        number += 1
        if time.monotonic() > end:
            return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=0.0, help="go on for so long; one round of each kind at least")
    parser.add_argument("--seeds", default="1", help="separated by commas")
    parser.add_argument("--kinds", choices=("all", "plain", "disk"), default="all", help="which rounds")
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), help="this one alone, instead of rounds")
    parser.add_argument("--messages", type=int, default=Shape.messages, help="in a round")
    parser.add_argument("--faults", type=int, default=Shape.faults, help="in a round")
    parser.add_argument("--cuts", type=int, default=Shape.cuts, help="power cuts after a round with the disk")
    parser.add_argument("--workers", type=int, default=Shape.workers, help="of the server")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--document", type=Path, help="put the figures into this document, between its markers")
    parser.add_argument("--keep", type=Path, help="copy the server's log of rounds with a violation to this folder")
    options = parser.parse_args()
    if options.scenario is not None:
        options.kinds = "disk"
    if options.kinds != "plain" and ENCLOSED not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            reason = unavailable(Path(folder))
        if reason is None:
            os.environ[ENCLOSED] = "1"
            command = enclosed([sys.executable, *sys.argv])
            os.execvp(command[0], command)
        print(f"rounds with the disk are left out: {reason}", file=sys.stderr)
        if options.kinds == "disk":
            return 2
        options.kinds = "plain"
    shape = Shape(options.messages, faults=options.faults, cuts=options.cuts, workers=options.workers)
    seeds = options.seeds.split(",")
    start = time.monotonic()
    if options.scenario is not None:
        figures = once(options.scenario, seeds[0])
    else:
        figures = torture(seeds, options.seconds, shape, options.kinds, options.keep)
    shown = table(figures)
    print(shown)
    if options.document is not None:
        run = f"{time.strftime('%d %B %Y')}, seeds {', '.join(seeds)}, {(time.monotonic() - start) / 60:.0f} minutes"
        publish(options.document, f"{run}, Linux {os.uname().release}, Python {sys.version.split()[0]}:\n\n{shown}")
    for name in ("lost", "refused_but_delivered", "altered", "unexplained", "broken"):
        for line in getattr(figures, name)[:50]:
            print(f"{name.replace('_', ' ')}: {line}", file=sys.stderr)
    if options.json is not None:
        options.json.write_text(json.dumps(vars(figures)))
    if figures.violations > len(figures.broken):
        return 1
    return 2 if figures.broken else 0


if __name__ == "__main__":
    sys.exit(main())
