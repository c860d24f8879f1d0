"""Whole servers under load, beside servers that this project did not write, in one run.

    python benches/load/run.py matrix      sizes from 1 KB to 10 MB, plain and TLS, discarded and durable
    python benches/load/run.py relay       to an smtp-sink behind
    python benches/load/run.py handshakes  TLS connections, one after the other
    python benches/load/run.py idle        memory of connections that only stay open

Options: --rounds 3, --seconds 1 (about how long one measurement takes), --only WORDS (cases whose line holds them all),
--json FILE (every single measurement). Servers take turns in each round; printed are medians: messages a second, CPU
milliseconds a message of the server with all its processes, and our CPU divided by its. The driver checks every reply.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from contestants import Contestant, Sink, discarding, durable, relaying

if TYPE_CHECKING:
    from collections.abc import Iterator

DRIVER = Path(__file__).with_name("driver.py")
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
LEAST = 20
"""Messages of one measurement at least."""
OCTETS = 600_000_000
"""Of one measurement at most: what is durable must find room."""


@dataclass(frozen=True)
class Case:
    """What is measured."""

    what: str
    tls: str
    way: str
    size: int

    def __str__(self) -> str:
        return f"{self.what}, {'TLS' if self.tls != 'no' else 'plain'}, {self.way}, {_octets(self.size)}"


@dataclass(frozen=True)
class Figure:
    """One measurement."""

    case: str
    server: str
    rate: float
    """Messages a second."""
    cpu: float
    """Milliseconds a message."""
    messages: int


def _octets(size: int) -> str:
    for unit, octets in (("MB", 1_000_000), ("KB", 1000)):
        if size >= octets:
            return f"{size // octets} {unit}"
    return f"{size} B"


def drive(server: Contestant, case: Case, messages: int) -> Figure:
    """Messages through one server."""
    port = server.implicit_port if case.tls == "implicit" else server.port
    already = server.sink.count if server.sink else 0
    before, start = server.cpu(), time.perf_counter()
    arguments = [str(port), "--way", case.way, "--tls", case.tls, "--messages", str(messages)]
    arguments += ["--size", str(case.size), "--connections", str(server.connections)]
    if server.sink:
        arguments += ["--to", "grace@elsewhere.example"]
    done = subprocess.run(
        [sys.executable, str(DRIVER), *arguments], capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{server.name}, {case}: {done.stderr[-800:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    seconds = said["seconds"]
    if server.sink:
        while server.sink.count < already + messages:
            time.sleep(0.01)
        seconds = time.perf_counter() - start
    return Figure(str(case), server.name, messages / seconds, (server.cpu() - before) / messages * 1000, messages)


def compare(servers: list[Contestant], case: Case, asked: argparse.Namespace) -> list[Figure]:
    """Rounds over all servers."""
    counts: dict[str, int] = {}
    able = [server for server in servers if case.tls == "no" or server.tls]
    for server in able:
        most = max(LEAST, OCTETS // case.size)
        count = max(LEAST, min(100, most, 20_000_000 // case.size))
        try:
            for _ in range(2):
                figure = drive(server, case, count)
                count = max(LEAST, min(most, int(figure.rate * asked.seconds), count * 20))
        except RuntimeError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        counts[server.name] = count
    figures = [
        drive(server, case, counts[server.name])
        for _ in range(asked.rounds)
        for server in able
        if server.name in counts
    ]
    report(case, figures)
    return figures


def report(case: Case, figures: list[Figure]) -> None:
    """The medians of one case as a table's rows."""
    names = list(dict.fromkeys(figure.server for figure in figures))
    cost = {name: statistics.median(figure.cpu for figure in figures if figure.server == name) for name in names}
    for name in names:
        rate = statistics.median(figure.rate for figure in figures if figure.server == name)
        ratio = cost["ironpost"] / cost[name] if cost[name] and "ironpost" in cost else 0
        shown = f"{ratio:.2f}" if name != "ironpost" else ""
        print(f"| {case} | {name} | {rate:,.4g} | {cost[name]:.4g} | {shown} |", flush=True)


