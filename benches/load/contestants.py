"""The servers that are compared: how each is configured and started, what it holds, and what its work has cost.

Promises: each listens on a free port of 127.0.0.1 and keeps its data in the folder it is given; nothing stays on the
machine but the system users that Exim and OpenSMTPD insist on. Postfix, Exim and OpenSMTPD need root. Linux only
(/proc).

Each server takes mail in one of these ways: it throws it away (`discard`), it has made it durable when it says 250 and
does no more with it (`durable`), which may follow the checks of SPF, DKIM and DMARC (`verify`), it delivers it into a
Maildir (`mailbox`), or it passes it on to a receiver, unencrypted (`relay`), with two signatures (`sign`), or by
STARTTLS (`relay-tls`).
"""

from __future__ import annotations

import os
import pwd
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from accounting import Group, family, group

HERE = Path(__file__).resolve().parent
INTEROP = HERE.parents[1] / "tests" / "interop"
sys.path.insert(0, str(INTEROP))
import authentication  # noqa: E402 - found by the line above
import dovecot  # noqa: E402 - found by the line above
import mtas  # noqa: E402
import peers  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

RETRY = 10
"""Seconds between two attempts of a relay at a receiver that is down."""
_TALLY = struct.Struct("=QQQQ")  # as discard_server.py writes it
OUTBOUND = ("relay-resumed", "relay-full")
"""Relays with a TLS connection for each message, to a receiver that issues session tickets, or none."""
RESOLVER = "127.0.0.153"
"""Where a resolver of /etc/resolv.conf listens, on port 53."""
STOP = 60.0
"""Seconds that a server may take to stop."""


class CountError(Exception):
    """A server holds more or fewer messages than it acknowledged."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


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
    lmtp: bool = False
    """It speaks LMTP, not SMTP."""
    env: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    receiver: Receiver | Maildir | None = None
    """Where it delivers to; nobody else does."""
    queued: Callable[[], int] | None = None
    """How many messages its queue holds, for a server that keeps them. Called when it has stopped."""
    message: Callable[[int], Path] | None = None
    """Returns the file with a message of about that many octets; None if the driver makes it."""
    resolver: Callable[[], subprocess.Popen[bytes]] | None = None
    """Starts the resolver that it needs."""
    acknowledged: int = 0
    """Messages it said 250 to, over all measurements."""
    unknown: int = 0
    """Messages that were cut off before its reply was seen: it may hold them."""
    process: subprocess.Popen[bytes] = field(init=False)
    group: Group | None = field(init=False, default=None)
    _dns: subprocess.Popen[bytes] | None = field(init=False, default=None)

    def start(self, log: Path) -> None:
        """Starts it, its receiver first, and returns when it has sent a greeting."""
        if self.receiver:
            self.receiver.start(log)
        if self.resolver:
            self._dns = self.resolver()
        self.group = group()
        command = self.group.command(self.command) if self.group else self.command
        with (log / f"{self.name}-{self.port}.log").open("wb") as out:
            self.process = subprocess.Popen(
                command, env=self.env, cwd=log, stdout=out, stderr=out, start_new_session=True
            )
        wait_for(self.port, self.process)

    def stop(self) -> None:
        """Stops it with all its processes."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.group:
            self.group.remove()
        if self.receiver:
            self.receiver.stop()
        if self._dns:
            self._dns.terminate()
            self._dns.wait()

    def check(self) -> None:
        """Compares what a stopped server holds, or its receiver was given, with what it acknowledged.

        Raises:
            CountError: they differ by more than the messages that were cut off.
        """
        if self.receiver:
            verb, found = "delivered", self.receiver.count
        elif self.queued:
            verb, found = "holds", self.queued()
        else:
            return
        if not self.acknowledged <= found <= self.acknowledged + self.unknown:
            maybe = f", and up to {self.unknown} more were cut off" if self.unknown else ""
            raise CountError(f"{self.name} {verb} {found} messages; {self.acknowledged} were acknowledged{maybe}")

    def cpu(self) -> float:
        """CPU seconds so far, of all its processes."""
        return self.group.seconds() if self.group else sum(family(self.process.pid).values())

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


class Counts(NamedTuple):
    """What a receiver has taken."""

    messages: int
    recipients: int
    connections: int
    resumed: int
    """TLS handshakes that were resumed."""


