"""The harness's side of the shim (faults.c): compiles it, and arms rules in the control file that every process maps.

Promises: each running process follows an armed rule from its next call on; `fired` returns how often it took effect.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent

SYNC, WRITE, OPEN, UNLINK, RENAME, ALLOCATE, TRUNCATE = (1 << bit for bit in range(7))
"""Kinds of call, as bits."""

KILL_BEFORE, KILL_AFTER, FAIL, TEAR, SHORTEN, DELAY, LOSE = range(1, 8)
"""Effects of a rule; faults.c describes each."""

_HEADER = struct.Struct("=iiq48x")
_RULE = struct.Struct("=iIiiiiiiii216s")
RULES = 16
"""Rules in the control file."""


class BuildError(Exception):
    """A C program of this folder cannot be compiled; the text is the compiler's message."""


def build(source: str, target: Path, *arguments: str) -> Path:
    """Compile a C file of this folder.

    Raises:
        BuildError: there is no compiler, or a header or library is missing.
    """
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(target), str(HERE / source), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BuildError(str(error)) from error
    if done.returncode:
        raise BuildError(done.stderr)
    return target


@dataclass(frozen=True)
class Fault:
    """A fault at one matching call, or several."""

    name: str
    """The name of the fault in the figures."""
    calls: int
    pattern: str
    action: int
    error: int = errno.EIO
    skip: int = 0
    """Number of matching calls before the fault."""
    times: int = 1
    amount: int = 500
    """Thousandths of a write, microseconds of a delay, or writes that the disk refuses."""
    group: bool = True
    """Whether a kill ends all processes of the server, not only the one that made the call."""


class Faults:
    """The shim, compiled into `folder`, and its control file."""

    def __init__(self, folder: Path) -> None:
        """Compile the shim.

        Raises:
            BuildError: the shim cannot be compiled.
        """
        self.library = build("faults.c", folder / "libfaults.so", "-shared", "-fPIC", "-ldl")
        self.file = folder / "faults.control"
        self.file.write_bytes(bytes(_HEADER.size + RULES * _RULE.size))
        with self.file.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._next = 0

    def environment(self) -> dict[str, str]:
        """The environment variables that preload the shim into a process and its children."""
        return {"LD_PRELOAD": str(self.library), "TORTURE_FAULTS": str(self.file)}

    def arm(self, fault: Fault, number: int | None = None) -> int:
        """Arm a fault and return the number of its rule.

        At most sixteen are armed: the oldest is disarmed. A call that several rules match follows that with the lowest
        number.

        Args:
            fault: what to arm.
            number: of the rule, below `RULES`; None for the next one.
        """
        if number is None:
            number = self._next % RULES
            self._next += 1
        at = self._at(number)
        self.disarm(number)
        record = _RULE.pack(
            0, fault.calls, fault.action, fault.error, fault.skip, fault.times, fault.amount, fault.group, 0, 0,
            os.fsencode(fault.pattern),
        )  # fmt: skip
        self._map[at : at + _RULE.size] = record
        self._map[at : at + 4] = struct.pack("=i", 1)
        return number

    def disarm(self, number: int) -> None:
        """Disarm a rule; its counters can still be read."""
        at = self._at(number)
        self._map[at : at + 4] = bytes(4)

    def disarm_all(self) -> None:
        for number in range(RULES):
            self.disarm(number)

    def fired(self, number: int) -> int:
        """Return how many times the rule took effect."""
        return int(self._rule(number)[8])

    def result(self, number: int) -> int:
        """Return the errno of the last call under a LOSE rule, 0 if it succeeded."""
        return int(self._rule(number)[9])

    @property
    def refused(self) -> int:
        """Return the number of writes that the disk has refused."""
        return int(_HEADER.unpack_from(self._map)[1])

    @property
    def records(self) -> int:
        """Return the number of writes and flushes that the disk has recorded; 0 without a disk."""
        return int(_HEADER.unpack_from(self._map)[2])

    def reset_records(self) -> None:
        """Reset the counters, for a disk with an empty record."""
        self._map[: _HEADER.size] = bytes(_HEADER.size)

    def _rule(self, number: int) -> tuple[int, ...]:
        return _RULE.unpack_from(self._map, self._at(number))

    @staticmethod
    def _at(number: int) -> int:
        return _HEADER.size + number * _RULE.size
