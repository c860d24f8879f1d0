"""The server under torture: `ironpost serve` as a service manager runs it, restarted whenever it ends.

Promises: `port` is the port of the running server, or 0. `epoch` rises with each end of the server or of one of its
workers. `stop` ends the server with SIGTERM; `kill` ends all its processes with SIGKILL.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import select
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ironpost.operations.control_socket import ask
from ironpost.processes.requests import RequestRefused
from ironpost.storage.sqlite.shards import ShardsReader

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

PROGRAM = (sys.executable, "-m", "ironpost.cli")
PACKAGE = Path(__file__).resolve().parents[2] / "python"
START_SECONDS = 60.0
STOP_SECONDS = 120.0
ASK_SECONDS = 10.0
ROWS = 1_000_000
FAILED_STARTS = 5
"""Consecutive starts that may fail, for example because a fault is still armed."""


def relay_all(port: int) -> str:
    """Return the configuration of a server that relays all mail to a port of this machine."""
    return f'[[route]]\ndomains = ["*"]\nsmart_host = ["127.0.0.1:{port}"]\n'


def has_ended(process: int) -> bool:
    """Whether a process has ended, or is not there; by its id."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Server:
    """A data directory and the process that serves it."""

    def __init__(
        self,
        folder: Path,
        data: Path,
        mail: str,
        faults: dict[str, str],
        *,
        workers: int = 1,
        tls: str = "none",
    ) -> None:
        """Configure a server in `folder`, with its log there.

        Args:
            folder: for the configuration and the log.
            data: the data directory.
            mail: TOML: the keys of `[queue]`, and sections such as `[[route]]`.
            faults: added to its environment.
            workers: number of processes.
            tls: of the listener.
        """
        self.folder = folder
        self.data = data
        self.port = 0
        self._listening = asyncio.Event()
        self.ends: list[int] = []
        """The exit codes of the servers that ended by themselves or were killed; negative for a signal."""
        self.ended: list[float] = []
        """When they, and workers of servers that went on, had ended, in seconds since 1970."""
        self.file = folder / "ironpost.toml"
        self.file.write_text(
            f'data = "{data}"\nhostname = "mx.example"\n'
            f'[[listener]]\nlisten = ["127.0.0.1:0"]\nrole = "mx"\ntls = "{tls}"\n'
            f'[queue]\nreserve = "1MiB"\n{mail}'
        )
        self._environment = {
            **os.environ, "PYTHONPATH": str(PACKAGE), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1",
        }  # fmt: skip
        self._faults = faults
        self._workers = workers
        self._running: set[int] = set()
        """The process ids of the workers that were running at the last look."""
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._stopping = False
        self._output: asyncio.Task[bytes] | None = None
        self.on_end: Callable[[], None] = lambda: None

    @property
    def epoch(self) -> int:
        running = self.workers()
        self.ended += [time.time()] * len(self._running - running)
        self._running = running
        return len(self.ended)

    def workers(self) -> set[int]:
        """Return the process ids of the workers that are running; empty if there is one process for everything."""
        if self._workers == 1 or self._process is None or self._process.returncode is not None:
            return set()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            return {child for child in map(int, children) if not has_ended(child)}
        return set()

    @property
    def running(self) -> bool:
        """Whether it has been started and not stopped for good."""
        return self._supervisor is not None and not self._supervisor.done()

    async def listening(self) -> int:
        """Wait until a server listens; return its port."""
        while not self.port:
            await self._listening.wait()
        return self.port

    async def start(self) -> None:
        """Start the server, wait until it listens, and restart it whenever it ends."""
        self._stopping = False
        failures = 0
        while not await self._launch():
            failures += 1
            if failures > FAILED_STARTS:
                raise RuntimeError(f"the server does not start: {self.log()[-300:]}")
        self._supervisor = asyncio.get_running_loop().create_task(self._supervise())

    async def _launch(self) -> bool:
        """Start a process; return whether it came up. If it did not, it has ended."""
        with (self.folder / "log").open("ab") as log:
            self._process = process = await asyncio.create_subprocess_exec(
                *PROGRAM, "serve", "-c", str(self.file), "--workers", str(self._workers), cwd=self.folder,
                env=self._environment | self._faults, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=log, start_new_session=True,
            )  # fmt: skip
        assert process.stdout is not None
        port = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                while line := (await process.stdout.readline()).decode():
                    if found := re.match(r"listening on 127\.0\.0\.1:(\d+)", line):
                        port = int(found[1])
                    if line.startswith("stop with") and port:
                        self.port = port
                        self._listening.set()
                        self._output = asyncio.get_running_loop().create_task(process.stdout.read())
                        return True
        self.kill()
        self._ended(await process.wait())
        return False

    async def _supervise(self) -> None:
        failures = 0
        while True:
            assert self._process is not None
            code = await self._process.wait()
            self._ended(code)
            while not self._stopping:
                if await self._launch():
                    failures = 0
                    break
                failures += 1
                if failures > FAILED_STARTS:
                    raise RuntimeError(f"the server does not start again: {self.log()[-300:]}")
            if self._stopping:
                return

    def _ended(self, code: int) -> None:
        self.port = 0
        self._listening.clear()
        # The server's children end with it: otherwise one of them would hold the data directory.
        self.kill()
        self._running = set()
        self.ends.append(code)
        self.ended.append(time.time())
        self.on_end()

    def kill(self) -> None:
        """Send SIGKILL to every process of the server."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def kill_worker(self, chance: random.Random) -> None:
        """Send SIGKILL to one of the workers, if any is running, and wait until it has ended. The server starts another
        one."""
        if running := self.workers():
            victim = chance.choice(sorted(running))
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            while not has_ended(victim):
                select.poll().poll(1)
            _ = self.epoch  # before another worker can record what follows from it

    def terminate(self) -> None:
        """Send SIGTERM to the server, which is then restarted."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    def check(self) -> None:
        """Raise the error that ended the supervision, if it has ended."""
        if self._supervisor is not None and self._supervisor.done() and not self._stopping:
            self._supervisor.result()

    async def beside(self, work: asyncio.Future[Any]) -> None:
        """Wait for the work, or raise the error that ends the supervision if that comes first."""
        assert self._supervisor is not None
        await asyncio.wait({work, self._supervisor}, return_when=asyncio.FIRST_COMPLETED)
        self.check()
        await work

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop the server for good; return its exit code."""
        self._stopping = True
        assert self._process is not None
        assert self._supervisor is not None
        while True:
            # A restart may be under way: a server that comes up is ended too.
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number) if number == signal.SIGKILL else self._process.send_signal(
                        number
                    )
            done, _ = await asyncio.wait([self._supervisor], timeout=STOP_SECONDS)
            if done:
                self._supervisor.result()
                break
            self.kill()
        if self._output is not None:
            await self._output
        return self.ends[-1]

    async def command(self, *arguments: str) -> tuple[int, bytes]:
        """Run another command with the same configuration, without faults; return its exit code and output."""
        process = await asyncio.create_subprocess_exec(
            *PROGRAM, *arguments, "-c", str(self.file), cwd=self.folder, env=self._environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(), START_SECONDS)
        return process.returncode or 0, output

    async def ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Ask the running server over its control socket; None if it does not answer, for example because it ended."""
        with contextlib.suppress(ConnectionError, FileNotFoundError, TimeoutError, RequestRefused):
            # Through a descriptor: the path of a socket must be short.
            folder = os.open(self.data, os.O_RDONLY | os.O_DIRECTORY)
            try:
                return await asyncio.to_thread(ask, Path(f"/proc/self/fd/{folder}/control.sock"), request, ASK_SECONDS)
            finally:
                os.close(folder)
        return None

    def query(self, statement: str) -> list[dict[str, Any]]:
        """Return the rows of a SELECT over the views of all shards, read beside the server."""
        reader = ShardsReader.open_readonly(self.data)
        try:
            columns, rows = reader.query(statement, ROWS)
        finally:
            reader.close()
        return [dict(zip(columns, row, strict=True)) for row in rows]

    async def queue(self) -> list[dict[str, Any]]:
        """Return the output of `ironpost queue list --json`; one placeholder if it has none."""
        code, output = await self.command("queue", "list", "--json")
        if code:
            return [{"error": code}]
        listed: list[dict[str, Any]] = json.loads(output)
        return listed

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")
