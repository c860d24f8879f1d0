"""Stock aiosmtpd with a handler that discards, against the same file with one import changed.

    python benches/load/facade.py [--rounds N] [--connections N]

The program starts a `Controller`, as most programs for aiosmtpd do; ours uses uvloop where it is installed, and stock
aiosmtpd the event loop of asyncio. Both servers take turns. smtp-source keeps its connections (`-d`) and waits for each
reply, so one connection measures round trips, in which the server is idle: small messages come on ten, and large ones
on two, which keep one server busy. `--connections` sets another number for all sizes. The rate is that of smtp-source;
the CPU is user and system time of the server, from its start to its end, less that of a run without messages.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from typing import NamedTuple

from sources import Load, burst

PROGRAM = """
import sys
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Sink

class AnyPort(Controller):
    def _trigger_server(self):
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()

controller = AnyPort(Sink(), hostname="127.0.0.1", port=0, server_hostname="mx.example")
controller.start()
print(controller.port, flush=True)
sys.stdin.read()
controller.stop()
"""
PACKAGES = {"stock": "aiosmtpd", "ours": "ironpost.compat.aiosmtpd"}


class Run(NamedTuple):
    """What is sent in one run."""

    messages: int
    connections: int


RUNS = {1_000: Run(15_000, 10), 100_000: Run(2000, 10), 10_000_000: Run(20, 2)}
"""By octets of a message."""


class Figures(NamedTuple):
    """The result of one run."""

    rate: float
    """Messages per second."""
    cpu: float
    """CPU seconds of the server."""


def server(variant: str) -> subprocess.Popen[str]:
    """Start a server; its port is the first line that it prints."""
    program = PROGRAM.replace("from aiosmtpd", f"from {PACKAGES[variant]}")
    return subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run(variant: str, size: int, count: int, connections: int) -> Figures:
    """Send `count` messages."""
    process = server(variant)
    port = int(process.stdout.readline())
    rate = 0.0
    if count:
        sent = burst("smtp-source", Load(port=port, way="reuse", size=size, connections=connections), count)
        rate = sent.messages / sent.seconds
    process.stdin.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    assert process.returncode == 0
    return Figures(rate, usage.ru_utime + usage.ru_stime)


def figures(variant: str, size: int, count: int, connections: int) -> Figures:
    """The rate, and CPU milliseconds per message."""
    idle, loaded = run(variant, size, 0, connections), run(variant, size, count, connections)
    return Figures(loaded.rate, (loaded.cpu - idle.cpu) / count * 1000)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, help="instead of those of each size")
    options = parser.parse_args()
    print(f"{'octets':>12}{'stock, /s':>12}{'ours, /s':>12}{'stock, ms':>12}{'ours, ms':>12}{'rate':>9}{'CPU':>8}")
    for size, (count, connections) in RUNS.items():
        rounds = [
            [figures(variant, size, count, options.connections or connections) for variant in PACKAGES]
            for _ in range(options.rounds)
        ]
        stock, ours = (statistics.median(each.rate for each in variant) for variant in zip(*rounds, strict=True))
        stock_cpu, ours_cpu = (statistics.median(each.cpu for each in variant) for variant in zip(*rounds, strict=True))
        print(f"{size:>12,}{stock:>12.0f}{ours:>12.0f}{stock_cpu:>12.3f}{ours_cpu:>12.3f}", end="")
        print(f"{ours / stock:>8.1f}x{ours_cpu / stock_cpu:>8.3f}", flush=True)


if __name__ == "__main__":
    main()
