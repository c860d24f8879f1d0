"""What group commit costs the disk, and what more processes bring.

    python benches/load/scale.py fsyncs  [--messages 4000]                       per 1,000 messages, by connections
    python benches/load/scale.py workers [--messages 10000] [--most 2] [--rounds 3]     messages a second, by workers

`fsyncs` counts fsync and fdatasync of the server and its sync process with strace, which stops a process only at these
two (`--seccomp-bpf`), less those of a server that is started and stopped without mail. `workers` loads `hold_server.py`
(everything up to the 250, no delivery), then `ironpost serve` (with delivery into a Maildir), each with 1 to `--most`
workers, from one driver for each worker, 20 connections each; medians of rounds. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from contestants import HERE, Contestant, free_port

WAYS = ("reuse", "pipelined")
CONNECTIONS = (1, 20, 200)
DRIVER = [sys.executable, str(HERE / "driver.py")]


def drive(port: int, way: str, messages: int, connections: int, drivers: int = 1) -> float:
    """Sends messages; how many a second."""
    share = messages // drivers
    command = [*DRIVER, str(port), "--way", way, "--messages", str(share), "--connections", str(connections)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(drivers)]
    rate = 0.0
    for process in running:
        said, _ = process.communicate(timeout=300)
        if process.returncode:
            raise SystemExit(f"the driver failed: {said.decode()}")
        found = json.loads(said)
        rate += found["messages"] / found["seconds"]
    return rate


def syncs(folder: Path, way: str, messages: int, connections: int) -> int:
    """How often a server syncs from its start to its end."""
    port, trace = free_port(), folder / f"trace-{way}-{messages}-{connections}"
    strace = ["strace", "-f", "--seccomp-bpf", "-c", "-e", "trace=fsync,fdatasync", "-o", str(trace)]
    server = [sys.executable, str(HERE / "hold_server.py"), str(port), str(folder / f"data-{port}")]
    contestant = Contestant("ironpost", [*strace, *server], port)
    contestant.start(folder)
    if messages:
        drive(port, way, messages, connections)
    # strace passes no signal on: its child is asked itself.
    pid = contestant.process.pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        os.kill(int(child), signal.SIGTERM)
    contestant.process.wait(60)
    contestant.stop()
    rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?f\w+sync$", trace.read_text(), re.M)
    return sum(int(calls) for calls in rows)


def count_syncs(asked: argparse.Namespace, folder: Path) -> None:
    """The table of fsyncs."""
    idle = syncs(folder, "reuse", 0, 0)
    for way in WAYS:
        for connections in CONNECTIONS:
            found = (syncs(folder, way, asked.messages, connections) - idle) / asked.messages * 1000
            case = f"{way:9} {connections:4} connections"
            print(f"{case}  {found:8.1f} fsyncs per 1,000 messages  {1000 / found:6.1f} messages for each")


def servers(folder: Path, what: str, workers: int) -> list[Contestant]:
    """The processes that are started for one row; the first one first."""
    port, data = free_port(), folder / f"{what}-{workers}"
    if what == "hold":
        command = [sys.executable, str(HERE / "hold_server.py"), str(port), str(data), "--workers", str(workers)]
        return [Contestant(f"hold{number}", [*command, "--worker", str(number)], port) for number in range(workers)]
    file = folder / f"serve-{workers}.toml"
    file.write_text(f'data = "{data}"\n[[listener]]\nrole = "mx"\nlisten = ["127.0.0.1:{port}"]\ntls = "none"\n')
    command = [sys.executable, "-m", "ironpost.cli", "serve", "-c", str(file), "--workers", str(workers)]
    return [Contestant(f"serve{workers}", command, port)]


def compare_workers(asked: argparse.Namespace, folder: Path) -> None:
    """The table of rates."""
    for what in ("hold", "serve"):
        rows = {workers: servers(folder, what, workers) for workers in range(1, asked.most + 1)}
        for crew in rows.values():
            for process in crew:
                process.start(folder)
        for way in WAYS:
            rates: dict[int, list[float]] = {workers: [] for workers in rows}
            for number in range(asked.rounds + 1):
                for workers, crew in rows.items():
                    rate = drive(crew[0].port, way, asked.messages, 20, drivers=workers)
                    if number:  # the first round warms up
                        rates[workers].append(rate)
            for workers, found in rates.items():
                rate = statistics.median(found)
                gain = rate / statistics.median(rates[1])
                print(f"{what:5} {way:9} {workers} workers  {rate:8.0f} messages/s  {gain:5.2f} x one")
        for crew in rows.values():
            for process in crew:
                process.stop()


def main() -> None:
    """Makes one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["fsyncs", "workers"])
    parser.add_argument("--messages", type=int, default=0, help="in one measurement; 4,000 or 10,000")
    parser.add_argument("--most", type=int, default=2, help="workers")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    asked.messages = asked.messages or (4000 if asked.what == "fsyncs" else 10000)
    with tempfile.TemporaryDirectory() as name:
        (count_syncs if asked.what == "fsyncs" else compare_workers)(asked, Path(name))


if __name__ == "__main__":
    main()
