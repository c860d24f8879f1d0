"""Other programs for the interop tests; a test whose program is missing is skipped, or fails if CI is set."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from tests.loading import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import ModuleType


HERE = Path(__file__).parent
peers = load(HERE / "peers.py")


@pytest.fixture(scope="session")
def mtas() -> ModuleType:
    """Configurations of other mail transfer agents."""
    return load(HERE / "mtas.py")


@pytest.fixture(scope="session")
def receivers(mtas: ModuleType) -> ModuleType:
    """Other servers as receivers of mail."""
    assert mtas.__name__ in sys.modules
    return load(HERE / "receivers.py")


@pytest.fixture(scope="session")
def milters(mtas: ModuleType) -> ModuleType:
    """Configurations of OpenDKIM and OpenDMARC."""
    assert mtas.__name__ in sys.modules
    return load(HERE / "milters.py")


@pytest.fixture(scope="session")
def peers_prefix() -> Path:
    """The directory in which programs are unpacked."""
    return Path(peers.PREFIX)


@pytest.fixture(scope="session")
def proxied() -> dict[str, str]:
    """The environment of unpacked programs."""
    return dict(peers.environment())


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost with its key, in one file."""
    folder = tmp_path_factory.mktemp("certificate")
    key, chain, both = folder / "key", folder / "chain", folder / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
         "-out", chain, "-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    both.write_bytes(key.read_bytes() + chain.read_bytes())
    both.chmod(0o600)
    return both


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """A function that returns the path of a program by its name."""

    def find(name: str) -> str:
        try:
            return str(peers.find(name))
        except peers.AbsentError as reason:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(reason))

    return find


@pytest.fixture(scope="session")
def call(program: Callable[[str], str]) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run a program; fail with its output unless it exits with 0."""

    def run(name: str, *arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [program(name), *map(str, arguments)], input=stdin, capture_output=True, env=peers.environment(),
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
        return done

    return run


NAMED_PORTS = range(20_000, 32_000)
"""Ports that Linux and macOS give neither to clients nor to servers that listen on port 0."""


def free_port() -> int:
    """Return a port that was just free, for programs that cannot listen on port 0."""
    while True:
        port = secrets.choice(NAMED_PORTS)
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


@pytest.fixture
def port() -> int:
    """A free port."""
    return free_port()


@pytest.fixture(scope="session")
def free() -> Callable[[], int]:
    """`free_port`."""
    return free_port


@pytest.fixture(scope="session")
def listening() -> Callable[[subprocess.Popen[bytes], int], bool]:
    """`listens`."""
    return listens


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that the users of Postfix and Exim may traverse; they may not traverse pytest's."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as name:  # a killed process may not have exited yet
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def signed_dns(program: Callable[[str], str], tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Start unbound with records, `signed_dns(signed, plain=, bogus=)` as `zones.unbound` says; return its port."""
    program("unbound")
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: Sequence[str], port: int = 0, prefix: Sequence[str] = (), **more: Sequence[str]) -> int:
        port = port or free_port()
        command, env = load(HERE / "zones.py").unbound(tmp_path / "dns", port, *arguments, **more)
        process = subprocess.Popen([*prefix, *command], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started.append(process)
        if prefix:  # in another network
            log = tmp_path / "dns" / "log"
            pause = select.poll()
            while not (log.exists() and "start of service" in log.read_text()):
                pause.poll(10)
                assert process.poll() is None, "unbound did not start"
        else:
            assert listens(process, port), "unbound did not start"
        return port

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[[list[str], dict[str, str], int], None]]:
    """Start a mail server or proxy and wait for its greeting; end it after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], env: dict[str, str], port: int) -> None:
        log = tmp_path / f"launched{len(started)}"
        with log.open("wb") as out:
            process = subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
        started.append(process)
        pause = select.poll()
        while True:
            pause.poll(10)  # leave it the processor to start
            assert process.poll() is None, log.read_text()
            try:
                with socket.create_connection(("127.0.0.1", port), 10) as connection:
                    if connection.recv(3) == b"220":
                        return
            except ConnectionError:
                continue

    yield start
    for process in started:
        process.terminate()
        process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children, such as a delivery of Exim, use its folder


@pytest.fixture
def activated(program: Callable[[str], str], tmp_path: Path) -> Iterator[Callable[..., dict[str, int]]]:
    """Start ironpost as docs/systemd does, `activated(file, *names)`: with a configuration, and an open port of
    127.0.0.1 for each name of a socket; return the ports by name. The server starts with the first connection."""
    systemd = program("systemd-socket-activate")
    root = HERE.parents[1]
    started: list[subprocess.Popen[bytes]] = []

    def start(file: Path, *names: str) -> dict[str, int]:
        unit = (root / "docs/systemd/ironpost.service").read_text()
        arguments = re.search("^ExecStart=/opt/ironpost/bin/ironpost (.*)$", unit, re.M)
        assert arguments is not None
        command = arguments[1].replace("/etc/ironpost/ironpost.toml", str(file)).split()
        ports = {name: free_port() for name in names}
        addresses = [f"--listen=127.0.0.1:{port}" for port in ports.values()]
        log = tmp_path / "activated"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [systemd, *addresses, f"--fdname={':'.join(names)}", f"--setenv=PYTHONPATH={root / 'python'}",
                 sys.executable, "-m", "ironpost.cli", *command],
                env=peers.environment(), stdout=out, stderr=out,
            )  # fmt: skip
        started.append(process)
        pause = select.poll()
        while log.read_bytes().count(b"Listening on ") < len(names):
            pause.poll(10)
            assert process.poll() is None, log.read_text()
        return ports

    yield start
    for process in started:
        process.terminate()
        process.wait()


@pytest.fixture
def dovecot(
    program: Callable[[str], str], launch: Callable[[list[str], dict[str, str], int], None], home: Path
) -> Callable[..., Any]:
    """Start Dovecot with users, `dovecot(users, location=, main=)` as `dovecot.configure` says; return its `Ready`."""
    program("dovecot")
    module = load(HERE / "dovecot.py")

    def start(users: Mapping[str, int | None], **more: str) -> Any:
        ready = module.configure(home / "dovecot", module.Ports(free_port(), free_port(), free_port()), users, **more)
        launch(ready.command, ready.env, ready.ports.lmtp)
        return ready

    return start


def listens(process: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the program listens; return False if it has ended instead."""
    pause = select.poll()
    while process.poll() is None:
        pause.poll(10)
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except ConnectionRefusedError:
            continue
        return process.poll() is None
    return False


@pytest.fixture
def sink(program: Callable[[str], str], tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Start Postfix's smtp-sink on a free port; yield the port and the folder of its messages."""
    folder = tmp_path / "sink"
    folder.mkdir()
    user = ["-u", "root"] if os.geteuid() == 0 else []
    # smtp-sink cannot listen on port 0, and another process may take the free port first.
    for attempt in range(5):
        port = free_port()
        process = subprocess.Popen(
            [program("smtp-sink"), *user, "-d", f"{folder}/%M.", f"127.0.0.1:{port}", "64"],
            env=peers.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if listens(process, port):
            break
        assert attempt < 4, "smtp-sink did not start"
    try:
        yield port, folder
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