class Receiver(Contestant):
    """Where relays deliver to: our discard server, which counts what it takes. smtp-sink costs more than we do."""

    def __init__(self, folder: Path, *, tls: bool = False, tickets: bool = True, signatures: int = 0) -> None:
        port = free_port()
        self._tally = folder / f"tally-{port}"
        self._tally.write_bytes(bytes(_TALLY.size))
        script = str(HERE.parent / "discard_server.py")
        options = ["--pem", str(certificate(folder))] if tls else []
        options += [] if tickets else ["--tickets", "0"]
        options += ["--signatures", str(signatures)]
        command = [sys.executable, script, str(port), "--tally", str(self._tally), *options]
        super().__init__("receiver", command, port)

    @property
    def count(self) -> int:
        """Messages so far."""
        return self.counts[0]

    @property
    def counts(self) -> Counts:
        """So far."""
        return Counts(*_TALLY.unpack(self._tally.read_bytes()))


class Maildir:
    """Where mailbox deliveries end. It is counted by its files, and costs nothing itself."""

    def __init__(self, path: Path) -> None:
        self._new = path / "new"

    @property
    def count(self) -> int:
        """Messages so far."""
        return sum(1 for _ in self._new.iterdir()) if self._new.exists() else 0

    def start(self, log: Path) -> None:
        """It is always there."""

    def stop(self) -> None:
        """See `start`."""

    def cpu(self) -> float:
        """Nothing runs."""
        return 0.0


# ---------------------------------------------------------------------------------------------------------------------
# Our own servers


def _ironpost_discards(folder: Path, *options: str) -> Contestant:
    port, implicit = free_port(), free_port()
    script = [str(HERE.parent / "discard_server.py"), str(port), "--pem", str(certificate(folder))]
    command = [sys.executable, *script, "--implicit", str(implicit), *options]
    return Contestant("ironpost", command, port, implicit_port=implicit)


def _ironpost_with_hooks(folder: Path) -> Contestant:
    found = _ironpost_discards(folder, "--hooks")
    found.name = "ironpost+hooks"
    return found


def _ironpost_holds(folder: Path) -> Contestant:
    port, data = free_port(), folder / "data"
    script = [str(HERE / "hold_server.py"), str(port), str(data), "--pem", str(certificate(folder))]

    return Contestant("ironpost", [sys.executable, *script], port, queued=lambda: _in_queue(data))


def _in_queue(data: Path) -> int:
    """How many messages our queue holds."""
    found = 0
    for path in data.glob("shards/*/queue.sqlite3"):
        with sqlite3.connect(path) as connection:
            found += int(connection.execute("SELECT count(*) FROM message").fetchone()[0])
        connection.close()
    return found


def _ironpost_verifies(folder: Path, workers: int = 1) -> Contestant:
    """It holds what has passed, as quarantined mail."""
    name = "ironpost" if workers == 1 else f"ironpost-{workers}"
    port, dns, file, data = free_port(), free_port(), folder / f"{name}.toml", folder / name
    file.write_text(
        f'data = "{data}"\n[[listener]]\nrole = "mx"\nlisten = ["127.0.0.1:{port}"]\n'
        f'[smtp]\ntrusted = []\n[dns]\nservers = ["127.0.0.1:{dns}"]\n[local]\ndomains = ["localhost"]\n'
        '[policy]\nspf = "record"\ndkim = "record"\ndmarc = "reject"\n'
        '[[policy.access]]\nnetworks = ["127.0.0.0/8"]\naction = "quarantine"\n'
    )
    return Contestant(
        name,
        [sys.executable, "-m", "ironpost.cli", "serve", "-c", str(file), "--workers", str(workers)],
        port,
        tls=False,
        queued=lambda: _in_queue(data),
        message=partial(authentication.signed_message, folder),
        resolver=lambda: authentication.unbound(folder, "127.0.0.1", dns),
    )


