"""Mailboxes and aliases in an SQLite database, on a real event loop."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ironpost.accounts import sql
from ironpost.accounts.records_sql import SqlOptions, SqlRecords
from ironpost.model import Address
from ironpost.routing.directory import MAX_TARGETS, DirectoryError
from ironpost.routing.records import Record

if TYPE_CHECKING:
    from pathlib import Path

QUERY = "SELECT target AS targets, keep, disabled FROM people WHERE address = :key COLLATE NOCASE"
HOSTILE = "'\";--\0"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "people.sqlite3"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE people (address TEXT, target TEXT, keep INTEGER, disabled INTEGER)")
        connection.executemany(
            "INSERT INTO people VALUES (?, ?, ?, ?)",
            [
                ("Ada@mail.example", None, None, 1),
                ("team@mail.example", "ada@mail.example", 1, None),
                ("team@mail.example", "bob@other.example", 1, None),
                ("@mail.example", "ada@mail.example", 0, None),
                ("wrong@mail.example", "ada", None, None),
                (f"{HOSTILE}@mail.example", "ada@mail.example", None, None),
                *(("all@mail.example", f"u{number}@mail.example", None, None) for number in range(MAX_TARGETS)),
                *(("more@mail.example", f"u{number}@mail.example", None, None) for number in range(MAX_TARGETS + 1)),
            ],
        )
    return path


def looked_up(path: Path, key: str, query: str = QUERY) -> Record | None:
    async def main() -> Record | None:
        return await SqlRecords(SqlOptions(path, query)).lookup(key)

    return asyncio.run(main())


def test_the_operators_query_finds_records(database: Path) -> None:
    ada, bob, where = Address.parse("ada@mail.example"), Address.parse("bob@other.example"), str(database)
    assert looked_up(database, "ada@mail.example") == Record(where, disabled=True)
    assert looked_up(database, "team@mail.example") == Record(where, (ada, bob), keep=True)
    assert looked_up(database, "@mail.example") == Record(where, (ada,))
    assert looked_up(database, "nobody@mail.example") is None
    everybody = looked_up(database, "all@mail.example")
    assert everybody is not None
    assert len(everybody.targets) == MAX_TARGETS


@pytest.mark.parametrize(
    "key", ["' OR 1=1 --", "x' UNION SELECT 'a@b','1','1' --", HOSTILE, "ada@mail.example\0", ":key", '"', "%", "_"]
)
def test_r41_a_key_is_a_parameter_and_never_sql(database: Path, key: str) -> None:
    before = database.read_bytes()
    assert looked_up(database, key) is None
    assert (looked_up(database, f"{key}@mail.example") is None) is (key != HOSTILE)
    assert database.read_bytes() == before


def test_a_query_that_fails_defers(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS disabled FROM n WHERE i = :key"
    )
    monkeypatch.setattr(sql, "QUERY_TIMEOUT", 0.01)
    monkeypatch.setattr(sql, "BUSY_TIMEOUT", 0.01)
    for path, query, key, why in (
        (tmp_path / "none.sqlite3", QUERY, "x", "none.sqlite3: unable to open"),
        (database, QUERY.replace("target AS", ""), "x", "people.sqlite3: no such column: targets"),
        (
            database,
            QUERY.replace("target AS targets", "target"),
            "x",
            "the query returns target, keep, disabled; expected",
        ),
        (database, "DELETE FROM people WHERE address = :key RETURNING disabled", "ada@mail.example", "readonly"),
        (database, QUERY, "wrong@mail.example", "people.sqlite3: targets: 'ada' is not a valid address"),
        (database, QUERY, "more@mail.example", f"more than {MAX_TARGETS} rows"),
        (database, endless, "x", "interrupted"),
    ):
        with pytest.raises(DirectoryError, match=why):
            looked_up(path, key, query)
    assert not (tmp_path / "none.sqlite3").exists()
    with closing(sqlite3.connect(database)) as owner:
        owner.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DirectoryError, match="locked"):
            looked_up(database, "ada@mail.example")


def test_errors_of_the_configuration_are_found_early(database: Path) -> None:
    SqlRecords(SqlOptions(database, QUERY)).check()
    with pytest.raises(ValueError, match="no parameter :key"):
        SqlRecords(SqlOptions(database, "SELECT target AS targets FROM people"))
    with pytest.raises(DirectoryError, match="no such table"):
        SqlRecords(SqlOptions(database, "SELECT 1 AS keep FROM other WHERE address = :key")).check()
