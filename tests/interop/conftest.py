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

spec = spec_from_file_location("interop_peers", Path(__file__).with_name("peers.py"))
assert spec is not None
assert spec.loader is not None
peers = module_from_spec(spec)
sys.modules[spec.name] = peers
spec.loader.exec_module(peers)


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
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
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
