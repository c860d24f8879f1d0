"""Watches the memory and the descriptors of a process, so that it stops taking work before it runs out of them.

Promises: a resource is short from the time its use reaches `Bound.most` until it falls below `Bound.resume`; each
change is logged once. A reading takes less than a millisecond, and nothing is done for a message. While memory is
short, free memory is returned to the system, or the use of a process that has become idle would never fall.
Limitations: returning memory blocks the event loop for about a millisecond for each free MiB, once in a shortage, and
then for less. Resident memory is known on Linux only; elsewhere it counts as 0, so it is never short. Reading it needs
a descriptor: while none is left, it counts as it was before.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

from ironpost.server.limits import Excess
from ironpost.storage.reserve import disk_space, is_short
from ironpost.telemetry.events import record

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from ironpost.model.ports import Clock, Metrics

RESUME: Final = 0.9
"""Share of the memory bound below which memory is no longer short."""
RETURN_SAMPLES: Final = 10
"""Samples between two times that free memory is returned to the system."""
DISK: Final = "disk"
"""Name of the resource whose shortage refuses mail, but no connections."""
ACCEPT_LOG_SECONDS: Final = 60.0
"""Seconds between two records of connections that could not be accepted."""
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
_NO_RESOURCES: Final = _NO_DESCRIPTORS | {errno.ENOBUFS, errno.ENOMEM}

_PROC: Final = Path("/proc/self")
_DESCRIPTORS: Final = Path("/dev/fd")
_CGROUPS: Final = Path("/sys/fs/cgroup")

log = logging.getLogger("ironpost.resources")


class MemoryLimit(NamedTuple):
    """An amount of memory: `"75%"` of what the system has, or `"2GiB"`, in a configuration."""

    share: float
    """Share of the available memory; used if `octets` is 0."""
    octets: int = 0

    def of(self, available: int) -> int:
        """Return the amount in octets."""
        return self.octets or int(self.share * available)


def _positive(count: int) -> int:
    if count < 1:
        raise ValueError("minimum: 1")
    return count


@dataclass(frozen=True)
class ResourceLimits:
    """The use of resources from which a process takes no more work."""

    memory: MemoryLimit = MemoryLimit(0.75)  # noqa: RUF009 - immutable
    """Memory of the server from which new mail is refused, divided equally among the workers: a share of the available
    memory, or a size."""
    descriptors: Annotated[int, _positive] = 512
    """Descriptors that each process keeps free of client connections, for the queue, deliveries and DNS; at most half
    of those that it may open."""


class Usage(NamedTuple):
    """The use of resources by a process."""

    memory: int
    """Resident memory in octets; 0 if it is unknown."""
    descriptors: int
    """Open descriptors; 0 if that is unknown."""


class Bound(NamedTuple):
    """When a resource is short."""

    most: int
    """It becomes short when its use reaches this."""
    resume: int
    """It is short until its use is below this."""


class Bounds(NamedTuple):
    """The bounds of one process."""

    memory: Bound
    descriptors: Bound


@dataclass(frozen=True, slots=True)
class ResourceStatus:
    """One resource of one process."""

    worker: int
    resource: str
    used: int
    """Octets, or descriptors."""
    most: int
    """The use from which it is short."""
    short: bool


class ResourceWatch:
    """The resources of this process."""

    def __init__(self, read: Callable[[], Usage], changed: Callable[[Excess | None], None], *, worker: int = 0) -> None:
        """Create the watch; set `bounds` before the first sample.

        Args:
            read: reads the use.
            changed: called when a shortage begins, ends or has another cause, with the resource that is short.
            worker: the number of this process, from 0.
        """
        self.bounds: Bounds
        """The bounds; may be replaced at any time."""
        self._read = read
        self._changed = changed
        self._worker = worker
        self._short: dict[Excess, None] = {}
        """The resources that are short, the longest first."""
        self._memory_samples = 0
        """Samples since memory became short."""

    def sample(self) -> Usage:
        """Read the use, report changes, and return it."""
        if Excess.MEMORY in self._short:
            if self._memory_samples % RETURN_SAMPLES == 0:
                return_free_memory()
            self._memory_samples += 1
        else:
            self._memory_samples = 0
        usage = self._read()
        before = next(iter(self._short), None)
        for kind, used, bound in self._resources(usage):
            short = used >= (bound.resume if kind in self._short else bound.most)
            if short and kind not in self._short:
                self._short[kind] = None
                record(log, "resource-short", logging.WARNING, resource=kind.value, used=used, most=bound.most)
            elif not short and kind in self._short:
                del self._short[kind]
                record(log, "resource-sufficient", resource=kind.value, used=used, most=bound.most)
        now = next(iter(self._short), None)
        if now is not before:
            self._changed(now)
        return usage

    def status(self) -> list[ResourceStatus]:
        """The current use of each resource."""
        return [
            ResourceStatus(self._worker, kind.value, used, bound.most, kind in self._short)
            for kind, used, bound in self._resources(self._read())
        ]

    def _resources(self, usage: Usage) -> list[tuple[Excess, int, Bound]]:
        return [
            (Excess.MEMORY, usage.memory, self.bounds.memory),
            (Excess.DESCRIPTORS, usage.descriptors, self.bounds.descriptors),
        ]


def disk_status(directory: Path, reserve: int) -> ResourceStatus:
    """Return the use of the disk of a directory, which is short when less than the reserve is free. Blocks.

    The first worker reports it.

    Args:
        directory: on the disk.
        reserve: octets that new mail never takes.

    Raises:
        OSError: it cannot be queried.
    """
    free, size = disk_space(directory)
    return ResourceStatus(0, DISK, size - free, max(0, size - reserve), is_short(free, reserve))


class AcceptFaults:
    """An exception handler for the event loop: counts connections that could not be accepted.

    asyncio pauses for a second then. libuv closes such a connection by itself, without a reply or an error.
    """

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        """`clock` limits the records in the log; `metrics` counts."""
        self._clock = clock
        self._metrics = metrics
        self._log_at = 0.0

    def handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an error that the event loop reports (`loop.set_exception_handler`)."""
        error = context.get("exception")
        if not ("socket" in context and isinstance(error, OSError) and error.errno in _NO_RESOURCES):
            loop.default_exception_handler(context)
            return
        self._metrics.count("accept_failures")
        now = self._clock.monotonic()
        if now >= self._log_at:
            self._log_at = now + ACCEPT_LOG_SECONDS
            record(log, "accept-failed", logging.ERROR, detail=str(error))


