"""Fixtures for tests that run the real program: `ironpost serve` in a separate process, on a free port."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from tests.preloaded import command

from ironpost.storage.sqlite.shards import ShardsReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ironpost.queue.store import QueuedMessage

SECONDS = 60.0
"""How long anything here may take before the test fails; on an idle machine it takes well under one."""
ROOT = Path(__file__).resolve().parents[1]
PROGRAM = (sys.executable, "-m", "ironpost.cli")

settings.register_profile("untimed", deadline=None)  # another process may take the time of an example
settings.load_profile("untimed")


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with the package where the tests found it."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "python"), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", **more}


class Running:
    """One `ironpost serve`, its configuration and its folder."""

    def __init__(
        self, folder: Path, text: str, listeners: tuple[str, ...] = (), program: tuple[str, ...] = PROGRAM
    ) -> None:
        """Writes the configuration; `start` starts.

        `text` is TOML appended after `[smtp]`. Each of `listeners` is the TOML of one `[[listener]]`, which gets a
        free port of 127.0.0.1 if it has no `listen`; without any there is one with the role `mx`. `program` is what
        is started.
        """
        self.folder = folder
        self._program = program
        self.data = folder / "data"
        self.file = folder / "ironpost.toml"
        self.port = 0
        """Of the first listener."""
        self.ports: dict[str, int] = {}
        """By role: that of the first listener with it."""
        self.said: list[str] = []
        self.listeners = listeners or ('role = "mx"',)
        self.configure(text)
        self.process: subprocess.Popen[str] | None = None

    def configure(self, text: str) -> None:
        """Replace the configuration."""
        listeners = ""
        for listener in self.listeners:
            where = "" if re.search("^listen =", listener, re.M) else 'listen = ["127.0.0.1:0"]\n'
            listeners += f"[[listener]]\n{where}{listener}\n"
        self.file.write_text(f'data = "{self.data}"\nhostname = "mx.example"\n{listeners}[smtp]\n{text}')

    def start(self, *arguments: str) -> Running:
        """Starts it, with more arguments, and waits until it says that it listens."""
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [*self._program, "serve", "-c", str(self.file), *arguments],
                cwd=self.folder, env=environment(), stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        self.said.clear()
        guard = threading.Timer(SECONDS, self.process.kill)
        guard.start()
        while not (self.said and self.said[-1].startswith("stop with")):
            line = self.process.stdout.readline()
            assert line, f"the server did not start: {self.log()}"
            self.said.append(line.rstrip())
        guard.cancel()
        found = re.findall(r"^listening on 127\.0\.0\.1:(\d+) for (\w+)", "\n".join(self.said), re.M)
        self.ports = {role: int(port) for port, role in reversed(found)}
        self.port = int(found[0][0]) if found else 0
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signals it and waits; the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            return self.process.wait(SECONDS)
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()

    def log(self) -> str:
        """What it wrote to standard error."""
        return (self.folder / "log").read_text()

    def run(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Another command of the same program on the same configuration."""
        return command(arguments, self.folder, environment(), stdin, SECONDS)

    def json(self, *arguments: str) -> Any:
        """What a command with `--json` prints."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    def mail(self) -> list[bytes]:
        """The messages in its Maildir."""
        return [path.read_bytes() for path in sorted((self.data / "mail" / "new").glob("*"))]

    def wait_for_mail(self, count: int = 1) -> list[bytes]:
        """The messages, once there are `count`."""
        until(lambda: len(self.mail()) >= count, lambda: f"{len(self.mail())} of {count} messages: {self.log()}")
        return self.mail()

    def queue(self) -> list[QueuedMessage]:
        """What waits, read beside the server as `queue list` does, without a process for each look."""
        reader = ShardsReader.open_readonly(self.data)
        try:
            return asyncio.run(reader.list())
        finally:
            reader.close()

    def wait_until_empty(self) -> None:
        """Returns when nothing waits in the queue."""
        until(lambda: self.queue() == [], lambda: f"still waiting: {self.queue()}")

    def wait_for_log(self, text: str) -> None:
        """Returns when the log contains a text; a running server writes it a moment after its replies."""
        until(lambda: text in self.log(), self.log)


def until(condition: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    """Returns as soon as `condition` holds; fails with `otherwise` after `SECONDS`. For what other processes do."""
    end = time.monotonic() + SECONDS
    pause = select.poll()
    while not condition():
        assert time.monotonic() < end, otherwise()
        pause.poll(10)


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool], Callable[[], str]], None]:
    """Waits for what another process does."""
    return until


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts servers, `serve(text, *listeners)` as `Running` says; each is killed at the end if it still runs."""
    started: list[Running] = []

    def start(text: str = "", *listeners: str, workers: int = 1, program: tuple[str, ...] = PROGRAM) -> Running:
        folder = tmp_path / f"server{len(started)}"
        folder.mkdir()
        started.append(Running(folder, text, listeners, program))
        return started[-1].start("--workers", str(workers))

    yield start
    for running in started:
        if running.process is not None and running.process.poll() is None:
            running.process.kill()
            running.process.wait()
        if running.process is not None and running.process.stdout is not None:
            running.process.stdout.close()
