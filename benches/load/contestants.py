"""The servers that are compared: how each is configured and started, and what its work has cost.

Promises: each listens on a free port of 127.0.0.1 in a folder of its own; nothing is installed or left behind, but for
the system users that Exim and OpenSMTPD insist on. Postfix, Exim and OpenSMTPD need root. Linux only (/proc).

Each server takes mail in one of two ways: it throws it away (`discard`), or it has made it durable when it says 250 and
does no more with it (`durable`).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests" / "interop"))
import mtas  # noqa: E402 - found by the line above
import peers  # noqa: E402

TICK = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def family(pid: int) -> dict[int, float]:
    """A process and its living descendants, each with the CPU seconds of it and of all that it has reaped."""
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
    members, found = [pid], {}
    while members:
        member = members.pop()
        found[member] = times.get(member, 0.0)
        members += parents.get(member, [])
    return found


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


class Sink:
    """An smtp-sink that counts: where relays deliver to."""

    def __init__(self) -> None:
        self.port = free_port()
        self.count = 0
        self.process = subprocess.Popen(
            [peers.find("smtp-sink"), *_user(), "-c", f"127.0.0.1:{self.port}", "1024"],
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


def _user() -> list[str]:
    return ["-u", "root"] if os.geteuid() == 0 else []


@dataclass
class Contestant:
    """A server under load."""

    name: str
    command: list[str]
    port: int
    tls: bool = True
    """It offers STARTTLS on the same port."""
    implicit_port: int = 0
    """Where it speaks TLS from the start; 0 if it does not."""
    connections: int = 20
    """At a time."""
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
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def cpu(self) -> float:
        """CPU seconds so far."""
        return sum(family(self.process.pid).values())

    def memory(self) -> int:
        """Octets of resident memory, shared pages counted by their share."""
        total = 0
        for member in family(self.process.pid):
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
            found = re.search(r"^Pss: +(\d+) kB", text, re.M)
            total += int(found[1]) * 1024 if found else 0
        return total


def certificate(folder: Path) -> Path:
    """A self-signed P-256 certificate with its key, in one file that all of them read."""
    both, key, chain = folder / "both.pem", folder / "key.pem", folder / "chain.pem"
    if not both.exists():
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-keyout", key, "-out", chain, "-days", "30", "-subj", "/CN=localhost"],
            check=True, capture_output=True,
        )  # fmt: skip
        both.write_bytes(key.read_bytes() + chain.read_bytes())
        for path in (both, key):
            path.chmod(0o600)
    return both


# ---------------------------------------------------------------------------------------------------------------------
# Which servers take part


def discarding(folder: Path) -> list[Contestant]:
    """Accept and throw away; ours first."""
    found = []
    pem = certificate(folder)
    for name, hooks in (("ironpost", []), ("ironpost+hooks", ["--hooks"])):
        port, implicit = free_port(), free_port()
        script = [str(HERE.parent / "discard_server.py"), str(port), "--pem", str(pem), "--implicit", str(implicit)]
        found.append(Contestant(name, [sys.executable, *script, *hooks], port, implicit_port=implicit))
    port = free_port()
    found.append(Contestant("aiosmtpd", [sys.executable, str(HERE / "aiosmtpd_server.py"), str(port), str(pem)], port))
    port = free_port()
    sink = [peers.find("smtp-sink"), *_user(), f"127.0.0.1:{port}", "1024"]
    found.append(Contestant("smtp-sink", sink, port, tls=False, env=peers.environment()))
    if os.geteuid() == 0:
        found += [_postfix(folder, "discard"), _exim(folder, "discard")]
    return found


def durable(folder: Path) -> list[Contestant]:
    """On the disk when it says 250, and there it stays; ours first."""
    port = free_port()
    script = [str(HERE / "hold_server.py"), str(port), str(folder / "data"), "--pem", str(certificate(folder))]
    found = [Contestant("ironpost", [sys.executable, *script], port)]
    if os.geteuid() == 0:
        found += [_postfix(folder, "durable"), _exim(folder, "durable"), _opensmtpd(folder)]
    return found


def relaying(folder: Path, sink: Sink) -> list[Contestant]:
    """From one connection in to one connection out; ours first."""
    port = free_port()
    (folder / "ironpost.toml").write_text(
        f'data = "{folder / "data"}"\n[[listener]]\nrole = "mx"\nlisten = ["127.0.0.1:{port}"]\n'
        f'[[route]]\ndomains = ["*"]\nsmart_host = ["127.0.0.1:{sink.port}"]\n'
    )
    command = [sys.executable, "-m", "ironpost.cli", "serve", "-c", str(folder / "ironpost.toml")]
    found = [Contestant("ironpost", command, port, tls=False, sink=sink)]
    if os.geteuid() == 0:
        found.append(_postfix(folder, "relay", sink))
    return found


# ---------------------------------------------------------------------------------------------------------------------
# How the others are configured


def _postfix(folder: Path, what: str, sink: Sink | None = None) -> Contestant:
    port = free_port()
    folder.chmod(0o755)
    option = {"durable": "-o smtpd_client_restrictions=static:HOLD", "discard": "-o content_filter=discard:"}
    main = f"""relayhost = [127.0.0.1]:{sink.port if sink else 9}
