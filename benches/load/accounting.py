"""CPU time of a server with all its processes.

Promises: where the caller may create control groups (root, as a rule), each server runs in a group of its own below
the caller's, and the kernel adds up every process that ever ran in it, including orphans and children that nobody
waited for. Elsewhere `family` adds up /proc, which includes children that were reaped by a living member, but misses
orphans and the children of a process that ignores SIGCHLD (Exim's deliveries). Linux only.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
TICK = os.sysconf("SC_CLK_TCK")
LINGER = 5.0
"""Seconds that processes of a stopped server may take to end."""

_numbers = count()


@dataclass(frozen=True)
class Group:
    """A control group that holds one server."""

    folder: Path
    usage: Path
    """The file that says how much CPU time the group has used."""

    def command(self, command: list[str]) -> list[str]:
        """The same command, run inside the group."""
        return ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self.folder / "cgroup.procs"), *command]

    def seconds(self) -> float:
        """CPU time so far."""
        text = self.usage.read_text()
        if self.usage.name == "cpuacct.usage":  # version 1: nanoseconds
            return int(text) / 1e9
        return int(text.split("usage_usec", 1)[1].split()[0]) / 1e6

    def remove(self) -> None:
        """Waits until the group is empty, kills what outlives the server by `LINGER`, and removes the group."""
        end = time.monotonic() + LINGER
        while self.folder.exists():
            try:
                self.folder.rmdir()
            except OSError:
                if time.monotonic() > end + LINGER:
                    raise
                if time.monotonic() > end:
                    for pid in (self.folder / "cgroup.procs").read_text().split():
                        os.kill(int(pid), signal.SIGKILL)
                time.sleep(0.05)


def group() -> Group | None:
    """A new group, or None where none can be made."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpuacct" in controllers.split(","):
            parent, usage = ROOT / "cpuacct" / path.lstrip("/"), "cpuacct.usage"
        elif not controllers:
            parent, usage = ROOT / path.lstrip("/"), "cpu.stat"
        else:
            continue
        folder = parent / f"ironpost-load-{os.getpid()}-{next(_numbers)}"
        try:
            folder.mkdir()
        except OSError:
            continue
        if (folder / usage).exists():
            return Group(folder, folder / usage)
        folder.rmdir()
    return None


def family(pid: int) -> dict[int, float]:
    """A process and its living descendants, each with the CPU seconds of itself and of all the children it reaped."""
    parents: dict[int, list[int]] = {}
    times: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents.setdefault(int(words[1]), []).append(int(entry.name))
            times[int(entry.name)] = sum(map(int, words[11:15])) / TICK
    members, found = [pid], {}
    while members:
        member = members.pop()
        found[member] = times.get(member, 0.0)
        members += parents.get(member, [])
    return found
