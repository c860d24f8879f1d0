"""Received reports about DMARC: sums, duplicates, limits, several processes and faults."""

from __future__ import annotations

import errno
import sqlite3
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import pytest
from tests.reports.dmarc_kit import FAILING, MIDNIGHT, PASSING, POLICY, RECEIVED, REPORT

from ironpost.storage.sqlite import received_reports
from ironpost.storage.sqlite.received_reports import (
    KEPT,
    REPORTS_FILE,
    ReportedDomain,
    ReportedFailure,
    ReportedSource,
    add,
    add_failure,
    reported,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ironpost.storage.sqlite.opening import Mode

NOW = MIDNIGHT + 100_000


def test_reports_are_summed_up(tmp_path: Path) -> None:
    assert add(tmp_path, REPORT, NOW)
    assert add(tmp_path, REPORT._replace(id="2", organization="Others", start=REPORT.start - 86_400), NOW)
    other = REPORT._replace(policy=POLICY._replace(domain="B.example"), rows=((FAILING, 7),))
    assert add(tmp_path, other, NOW)
    found = reported(tmp_path, 0.0, None)
    assert found.domains == [
        ReportedDomain("a.example", 2, 2, REPORT.start - 86_400, REPORT.end, 6, 4),
        ReportedDomain("b.example", 1, 1, REPORT.start, REPORT.end, 0, 7),
    ]
    assert found.sources == []
    assert reported(tmp_path, 0.0, "a.example").domains == found.domains[:1]
    assert reported(tmp_path, 0.0, "a.example").sources == [
        ReportedSource("2001:db8::1", "news.a.example", "fail", "fail", "none", False, 4, 2),
        ReportedSource("192.0.2.1", "a.example", "fail", "pass", "pass", True, 6, 2),
    ]
    assert reported(tmp_path, 0.0, "c.example") == ([], [], [])


def test_a_report_counts_once(tmp_path: Path) -> None:
    assert add(tmp_path, REPORT, NOW)
    assert not add(tmp_path, REPORT, NOW + 1)
    assert not add(tmp_path, REPORT._replace(rows=((PASSING, 100),)), NOW + 1)
    (found,) = reported(tmp_path, 0.0, None).domains
    assert (found.reports, found.passed) == (1, 3)


def test_only_reports_that_arrived_since_a_time_count(tmp_path: Path) -> None:
    add(tmp_path, REPORT, NOW)
    add(tmp_path, REPORT._replace(id="2"), NOW + 10)
    (found,) = reported(tmp_path, NOW + 5, "a.example").domains
    assert found.reports == 1
    assert reported(tmp_path, NOW + 11, "a.example") == ([], [], [])


def test_a_report_without_rows(tmp_path: Path) -> None:
    add(tmp_path, REPORT._replace(rows=()), NOW)
    (found,) = reported(tmp_path, 0.0, "a.example").domains
    assert (found.passed, found.failed) == (0, 0)


def left(data: Path) -> list[str]:
    with sqlite3.connect(data / REPORTS_FILE) as connection:
        return [name for (name,) in connection.execute("SELECT id FROM report ORDER BY seq")]


def test_old_reports_are_removed_with_their_rows(tmp_path: Path) -> None:
    add(tmp_path, REPORT, NOW)
    add(tmp_path, REPORT._replace(id="2"), NOW + KEPT + 1)
    assert left(tmp_path) == ["2"]
    with sqlite3.connect(tmp_path / REPORTS_FILE) as connection:
        assert connection.execute("SELECT COUNT(*) FROM source").fetchone() == (2,)


def test_r23_reports_and_rows_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received_reports, "MAX_REPORTS", 3)
    for number in range(5):
        add(tmp_path, REPORT._replace(id=str(number)), NOW)
    assert left(tmp_path) == ["2", "3", "4"]
    monkeypatch.setattr(received_reports, "MAX_ROWS", 5)
    add(tmp_path, REPORT._replace(id="5"), NOW)
    assert left(tmp_path) == ["4", "5"]


def test_r23_texts_and_sources_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "x" * 10_000
    hostile = FAILING._replace(author=long, dkim=long, spf=long, disposition=long)
    add(tmp_path, REPORT._replace(organization=long, id=long, rows=((hostile, 1), (FAILING, 1))), NOW)
    assert (tmp_path / REPORTS_FILE).stat().st_size < 100_000
    monkeypatch.setattr(received_reports, "MAX_LISTED", 1)
    assert len(reported(tmp_path, 0.0, "a.example").sources) == 1


