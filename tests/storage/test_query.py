"""Queries of an operator over many shards."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.storage.store_kit import opened, put

from ironpost.queue.store import QueryRefused
from ironpost.storage.sqlite import query as module
from ironpost.storage.sqlite.query import ATTACHED, query

if TYPE_CHECKING:
    from pathlib import Path


def filled(directory: Path) -> list[Path]:
    """The directories of more shards than SQLite attaches, with a message in each."""
    directories = [directory / str(number) for number in range(ATTACHED + 2)]

    async def fill() -> None:
        for each in directories:
            each.mkdir()
            async with opened("sqlite", each) as store:
                await put(store, f"m{each.name}")

    asyncio.run(fill())
    return directories


def test_any_number_of_shards_is_queried_together(tmp_path: Path) -> None:
    directories = filled(tmp_path)
    names, rows = query(directories, "SELECT message FROM queue ORDER BY message", 100)
    assert (list(names), [row[0] for row in rows]) == (["message"], sorted(f"m{each.name}" for each in directories))
    ((events,),) = query(directories, "SELECT count(*) FROM Events WHERE kind = 'accepted'", 100)[1]
    assert events == len(directories)
    for refused in ("SELECT * FROM sqlite_temp_schema", "DELETE FROM queue", "SELECT * FROM shard0.message"):
        with pytest.raises(QueryRefused):
            query(directories, refused, 1)


def test_all_rows_of_a_shard_are_from_one_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directories = filled(tmp_path)
    all_rows, copied = module._all, list[str]()

    async def accept() -> None:
        async with opened("sqlite", directories[0]) as store:
            await put(store, "late")

    def watched(view: str, shards: int) -> str:
        copied.append(view)
        if copied == ["queue", "events"]:
            asyncio.run(accept())
        return all_rows(view, shards)

    monkeypatch.setattr(module, "_all", watched)
    statement = "SELECT (SELECT count(*) FROM queue), (SELECT count(*) FROM events WHERE kind = 'accepted')"
    assert query(directories, statement, 1)[1] == [(len(directories), len(directories))]
    assert query(directories, statement, 1)[1] == [(len(directories) + 1, len(directories) + 1)]
