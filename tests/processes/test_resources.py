"""The watch over memory and descriptors, with injected readings."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.processes import resources
from ironpost.processes.resources import (
    ACCEPT_LOG_SECONDS,
    RETURN_SAMPLES,
    AcceptFaults,
    Bound,
    Bounds,
    MemoryLimit,
    ResourceLimits,
    ResourceStatus,
    ResourceWatch,
    Usage,
    UsageReader,
    available_memory,
    bounds_of,
    disk_status,
    open_descriptors,
    open_file_limit,
)
from ironpost.server.limits import Excess
from ironpost.telemetry.metrics import Counters

if TYPE_CHECKING:
    from collections.abc import Callable

BOUNDS = Bounds(Bound(100, 90), Bound(50, 40))


class Watched:
    """A watch over readings that a test sets; `changes` are those that it reports."""

    def __init__(self) -> None:
        self.usage = Usage(10, 10)
        self.changes: list[Excess | None] = []
        self.watch = ResourceWatch(lambda: self.usage, self.changes.append, worker=3)
        self.watch.bounds = BOUNDS

    def sample(self, memory: int, descriptors: int = 10) -> list[Excess | None]:
        self.usage = Usage(memory, descriptors)
        assert self.watch.sample() == self.usage
        changes, self.changes[:] = list(self.changes), []
        return changes


def events(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.getMessage()) for record in caplog.records]


def test_a_resource_is_short_until_its_use_has_clearly_fallen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    watched = Watched()
    assert watched.sample(99) == []
    assert watched.sample(100) == [Excess.MEMORY]
    for memory in (200, 99, 90):
        assert watched.sample(memory) == []
    assert watched.sample(89) == [None]
    assert watched.sample(99) == []
    assert events(caplog) == [
        {"event": "resource-short", "resource": "memory", "used": 100, "most": 100},
        {"event": "resource-sufficient", "resource": "memory", "used": 89, "most": 100},
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_the_shortage_lasts_as_long_as_any_resource_is_short() -> None:
    watched = Watched()
    assert watched.sample(10, 50) == [Excess.DESCRIPTORS]
    assert watched.sample(100, 50) == [], "nothing more to stop"
    assert watched.watch.status() == [
        ResourceStatus(3, "memory", 100, 100, True),
        ResourceStatus(3, "descriptors", 50, 50, True),
    ]
    assert watched.sample(100, 39) == [Excess.MEMORY], "the reason has changed"
    assert watched.sample(10, 10) == [None]


def test_bounds_may_change_while_a_resource_is_short() -> None:
    watched = Watched()
    assert watched.sample(100) == [Excess.MEMORY]
    watched.watch.bounds = BOUNDS._replace(memory=Bound(1000, 900))
    assert watched.sample(100) == [None]


def test_free_memory_is_returned_to_the_system_while_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    returned: list[int] = []
    watched = Watched()
    monkeypatch.setattr(resources, "return_free_memory", lambda: returned.append(watched.usage.memory))
    for memory in (10, *range(100, 100 + 2 * RETURN_SAMPLES), 10, 10):
        watched.sample(memory)
    watched.sample(10, 50)
    watched.sample(10, 50)
    assert returned == [101, 101 + RETURN_SAMPLES]
    watched.sample(100)
    watched.sample(99)
    assert returned[2:] == [99], "at once in the next shortage"
    monkeypatch.undo()
    resources.return_free_memory()


def test_the_bounds_are_shares_of_what_the_processes_may_use() -> None:
    limits = ResourceLimits(MemoryLimit(0.5), 512)
    assert bounds_of(limits, 1000, 20_000, 1) == (Bound(500, 450), Bound(19_744, 19_616))
    assert bounds_of(limits, 1000, 20_000, 5).memory == Bound(100, 90)
    assert bounds_of(ResourceLimits(MemoryLimit(0.0, 300), 10), 1000, 1000, 3) == (Bound(100, 90), Bound(995, 993))
    assert bounds_of(limits, 1000, 200, 1).descriptors == Bound(150, 125), "half of few is reserved"


def test_the_use_of_this_process_is_read() -> None:
    before = open_descriptors()
    with Path(os.devnull).open() as _one, Path(os.devnull).open() as _other:
        assert open_descriptors() == before + 2
    memory, descriptors = UsageReader()()
    assert 1 << 20 < memory < 1 << 40
    assert 3 <= descriptors < 100_000


@pytest.fixture
def no_descriptor(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the system refuse descriptors; before Linux 6.2 it needs one to count them, too."""

    def refuse(*_: object, **__: object) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def begin() -> None:
        monkeypatch.setattr(Path, "open", refuse)
        monkeypatch.setattr(Path, "read_bytes", refuse)
        monkeypatch.setattr(Path, "stat", lambda *_, **__: SimpleNamespace(st_size=0, st_mode=0))
        monkeypatch.setattr(os, "listdir", refuse)

    return begin