def _ironpost_relays(folder: Path, workers: int = 1, *, what: str = "relay") -> Contestant:
    name = "ironpost" if workers == 1 else f"ironpost-{workers}"
    port, receiver, file = free_port(), _receiver(folder, what), folder / f"{name}.toml"
    assert receiver is not None
    keys = [(each, authentication.key_file(folder, each)) for each in authentication.ALGORITHMS if what == "sign"]
    file.write_text(
        f'data = "{folder / name}"\n[[listener]]\nrole = "mx"\nlisten = ["127.0.0.1:{port}"]\n'
        f'[[route]]\ndomains = ["*"]\nsmart_host = ["127.0.0.1:{receiver.port}"]\n'
        f'tls = "{"encrypt" if _secure(what) else "none"}"\n'
        f"[delivery]\nconnection_messages = {1 if what in OUTBOUND else 100}\n"
        f'probe_wait = "{RETRY}s"\nlongest_probe_wait = "{RETRY}s"\n'
        f'[[queue.retry]]\nage = "1d"\nwait = "{RETRY}s"\n'
        + "".join(
            f'[[dkim]]\ndomain = "{authentication.DOMAIN}"\nselector = "{selector}"\nkey = "file:{key}"\n'
            for selector, key in keys
        )
    )
    command = [sys.executable, "-m", "ironpost.cli", "serve", "-c", str(file), "--workers", str(workers)]
    return Contestant(name, command, port, tls=_secure(what), receiver=receiver)


def _ironpost_delivers(folder: Path) -> Contestant:
    port, file, maildir = free_port(), folder / "ironpost.toml", folder / "ironpost-mail"
    file.write_text(
        f'data = "{folder / "ironpost"}"\n[[listener]]\nrole = "mx"\nlisten = ["127.0.0.1:{port}"]\n'
        f'[local]\ndomains = ["localhost"]\nmaildir = "{maildir}"\n'
    )
    command = [sys.executable, "-m", "ironpost.cli", "serve", "-c", str(file)]
    return Contestant("ironpost", command, port, receiver=Maildir(maildir))


# ---------------------------------------------------------------------------------------------------------------------
# How the others are configured


def _aiosmtpd(folder: Path) -> Contestant:
    port = free_port()
    script = [str(INTEROP / "aiosmtpd_server.py"), f"{port}={certificate(folder)}"]
    return Contestant("aiosmtpd", [sys.executable, *script], port)


def _smtp_sink(folder: Path) -> Contestant:
    del folder
    port = free_port()
    command = [peers.find("smtp-sink"), *_user(), f"127.0.0.1:{port}", "1024"]
    return Contestant("smtp-sink", command, port, tls=False, env=peers.environment())


def _files(folder: Path, pattern: str) -> int:
    """How many files below a folder match."""
    return sum(path.is_file() for path in folder.rglob(pattern))


def _receiver(folder: Path, what: str) -> Receiver | None:
    """Where a relay delivers to, with or without TLS."""
    if what == "sign":
        return Receiver(folder, signatures=len(authentication.ALGORITHMS))
    if not what.startswith("relay"):
        return None
    return Receiver(folder, tls=_secure(what), tickets=what != "relay-full")


def _secure(what: str) -> bool:
    """Whether a relay uses TLS."""
    return what == "relay-tls" or what in OUTBOUND


def _postfix(folder: Path, what: str, beside: list[str] | None = None, sockets: list[Path] | None = None) -> Contestant:
    """`beside`: shell commands that start milters on `sockets`, in the order in which they are asked."""
    port, home = free_port(), folder / f"postfix-{what}"
    receiver = _receiver(folder, what)
    folder.chmod(0o755)
    hold = "-o smtpd_client_restrictions=static:HOLD"
    option = {"durable": hold, "verify": hold, "discard": "-o content_filter=discard:"}
    main = f"""relayhost = [127.0.0.1]:{receiver.port if receiver else 9}
smtpd_tls_security_level = may
smtpd_tls_chain_files = {certificate(folder)}
smtpd_tls_loglevel = 0
smtp_tls_security_level = {"encrypt" if _secure(what) else "none"}
smtp_tls_session_cache_database = btree:$data_directory/smtp_sessions
smtp_connection_cache_on_demand = {"no" if what in OUTBOUND else "yes"}
default_destination_concurrency_limit = 20
initial_destination_concurrency = 20
minimal_backoff_time = {RETRY}s
maximal_backoff_time = {RETRY}s
queue_run_delay = {RETRY}s
smtpd_milters = {" ".join(f"unix:{each}" for each in sockets or [])}
milter_default_action = tempfail"""
    ready = mtas.postfix(home, port, options=option.get(what, ""), main=main)
    command = ready.command
    if beside:
        inner = "; ".join([*beside, f"exec {' '.join(command)}"]).replace("&;", "&")
        command = ["unshare", "-m", "sh", "-ec", inner]

    def queued() -> int:
        return sum(_files(home / "queue" / name, "*") for name in ("incoming", "active", "deferred", "hold"))

    return Contestant(
        "Postfix",
        command,
        port,
        env=ready.env,
        receiver=receiver,
        queued=queued if what in {"durable", "verify"} else None,
    )


