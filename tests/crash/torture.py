"""Torture test: mail through a real server under storage faults, kills and power cuts, every message accounted for.

    python tests/crash/torture.py --seconds 3600 --seeds 1,2,3

A round sends a few hundred messages of 1 KB to 6 MiB through `ironpost serve` to a receiver in this process, injects
faults from a seeded plan, restarts the server whenever it ends, then empties the queue and compares. In a delivery
round (delivery_round.py) the receiver accepts, defers and refuses by recipient, or disconnects, and bounces are
compared as well. Every other round has its data directory on the disk in user space (disk.py) and is followed by power
cuts: each leaves a file system on which a new server is started, whose queue is emptied and compared in the same way.

Promises: exit code 0 if everything that got 250 arrived once at least and unaltered, or was bounced once, nothing that
got 4yz or 5yz arrived, and every second copy was made in a documented window; 1 otherwise, after the seeds that show
it; 2 if a round could not be carried out. Needs root for the disk; without it, such rounds are left out, with the
reason.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from delivery_round import DeliveryRound, WorkersRound
from disk import enclosed, unavailable
from plan import DISK_KINDS, KINDS, REMOTE_KINDS, WORKER_KINDS
from rounds import Figures, Round, Shape, failed_sync, first_start

ENCLOSED = "IRONPOST_TORTURE_ENCLOSED"
ROUNDS: dict[str, tuple[type[Round], bool]] = {
    "plain": (Round, False),
    "disk": (Round, True),
    "delivery": (DeliveryRound, False),
    "delivery-disk": (DeliveryRound, True),
    "workers": (WorkersRound, False),
    "workers-disk": (WorkersRound, True),
}
"""The kinds of rounds: the class, and whether the data directory is on the disk in user space."""
SCENARIOS = {"failed-sync": failed_sync, "first-start": first_start}


def table(figures: Figures) -> str:
    """Return the figures as tables for docs/reliability.md."""
    lines = [
        "| fault | injected | took effect | survived |",
        "|---|---|---|---|",
    ]
    for name in sorted({*KINDS, *DISK_KINDS, *REMOTE_KINDS, *WORKER_KINDS}):
        counts = figures.injected[name], figures.triggered[name], figures.survived[name]
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
        f"| searches for a message with 250, power failures included | {figures.checked} |",
        f"| lost | {len(figures.lost)} |",
        f"| refused and delivered | {len(figures.refused_but_delivered)} |",
        f"| delivered with other content | {len(figures.altered)} |",
        f"| second copies: the server ended between the remote's reply and our commit | {figures.duplicates['kill']} |",
        f"| second copies: the remote's reply was lost | {figures.duplicates['lost reply']} |",
        f"| second copies without such a reason | {figures.duplicates['unexplained']} |",
        "",
        figures.delivery.table(),
    ]
    return "\n".join(lines)


def publish(document: Path, text: str) -> None:
    """Replace the text between the markers of a document."""
    before, marker, rest = document.read_text().partition("<!-- figures -->\n")
    _, end, after = rest.partition("<!-- end of figures -->")
    if not (marker and end):
        raise SystemExit(f"{document} has no markers for the figures")
    document.write_text(f"{before}{marker}\n{text}\n\n{end}{after}")


def once(scenario: str, seed: str) -> Figures:
    """Run one of SCENARIOS."""
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as folder:
        try:
            asyncio.run(SCENARIOS[scenario](seed, Path(folder), figures).run())
        except (RuntimeError, TimeoutError) as error:
            figures.broken.append(f"{scenario}: {type(error).__name__}: {error}")
    return figures


def torture(seeds: list[str], seconds: float, shape: Shape, kinds: list[str], keep: Path | None) -> Figures:
    """Run rounds for `seconds`, at least one of each kind and seed."""
    figures = Figures()
    start = time.monotonic()
    end = start + seconds
    number = 0
    while True:
        for seed in seeds:
            for kind in kinds:
                made, disk = ROUNDS[kind]
                name = f"{seed}.{number}.{kind}"
                folder = Path(tempfile.mkdtemp(prefix="torture-"))
                before = figures.violations
                try:
                    asyncio.run(made(name, shape, folder, figures, disk=disk).run())
                except (RuntimeError, TimeoutError) as error:
                    figures.broken.append(f"seed {name}: {type(error).__name__}: {error}")
                if figures.violations > before and keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    for log in (folder / "log", *folder.glob("cut*/log")):
                        if log.exists():
                            shutil.copy(log, keep / f"{name}.{log.parent.name}.log")
                shutil.rmtree(folder, ignore_errors=True)
                print(
                    f"{name}: {figures.messages} messages, {sum(figures.triggered.values())} faults, "
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
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="duration in seconds; at least one round of each kind"
    )
    parser.add_argument("--seeds", default="1", help="separated by commas")
    parser.add_argument("--kinds", default=",".join(ROUNDS), help="which rounds, separated by commas")
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), help="this one alone, instead of rounds")
    parser.add_argument("--messages", type=int, default=Shape.messages, help="in a round")
    parser.add_argument("--faults", type=int, default=Shape.faults, help="in a round")
    parser.add_argument("--cuts", type=int, default=Shape.cuts, help="power cuts after a round with the disk")
    parser.add_argument("--workers", type=int, default=Shape.workers, help="of the server")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--document", type=Path, help="put the figures into this document, between its markers")
    parser.add_argument("--keep", type=Path, help="copy the server's log of rounds with a violation to this folder")
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    if unknown := set(kinds) - set(ROUNDS):
        parser.error(f"no such rounds: {', '.join(sorted(unknown))}")
    if (options.scenario is not None or any(ROUNDS[kind][1] for kind in kinds)) and ENCLOSED not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            reason = unavailable(Path(folder))
        if reason is None:
            os.environ[ENCLOSED] = "1"
            command = enclosed([sys.executable, *sys.argv])
            os.execvp(command[0], command)
        print(f"rounds with the disk are left out: {reason}", file=sys.stderr)
        kinds = [kind for kind in kinds if not ROUNDS[kind][1]]
        if options.scenario is not None or not kinds:
            return 2
    shape = Shape(options.messages, faults=options.faults, cuts=options.cuts, workers=options.workers)
    seeds = options.seeds.split(",")
    start = time.monotonic()
    if options.scenario is not None:
        figures = once(options.scenario, seeds[0])
    else:
        figures = torture(seeds, options.seconds, shape, kinds, options.keep)
    shown = table(figures)
    print(shown)
    if options.document is not None:
        run = f"{time.strftime('%d %B %Y')}, seeds {', '.join(seeds)}, {(time.monotonic() - start) / 60:.0f} minutes"
        publish(options.document, f"{run}, Linux {os.uname().release}, Python {sys.version.split()[0]}:\n\n{shown}")
    found = {name.replace("_", " "): getattr(figures, name) for name in ("lost", "refused_but_delivered", "altered",
             "unexplained", "broken")}  # fmt: skip
    for name, lines in (*found.items(), *figures.delivery.violations.items()):
        for line in lines[:50]:
            print(f"{name}: {line}", file=sys.stderr)
    if options.json is not None:
        options.json.write_text(json.dumps({**vars(figures), "delivery": vars(figures.delivery)}))
    if figures.violations > len(figures.broken):
        return 1
    return 2 if figures.broken else 0


if __name__ == "__main__":
    sys.exit(main())
