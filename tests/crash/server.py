"""The server under torture: `ironpost serve` as a service manager runs it, restarted whenever it ends.

Promises: `port` is that of the running server, or 0. `epoch` rises with each end of a server process that the harness
knows of. `stop` ends the server in order; `kill` ends all its processes at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM = (sys.executable, "-m", "ironpost.cli")
PACKAGE = Path(__file__).resolve().parents[2] / "python"
START_SECONDS = 60.0
STOP_SECONDS = 120.0
FAILED_STARTS = 5
"""Starts in a row that may fail, for example because a fault is still armed."""


class Server:
    """One data directory and whatever process serves it."""

    def __init__(
        self,
        folder: Path,
        data: Path,
        smart_host: int,
        faults: dict[str, str],
        *,
        workers: int = 1,
        tls: str = "none",
    ) -> None:
        """`folder` takes the configuration and the log; `faults` is added to the server's environment."""
        self.folder = folder
        self.data = data
        self.port = 0
        self._listening = asyncio.Event()
        self.ends: list[int] = []
        """The exit codes of the servers that ended by themselves or were killed; negative for a signal."""
        self.file = folder / "ironpost.toml"
        self.file.write_text(
            f'data = "{data}"\nhostname = "mx.example"\n'
            f'[[listener]]\nlisten = ["127.0.0.1:0"]\nrole = "mx"\ntls = "{tls}"\n'
            f'[queue]\nreserve = "1MiB"\n[[route]]\ndomains = ["*"]\nsmart_host = ["127.0.0.1:{smart_host}"]\n'
        )
        self._environment = {
            **os.environ, "PYTHONPATH": str(PACKAGE), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1",
        }  # fmt: skip
        self._faults = faults
        self._workers = workers
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._stopping = False
        self._output: asyncio.Task[bytes] | None = None
        self.on_end: Callable[[], None] = lambda: None

    @property
    def epoch(self) -> int:
        return len(self.ends)

    @property
    def running(self) -> bool:
        """Whether it has been started and not stopped for good."""
        return self._supervisor is not None and not self._supervisor.done()

    async def listening(self) -> int:
        """Waits until a server runs; its port."""
        while not self.port:
            await self._listening.wait()
        return self.port

    async def start(self) -> None:
        """Starts it, and restarts it from now on; returns when it listens."""
        self._stopping = False
        failures = 0
        while not await self._launch():
            failures += 1
            if failures > FAILED_STARTS:
                raise RuntimeError(f"the server does not start: {self.log()[-300:]}")
        self._supervisor = asyncio.get_running_loop().create_task(self._supervise())

    async def _launch(self) -> bool:
        """Whether a server came up; one that did not has ended."""
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
        # What a server leaves behind ends with it: else a child that lives on would hold the data directory.
        self.kill()
        self.ends.append(code)
        self.on_end()

    def kill(self) -> None:
        """SIGKILL to every process of the server."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM to the server; it is started again."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    def check(self) -> None:
        """Raises what ended the supervision, if it has ended."""
        if self._supervisor is not None and self._supervisor.done() and not self._stopping:
            self._supervisor.result()

    async def beside(self, work: asyncio.Future[Any]) -> None:
        """Waits for the work; raises what ends the supervision if that comes first."""
        assert self._supervisor is not None
        await asyncio.wait({work, self._supervisor}, return_when=asyncio.FIRST_COMPLETED)
        self.check()
        await work

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends the server for good; its exit code."""
        self._stopping = True
        assert self._process is not None
        assert self._supervisor is not None
        while True:
            # A restart may be under way: whatever comes up ends as well.
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
        """Another command of the program over the same configuration, without faults: exit code and output."""
        process = await asyncio.create_subprocess_exec(
            *PROGRAM, *arguments, "-c", str(self.file), cwd=self.folder, env=self._environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(), START_SECONDS)
        return process.returncode or 0, output

    async def queue(self) -> list[dict[str, Any]]:
        """What `ironpost queue list --json` shows; one placeholder if it shows nothing."""
        code, output = await self.command("queue", "list", "--json")
        if code:
            return [{"error": code}]
        listed: list[dict[str, Any]] = json.loads(output)
        return listed

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")
