"""The contract of `model.keyed_state`, for every implementation; and a second user of the port, a toy greylist."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.model.keyed_state import KEY_OCTETS, Entry, KeyedState, MemoryState, Namespace
from ironpost.processes.bus import WorkerBus
from ironpost.processes.shared_state import SharedState
from ironpost.storage.sqlite.state import StateFile, prepare
from ironpost.telemetry.metrics import Counters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

PLAIN = Namespace("plain", max_entries=100, max_value=64, max_octets=10_000, max_ttl=3600.0)
FEW = Namespace("few", max_entries=3, max_value=64, max_octets=10_000, max_ttl=3600.0)
SMALL = Namespace("small", max_entries=100, max_value=64, max_octets=100, max_ttl=3600.0)
GREYLIST = Namespace("greylist", max_entries=100, max_value=16, max_octets=10_000, max_ttl=36 * 86_400.0)
SHARED = Namespace("shared", 4, max_value=64, max_octets=10_000, max_ttl=3600.0, group=lambda key: key[:1], share=1)
NAMESPACES = (PLAIN, FEW, SMALL, GREYLIST, SHARED)


class Clock:
    """Time that stands still until it is set."""

    def __init__(self) -> None:
        self.time = 1_700_000_000.0

    def now(self) -> float:
        return self.time

    monotonic = now

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


class Kit:
    """One implementation: a state to write to, and `elsewhere`, in which the same must be found."""

    def __init__(self, state: KeyedState, elsewhere: Callable[[], Awaitable[KeyedState]]) -> None:
        self.state = state
        self.elsewhere = elsewhere


def shared(path: Path, clock: Clock, **options: Any) -> SharedState:
    prepare(path)
    return SharedState(NAMESPACES, clock, partial(StateFile, path), **options)  # type: ignore[arg-type]


def buses(count: int) -> list[WorkerBus]:
    """Buses that deliver to each other, as the supervisor does."""

    def send(number: int, note: Mapping[str, Any]) -> None:
        for other, bus in enumerate(found):
            if other != number:
                bus.deliver(json.loads(json.dumps(note)))

    async def request(_request: Mapping[str, Any]) -> dict[str, Any]:
        return {"answers": []}

    found = [WorkerBus(partial(send, number), request) for number in range(count)]
    return found


@asynccontextmanager
async def opened(kind: str, path: Path, clock: Clock, metrics: Counters) -> AsyncIterator[Kit]:
    async with AsyncExitStack() as stack:
        if kind == "memory":
            memory = MemoryState(NAMESPACES, clock.now, metrics=metrics)

            async def same() -> KeyedState:
                return memory

            yield Kit(memory, same)
        elif kind == "restarted":
            first = shared(path, clock, metrics=metrics)
            await first.start()

            async def restarted() -> KeyedState:
                await first.stop()
                second = shared(path, clock)
                await second.start()
                stack.push_async_callback(second.stop)
                return second.memory

            yield Kit(first.memory, restarted)
        else:
            ours, theirs = (
                shared(path, clock, metrics=counters, bus=bus)
                for bus, counters in zip(buses(2), (metrics, Counters()), strict=True)
            )
            for each in (ours, theirs):
                await each.start()
                stack.push_async_callback(each.stop)

            async def other_worker() -> KeyedState:
                await asyncio.sleep(0)
                return theirs.memory

            yield Kit(ours.memory, other_worker)


@pytest.fixture(params=["memory", "restarted", "workers"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Callable[[Kit, Clock], Any]], Counters]:
    """Runs a scenario with an implementation; returns what was counted."""

    def runs(scenario: Callable[[Kit, Clock], Any]) -> Counters:
        async def main() -> None:
            async with asyncio.timeout(30), opened(request.param, tmp_path, clock, metrics) as kit:
                await scenario(kit, clock)

        clock, metrics = Clock(), Counters()
        asyncio.run(main())
        return metrics

    return runs


def test_a_value_is_read_back_until_it_expires(run: Any) -> None:
    async def scenario(kit: Kit, clock: Clock) -> None:
        kit.state.put(PLAIN, b"\x00key", b"\xffvalue", 60.0)
        assert kit.state.get(PLAIN, b"\x00key") == Entry(b"\xffvalue", 60.0)
        assert kit.state.get(FEW, b"\x00key") is None
        clock.time += 20.0
        there = await kit.elsewhere()
        assert there.get(PLAIN, b"\x00key") == Entry(b"\xffvalue", 40.0)
        clock.time += 40.0
        assert kit.state.get(PLAIN, b"\x00key") is None
        assert there.get(PLAIN, b"\x00key") is None

    run(scenario)


def test_the_last_value_counts_and_a_removed_one_is_gone(run: Any) -> None:
    async def scenario(kit: Kit, _clock: Clock) -> None:
        for value in (b"1", b"2", b""):
            kit.state.put(PLAIN, b"kept", value, 60.0)
            kit.state.put(PLAIN, b"removed", value, 60.0)
        kit.state.remove(PLAIN, b"removed")
        kit.state.remove(PLAIN, b"never there")
        assert b"removed" not in kit.state.keys(PLAIN)
        assert set(kit.state.keys(PLAIN)) == set((await kit.elsewhere()).keys(PLAIN)) != set()
        for state in (kit.state, await kit.elsewhere()):
            assert state.get(PLAIN, b"kept") == Entry(b"", 60.0)
            assert state.get(PLAIN, b"removed") is None

    run(scenario)


def test_increments_add_up_and_begin_again_after_the_last_expired(run: Any) -> None:
    async def scenario(kit: Kit, clock: Clock) -> None:
        assert [kit.state.increment(PLAIN, b"n", amount, 60.0) for amount in (1, 1, 40)] == [1, 2, 42]
        clock.time += 59.0
        assert kit.state.increment(PLAIN, b"n", 1, 60.0) == 43
        there = await kit.elsewhere()
        assert there.get(PLAIN, b"n") == Entry(b"43", 60.0)
        assert there.increment(PLAIN, b"n", -3, 60.0) == 40
        clock.time += 61.0
        assert there.increment(PLAIN, b"n", 1, 60.0) == 1

    run(scenario)


def test_a_time_to_live_is_cut_to_that_of_the_namespace(run: Any) -> None:
    async def scenario(kit: Kit, clock: Clock) -> None:
        kit.state.put(PLAIN, b"k", b"v", 1e9)
        assert kit.state.get(PLAIN, b"k") == Entry(b"v", 3600.0)
        clock.time -= 10_000.0  # the clock is set back: nothing lives longer for that
        for state in (kit.state, await kit.elsewhere()):
            assert state.get(PLAIN, b"k") == Entry(b"v", 3600.0)

    run(scenario)


@pytest.mark.parametrize("namespace", [FEW, SMALL])
def test_at_the_limit_the_entry_changed_longest_ago_is_evicted_and_counted(run: Any, namespace: Namespace) -> None:
    value = bytes(32)  # with its key 33 octets: three of them fit into either

    async def scenario(kit: Kit, _clock: Clock) -> None:
        for key in (b"a", b"b", b"c"):
            kit.state.put(namespace, key, value, 60.0)
        kit.state.put(namespace, b"a", value, 60.0)
        kit.state.put(namespace, b"d", value, 60.0)
        there = await kit.elsewhere()
        for state in (kit.state, there):
            assert [key for key in (b"a", b"b", b"c", b"d") if state.get(namespace, key)] == [b"a", b"c", b"d"]
        there.put(namespace, b"e", value, 60.0)
        assert [key for key in (b"a", b"c", b"d", b"e") if there.get(namespace, key)] == [b"a", b"d", b"e"]

    assert run(scenario).snapshot()["state_evictions"][namespace.name] >= 1


def test_at_the_limit_the_largest_group_with_more_than_its_share_loses_first(run: Any) -> None:
    async def scenario(kit: Kit, _clock: Clock) -> None:
        for key in (b"a", b"b1", b"b2", b"c"):
            kit.state.put(SHARED, key, b"", 60.0)
        kit.state.put(SHARED, b"b1", b"", 60.0)
        kit.state.put(SHARED, b"d", b"", 60.0)
        there = await kit.elsewhere()
        for state in (kit.state, there):
            assert sorted(state.keys(SHARED)) == [b"a", b"b1", b"c", b"d"], "b2 was changed before b1"
        there.remove(SHARED, b"c")
        there.put(SHARED, b"d2", b"", 60.0)
        there.remove(SHARED, b"d")
        there.put(SHARED, b"e", b"", 60.0)
        there.put(SHARED, b"f", b"", 60.0)
        assert sorted(there.keys(SHARED)) == [b"b1", b"d2", b"e", b"f"], "no group has more than its share"

    run(scenario)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda state: state.put(PLAIN, b"k", bytes(65), 1.0), "plain: a value of 65 octets; maximum: 64"),
        (lambda state: state.put(PLAIN, b"", b"", 1.0), "plain: a key of 0 octets; expected 1 to 255"),
        (lambda state: state.increment(PLAIN, bytes(KEY_OCTETS + 1), 1, 1.0), "plain: a key of 256 octets"),
        (lambda state: state.increment(PLAIN, b"word", 1, 1.0), "invalid literal"),
    ],
)
def test_what_does_not_fit_is_refused(run: Any, call: Callable[[KeyedState], None], why: str) -> None:
    async def scenario(kit: Kit, _clock: Clock) -> None:
        kit.state.put(PLAIN, b"word", b"no number", 60.0)
        with pytest.raises(ValueError, match=why):
            call(kit.state)
        for state in (kit.state, await kit.elsewhere()):
            assert state.get(PLAIN, b"word") == Entry(b"no number", 60.0)

    run(scenario)


def test_an_unregistered_namespace_is_an_error() -> None:
    state = MemoryState([PLAIN], Clock().now)
    with pytest.raises(KeyError):
        state.get(FEW, b"k")


class Greylist:
    """A toy: defers mail of a new triplet of client, sender and recipient until it is tried again."""

    DELAY, WINDOW, KNOWN = 300.0, 4 * 3600.0, 36 * 86_400.0
    """Seconds: until it passes, until the first attempt is forgotten, until a triplet that passed is."""

    def __init__(self, state: KeyedState) -> None:
        self._state = state

    def passes(self, client: str, sender: str, recipient: str) -> bool:
        key = f"{client} {sender} {recipient}".encode()
        known = self._state.get(GREYLIST, key)
        if known is None:
            self._state.put(GREYLIST, key, b"new", self.WINDOW)
            return False
        if known.value == b"new" and known.ttl > self.WINDOW - self.DELAY:
            return False
        self._state.put(GREYLIST, key, b"known", self.KNOWN)
        return True


def test_a_greylist_needs_nothing_else(run: Any) -> None:
    mail = "192.0.2.1", "a@client.example", "b@here.example"

    async def scenario(kit: Kit, clock: Clock) -> None:
        here = Greylist(kit.state)
        assert not here.passes(*mail)
        clock.time += 10
        assert not here.passes(*mail)
        there = Greylist(await kit.elsewhere())
        assert not there.passes(*mail)
        clock.time += 300
        assert there.passes(*mail)
        clock.time += 30 * 86_400
        assert there.passes(*mail)
        assert not there.passes("192.0.2.2", *mail[1:])
        clock.time += 37 * 86_400
        assert not there.passes(*mail)

    run(scenario)