def _postfix_verifies(folder: Path) -> Contestant:
    """With OpenDKIM and OpenDMARC."""
    sockets = [folder / "dkim.sock", folder / "dmarc.sock"]
    beside = authentication.verifying_milters(folder, *sockets, RESOLVER)
    found = _postfix(folder, "verify", beside, sockets)
    found.message = partial(authentication.signed_message, folder)
    found.resolver = lambda: authentication.unbound(folder, RESOLVER, 53)
    return found


def _postfix_signs(folder: Path) -> Contestant:
    """With OpenDKIM, one for each key."""
    sockets = {name: folder / f"{name}.sock" for name in authentication.ALGORITHMS}
    return _postfix(folder, "sign", authentication.signing_milters(folder, sockets), list(sockets.values()))


def _postfix_delivers(folder: Path) -> Contestant:
    """By virtual(8), which writes and syncs a file for each recipient."""
    port, home = free_port(), folder / "postfix-mailbox"
    folder.chmod(0o755)
    mtas.owned(home / "mail")
    user = pwd.getpwnam("mail")
    main = f"""virtual_mailbox_domains = localhost
virtual_mailbox_base = {home}/mail
virtual_mailbox_maps = static:grace/
virtual_mailbox_limit = 0
virtual_minimum_uid = 1
virtual_uid_maps = static:{user.pw_uid}
virtual_gid_maps = static:{user.pw_gid}
virtual_destination_concurrency_limit = 20
initial_destination_concurrency = 20"""
    ready = mtas.postfix(home, port, main=main)
    return Contestant("Postfix", ready.command, port, env=ready.env, receiver=Maildir(home / "mail" / "grace"))


def _exim_delivers(folder: Path) -> Contestant:
    port, home = free_port(), folder / "exim-mailbox"
    folder.chmod(0o755)
    transport = f"box:\n  driver = appendfile\n  directory = {home}/mail\n  maildir_format\n  user = {mtas.EXIM}"
    ready = mtas.exim(
        home,
        port,
        routers=f"box:\n  driver = accept\n  transport = box\n  user = {mtas.EXIM}",
        transports=transport,
        retry=f"F,1h,{RETRY}s",
    )
    command = [*ready.command, f"-q{RETRY}s"]
    return Contestant("Exim", command, port, env=ready.env, receiver=Maildir(home / "mail"))


def _dovecot_delivers(folder: Path) -> Contestant:
    """By LMTP, without a queue: its 250 says that the message is in the mailbox."""
    home, ports = folder / "dovecot", dovecot.Ports(free_port(), free_port(), free_port())
    folder.chmod(0o755)
    ready = dovecot.configure(home, ports, {"grace@localhost": None}, main="default_process_limit = 200")
    receiver = Maildir(ready.homes / "localhost" / "grace")
    return Contestant("Dovecot", ready.command, ports.lmtp, lmtp=True, env=ready.env, receiver=receiver)


def _exim(folder: Path, what: str) -> Contestant:
    port, home = free_port(), folder / f"exim-{what}"
    folder.chmod(0o755)
    mtas.user_exists(mtas.EXIM)
    mtas.owned(home, mtas.EXIM)
    pem = home / "both.pem"
    pem.write_bytes(certificate(folder).read_bytes())
    subprocess.run(["chown", mtas.EXIM, pem], check=True)
    receiver = _receiver(folder, what)
    routers, transports = "hole:\n  driver = redirect\n  data = :blackhole:", ""
    if receiver:
        routers = "out:\n  driver = manualroute\n  route_list = * 127.0.0.1\n  self = send\n  transport = out"
        transports = f"out:\n  driver = smtp\n  port = {receiver.port}"
        transports += "\n  hosts_require_tls = *\n  tls_resumption_hosts = *" if _secure(what) else ""
        transports += "\n  connection_max_messages = 1" if what in OUTBOUND else ""
    ready = mtas.exim(
        home,
        port,
        main=f"tls_advertise_hosts = *\ntls_certificate = {pem}\ntls_privatekey = {pem}",
        acl="accept control = queue_only" if what == "durable" else "accept",
        routers=routers,
        transports=transports,
        retry=f"F,1h,{RETRY}s",
    )
    command = [*ready.command, f"-q{RETRY}s"] if receiver else ready.command

    def queued() -> int:
        return _files(home / "spool" / "input", "*-H")

    return Contestant(
        "Exim", command, port, env=ready.env, receiver=receiver, queued=queued if what == "durable" else None
    )


