"""How late the event loop is while large messages are accepted durably: the delay of every other client.

    python benches/load/lag.py [--clients 50] [--size 25000000] [--messages 1] [--tls] [--directory DIR]

A separate process runs a server with the store on disk. It accepts `clients` connections at once, each of which sends
`messages` messages of `size` octets, and schedules a beat every `PERIOD`; the output is how late the beats were. A late
beat also counts for those that were due meanwhile, so the figures are the delay of a client that arrives at a random
moment; otherwise a few long stalls would disappear among many beats. Beats after a commit (a transaction of the
database, on the loop) are listed separately, and so is the duration of the commits. `idle` is the same server without
clients: the share of the machine itself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PERIOD = 0.002
"""Seconds between two beats."""
IDLE = 3.0
"""Seconds that the idle server is watched."""
POINTS = (50.0, 99.0, 99.9, 100.0)


class Heart:
    """Beats on an event loop and writes down how late."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due = 0.0
        self.committing = False
        """A commit ran since the last beat."""
        self.beats: list[tuple[float, bool]] = []
        self.commits: list[float] = []

    def start(self) -> None:
        """Beats from now on."""
        self._due = self._loop.time() + PERIOD
        self._loop.call_at(self._due, self._beat)

    def _beat(self) -> None:
        now = time.monotonic()
        late = max(0.0, now - self._due)
        self.beats.append((late, self.committing))
        self.committing = False
        self._due = now + PERIOD
        self._loop.call_at(self._due, self._beat)

    def timed(self, commit):
        """The same commit, timed."""

        def timed(*arguments):
            start = time.monotonic()
            try:
                return commit(*arguments)
            finally:
                self.committing = True
                self.commits.append(time.monotonic() - start)

        return timed

    def take(self) -> dict[str, list[float]]:
        """What was written down since the last time."""
        every = [each for late, _ in self.beats for each in missed(late)]
        after_commit = [each for late, committing in self.beats if committing for each in missed(late)]
        found = {"all": every, "after a commit": after_commit, "commits": self.commits}
        self.beats, self.commits = [], []
        return found


def missed(late: float) -> list[float]:
    """A late beat, and those that it kept from coming."""
    found = [late]
    while late > PERIOD:
        late -= PERIOD
        found.append(late)
    return found


async def serve(directory: Path, secure: bool) -> None:
    """The server: says its port, then, for each line of standard input, what was measured until then."""
    from ironpost.mta.inbound import Inbound
    from ironpost.policy import Policy
    from ironpost.policy.checks import configured
    from ironpost.processes import gc_tuning as collector
    from ironpost.processes.clock import SystemClock, SystemRandom
    from ironpost.protocol.server.settings import ServerSettings
    from ironpost.server import Server, TlsContext
    from ironpost.server.self_signed import write_self_signed
    from ironpost.storage.sqlite.commit import GroupCommit
    from ironpost.storage.sqlite.store import SqliteStore

    loop = asyncio.get_running_loop()
    heart = Heart(loop)
    GroupCommit._transact = heart.timed(GroupCommit._transact)  # type: ignore[method-assign]
    store = SqliteStore.at(directory)
    inbound = Inbound(
        store=store, policy=Policy(configured()), clock=SystemClock(), random=SystemRandom(),
        hostname="lag.example", accept=lambda message: None,
    )  # fmt: skip
    stopped, asked = asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    loop.add_reader(sys.stdin, lambda: (sys.stdin.readline(), asked.set()))
    tls = None
    if secure:
        pair = directory / "lag.pem", directory / "lag.key"
        write_self_signed(*pair, ["localhost"])
        tls = TlsContext.load([pair])
    collector.settle()
    settings = ServerSettings(max_size=1 << 30)
    async with Server(inbound, "127.0.0.1", settings=settings, tls=tls, implicit_tls=secure) as server:
        print(server.port, flush=True)
        heart.start()
        while not stopped.is_set():
            waits = [asyncio.ensure_future(event.wait()) for event in (stopped, asked)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if asked.is_set():
                asked.clear()
                print(json.dumps(heart.take()), flush=True)
    await store.close()


def row(name: str, values: list[float]) -> str:
    """A line of the table, in milliseconds."""
    if not values:
        return f"{name:24}    none"
    ordered = sorted(values)
    points = [ordered[min(len(ordered) - 1, int(len(ordered) * point / 100))] * 1000 for point in POINTS]
    return f"{name:24} {len(values):8} " + "".join(f"{point:9.2f}" for point in points)


def main() -> None:
    """Runs the server, the clients, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--size", type=int, default=25_000_000, help="octets of a message")
    parser.add_argument("--messages", type=int, default=1, help="of each client")
    parser.add_argument("--tls", action="store_true", help="the clients speak TLS")
    parser.add_argument("--directory", type=Path, help="where the store goes, on the disk that is meant")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        import uvloop

        uvloop.run(serve(asked.serve, asked.tls))
        return
    with tempfile.TemporaryDirectory(dir=asked.directory) as folder:
        command = [sys.executable, __file__, "--serve", str(Path(folder) / "data"), *(["--tls"] if asked.tls else [])]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdin is not None
            assert server.stdout is not None

            def measured() -> dict[str, list[float]]:
                print(file=server.stdin, flush=True)
                return json.loads(server.stdout.readline())

            port = server.stdout.readline().strip()
            measured()
            time.sleep(IDLE)
            idle = measured()["all"]
            load = [
                sys.executable, str(HERE / "driver.py"), port, "--way", "reuse", "--size", str(asked.size),
                "--connections", str(asked.clients), "--messages", str(asked.clients * asked.messages),
                "--tls", "implicit" if asked.tls else "no",
            ]  # fmt: skip
            done = subprocess.run(load, capture_output=True, text=True, check=True)
            found = measured()
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    seconds = json.loads(done.stdout)["seconds"]
    octets = asked.clients * asked.messages * asked.size
    print(f"{asked.clients} clients, {octets / 1e6:.0f} MB in {seconds:.1f} s, {octets / seconds / 1e6:.0f} MB/s")
    print(f"{'milliseconds late':24} {'beats':>8} " + "".join(f"{f'p{p:g}' if p < 100 else 'max':>9}" for p in POINTS))
    for name, values in (("idle", idle), ("under load", found["all"]), ("after a commit", found["after a commit"])):
        print(row(name, values))
    print(row("commits took", found["commits"]), f"  mean {statistics.fmean(found['commits'] or [0]) * 1000:.2f}")


if __name__ == "__main__":
    main()
