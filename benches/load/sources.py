"""The programs that send the load: our driver.py, and smtp-source from Postfix.

Promises: both check every reply, and end with an error at the first wrong one, which is raised here as `LoadError`.
Times and CPU times do not include the start of driver.py's interpreter.

smtp-source says HELO, waits for each reply before the next command, and has neither TLS nor pipelining; driver.py does
all of these. Both are one process.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from contestants import peers

if TYPE_CHECKING:
    from collections.abc import Callable

DRIVER = Path(__file__).with_name("driver.py")
POLL = 0.1
"""Seconds between two looks at a running driver. Waking up for every message would cost CPU that servers need."""
PATIENCE = 120.0
"""Seconds that a driver may need to finish what is on its way."""
ENDLESS = 1_000_000_000
"""Messages that no measurement reaches."""


class LoadError(Exception):
    """A driver failed; the text is what it said."""


@dataclass(frozen=True)
class Load:
    """What is sent, and how."""

    port: int
    size: int
    """Octets of a message."""
    way: str = "reuse"
    """`reuse` (connections that stay), `conn` (a connection for each message) or `pipelined`."""
    tls: str = "no"
    connections: int = 20
    to: str = "grace@localhost"
    lmtp: bool = False
    """LHLO instead of EHLO."""
    file: Path | None = None
    """The content as DATA has it; None for one that the driver makes. smtp-source cannot send it."""


@dataclass(frozen=True)
class Sent:
    """What came of it."""

    messages: int
    """Acknowledged, each with a 250."""
    unknown: int
    """Cut off: the server may have accepted them or not."""
    start: float
    """By `time.perf_counter`."""
    seconds: float
    cpu: float
    """Seconds of the driver."""


def able(driver: str, way: str, tls: str) -> bool:
    """Whether a driver can send in that way."""
    return driver == "own" or (tls == "no" and way in {"conn", "reuse"})


def burst(driver: str, load: Load, messages: int) -> Sent:
    """Sends that many messages."""
    start = time.perf_counter()
    process = _start(driver, load, ["--messages", str(messages)], ["-m", str(messages)])
    assert process.stdout is not None
    said = process.stdout.read()
    cpu, seconds = _wait(process), time.perf_counter() - start
    return _told(said) if driver == "own" else Sent(messages, 0, start, seconds, cpu)


def sustain(driver: str, load: Load, seconds: float, watch: Callable[[int], None]) -> Sent:
    """Sends for that long.

    driver.py then finishes the messages it has begun. smtp-source cannot be told to, so it is killed, and the last
    message of each connection is unknown.

    Args:
        driver: `own` or `smtp-source`.
        load: what is sent.
        seconds: for how long.
        watch: called every `POLL` seconds with the number of messages begun so far. What it raises ends the load.
    """
    start = time.perf_counter()
    own = ["--seconds", str(seconds), "--count", "--messages", str(ENDLESS)]
    process = _start(driver, load, own, ["-c", "-m", str(ENDLESS)])
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    said, begun, cut = b"", 0, False
    try:
        while (now := time.perf_counter() - start) < seconds + PATIENCE:
            if driver != "own" and now >= seconds:
                cut = True
                break
            time.sleep(POLL)
            piece = process.stdout.read()
            if piece == b"":
                break
            said = (said + (piece or b""))[-400:]
            if found := re.findall(rb"(\d+)\r", said):
                begun = int(found[-1])
            watch(begun)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if cut or process.stdout.read() is None:  # None: it still runs
        process.kill()
    passed = time.perf_counter() - start
    cpu = _wait(process, killed=cut)
    if cut:
        # The counter goes up when the content is sent, before the reply.
        return Sent(max(0, begun - load.connections), load.connections, start, passed, cpu)
    return _told(said)


def _told(said: bytes) -> Sent:
    """What driver.py says of itself in its last line."""
    last = json.loads(said.splitlines()[-1])
    return Sent(last["messages"], 0, last["start"], last["seconds"], last["cpu"])


def _start(driver: str, load: Load, own: list[str], postfix: list[str]) -> subprocess.Popen[bytes]:
    if driver == "own":
        command = [sys.executable, str(DRIVER), str(load.port), "--way", load.way, "--tls", load.tls, "--to", load.to]
        command += ["--size", str(load.size), "--connections", str(load.connections), *own]
        command += ["--lmtp"] if load.lmtp else []
        command += ["--file", str(load.file)] if load.file else []
        environment = dict(os.environ)
    else:
        command = [peers.find("smtp-source"), "-s", str(load.connections), "-l", str(load.size), *postfix]
        command += ["-L"] if load.lmtp else []
        command += ["-M", "load.example", "-f", "ada@load.example", "-t", load.to]
        command += [*(["-d"] if load.way == "reuse" else []), f"127.0.0.1:{load.port}"]
        environment = peers.environment()
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _wait(process: subprocess.Popen[bytes], *, killed: bool = False) -> float:
    """Reaps a driver; its CPU seconds.

    Raises:
        LoadError: it failed.
    """
    assert process.stderr is not None
    assert process.stdout is not None
    said = process.stderr.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    process.stderr.close()
    if process.returncode and not killed:
        raise LoadError(said[-800:].strip() or f"the driver ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime
