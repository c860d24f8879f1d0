"""Queries of an operator over many shards."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.storage.store_kit import opened, put

from ironpost.queue.store import QueryRefused
from ironpost.storage.sqlite.query import ATTACHED, query

if TYPE_CHECKING:
    from pathlib import Path


def test_any_number_of_shards_is_queried_together(tmp_path: Path) -> None:
    directories = [tmp_path / str(number) for number in range(ATTACHED + 2)]

    async def fill() -> None:
        for directory in directories:
            directory.mkdir()
            async with opened("sqlite", directory) as store:
                await put(store, f"m{directory.name}")

    asyncio.run(fill())
    names, rows = query(directories, "SELECT message FROM queue ORDER BY message", 100)
    assert (list(names), [row[0] for row in rows]) == (["message"], sorted(f"m{each.name}" for each in directories))
    ((events,),) = query(directories, "SELECT count(*) FROM Events WHERE kind = 'accepted'", 100)[1]
    assert events == len(directories)
    for refused in ("SELECT * FROM sqlite_temp_schema", "DELETE FROM queue", "SELECT * FROM shard0.message"):
        with pytest.raises(QueryRefused):
            query(directories, refused, 1)
