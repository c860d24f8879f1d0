"""Whole-system load: ironpost beside servers that this project did not write, in one run, driven by smtp-source.

    python benches/load/run.py accept  [--size 1000] [--rounds 3]    accept and discard, against aiosmtpd and smtp-sink
    python benches/load/run.py durable [--size 1000] [--rounds 3]    fsync before 250, against Postfix with HOLD
    python benches/load/run.py relay   [--size 1000] [--rounds 3]    to an smtp-sink behind, against Postfix

Prints one line for each server and way of connecting: messages a second, CPU milliseconds a message of the server with
all its processes, and our CPU divided by its; medians of rounds that are interleaved between servers. Postfix needs
root. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests" / "interop"))
import peers  # noqa: E402 - found by the line above

TICK = os.sysconf("SC_CLK_TCK")
CONNECTIONS = 20


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def cpu(pid: int) -> float:
    """CPU seconds of a process, of its living descendants, and of all that these have reaped."""
    parents: dict[int, list[int]] = {}
    times: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents.setdefault(int(words[1]), []).append(int(entry.name))
            times[int(entry.name)] = sum(map(int, words[11:15])) / TICK
    family, total = [pid], 0.0
    while family:
        member = family.pop()
        total += times.get(member, 0.0)
        family += parents.get(member, [])
    return total


class Sink:
    """An smtp-sink that counts."""

    def __init__(self) -> None:
        self.port = free_port()
        self.count = 0
        self.process = subprocess.Popen(
            [peers.find("smtp-sink"), *user(), "-c", f"127.0.0.1:{self.port}", "1024"],
            env=peers.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for(self.port, self.process)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        tail = b""
        while piece := os.read(self.process.stdout.fileno(), 65536):
            tail = (tail + piece)[-200:]
            if found := re.findall(rb"mesg=(\d+)", tail):
                self.count = int(found[-1])


def user() -> list[str]:
    return ["-u", "root"] if os.geteuid() == 0 else []


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as connection:
                if connection.recv(3) == b"220":
                    return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"no server on port {port}: {process.args}")


@dataclass
class Contestant:
    """A server under load."""

    name: str
    command: list[str]
    port: int
    sink: Sink | None = None
    env: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self, log: Path) -> None:
        with (log / f"{self.name}.log").open("wb") as out:
            self.process = subprocess.Popen(
                self.command, env=self.env, cwd=log, stdout=out, stderr=out, start_new_session=True
            )
        wait_for(self.port, self.process)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def load(self, count: int, size: int, *, reuse: bool) -> tuple[float, float]:
        """Messages a second, and CPU milliseconds a message."""
        before, start = cpu(self.process.pid), time.perf_counter()
        already = self.sink.count if self.sink else 0
        to = "grace@elsewhere.example" if self.sink else "grace@localhost"
        subprocess.run(
            [peers.find("smtp-source"), "-M", "load.example", "-f", "ada@load.example", "-t", to, "-l", str(size),
             "-s", str(CONNECTIONS), "-m", str(count), *(["-d"] if reuse else []), f"127.0.0.1:{self.port}"],
            env=peers.environment(), check=True, timeout=600,
        )  # fmt: skip
        while self.sink and self.sink.count < already + count:
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        return count / seconds, (cpu(self.process.pid) - before) / count * 1000


def ours(script: str, *arguments: str) -> list[str]:
    return [sys.executable, str(HERE / script), *arguments]


def postfix(folder: Path, port: int, next_hop: int | None) -> list[str]:
    """The command that runs Postfix in a folder, and its configuration."""
    root = peers.PREFIX / "root"
    queue, conf, data = folder / "queue", folder / "conf", folder / "data"
    owned = [
        "active",
        "bounce",
        "corrupt",
        "defer",
        "deferred",
        "flush",
        "hold",
        "incoming",
        "private",
        "saved",
        "trace",
    ]
    for path in (folder, conf, data, queue, queue / "pid", queue / "public", *(queue / name for name in owned)):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    for path in (data, queue / "public", *(queue / name for name in owned)):
        subprocess.run(["chown", "mail", path], check=True)
    (conf / "main.cf").write_text(f"""compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
