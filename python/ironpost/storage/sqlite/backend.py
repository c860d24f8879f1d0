"""The SQLite backend: implements `storage.backend.Backend`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.storage.sqlite.copying import copy_queue
from ironpost.storage.sqlite.forwarding import ForwardingStore
from ironpost.storage.sqlite.shards import FOLDER, ShardedStore, ShardsReader, lay_out
from ironpost.storage.sqlite.verify import verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ironpost.storage.backend import CheckedAmount, CopiedQueue, Damage, StoreOptions


class SqliteBackend:
    """Shards in the data directory; a worker owns several of them, by file locks."""

    folders = (FOLDER,)

    def prepare(self, data: Path) -> int:
        return lay_out(data)

    def open(self, data: Path, options: StoreOptions) -> ShardedStore:
        return ShardedStore.at(data, **options._asdict())

    def open_worker(self, data: Path, options: StoreOptions, number: int, workers: int) -> ForwardingStore:
        return ForwardingStore.at(data, worker=number, workers=workers, **options._asdict())

    def open_reader(self, data: Path) -> ShardsReader:
        return ShardsReader.open_readonly(data)

    def verify(self, data: Path) -> AsyncIterator[Damage | CheckedAmount]:
        return verify(data)

    async def copy(self, data: Path, target: Path) -> CopiedQueue:
        return await copy_queue(data, target)
