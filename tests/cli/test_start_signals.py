"""f29: signals during the start of the server, with one process and with workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.storage.lock import DirectoryLock

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import importlib, os, signal, sys

sys.argv[0] = "ironpost"
from ironpost.cli import main
from ironpost.cli import serve

module, _, name = {place!r}.rpartition(":")
owner = importlib.import_module(module)
*path, name = name.split(".")
for each in path:
    owner = getattr(owner, each)
original = getattr(owner, name)
sent = []


def signalled(*positional, **named):
    if not sent:
        sent.append(True)
        for number in {numbers!r}:
            os.kill(os.getpid(), number)
    return original(*positional, **named)


setattr(owner, name, signalled)
main()
"""
EARLY = [
    "ironpost.cli.serve:configuration",
    "ironpost.telemetry.formatters:write_to",
    "ironpost.cli.serve:new_event_loop",
]
"""Functions that are called before the event loop exists."""
ONE = ["storage.sqlite.backend:lay_out", "compose.system:own_name", "compose.system:certificates",
       "operations.control_socket:ControlServer.start", "compose.listeners:BoundListener.start"]  # fmt: skip
"""Functions that are called during the start of one process, in this order."""
SEVERAL = ["storage.sqlite.backend:lay_out", "compose.workers:own_name", "compose.workers:authenticator",
           "compose.workers:ReservedAddress.start", "processes.worker_pool:WorkerPool.start",
           "processes.worker_pool:WorkerPool._notified"]  # fmt: skip
"""The same for a supervisor; the last is called when its first worker is ready."""
STAGES = [
    *((1, place) for place in [*EARLY, *(f"ironpost.{each}" for each in ONE)]),
    *((2, place) for place in [*EARLY, *(f"ironpost.{each}" for each in SEVERAL)]),
]


def program(folder: Path, place: str, *numbers: int) -> tuple[str, ...]:
    """Return a program that sends itself signals at its first call of `place`."""
    script = folder / "ironpost_signalled.py"
    script.write_text(SCRIPT.format(place=place, numbers=[int(number) for number in numbers]))
    return (sys.executable, str(script))


@pytest.mark.parametrize(("workers", "place"), STAGES)
def test_f29_a_signal_during_the_start_aborts_it(tmp_path: Path, workers: int, place: str) -> None:
    number = (signal.SIGTERM, signal.SIGINT)[(STAGES.index((workers, place)) + workers) % 2]
    file = tmp_path / "ironpost.toml"
    file.write_text('data = "data"\n[[listener]]\nrole = "mx"\nlisten = ["127.0.0.1:0"]\nauth = "offered"\n')
    # With SIGHUP as well: a reload of a server that is stopping has no effect.
    done = subprocess.run(
        [*program(tmp_path, place, signal.SIGHUP, number, number), "serve", "-c", str(file), "--workers", str(workers)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "python")},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
    for line in done.stderr.splitlines():
        assert json.loads(line)["level"] == "info", line
    if (tmp_path / "data").exists():
        DirectoryLock(tmp_path / "data").release()  # the lock is free, so no process is left
        assert not (tmp_path / "data" / "mail").exists()


@pytest.mark.parametrize(("workers", "place"), [stage for stage in STAGES if stage[1] not in EARLY[1:]])
def test_f29_sighup_during_the_start_causes_a_reload_after_it(
    serve: Callable[..., Any], tmp_path: Path, wait_until: Callable[..., None], workers: int, place: str
) -> None:
    server = serve(workers=workers, program=program(tmp_path, place, signal.SIGHUP))
    wait_until(lambda: "configuration unchanged" in server.log(), server.log)
    assert b"replaces" not in server.run("reload", "-c", str(server.file)).stdout
    assert server.stop() == 0