def test_a_shortage_of_memory_lasts_while_no_descriptor_is_left(no_descriptor: Callable[[], None]) -> None:
    changes: list[Excess | None] = []
    watch = ResourceWatch(UsageReader(), changes.append)
    watch.bounds = Bounds(Bound(2, 1), Bound(open_file_limit(), open_file_limit() - 1))
    memory = watch.sample().memory
    no_descriptor()
    assert watch.sample() == Usage(memory, open_file_limit())
    assert watch.status()[1].short
    assert changes == [Excess.MEMORY]


def test_the_available_memory_is_not_guessed_while_no_descriptor_is_left(no_descriptor: Callable[[], None]) -> None:
    no_descriptor()
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        available_memory()


def test_a_system_that_does_not_provide_its_use_is_never_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resources, "_PROC", tmp_path / "missing")
    monkeypatch.setattr(resources, "_DESCRIPTORS", tmp_path / "missing")
    assert UsageReader()() == Usage(0, 0)


@pytest.mark.parametrize(
    ("group", "limits", "expected"),
    [
        ("0::/", {"": "1048576"}, 1 << 20),
        ("0::/a/b", {"a": "2097152", "a/b": "max"}, 2 << 20),
        ("0::/a/b", {"": "1048576", "a": "2097152", "a/b": "4194304"}, 1 << 20),
        ("4:memory:/x\n0::/a", {"a": "2097152"}, 2 << 20),
        ("0::/a", {"a": "garbage"}, None),
        ("0::/a", {"a": "9223372036854771712"}, None),
        ("4:memory:/x", {"": "1048576"}, None),
        ("", {}, None),
    ],
)
def test_the_available_memory_is_that_of_the_tightest_cgroup(
    tmp_path: Path, group: str, limits: dict[str, str], expected: int | None
) -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cgroup").write_text(group + "\n")
    for folder, limit in limits.items():
        (tmp_path / "cgroups" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroups" / folder / "memory.max").write_text(limit + "\n")
    found = available_memory(tmp_path / "proc", tmp_path / "cgroups")
    assert found == (machine if expected is None else expected)
    assert available_memory(tmp_path / "missing", tmp_path / "cgroups") == machine


def test_connections_that_cannot_be_accepted_are_counted_and_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Clock:
        time = 1000.0

        def monotonic(self) -> float:
            return self.time

    clock, metrics, others = Clock(), Counters(), []
    faults = AcceptFaults(clock, metrics)  # type: ignore[arg-type] # only `monotonic` is used
    loop = asyncio.new_event_loop()
    loop.default_exception_handler = others.append  # type: ignore[method-assign]

    def happen(number: int, **more: object) -> None:
        faults.handle(loop, {"message": "x", "exception": OSError(number, os.strerror(number)), **more})

    for _ in range(100):
        happen(errno.EMFILE, socket=object())
    clock.time += ACCEPT_LOG_SECONDS
    happen(errno.ENOMEM, socket=object())
    assert metrics.snapshot()["accept_failures"] == {"": 101}
    assert [each["event"] for each in events(caplog)] == ["accept-failed", "accept-failed"]
    happen(errno.EMFILE)
    happen(errno.ECONNABORTED, socket=object())
    faults.handle(loop, {"message": "a task failed"})
    assert len(others) == 3, "other errors keep their treatment"
    assert metrics.snapshot()["accept_failures"] == {"": 101}
    loop.close()


def test_the_disk_is_short_when_the_reserve_is_not_free(tmp_path: Path) -> None:
    disk = disk_status(tmp_path, 0)
    assert (disk.resource, disk.short) == ("disk", False)
    assert 0 < disk.used < disk.most
    short = disk_status(tmp_path, disk.most)
    assert (short.short, short.most) == (True, 0)
