"""`ironpost serve` with standard streams that are not read, or closed: mail and sessions are not affected."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.conftest import PROGRAM, SECONDS, environment

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGURATION = """\
hostname = "mx.example"
data = "data"
[local]
domains = ["here.example"]
[log]
level = "debug"
[[listener]]
role = "mx"
listen = ["unix:smtp"]
"""
SHELL = 'exec "$0" "$@"'


class Unix(smtplib.SMTP):
    """smtplib's client over a Unix socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__("mx.example", 1, "client.example", timeout=SECONDS)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:  # type: ignore[override]
        del host, port
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(timeout)
        try:
            made.connect(os.path.relpath(self.path))
        except OSError:
            made.close()
            raise
        return made


@contextmanager
def serving(
    folder: Path, *, shell: str = SHELL, stdout: int | None = None, stderr: int | None = None
) -> Iterator[Path]:
    """Start a server and yield its socket; stop it with SIGTERM."""
    (folder / "ironpost.toml").write_text(CONFIGURATION)
    process = subprocess.Popen(
        ["sh", "-c", shell, *PROGRAM, "serve", "-c", "ironpost.toml"], cwd=folder, env=environment(),
        stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
    )  # fmt: skip
    try:
        for _ in range(600):
            try:
                with Unix(folder / "smtp"):
                    break
            except OSError:
                assert process.poll() is None
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.1)
        yield folder / "smtp"
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def exchange(path: Path, folder: Path) -> None:
    for _ in range(3):
        with Unix(path) as client:
            client.sendmail("a@client.example", ["b@here.example"], b"Subject: hello\r\n\r\nhello\r\n")
    assert len(list((folder / "data").rglob("queue.sqlite3"))) > 0


def full_pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for size in (4096, 1):
        try:
            while True:
                os.write(writing, b"x" * size)
        except BlockingIOError:
            pass
    os.set_blocking(writing, True)
    return reading, writing


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_f21_a_full_pipe_does_not_stop_the_server(tmp_path: Path, stream: str) -> None:
    reading, writing = full_pipe()
    try:
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: writing}
        with serving(tmp_path, **streams) as path:
            exchange(path, tmp_path)
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("closing", ["<&- >&- 2>&-", "2>&-", ">&-"])
def test_f21_closed_streams_do_not_stop_the_server(tmp_path: Path, closing: str) -> None:
    with serving(tmp_path, shell=f"{SHELL} {closing}") as path:
        exchange(path, tmp_path)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_f21_a_broken_pipe_does_not_stop_the_server(tmp_path: Path, stream: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: writing}
        with serving(tmp_path, **streams) as path:
            exchange(path, tmp_path)
    finally:
        os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_f21_a_log_on_a_full_disk_does_not_stop_the_server(tmp_path: Path) -> None:
    with serving(tmp_path, shell=f"{SHELL} >/dev/full 2>/dev/full") as path:
        exchange(path, tmp_path)


def test_f21_a_failed_start_exits_even_if_its_error_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "ironpost.toml").write_text(CONFIGURATION.replace('"data"', '"ironpost.toml"'))
    reading, writing = full_pipe()
    done = subprocess.run(
        [sys.executable, *PROGRAM[1:], "serve", "-c", "ironpost.toml"], cwd=tmp_path, env=environment(),
        stdout=writing, stderr=writing, timeout=SECONDS, check=False,
    )  # fmt: skip
    os.close(reading)
    os.close(writing)
    assert done.returncode == 73
