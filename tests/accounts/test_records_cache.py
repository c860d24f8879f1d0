"""The cache in front of slow sources, with a clock of the test."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.accounts import records_cache
from ironpost.accounts.records_cache import CacheOptions, RecordCache
from ironpost.model import Address
from ironpost.model.options import Seconds
from ironpost.processes.clock import SystemClock
from ironpost.routing.directory import DirectoryError
from ironpost.routing.records import Record

if TYPE_CHECKING:
    from collections.abc import Coroutine

ADA = Record("here", disabled=True)
KEY = "ada@mail.example"
OPTIONS = CacheOptions(cache=Seconds(60), cache_missing=Seconds(10), cache_stale=Seconds(0), timeout=Seconds(600))


class Clock(SystemClock):
    def __init__(self) -> None:
        self.time = 1000.0

    def monotonic(self) -> float:
        return self.time


class Source:
    """Records in memory; `down` makes every lookup fail, and `gate` lets it wait."""

    def __init__(self, **records: Record) -> None:
        self.records = {f"{name}@mail.example": record for name, record in records.items()}
        self.asked: list[str] = []
        self.down = False
        self.gate: asyncio.Event | None = None

    async def lookup(self, key: str, /) -> Record | None:
        self.asked.append(key)
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            raise DirectoryError("it is down")
        return self.records.get(key)


def cached(source: Any, clock: Clock, **times: float) -> RecordCache:
    seconds = {name: Seconds(value) for name, value in times.items()}
    return RecordCache(source, "source", clock, CacheOptions(**{**_fields(OPTIONS), **seconds}))


def _fields(options: CacheOptions) -> dict[str, Seconds]:
    return {name: getattr(options, name) for name in ("cache", "cache_missing", "cache_stale", "timeout")}


async def ask(cache: RecordCache, key: str = KEY) -> Record | None:
    answer = cache.lookup(key)
    return answer if answer is None or isinstance(answer, tuple) else await answer


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def test_found_and_missing_have_their_own_times() -> None:
    async def main() -> None:
        source, clock = Source(ada=ADA), Clock()
        cache = cached(source, clock)
        for later, found, missing in ((0, 1, 1), (9, 1, 1), (10, 1, 2), (19, 1, 2), (59, 1, 3), (60, 2, 3)):
            clock.time = 1000.0 + later
            assert await ask(cache) == ADA
            assert await ask(cache, "eve@mail.example") is None
            assert (source.asked.count(KEY), source.asked.count("eve@mail.example")) == (found, missing), later

    run(main())


def test_an_answer_in_the_cache_needs_no_await() -> None:
    async def main() -> None:
        cache = cached(Source(ada=ADA), Clock())
        first = cache.lookup(KEY)
        assert asyncio.iscoroutine(first)
        assert await first == ADA
        assert cache.lookup(KEY) is ADA

    run(main())


def test_a_source_that_changes_is_seen_after_the_time() -> None:
    async def main() -> None:
        source, clock = Source(), Clock()
        cache = cached(source, clock)
        assert await ask(cache) is None
        source.records[KEY] = ADA
        assert await ask(cache) is None
        clock.time += 10
        assert await ask(cache) == ADA
        del source.records[KEY]
        clock.time += 60
        assert await ask(cache) is None
        assert await ask(cache) is None
        assert len(source.asked) == 3

    run(main())


def test_concurrent_lookups_of_one_key_are_one_query() -> None:
    async def main() -> None:
        source = Source(ada=ADA)
        source.gate = asyncio.Event()
        cache = cached(source, Clock())
        several = [asyncio.ensure_future(ask(cache)) for _ in range(5)]
        other = asyncio.ensure_future(ask(cache, "eve@mail.example"))
        await asyncio.sleep(0)
        several[0].cancel()
        source.gate.set()
        assert await asyncio.gather(*several[1:]) == [ADA] * 4
        assert await other is None
        assert source.asked == [KEY, "eve@mail.example"]

    run(main())


def test_an_error_reaches_everybody_who_waits_and_is_not_cached() -> None:
    async def main() -> None:
        source = Source(ada=ADA)
        source.down = True
        cache = cached(source, Clock())
        results = await asyncio.gather(*(ask(cache) for _ in range(3)), return_exceptions=True)
        assert [str(result) for result in results] == ["it is down"] * 3
        assert len(source.asked) == 1
        source.down = False
        assert await ask(cache) == ADA

    run(main())


def test_an_error_that_nobody_waits_for_is_not_reported_as_lost() -> None:
    async def main() -> None:
        problems: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: problems.append(context))
        source = Source()
        source.gate, source.down = asyncio.Event(), True
        cache = cached(source, Clock())
        alone = asyncio.ensure_future(ask(cache))
        await asyncio.sleep(0)
        alone.cancel()
        source.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await alone
        source.gate, source.down = None, False
        while KEY in cache._running:  # the query outlives who asked
            await asyncio.sleep(0)
        assert problems == []

    run(main())


def test_a_record_is_used_longer_while_its_source_is_down(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        source, clock = Source(ada=ADA), Clock()
        cache = cached(source, clock, cache_stale=100)
        assert await ask(cache) == ADA
        assert await ask(cache, "eve@mail.example") is None
        source.down = True
        clock.time += 159
        assert await ask(cache) == ADA
        assert await ask(cache) == ADA
        with pytest.raises(DirectoryError, match="it is down"):  # it may exist by now
            await ask(cache, "eve@mail.example")
        clock.time += 1
        with pytest.raises(DirectoryError, match="it is down"):
            await ask(cache)
        source.down = False
        assert await ask(cache) == ADA

    with caplog.at_level(logging.INFO, "ironpost.accounts"):
        run(main())
    assert [record.getMessage() for record in caplog.records] == [
        "it is down; using records from before for 100 s at most",
        "source answers again",
    ]


def test_without_that_option_the_caller_defers() -> None:
    async def main() -> None:
        source, clock = Source(ada=ADA), Clock()
        cache = cached(source, clock)
        assert await ask(cache) == ADA
        source.down = True
        clock.time += 60
        with pytest.raises(DirectoryError, match="it is down"):
            await ask(cache)

    run(main())


def test_a_lookup_has_a_time_limit() -> None:
    async def main() -> None:
        source = Source(ada=ADA)
        source.gate = asyncio.Event()
        with pytest.raises(DirectoryError, match=r"^source: no answer after 0.001 s$"):
            await ask(cached(source, Clock(), timeout=0.001))

    run(main())


def test_unknown_keys_do_not_evict_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_cache, "ENTRIES", 3)

    async def main() -> None:
        source = Source(ada=ADA, bob=ADA, cyd=ADA, dan=ADA)
        cache = cached(source, Clock())
        await ask(cache)
        for number in range(10):
            await ask(cache, f"{number}@mail.example")
        assert cache.lookup(KEY) is ADA
        source.asked.clear()
        for name in ("bob", "cyd", "dan", "bob", "dan", "ada"):
            await ask(cache, f"{name}@mail.example")
        assert source.asked == [f"{name}@mail.example" for name in ("bob", "cyd", "dan", "ada")]
        source.asked.clear()
        for number in (0, 9, 8):
            await ask(cache, f"{number}@mail.example")
        assert source.asked == ["0@mail.example"]

    run(main())


def test_a_source_that_needs_no_io_is_cached_as_well() -> None:
    class Immediate:
        asked = 0

        def lookup(self, key: str, /) -> Record | None:
            self.asked += 1
            return ADA

    async def main() -> None:
        source = Immediate()
        cache = cached(source, Clock())
        assert [await ask(cache), await ask(cache)] == [ADA, ADA]
        assert source.asked == 1

    run(main())


def test_a_source_cannot_disable_postmaster(caplog: pytest.LogCaptureFixture) -> None:
    moved = Record("here", targets=(Address.parse("x@other.example"),), disabled=True)

    async def main() -> None:
        cache = cached(Source(postmaster=ADA, abuse=moved, ada=ADA), Clock())
        found = [await cache.lookup(f"{name}@mail.example") for name in ("postmaster", "abuse", "ada")]  # type: ignore[misc]
        assert found == [None, moved, ADA]

    asyncio.run(main())
    assert caplog.messages == [
        "source: postmaster@mail.example is disabled, which is ignored, because its mail must be accepted"
    ]
