"""Programs of others for the interop tests; absent ones skip, unless CI is set: there they must be had."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType


def _loaded(name: str) -> ModuleType:
    """A module of this folder, which is no package, under the name by which the others here import it."""
    spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


peers = _loaded("peers")


@pytest.fixture(scope="session")
def mtas() -> ModuleType:
    """Configurations of other mail transfer agents."""
    return _loaded("mtas")


@pytest.fixture(scope="session")
def peers_prefix() -> Path:
    """Where programs are unpacked."""
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
    """The path of a program by its name."""

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
    """Runs a program; fails with what it said unless it exits 0."""

    def run(name: str, *arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [program(name), *map(str, arguments)], input=stdin, capture_output=True, env=peers.environment(),
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
        return done

    return run


def free_port() -> int:
    """A port that was free a moment ago, for programs that cannot take any."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def port() -> int:
    """A free port."""
    return free_port()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[[list[str], dict[str, str], int], None]]:
    """Starts a mail server or proxy and waits for its greeting; ended at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], env: dict[str, str], port: int) -> None:
        log = tmp_path / f"launched{len(started)}"
        with log.open("wb") as out:
            process = subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
        started.append(process)
        while True:
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


def listens(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether it listens there; False when it has ended instead."""
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except ConnectionRefusedError:
            continue
        return process.poll() is None
    return False


@pytest.fixture
def sink(program: Callable[[str], str], tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Postfix's smtp-sink on a free port; the port, and the folder into which it writes each message."""
    folder = tmp_path / "sink"
    folder.mkdir()
    user = ["-u", "root"] if os.geteuid() == 0 else []
    # smtp-sink cannot take any port; the one that was free may be another's by the time it starts.
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
