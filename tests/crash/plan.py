"""The faults of a round and their times, which are drawn from a seed and counted in messages or replies, not seconds.

Patterns match the file names in docs/storage.md. A fault on a file that a server does not have takes no effect, and
is counted as such.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from faults import (
    ALLOCATE,
    DELAY,
    FAIL,
    KILL_AFTER,
    KILL_BEFORE,
    LOSE,
    RENAME,
    SHORTEN,
    SYNC,
    TEAR,
    TRUNCATE,
    UNLINK,
    WRITE,
    Fault,
)
from remote import MOMENTS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

DATA, LOG, DATABASE = "*/data/*", "*/queue.sqlite3-wal", "*/queue.sqlite3"
BODIES = "*/@(bodies|segments)/*"

FOR_GOOD = 1 << 30
"""The repetitions of a fault that lasts until the server has ended."""
LOG_SYNC_FAILS = "log sync fails"
LOG_SYNC_LOSES = "log sync fails, pages lost"


@dataclass(frozen=True)
class Step:
    """A fault, due when this number of messages of the round have their reply, or remote hosts replied that often."""

    after: int
    what: Fault | str
    """A fault for the shim; `SIGKILL` or `SIGTERM`, sent by the harness; or one of REMOTE_KINDS or WORKER_KINDS."""

    @property
    def name(self) -> str:
        return self.what if isinstance(self.what, str) else self.what.name


def _error(chance: random.Random) -> int:
    return chance.choice((errno.EIO, errno.ENOSPC))


KINDS: dict[str, Callable[[random.Random], Fault | str]] = {
    "SIGKILL": lambda chance: "SIGKILL",
    "SIGTERM": lambda chance: "SIGTERM",
    "kill before a write": lambda chance: Fault("", WRITE, DATA, KILL_BEFORE, skip=chance.randrange(40)),
    "kill after a write": lambda chance: Fault("", WRITE, DATA, KILL_AFTER, skip=chance.randrange(40)),
    "kill before a sync": lambda chance: Fault("", SYNC, DATA, KILL_BEFORE, skip=chance.randrange(8)),
    "kill after a sync": lambda chance: Fault("", SYNC, DATA, KILL_AFTER, skip=chance.randrange(8)),
    "kill at an unlink, rename or allocation": lambda chance: Fault(
        "",
        UNLINK | RENAME | TRUNCATE | ALLOCATE,
        DATA,
        chance.choice((KILL_BEFORE, KILL_AFTER)),
        skip=chance.randrange(4),
    ),
    "torn write": lambda chance: Fault(
        "", WRITE, DATA, TEAR, skip=chance.randrange(40), amount=chance.randrange(1, 1000)
    ),
    "process that syncs killed": lambda chance: Fault(
        "", SYNC, LOG, chance.choice((KILL_BEFORE, KILL_AFTER)), skip=chance.randrange(4), group=False
    ),
    LOG_SYNC_FAILS: lambda chance: Fault("", SYNC, LOG, FAIL, _error(chance), skip=chance.randrange(4)),
    "log sync fails for good": lambda chance: Fault("", SYNC, LOG, FAIL, errno.EIO, times=FOR_GOOD),
    "body sync fails": lambda chance: Fault("", SYNC, BODIES, FAIL, _error(chance)),
    "database sync fails": lambda chance: Fault("", SYNC, DATABASE, FAIL, _error(chance)),
    "log write fails": lambda chance: Fault("", WRITE, LOG, FAIL, _error(chance), skip=chance.randrange(10)),
    "body write fails": lambda chance: Fault("", WRITE, BODIES, FAIL, _error(chance), skip=chance.randrange(3)),
    "database write fails": lambda chance: Fault("", WRITE, DATABASE, FAIL, _error(chance)),
    "short write": lambda chance: Fault(
        "", WRITE, DATA, SHORTEN, skip=chance.randrange(10), times=3, amount=chance.randrange(1, 1000)
    ),
    "slow sync": lambda chance: Fault(
        "", SYNC, DATA, DELAY, skip=chance.randrange(4), times=2, amount=chance.randrange(20_000, 1_500_000)
    ),
}
"""Faults that are possible on any file system."""

DISK_KINDS: dict[str, Callable[[random.Random], Fault | str]] = {
    LOG_SYNC_LOSES: lambda chance: Fault(
        "", SYNC, LOG, LOSE, skip=chance.randrange(4), amount=chance.choice((1, 1, 2, 1000))
    ),
    "body sync fails, pages lost": lambda chance: Fault("", SYNC, BODIES, LOSE, amount=chance.choice((1, 1000))),
    "database sync fails, pages lost": lambda chance: Fault("", SYNC, DATABASE, LOSE, amount=1),
}
"""Faults that need the disk in user space."""

REMOTE_KINDS: dict[str, str] = {f"SIGKILL at {moment}": moment for moment in MOMENTS}
"""SIGKILL right after a reply of the remote host, by name: the moment in `remote`."""


WORKER_KINDS: dict[str, str] = {f"SIGKILL of a worker at {moment}": moment for moment in MOMENTS}
"""The same for one of several workers."""


def plan(chance: random.Random, messages: int, count: int, *, disk: bool) -> list[Step]:
    """Return `count` faults for a round of `messages`, one of them a failing sync of the log."""
    kinds = KINDS | DISK_KINDS if disk else KINDS
    names = [LOG_SYNC_LOSES if disk else LOG_SYNC_FAILS, *chance.choices(sorted(kinds), k=count - 1)]
    chance.shuffle(names)
    # No faults in the first tenth, which builds up a queue, and in the last, in which the last fault can take effect.
    moments = sorted(chance.randrange(messages // 10, messages * 9 // 10) for _ in names)
    return [Step(after, _named(name, kinds[name](chance))) for after, name in zip(moments, names, strict=True)]


def delivery_plan(chance: random.Random, replies: int, count: int, workers: int, *, disk: bool) -> list[Step]:
    """Return `count` faults for a round in which remote hosts reply that often, half of them at these replies."""
    kinds = REMOTE_KINDS | WORKER_KINDS if workers > 1 else REMOTE_KINDS
    first = "SIGKILL of a worker at 250" if workers > 1 else "SIGKILL at 250"
    names = [first, *chance.choices(sorted(kinds), k=count // 2 - 1)]
    steps = [Step(chance.randrange(replies // 10, replies), name) for name in names]
    steps += plan(chance, replies, count - len(steps), disk=disk)
    return sorted(steps, key=lambda step: step.after)


def _named(name: str, what: Fault | str) -> Fault | str:
    if isinstance(what, str):
        return what
    return Fault(name, **{key: value for key, value in vars(what).items() if key != "name"})