def _opensmtpd(folder: Path) -> Contestant:
    port, home = free_port(), folder / "opensmtpd"
    folder.chmod(0o755)
    certificate(folder)
    ready = mtas.opensmtpd(
        home,
        f'''pki here cert "{folder / "chain.pem"}"
pki here key "{folder / "key.pem"}"
smtp ciphers "HIGH"
smtp max-message-size 100M
smtp limit max-mails 1000000
listen on 127.0.0.1 port {port} tls pki here hostname opensmtpd.example''',
    )

    def queued() -> int:
        return _files(home / "spool" / "smtpd" / "queue", "message")

    # With twenty it now and then leaves one without a greeting.
    return Contestant("OpenSMTPD", ready.command, port, tls=False, connections=5, env=ready.env, queued=queued)


# ---------------------------------------------------------------------------------------------------------------------
# Which servers take part

BUILDERS: dict[str, dict[str, Callable[[Path], Contestant]]] = {
    "discard": {
        "ironpost": _ironpost_discards,
        "ironpost+hooks": _ironpost_with_hooks,
        "aiosmtpd": _aiosmtpd,
        "smtp-sink": _smtp_sink,
        "Postfix": lambda folder: _postfix(folder, "discard"),
        "Exim": lambda folder: _exim(folder, "discard"),
    },
    "durable": {
        "ironpost": _ironpost_holds,
        "Postfix": lambda folder: _postfix(folder, "durable"),
        "Exim": lambda folder: _exim(folder, "durable"),
        "OpenSMTPD": _opensmtpd,
    },
    "mailbox": {
        "ironpost": _ironpost_delivers,
        "Postfix": _postfix_delivers,
        "Exim": _exim_delivers,
        "Dovecot": _dovecot_delivers,
    },
    "relay": {
        "ironpost": _ironpost_relays,
        "ironpost-2": lambda folder: _ironpost_relays(folder, workers=2),
        "Postfix": lambda folder: _postfix(folder, "relay"),
        "Exim": lambda folder: _exim(folder, "relay"),
    },
    "relay-tls": {
        "ironpost": lambda folder: _ironpost_relays(folder, what="relay-tls"),
        "ironpost-2": lambda folder: _ironpost_relays(folder, workers=2, what="relay-tls"),
        "Postfix": lambda folder: _postfix(folder, "relay-tls"),
        "Exim": lambda folder: _exim(folder, "relay-tls"),
    },
    "verify": {
        "ironpost": _ironpost_verifies,
        "ironpost-2": partial(_ironpost_verifies, workers=2),
        "Postfix": _postfix_verifies,
    },
    "sign": {"ironpost": partial(_ironpost_relays, what="sign"), "Postfix": _postfix_signs},
    **{
        what: {
            "ironpost": partial(_ironpost_relays, what=what),
            "Postfix": partial(_postfix, what=what),
            "Exim": partial(_exim, what=what),
        }
        for what in OUTBOUND
    },
}
"""By the way in which mail is taken; ours first. Each configures a server in a folder."""
NEED_ROOT = {"Postfix", "Exim", "OpenSMTPD"}


def entrants(what: str, chosen: list[str]) -> list[str]:
    """The servers that take part.

    Args:
        what: a key of `BUILDERS`.
        chosen: names, in upper or lower case; empty for all.
    """
    wanted = {name.lower() for name in chosen}
    able = [name for name in BUILDERS[what] if os.geteuid() == 0 or name not in NEED_ROOT]
    return [name for name in able if not wanted or name.lower() in wanted]


def build(what: str, name: str, folder: Path) -> Contestant:
    """Configures one of them."""
    return BUILDERS[what][name](folder)