smtpd_tls_security_level = may
smtpd_tls_chain_files = {certificate(folder)}
smtpd_tls_loglevel = 0
default_destination_concurrency_limit = 20
initial_destination_concurrency = 20"""
    ready = mtas.postfix(folder / f"postfix-{what}", port, options=option.get(what, ""), main=main)
    return Contestant("Postfix", ready.command, port, sink=sink, env=ready.env)


def _exim(folder: Path, what: str) -> Contestant:
    port, home = free_port(), folder / f"exim-{what}"
    mtas.user_exists(mtas.EXIM)
    mtas.owned(home, mtas.EXIM)
    pem = home / "both.pem"
    pem.write_bytes(certificate(folder).read_bytes())
    subprocess.run(["chown", mtas.EXIM, pem], check=True)
    ready = mtas.exim(
        home,
        port,
        main=f"tls_advertise_hosts = *\ntls_certificate = {pem}\ntls_privatekey = {pem}",
        acl="accept control = queue_only" if what == "durable" else "accept",
        routers="hole:\n  driver = redirect\n  data = :blackhole:",
    )
    return Contestant("Exim", ready.command, port, env=ready.env)


def _opensmtpd(folder: Path) -> Contestant:
    """Paused, so that mail stays in its queue. It asks DNS about every client: a private resolv.conf stops that."""
    program, port, home = peers.find("opensmtpd"), free_port(), folder / "opensmtpd"
    spool = Path("/var/spool/smtpd")
    mtas.user_exists("opensmtpd")
    mtas.user_exists("opensmtpq")
    home.mkdir(exist_ok=True)
    parts = ["purge", "temporary", "incoming", "queue", "corrupt"]
    for path in (Path("/var/lib/opensmtpd/empty"), *(spool / part for part in (*parts, "offline"))):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    spool.chmod(0o711)
    Path("/var/lib/opensmtpd").chmod(0o711)
    Path("/var/lib/opensmtpd/empty").chmod(0o755)
    for part in ("queue", "incoming"):  # of an earlier run
        for path in (spool / part).iterdir():
            shutil.rmtree(path)
    subprocess.run(["chown", "opensmtpq", *(spool / part for part in parts)], check=True)
    subprocess.run(["chown", "root:opensmtpq", spool / "offline"], check=True)
    (spool / "offline").chmod(0o770)
    pem = certificate(folder)
    Path("/etc/aliases").touch()
    (home / "smtpd.conf").write_text(f"""pki here cert "{folder / "chain.pem"}"
pki here key "{folder / "key.pem"}"
smtp ciphers "HIGH"
smtp max-message-size 100M
smtp limit max-mails 1000000
listen on 127.0.0.1 port {port} tls pki here hostname opensmtpd.example
action "out" relay host "smtp://127.0.0.1:9"
match from any for any action "out"
""")
    assert pem.exists()
    (home / "resolv.conf").write_text("lookup file\n")
    inner = f"mount --bind {home}/resolv.conf /etc/resolv.conf; exec {program} -d -P mta -f {home}/smtpd.conf"
    command = ["unshare", "-m", "sh", "-c", inner]
    # With twenty it now and then leaves one without a greeting.
    return Contestant("OpenSMTPD", command, port, tls=False, connections=5, env=peers.environment())