def test_r23_sums_cannot_overflow(tmp_path: Path) -> None:
    largest = 2**32 - 1
    rows = tuple((FAILING._replace(author=f"{number}.a.example"), largest) for number in range(1000))
    add(tmp_path, REPORT._replace(rows=rows), NOW)
    (found,) = reported(tmp_path, 0.0, "a.example").domains
    assert found.failed == 1000 * largest


def test_failure_reports_are_listed_once_the_latest_first(tmp_path: Path) -> None:
    assert add_failure(tmp_path, RECEIVED, NOW)
    assert not add_failure(tmp_path, RECEIVED._replace(ip=""), NOW + 1)
    assert add_failure(tmp_path, RECEIVED._replace(id="2", domain="news.a.example"), NOW + 2)
    assert add_failure(tmp_path, RECEIVED._replace(id="3", domain="b.example"), NOW + 3)
    listed = reported(tmp_path, 0.0, None)
    assert (listed.domains, [each.domain for each in listed.failures]) == (
        [],
        ["b.example", "news.a.example", "a.example"],
    )
    assert listed.failures[-1] == ReportedFailure(
        "a.example", NOW, "ours.example", "dmarc", "192.0.2.1", "news@a.example", 7
    )
    for domain in ("a.example", "ews.a.example", "example"):
        found = [each.domain for each in reported(tmp_path, NOW + 1, domain).failures]
        assert found == {"a.example": ["news.a.example"], "example": ["b.example", "news.a.example"]}.get(domain, [])


def test_r23_failure_reports_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received_reports, "MAX_REPORTS", 2)
    monkeypatch.setattr(received_reports, "MAX_LISTED", 3)
    long = "x" * 10_000
    for number in range(4):
        hostile = RECEIVED._replace(id=f"{number}{long}", domain=f"{number}{long}", kind=long, sender=long)
        add_failure(tmp_path, hostile, NOW)
    found = reported(tmp_path, 0.0, None).failures
    assert [each.domain[0] for each in found] == ["3", "2"]
    assert len(found[0].domain) < 300
    add_failure(tmp_path, RECEIVED, NOW + KEPT + 1)
    assert [each.domain for each in reported(tmp_path, 0.0, None).failures] == ["a.example"]


def _add_some(data: Path, process: int) -> int:
    return sum(add(data, REPORT._replace(id=f"{process}.{number}"), NOW) for number in range(10))


def test_several_processes_add_reports(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4) as processes:
        assert sum(processes.map(_add_some, [tmp_path] * 4, range(4))) == 40
    assert len(left(tmp_path)) == 40


def test_r47_the_file_is_private(tmp_path: Path) -> None:
    add(tmp_path, REPORT, NOW)
    assert (tmp_path / REPORTS_FILE).stat().st_mode & 0o777 == 0o600


def test_there_may_be_no_reports_yet(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        reported(tmp_path, 0.0, None)


def test_a_failed_report_leaves_nothing(tmp_path: Path) -> None:
    add(tmp_path, REPORT, NOW)
    with pytest.raises(OSError, match="NOT NULL"):
        add(tmp_path, REPORT._replace(id="2", rows=((FAILING, None),)), NOW)  # type: ignore[arg-type]
    assert left(tmp_path) == [REPORT.id]


@pytest.mark.parametrize("content", [b"no database" * 100, b""])
def test_other_files_are_not_overwritten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / REPORTS_FILE
    path.write_bytes(content)
    if content:
        with pytest.raises(OSError, match="not a database"):
            add(tmp_path, REPORT, NOW)
        assert path.read_bytes() == content
        with pytest.raises(OSError, match="not a database"):
            reported(tmp_path, 0.0, None)
    else:  # as a process leaves it that ended before its first transaction
        with pytest.raises(FileNotFoundError, match="no report has arrived yet"):
            reported(tmp_path, 0.0, None)
        assert add(tmp_path, REPORT, NOW)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    add(tmp_path, REPORT, NOW)
    with sqlite3.connect(tmp_path / REPORTS_FILE) as connection:
        connection.execute("PRAGMA user_version=9")
    with pytest.raises(OSError, match="schema 9"):
        add(tmp_path, REPORT._replace(id="2"), NOW)
    with pytest.raises(OSError, match="schema 9"):
        reported(tmp_path, 0.0, None)


def test_a_full_disk_is_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = received_reports.open_database

    def small(path: Path, mode: Mode) -> sqlite3.Connection:
        connection = opened(path, mode)
        connection.execute("PRAGMA max_page_count=4")
        return connection

    monkeypatch.setattr(received_reports, "open_database", small)
    with pytest.raises(OSError, match="full") as raised:
        add(tmp_path, REPORT, NOW)
    assert raised.value.errno == errno.ENOSPC


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / REPORTS_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        add(tmp_path, REPORT, NOW)
    assert not (tmp_path / "elsewhere").exists()