command_directory = {root}/usr/sbin
daemon_directory = {root}/usr/lib/postfix/sbin
shlib_directory = {root}/usr/lib/postfix
meta_directory = {conf}
import_environment = LD_LIBRARY_PATH MAIL_CONFIG TZ LANG=C
mail_owner = mail
setgid_group = news
myhostname = postfix.example
mydestination =
local_recipient_maps =
alias_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
relayhost = [127.0.0.1]:{next_hop or 9}
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions =
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
message_size_limit = 0
in_flow_delay = 0
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
default_destination_concurrency_limit = 20
initial_destination_concurrency = 20
""")
    hold = "" if next_hop else " -o smtpd_client_restrictions=static:HOLD"
    (conf / "master.cf").write_text(f"""{port} inet n - n - - smtpd{hold}
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
retry unix - - n - - error
error unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
""")
    return [str(root / "usr/lib/postfix/sbin/master"), "-c", str(conf), "-d"]


def contestants(what: str, folder: Path) -> list[Contestant]:
    """The servers of one comparison; ours first."""
    found = []
    if what == "accept":
        port = free_port()
        found.append(
            Contestant("ironpost", [sys.executable, str(HERE.parent / "discard_server.py"), str(port), "uvloop"], port)
        )
        port = free_port()
        found.append(Contestant("aiosmtpd", ours("aiosmtpd_server.py", str(port)), port))
        port = free_port()
        command = [peers.find("smtp-sink"), *user(), f"127.0.0.1:{port}", "1024"]
        found.append(Contestant("smtp-sink", command, port, env=peers.environment()))
        return found
    sink = Sink() if what == "relay" else None
    port = free_port()
    if sink is None:
        found.append(Contestant("ironpost", ours("hold_server.py", str(port), str(folder / "data")), port))
    else:
        (folder / "ironpost.toml").write_text(
            f'data = "{folder / "data"}"\n[[listener]]\nrole = "mx"\nlisten = ["127.0.0.1:{port}"]\n'
            f'[[route]]\ndomains = ["*"]\nsmart_host = ["127.0.0.1:{sink.port}"]\n'
        )
        command = [sys.executable, "-m", "ironpost.cli", "serve", "-c", str(folder / "ironpost.toml")]
        found.append(Contestant("ironpost", command, port, sink))
    if os.geteuid() == 0:
        port = free_port()
        peers.find("postfix")
        folder.chmod(0o755)
        command = postfix(folder / "postfix", port, sink.port if sink else None)
        env = peers.environment() | {"MAIL_CONFIG": str(folder / "postfix" / "conf")}
        found.append(Contestant("postfix", command, port, sink, env))
    return found


def main() -> None:
    """Runs one comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["accept", "durable", "relay"])
    parser.add_argument("--size", type=int, default=1000, help="octets of a message")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long one measurement takes")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        servers = contestants(asked.what, folder)
        try:
            for server in servers:
                server.start(folder)
            for reuse in (False, True):
                compare(servers, asked, reuse=reuse)
        finally:
            for server in servers:
                server.stop()
            for sink in {id(server.sink): server.sink for server in servers if server.sink}.values():
                sink.process.kill()


def compare(servers: list[Contestant], asked: argparse.Namespace, *, reuse: bool) -> None:
    """Rounds over all servers, then their medians."""
    counts = {}
    for server in servers:
        rate, _ = server.load(CONNECTIONS * 5, asked.size, reuse=reuse)
        rate, _ = server.load(max(CONNECTIONS * 5, int(rate / 4)), asked.size, reuse=reuse)
        counts[server.name] = max(CONNECTIONS, int(rate * asked.seconds))
    results: dict[str, list[tuple[float, float]]] = {server.name: [] for server in servers}
    for _ in range(asked.rounds):
        for server in servers:
            results[server.name].append(server.load(counts[server.name], asked.size, reuse=reuse))
    way = "one connection" if reuse else "a connection each"
    mine = statistics.median(cost for _, cost in results["ironpost"])
    for name, found in results.items():
        rate = statistics.median(rate for rate, _ in found)
        cost = statistics.median(cost for _, cost in found)
        case = f"{asked.what:8} {asked.size:9} B  {way:17}  {name:10}"
        print(f"{case} {rate:9.0f} /s  {cost:8.3f} ms CPU  {mine / cost:6.2f} x")


if __name__ == "__main__":
    main()