def bounds_of(limits: ResourceLimits, available: int, open_files: int, workers: int) -> Bounds:
    """Return the bounds of one process.

    Args:
        limits: the configured limits.
        available: the memory of all processes, in octets (`available_memory`).
        open_files: the number of descriptors that each may open.
        workers: the number of processes.
    """
    memory, reserve = limits.memory.of(available) // workers, reserved(limits, open_files)
    return Bounds(Bound(memory, int(memory * RESUME)), Bound(open_files - reserve // 2, open_files - reserve * 3 // 4))


def reserved(limits: ResourceLimits, open_files: int) -> int:
    """Return how many of the descriptors that a process may open are kept free of client connections."""
    return min(limits.descriptors, open_files // 2)


class UsageReader:
    """Reads the use of resources by this process."""

    def __init__(self) -> None:
        self._memory = 0
        """The last reading, which counts while no descriptor is left to read another one."""

    def __call__(self) -> Usage:
        """Return the use now; this never raises."""
        with contextlib.suppress(OSError):
            self._memory = resident_memory()
        return Usage(self._memory, open_descriptors())


def resident_memory() -> int:
    """Return the resident memory of this process in octets.

    Raises:
        OSError: the system does not provide it, or no descriptor is left.
    """
    pages = int((_PROC / "statm").read_bytes().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_descriptors() -> int:
    """Return the number of open descriptors of this process; 0 if the system does not provide it."""
    folder = _PROC / "fd"
    if not folder.exists():
        folder = _DESCRIPTORS
    try:
        return folder.stat().st_size or len(os.listdir(folder))  # noqa: PTH208 - Linux has the number since 6.2
    except OSError as error:
        return open_file_limit() if error.errno in _NO_DESCRIPTORS else 0


def open_file_limit() -> int:
    """Return the number of descriptors that this process may open now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def available_memory(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Return the memory that all processes of the server may use together, in octets.

    It is the least `memory.max` of the cgroup (version 2) of this process and those above it, at most the machine's
    memory.

    Raises:
        OSError: no descriptor is left.
    """
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = (proc / "cgroup").read_text().splitlines()
    except OSError as error:
        if error.errno in _NO_DESCRIPTORS:
            raise
        return found
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if path is None:
        return found
    group = cgroups / path
    for folder in (group, *group.parents):
        if folder == cgroups.parent:
            break
        try:
            limit = (folder / "memory.max").read_text().strip()
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                raise
            continue
        if limit.isdigit():
            found = min(found, int(limit))
    return found


def return_free_memory() -> None:
    """Return memory that is free within the C library to the system, where that is possible (glibc)."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
