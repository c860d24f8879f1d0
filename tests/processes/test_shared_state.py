"""Keyed state of several processes and of a file: what they share, what is written when, and what a bad file costs."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.compose.keyed_state import NAMESPACES, prepare_state
from ironpost.model.keyed_state import Entry, Namespace, StateRow
from ironpost.processes import shared_state
from ironpost.processes.bus import WorkerBus
from ironpost.processes.shared_state import SharedState
from ironpost.protocol.sasl.backoff import LoginBackoff
from ironpost.storage.sqlite.state import STATE_FILE, StateFile, prepare, verify

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

SPACE = Namespace("space", max_entries=1000, max_value=64, max_octets=100_000, max_ttl=3600.0)


class Clock:
    """Time that stands still until it is set."""

    def __init__(self) -> None:
        self.time = 1_700_000_000.0

    def now(self) -> float:
        return self.time

    monotonic = now

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


def process(data: Path, clock: Clock | None = None, bus: WorkerBus | None = None, *spaces: Namespace) -> SharedState:
    return SharedState(spaces or (SPACE,), clock or Clock(), partial(StateFile, data), bus=bus)


def crew(data: Path, clock: Clock, count: int, *spaces: Namespace) -> list[SharedState]:
    """Workers whose buses deliver to each other, with the number of notifications that were sent."""

    async def ask(_request: Any) -> Any:
        return {"answers": []}

    def send(number: int, note: Any) -> None:
        for other, bus in enumerate(found):
            if other != number:
                bus.deliver(note)

    found = [WorkerBus(partial(send, number), ask) for number in range(count)]
    return [process(data, clock, bus, *spaces) for bus in found]


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30):
            await scenario()

    asyncio.run(main())


def stored(data: Path) -> dict[bytes, bytes]:
    with closing(sqlite3.connect(f"file:{data / STATE_FILE}?mode=ro", uri=True)) as database:
        return dict(database.execute("SELECT key, value FROM entry"))


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.event for record in caplog.records if hasattr(record, "event")]


def test_r53_a_guess_at_one_worker_counts_at_all(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = Clock()
        states = crew(tmp_path, clock, 2, *NAMESPACES)
        for each in states:
            await each.start()
        limits = [LoginBackoff(each.memory) for each in states]
        for number in range(6):
            assert limits[number % 2].admit("ada", "192.0.2.1") == 0.0
            limits[number % 2].failed("ada", "192.0.2.1")
            await asyncio.sleep(0)
        assert limits[0].admit("ada", "192.0.2.9") > 0
        assert limits[1].admit("ada", "192.0.2.9") > 0
        clock.time += 60
        assert limits[0].admit("ada", "192.0.2.9") == 0.0
        await asyncio.sleep(0)
        assert limits[1].admit("ada", "192.0.2.8") > 0, "an attempt is pending at another worker"
        limits[0].succeeded("ada", "192.0.2.9")
        limits[0].failed("ada", "192.0.2.9")
        await asyncio.sleep(0)
        assert limits[1].admit("ada", "192.0.2.9") == 0.0, "who logged in there is known to all"
        for each in states:
            await each.stop()

    prepare(tmp_path)
    run(scenario)


def test_r53_guesses_made_at_the_same_moment_add_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        states = crew(tmp_path, Clock(), 4, *NAMESPACES)
        for each in states:
            await each.start()
        limits = [LoginBackoff(each.memory) for each in states]
        for limit in limits:
            limit.failed("ada", "192.0.2.1")
            limit.failed("ada", "192.0.2.1")
        await asyncio.sleep(0)
        for limit in limits:
            assert limit.admit("ada", "192.0.2.1") == 0.0
        await asyncio.sleep(0)
        for limit in limits:
            assert limit.admit("ada", "192.0.2.1") == 16.0, "the delay of 8 failures and of the attempt that is pending"
        for each in states:
            await each.stop()

    prepare(tmp_path)
    run(scenario)


def test_changes_of_one_moment_are_one_notification() -> None:
    sent: list[Any] = []

    async def ask(_request: Any) -> Any:
        raise AssertionError

    async def scenario() -> None:
        state = SharedState((SPACE,), Clock(), _no_file, bus=WorkerBus(sent.append, ask))
        await state.start()
        state.memory.put(SPACE, b"a", b"\xff", 10.0)
        state.memory.increment(SPACE, b"b", 2, 10.0)
        state.memory.remove(SPACE, b"a")
        state.memory.remove(SPACE, b"a")
        await asyncio.sleep(0)
        await state.stop()

    run(scenario)
    expires = Clock().time + 10.0
    assert sent == [
        {"state": [("space", "61", "ff", expires), ("space", "62", 2, expires), ("space", "61", None, 0.0)]}
    ]


def _no_file() -> StateFile:
    raise OSError(13, "Permission denied")


def test_changes_are_written_together_and_not_by_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    write = StateFile.write

    def counted(self: StateFile, rows: list[StateRow], removed: list[Any]) -> None:
        writes.append(len(rows))
        write(self, rows, removed)
        written.set()

    async def scenario() -> None:
        state = process(tmp_path)
        await state.start()
        for number in range(100):
            state.memory.put(SPACE, b"%d" % (number % 50), b"%d" % number, 60.0)
        assert (writes, stored(tmp_path)) == ([], {})
        while not written.is_set():
            await asyncio.sleep(0)
        assert writes == [50]
        state.memory.remove(SPACE, b"7")
        await state.stop()
        assert b"7" not in stored(tmp_path)
        assert stored(tmp_path)[b"8"] == b"58"

    import threading

    written = threading.Event()
    monkeypatch.setattr(shared_state, "WRITE_SECONDS", 0.01)
    monkeypatch.setattr(StateFile, "write", counted)
    prepare(tmp_path)
    run(scenario)


def test_more_rows_than_a_statement_takes_are_written_and_removed(tmp_path: Path) -> None:
    prepare(tmp_path)
    with closing(StateFile(tmp_path)) as file:
        rows = [StateRow("space", b"%d" % number, b"v", 1e10) for number in range(1234)]
        file.write(rows, [])
        file.write([], [("space", row.key) for row in rows[:1100]] + [("other", rows[1200].key)])
        assert file.load() == rows[1100:]


def test_every_statement_on_the_file_has_an_index(tmp_path: Path) -> None:
    executed: list[str] = []
    prepare(tmp_path)
    with closing(StateFile(tmp_path)) as file:
        file._connection.set_trace_callback(executed.append)
        file.write([StateRow("space", b"k", b"v", 1e10)], [("space", b"a"), ("space", b"b")])
        file.remove_expired(1.0)
        file._connection.set_trace_callback(None)
        assert len(executed) == 3
        for statement in executed:
            plan = [row[3] for row in file._connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            assert not any(step.startswith("SCAN entry") for step in plan), (statement, plan)


def test_expired_entries_leave_memory_and_the_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = Clock()
        state = process(tmp_path, clock)
        await state.start()
        state.memory.put(SPACE, b"short", b"", 10.0)
        state.memory.put(SPACE, b"long", b"", 100.0)
        await state.stop()
        state = process(tmp_path, clock)
        await state.start()
        clock.time += 50.0
        assert await state.remove_expired() == 1
        assert [each.entries for each in state.memory.usage()] == [1]
        assert set(stored(tmp_path)) == {b"long"}
        clock.time += 100.0
        await state.stop()
        state = process(tmp_path, clock)
        await state.start()
        assert [each.entries for each in state.memory.usage()] == [0], "what has expired is not loaded"
        await state.stop()

    prepare(tmp_path)
    run(scenario)


def test_a_lower_limit_and_a_missing_namespace_apply_to_what_is_stored(tmp_path: Path) -> None:
    async def scenario() -> None:
        states = process(tmp_path, None, None, SPACE, replace(SPACE, name="other"))
        await states.start()
        for number in range(5):
            states.memory.put(SPACE, b"%d" % number, b"", 60.0)
        states.memory.put(replace(SPACE, name="other"), b"x", b"", 60.0)
        await states.stop()
        lower = replace(SPACE, max_entries=2)
        states = process(tmp_path, None, None, lower)
        await states.start()
        assert [number for number in range(5) if states.memory.get(lower, b"%d" % number)] == [3, 4]
        await states.stop()
        assert set(stored(tmp_path)) == {b"3", b"4", b"x"}

    prepare(tmp_path)
    run(scenario)


def test_r47_the_file_is_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        prepare(tmp_path)
        with closing(StateFile(tmp_path)) as file:
            file.write([StateRow("space", b"k", b"v", 1e10)], [])
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(old)
    assert modes == {STATE_FILE: 0o600, f"{STATE_FILE}-wal": 0o600, f"{STATE_FILE}-shm": 0o600}


def garbage(path: Path) -> None:
    path.write_bytes(b"this is not a database" * 1000)


def torn(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + bytes(len(whole) - 4096))


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version=99")


def other_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript("DROP TABLE entry; CREATE TABLE entry (name TEXT)")


@pytest.mark.parametrize("damage", [garbage, torn, newer, other_tables])
def test_a_file_that_cannot_be_used_is_replaced_with_one_event(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    async def fill() -> None:
        state = process(tmp_path)
        await state.start()
        assert state.memory.get(SPACE, b"k") is None
        state.memory.put(SPACE, b"k", b"v", 60.0)
        await state.stop()

    prepare_state(tmp_path)
    run(fill)
    assert verify(tmp_path) == ""
    damage(tmp_path / STATE_FILE)
    assert verify(tmp_path).startswith("damaged (")
    assert events(caplog) == []
    prepare_state(tmp_path)
    assert events(caplog) == ["state-replaced"]
    assert verify(tmp_path) == ""
    run(fill)
    assert stored(tmp_path) == {b"k": b"v"}


def test_a_deleted_file_is_created_again_without_an_event(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prepare_state(tmp_path)
    (tmp_path / STATE_FILE).unlink()
    assert verify(tmp_path) == ""
    prepare_state(tmp_path)
    assert (tmp_path / STATE_FILE).exists()
    assert events(caplog) == []


def test_without_a_file_the_state_works_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        state = process(tmp_path)
        await state.start()
        state.memory.put(SPACE, b"k", b"v", 60.0)
        assert state.memory.get(SPACE, b"k") == Entry(b"v", 60.0)
        assert await state.remove_expired() == 0
        await state.stop()

    (tmp_path / "elsewhere").touch()
    (tmp_path / STATE_FILE).symlink_to(tmp_path / "elsewhere")
    prepare_state(tmp_path)
    assert (tmp_path / "elsewhere").read_bytes() == b""
    (tmp_path / STATE_FILE).unlink()
    run(scenario)
    assert events(caplog) == ["state-unavailable"] * 2


def test_a_failing_write_is_logged_once_and_costs_only_durability(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [True, True, False, True]
    write = StateFile.write

    def failing(self: StateFile, rows: list[StateRow], removed: list[Any]) -> None:
        if failures.pop(0):
            raise OSError(28, "No space left on device")
        write(self, rows, removed)

    async def scenario() -> None:
        state = process(tmp_path)
        await state.start()
        for number in range(4):
            state.memory.put(SPACE, b"%d" % number, b"v", 60.0)
            await state._write()
        assert all(state.memory.get(SPACE, b"%d" % number) for number in range(4))
        await state.stop()

    monkeypatch.setattr(StateFile, "write", failing)
    prepare(tmp_path)
    run(scenario)
    assert set(stored(tmp_path)) == {b"2"}
    assert events(caplog) == ["state-not-written"] * 2
