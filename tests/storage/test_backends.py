"""The registry of backends: one line adds a store to the server, to its workers and to the command line."""

from __future__ import annotations

import asyncio

import pytest
from store_kit import Clock, at, claim, ids, put

from ironpost.compose.data_directory import LocalData
from ironpost.compose.system import System
from ironpost.config.load import ConfigError, parse
from ironpost.operations.operation import OperationError
from ironpost.queue.store import StoreUnusable
from ironpost.storage import BACKENDS
from ironpost.storage.backend import StoreOptions
from ironpost.testing.leased_store import LeasedShard, LeasedStore


class LeasedBackend:
    """A backend whose lease is kept in a table instead of a file lock."""

    def __init__(self) -> None:
        self.shard = LeasedShard()
        self.prepared = 0

    def prepare(self, data):
        self.prepared += 1
        return 1

    def open(self, data, options):
        return LeasedStore(self.shard, options.now)

    def open_reader(self, data):
        reader = LeasedStore(self.shard, lambda: self.shard.until)
        reader.faults = []
        reader.close = lambda: None
        return reader


def test_a_registered_backend_serves_the_server_and_the_command_line(monkeypatch, tmp_path):
    backend = LeasedBackend()
    monkeypatch.setitem(BACKENDS, "leased", lambda: backend)
    configuration = parse(f'data = "{tmp_path}"\n[queue]\nbackend = "leased"\n', "c.toml")

    async def main():
        lock, store = System(configuration, None)._opened(configuration)
        assert isinstance(store, LeasedStore)
        assert backend.prepared == 1
        await put(store, "m1")
        with LocalData(configuration).queue_reader() as reader:
            assert ids(await reader.list()) == ["m1"]
        await store.close()
        lock.release()

    asyncio.run(main())


def test_an_unknown_backend_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="unknown backend 'postgres'; expected 'sqlite' or 'memory'"):
        parse('[queue]\nbackend = "postgres"\n', "c.toml")


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_every_backend_opens_a_store_with_the_time_of_its_options(name, tmp_path):
    backend = BACKENDS[name]()
    clock = Clock()

    async def main():
        assert backend.prepare(tmp_path) >= 1
        store = backend.open(tmp_path, StoreOptions(clock, 0, 1 << 20, 86400.0, 1 << 20, 86400.0))
        await store.unclaim([await put(store, "m1", due=clock.time + 60)])
        assert await claim(store, 10) == []
        assert ids(await claim(at(store, clock.time + 60), 10)) == ["m1"]
        assert (await store.tally()).messages == 1
        assert await store.find(["m0", "m1"]) == ["m1"]
        await store.close()

    asyncio.run(main())


def test_a_queue_in_memory_cannot_be_read_from_outside_or_shared(tmp_path):
    backend = BACKENDS["memory"]()
    assert backend.prepare(tmp_path) == 1, "one worker"
    with pytest.raises(StoreUnusable, match="several workers"):
        backend.open_worker(tmp_path, None, 0, 2)
    data = LocalData(parse(f'data = "{tmp_path}"\n[queue]\nbackend = "memory"\n', "c.toml"))
    with pytest.raises(OperationError, match=r"kept in memory \(queue\.backend\)"), data.queue_reader():
        pass
