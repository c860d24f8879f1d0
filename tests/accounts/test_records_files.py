"""Files of mailboxes and aliases: their lines, and changes while a server runs."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest
from tests.accounts.test_records_cache import Clock

from ironpost.accounts.records_files import INTERVAL, MAX_FAULTS, RecordFile, RecordFileError, alias_file

if TYPE_CHECKING:
    from pathlib import Path

    from ironpost.routing.records import Record

TEXT = """\
# people
ada@mail.example:
Jo@Mail.example: jo@mail.example, jo@other.example

team@mail.example :ada@mail.example,
\tJo@mail.example
   # not the end of the line
  , "max, moritz"@other.example
"odd: name"@mail.example: ada@mail.example
@shop.example: ada@mail.example
info@[IPv6:2001:db8::1]: ada@mail.example
"""


def serves(key: str) -> bool:
    return key.rpartition("@")[2] in {"mail.example", "shop.example", "[ipv6:2001:db8::1]"}


def opened(path: Path, text: str = TEXT, clock: Clock | None = None) -> RecordFile:
    path.write_text(text)
    return alias_file(path, serves, clock or Clock())


def targets(record: Record | None) -> list[str] | None:
    return None if record is None else [str(each) for each in record.targets]


def test_the_lines_of_a_file(tmp_path: Path) -> None:
    found = opened(tmp_path / "aliases")
    records = {key: record for key in (
        "ada@mail.example", "jo@mail.example", "team@mail.example", "odd: name@mail.example", "@shop.example",
        "info@[ipv6:2001:db8::1]", "nobody@mail.example",
    ) if (record := found.lookup(key)) is not None}  # fmt: skip
    assert {key: targets(record) for key, record in records.items()} == {  # type: ignore[arg-type] # without I/O
        "ada@mail.example": [],
        "jo@mail.example": ["jo@mail.example", "jo@other.example"],
        "team@mail.example": ["ada@mail.example", "Jo@mail.example", '"max, moritz"@other.example'],
        "odd: name@mail.example": ["ada@mail.example"],
        "@shop.example": ["ada@mail.example"],
        "info@[ipv6:2001:db8::1]": ["ada@mail.example"],
    }
    assert records["team@mail.example"].where == f"{tmp_path / 'aliases'}, line 5"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ada@mail.example", "line 1: expected an address and a colon"),
        ("  ada@mail.example", "line 1: expected an address and a colon"),
        ("#\nroot: ada@mail.example", "line 2: root has no domain: write the whole address, like root@mail.example"),
        ("ada@mail.example: jo", "line 1: jo has no domain"),
        ("ada@mail.example: |/bin/sh", "programs and files cannot be targets"),
        ("ada@mail.example: /dev/null", "programs and files cannot be targets"),
        ("ada@mail.example: :include:/etc/list", "programs and files cannot be targets"),
        ("ada@mail.example: jo@@mail.example", "jo@@mail.example is not a valid address"),
        ("ada@other.example:", "ada@other.example is in no local domain and no relay domain"),
        ("@mail.example:", "@mail.example needs a target"),
        ("ada@mail.example:\nADA@mail.example: jo@mail.example", "line 2: ada@mail.example is listed twice, first in"),
        ("all@mail.example: " + ", ".join(f"x{n}@mail.example" for n in range(1001)), "more than 1000 targets"),
        ("ada@mail.example: \udcff", "is not UTF-8"),
    ],
)
def test_a_line_of_another_form_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "aliases"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RecordFileError) as caught:
        alias_file(path, serves, Clock())
    assert str(path) in str(caught.value)
    assert why in str(caught.value)


def test_all_lines_that_are_refused_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "aliases"
    with pytest.raises(RecordFileError) as caught:
        opened(path, f"root: ada@mail.example\n{TEXT}ada@mail.example:\n")
    assert [each.partition(": ")[0] for each in caught.value.faults] == [f"{path}, line 1", f"{path}, line 13"]
    with pytest.raises(RecordFileError) as caught:
        opened(path, "root\n" * 1000)
    assert len(caught.value.faults) == MAX_FAULTS + 1
    assert "what follows was not read" in caught.value.faults[-1]
    with pytest.raises(RecordFileError) as caught:
        opened(path, "root\n" * MAX_FAULTS)
    assert [each.partition(": ")[0] for each in caught.value.faults][-1] == f"{path}, line {MAX_FAULTS}"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordFileError, match="aliases: No such file or directory"):
        alias_file(tmp_path / "aliases", serves, Clock())


def test_r47_a_file_that_every_user_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "aliases"
    opened(path)
    path.chmod(0o666)
    with pytest.raises(RecordFileError, match=r"every user may write to it \(0666\); run: chmod o-w "):
        alias_file(path, serves, Clock())


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "aliases")
    with pytest.raises(RecordFileError, match="not a regular file"):
        alias_file(tmp_path / "aliases", serves, Clock())


def test_a_change_counts_after_an_interval_and_a_wrong_one_leaves_the_records(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        clock, path = Clock(), tmp_path / "aliases"
        found = opened(path, "ada@mail.example:", clock)

        async def known() -> set[str]:
            keys = set()
            for key in ("ada@mail.example", "jo@mail.example"):
                record = found.lookup(key)
                if record is not None and (isinstance(record, tuple) or await record is not None):
                    keys.add(key)
            return keys

        path.write_text("jo@mail.example: ada@mail.example")
        assert await known() == {"ada@mail.example"}
        clock.time += INTERVAL
        assert await known() == {"jo@mail.example"}
        path.write_text("jo@mail.example: ada")
        for _ in range(2):
            clock.time += INTERVAL
            assert await known() == {"jo@mail.example"}
        assert caplog.text.count("ada has no domain") == 1
        path.unlink()
        clock.time += INTERVAL
        assert await known() == {"jo@mail.example"}
        path.write_text("ada@mail.example: jo@mail.example")
        clock.time += INTERVAL
        assert await known() == {"ada@mail.example"}

    asyncio.run(main())
    assert "keeping the mailboxes and aliases read before" in caplog.text