@contextmanager
def running(servers: list[Contestant], folder: Path) -> Iterator[list[Contestant]]:
    """The servers, up; down at the end."""
    started: list[Contestant] = []
    try:
        for server in servers:
            server.start(folder)
            started.append(server)
        yield started
    finally:
        for server in started:
            server.stop()
        for sink in {id(server.sink): server.sink for server in servers if server.sink}.values():
            sink.process.kill()


def cases(what: str) -> list[Case]:
    """Reused connections at every size; a connection each and full pipelining where they matter, at 1 KB."""
    found = []
    for tls in ("no", "starttls"):
        found += [Case(what, tls, "reuse", size) for size in SIZES]
        found.append(Case(what, tls, "conn", SIZES[0]))
        found.append(Case(what, tls, "pipelined", SIZES[0]))
    return found


def wanted(case: object, asked: argparse.Namespace) -> bool:
    return all(word in str(case) for word in asked.only)


def matrix(asked: argparse.Namespace, folder: Path) -> list[Figure]:
    """Discarded, then durable."""
    figures: list[Figure] = []
    for what, contestants in (("discard", discarding), ("durable", durable)):
        chosen = [case for case in cases(what) if wanted(case, asked)]
        if chosen:
            with running(contestants(folder), folder) as servers:
                for case in chosen:
                    figures += compare(servers, case, asked)
    return figures


def relay(asked: argparse.Namespace, folder: Path) -> list[Figure]:
    """From end to end."""
    figures: list[Figure] = []
    with running(relaying(folder, Sink()), folder) as servers:
        for way in ("conn", "reuse"):
            figures += compare(servers, Case("relay", "no", way, SIZES[0]), asked)
    return figures


def handshakes(asked: argparse.Namespace, folder: Path) -> list[Figure]:
    """A whole TLS connection each: EHLO, QUIT."""
    figures: list[Figure] = []
    with running(discarding(folder), folder) as servers:
        for tls in ("starttls", "implicit"):
            able = [s for s in servers if (s.implicit_port if tls == "implicit" else s.tls)]
            case = Case(f"handshakes by {tls}", tls, "handshakes", 0)
            rounds = [drive(server, case, 300) for _ in range(asked.rounds) for server in able]
            report(case, rounds)
            figures += rounds
    return figures


def idle(asked: argparse.Namespace, folder: Path) -> list[Figure]:
    """Octets of resident memory for each connection, each time on a fresh process."""
    del asked
    for count, tls in ((2000, "no"), (10_000, "no"), (2000, "implicit")):
        able = [s for s in discarding(folder) if s.name in {"ironpost", "aiosmtpd"}]
        with running([s for s in able if tls == "no" or s.implicit_port], folder) as servers:
            for server in servers:
                hold(server, count, tls)
    return []


def hold(server: Contestant, count: int, tls: str) -> None:
    """Opens connections, measures, closes them."""
    port = server.implicit_port if tls == "implicit" else server.port
    before, cost = server.memory(), server.cpu()
    command = [sys.executable, str(DRIVER), str(port), "--way", "idle", "--connections", str(count), "--tls", tls]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        said = driver.stdout.readline()
        if not said:
            raise SystemExit(f"{server.name} did not hold {count} connections")
        held = json.loads(said)["idle"]
        each = (server.memory() - before) / held / 1024
        spent = (server.cpu() - cost) / held * 1000
        driver.communicate("")
    print(f"| {held:,} idle, {tls} | {server.name} | {each:.2f} KB | {spent:.3f} ms to accept |", flush=True)


def main() -> None:
    """Runs one comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["matrix", "relay", "handshakes", "idle"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        what = {"matrix": matrix, "relay": relay, "handshakes": handshakes, "idle": idle}[asked.what]
        figures = what(asked, Path(name))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=1))


if __name__ == "__main__":
    main()
