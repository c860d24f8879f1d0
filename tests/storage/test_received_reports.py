"""Received reports about DMARC: sums, duplicates, limits, several processes and faults."""

from __future__ import annotations

import errno
import sqlite3
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
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
    ReportSender,
    add,
    add_failure,
    reported,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ironpost.storage.sqlite.opening import Mode

NOW = MIDNIGHT + 100_000
SENDER = ReportSender("b.example", True)
FORGER = ReportSender("b.example", False)

VERSION_1 = f"""
CREATE TABLE report (
    seq INTEGER PRIMARY KEY, organization TEXT NOT NULL, id TEXT NOT NULL, domain TEXT NOT NULL, start INTEGER NOT NULL,
    end INTEGER NOT NULL, received REAL NOT NULL, rows INTEGER NOT NULL, UNIQUE (organization, id, domain, start)
);
CREATE INDEX report_domain ON report (domain, received);
CREATE TABLE source (
    report INTEGER NOT NULL REFERENCES report ON DELETE CASCADE, ip TEXT NOT NULL, author TEXT NOT NULL,
    dkim TEXT NOT NULL, spf TEXT NOT NULL, disposition TEXT NOT NULL, passed INTEGER NOT NULL, messages INTEGER NOT NULL
);
CREATE INDEX source_report ON source (report);
PRAGMA user_version=1;
INSERT INTO report VALUES (1, 'Ours Ltd', '1', 'a.example', {REPORT.start}, {REPORT.end}, {NOW}, 1);
INSERT INTO source VALUES (1, '192.0.2.9', 'a.example', 'fail', 'fail', 'none', 0, 7);
"""
"""A file as the first version wrote it."""


def test_reports_are_summed_up(tmp_path: Path) -> None:
    assert add(tmp_path, REPORT, SENDER, NOW)
    assert add(tmp_path, REPORT._replace(id="2", organization="Others", start=REPORT.start - 86_400), SENDER, NOW)
    other = REPORT._replace(policy=POLICY._replace(domain="B.example"), rows=((FAILING, 7),))
    assert add(tmp_path, other, SENDER, NOW)
    found = reported(tmp_path, 0.0, None)
    assert found.domains == [
        ReportedDomain("a.example", 2, 2, 2, REPORT.start - 86_400, REPORT.end, 6, 4),
        ReportedDomain("b.example", 1, 1, 1, REPORT.start, REPORT.end, 0, 7),
    ]
    assert found.sources == []
    assert reported(tmp_path, 0.0, "a.example").domains == found.domains[:1]
    assert reported(tmp_path, 0.0, "a.example").sources == [
        ReportedSource("2001:db8::1", "news.a.example", "fail", "fail", "none", False, 4, 4, 2),
        ReportedSource("192.0.2.1", "a.example", "fail", "pass", "pass", True, 6, 6, 2),
    ]
    assert reported(tmp_path, 0.0, "c.example") == ([], [], [])


def test_a_report_counts_once(tmp_path: Path) -> None:
    assert add(tmp_path, REPORT, SENDER, NOW)
    assert not add(tmp_path, REPORT, SENDER, NOW + 1)
    assert not add(tmp_path, REPORT._replace(rows=((PASSING, 100),)), SENDER, NOW + 1)
    (found,) = reported(tmp_path, 0.0, None).domains
    assert (found.reports, found.passed) == (1, 3)


def test_a_forged_report_does_not_count_instead_of_an_authenticated_one(tmp_path: Path) -> None:
    assert add(tmp_path, REPORT._replace(rows=((FAILING, 100),)), FORGER, NOW)
    assert add(tmp_path, REPORT, SENDER, NOW + 1)
    assert not add(tmp_path, REPORT, SENDER, NOW + 2)
    assert not add(tmp_path, REPORT, FORGER, NOW + 2)
    found = reported(tmp_path, 0.0, "a.example")
    assert [(each.reports, each.authenticated, each.passed, each.failed) for each in found.domains] == [(2, 1, 3, 102)]
    assert [(each.messages, each.authenticated) for each in found.sources] == [(102, 2), (3, 3)]


def test_only_reports_that_arrived_since_a_time_count(tmp_path: Path) -> None:
    add(tmp_path, REPORT, SENDER, NOW)
    add(tmp_path, REPORT._replace(id="2"), SENDER, NOW + 10)
    (found,) = reported(tmp_path, NOW + 5, "a.example").domains
    assert found.reports == 1
    assert reported(tmp_path, NOW + 11, "a.example") == ([], [], [])


def test_a_report_without_rows(tmp_path: Path) -> None:
    add(tmp_path, REPORT._replace(rows=()), SENDER, NOW)
    (found,) = reported(tmp_path, 0.0, "a.example").domains
    assert (found.passed, found.failed) == (0, 0)


def left(data: Path) -> list[str]:
    with sqlite3.connect(data / REPORTS_FILE) as connection:
        return [name for (name,) in connection.execute("SELECT id FROM report ORDER BY seq")]


def test_old_reports_are_removed_with_their_rows(tmp_path: Path) -> None:
    add(tmp_path, REPORT, SENDER, NOW)
    add(tmp_path, REPORT._replace(id="2"), SENDER, NOW + KEPT + 1)
    assert left(tmp_path) == ["2"]
    with sqlite3.connect(tmp_path / REPORTS_FILE) as connection:
        assert connection.execute("SELECT COUNT(*) FROM source").fetchone() == (2,)


def test_r23_reports_and_rows_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received_reports, "MAX_REPORTS", 3)
    for number in range(5):
        add(tmp_path, REPORT._replace(id=str(number)), SENDER, NOW)
    assert left(tmp_path) == ["2", "3", "4"]
    monkeypatch.setattr(received_reports, "MAX_ROWS", 5)
    add(tmp_path, REPORT._replace(id="5"), SENDER, NOW)
    assert left(tmp_path) == ["4", "5"]


def test_r23_senders_displace_their_own_reports_and_never_those_of_authenticated_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(received_reports, "MAX_REPORTS", 4)
    add(tmp_path, REPORT._replace(id="first"), SENDER, NOW)
    add(tmp_path, REPORT._replace(id="second"), SENDER, NOW)
    for number in range(5):
        add(tmp_path, REPORT._replace(id=f"forged{number}"), FORGER, NOW)
    assert left(tmp_path) == ["first", "second", "forged3", "forged4"]
    for number in range(5):
        add(tmp_path, REPORT._replace(id=f"flood{number}"), ReportSender("c.example", True), NOW)
    assert left(tmp_path) == ["first", "second", "flood3", "flood4"]


def test_r23_a_sender_with_many_domains_below_one_displaces_its_own_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(received_reports, "MAX_REPORTS", 4)
    for identifier in ("first", "second"):
        add(tmp_path, REPORT._replace(id=identifier), SENDER, NOW)
        add_failure(tmp_path, RECEIVED._replace(id=identifier, domain=identifier), SENDER, NOW)
    for number in range(6):
        sender = ReportSender(f"x{number}.evil.example", True)
        add(tmp_path, REPORT._replace(id=f"flood{number}"), sender, NOW)
        add_failure(tmp_path, RECEIVED._replace(id=str(number), domain=f"flood{number}"), sender, NOW)
    assert left(tmp_path) == ["first", "second", "flood4", "flood5"]
    failures = [each.domain for each in reported(tmp_path, 0.0, None).failures]
    assert failures == ["flood5", "flood4", "second", "first"]


def test_reports_of_version_1_are_kept(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / REPORTS_FILE)) as connection:
        connection.executescript(VERSION_1)
    with pytest.raises(OSError, match="it has schema 1: the next report that arrives converts it"):
        reported(tmp_path, 0.0, None)
    assert add(tmp_path, REPORT._replace(id="2"), SENDER, NOW)
    found = reported(tmp_path, 0.0, "a.example")
    assert [(each.reports, each.authenticated, each.passed, each.failed) for each in found.domains] == [(2, 1, 3, 9)]
    add(tmp_path, REPORT._replace(id="3"), SENDER, NOW + KEPT + 1)
    with sqlite3.connect(tmp_path / REPORTS_FILE) as connection:
        assert connection.execute("SELECT COUNT(*) FROM source").fetchone() == (2,), "with the reports, their rows went"


def test_r23_texts_and_sources_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "x" * 10_000
    hostile = FAILING._replace(author=long, dkim=long, spf=long, disposition=long)
    add(tmp_path, REPORT._replace(organization=long, id=long, rows=((hostile, 1), (FAILING, 1))), SENDER, NOW)
    assert (tmp_path / REPORTS_FILE).stat().st_size < 100_000
    monkeypatch.setattr(received_reports, "MAX_LISTED", 1)
    assert len(reported(tmp_path, 0.0, "a.example").sources) == 1


def test_r23_sums_cannot_overflow(tmp_path: Path) -> None:
    largest = 2**32 - 1
    rows = tuple((FAILING._replace(author=f"{number}.a.example"), largest) for number in range(1000))
    add(tmp_path, REPORT._replace(rows=rows), SENDER, NOW)
    (found,) = reported(tmp_path, 0.0, "a.example").domains
    assert found.failed == 1000 * largest


def test_failure_reports_are_listed_once_the_latest_first(tmp_path: Path) -> None:
    assert add_failure(tmp_path, RECEIVED, SENDER, NOW)
    assert not add_failure(tmp_path, RECEIVED._replace(ip=""), SENDER, NOW + 1)
    assert add_failure(tmp_path, RECEIVED._replace(id="2", domain="news.a.example"), SENDER, NOW + 2)
    assert add_failure(tmp_path, RECEIVED._replace(id="3", domain="b.example"), SENDER, NOW + 3)
    listed = reported(tmp_path, 0.0, None)
    assert (listed.domains, [each.domain for each in listed.failures]) == (
        [],
        ["b.example", "news.a.example", "a.example"],
    )
    assert listed.failures[-1] == ReportedFailure(
        "a.example", NOW, True, "ours.example", "dmarc", "192.0.2.1", "news@a.example", 7
    )
    for domain in ("a.example", "ews.a.example", "example"):
        found = [each.domain for each in reported(tmp_path, NOW + 1, domain).failures]
        assert found == {"a.example": ["news.a.example"], "example": ["b.example", "news.a.example"]}.get(domain, [])


def test_a_forged_failure_report_neither_suppresses_nor_displaces_an_authenticated_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(received_reports, "MAX_REPORTS", 3)
    assert add_failure(tmp_path, RECEIVED._replace(incidents=1000), FORGER, NOW)
    assert add_failure(tmp_path, RECEIVED, SENDER, NOW)
    for number in range(2, 6):
        add_failure(tmp_path, RECEIVED._replace(id=str(number)), FORGER, NOW + number)
    found = reported(tmp_path, 0.0, None).failures
    assert [(each.received, each.authenticated) for each in found] == [(NOW + 5, False), (NOW + 4, False), (NOW, True)]


def test_r23_failure_reports_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received_reports, "MAX_REPORTS", 2)
    monkeypatch.setattr(received_reports, "MAX_LISTED", 3)
    long = "x" * 10_000
    for number in range(4):
        hostile = RECEIVED._replace(id=f"{number}{long}", domain=f"{number}{long}", kind=long, sender=long)
        add_failure(tmp_path, hostile, SENDER, NOW)
    found = reported(tmp_path, 0.0, None).failures
    assert [each.domain[0] for each in found] == ["3", "2"]
    assert len(found[0].domain) < 300
    add_failure(tmp_path, RECEIVED, SENDER, NOW + KEPT + 1)
    assert [each.domain for each in reported(tmp_path, 0.0, None).failures] == ["a.example"]


def _add_to_each(process: int, directories: list[Path]) -> int:
    return sum(add(data, REPORT._replace(id=str(process)), SENDER, NOW) for data in directories)


def test_several_processes_create_the_file_and_add_reports(tmp_path: Path) -> None:
    directories = [tmp_path / str(number) for number in range(20)]
    for each in directories:
        each.mkdir()
    with ProcessPoolExecutor(4) as processes:
        assert sum(processes.map(_add_to_each, range(4), [directories] * 4)) == 80
    assert [len(left(each)) for each in directories] == [4] * 20


def test_r47_the_file_is_private(tmp_path: Path) -> None:
    add(tmp_path, REPORT, SENDER, NOW)
    assert (tmp_path / REPORTS_FILE).stat().st_mode & 0o777 == 0o600


def test_there_may_be_no_reports_yet(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        reported(tmp_path, 0.0, None)


def test_a_failed_report_leaves_nothing(tmp_path: Path) -> None:
    add(tmp_path, REPORT, SENDER, NOW)
    with pytest.raises(OSError, match="NOT NULL"):
        add(tmp_path, REPORT._replace(id="2", rows=((FAILING, None),)), SENDER, NOW)  # type: ignore[arg-type]
    assert left(tmp_path) == [REPORT.id]


@pytest.mark.parametrize("content", [b"no database" * 100, b""])
def test_other_files_are_not_overwritten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / REPORTS_FILE
    path.write_bytes(content)
    if content:
        with pytest.raises(OSError, match="not a database"):
            add(tmp_path, REPORT, SENDER, NOW)
        assert path.read_bytes() == content
        with pytest.raises(OSError, match="not a database"):
            reported(tmp_path, 0.0, None)
    else:  # as a process leaves it that ended before its first transaction
        with pytest.raises(FileNotFoundError, match="no report has arrived yet"):
            reported(tmp_path, 0.0, None)
        assert add(tmp_path, REPORT, SENDER, NOW)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    add(tmp_path, REPORT, SENDER, NOW)
    with sqlite3.connect(tmp_path / REPORTS_FILE) as connection:
        connection.execute("PRAGMA user_version=9")
    with pytest.raises(OSError, match="schema 9"):
        add(tmp_path, REPORT._replace(id="2"), SENDER, NOW)
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
        add(tmp_path, REPORT, SENDER, NOW)
    assert raised.value.errno == errno.ENOSPC


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / REPORTS_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        add(tmp_path, REPORT, SENDER, NOW)
    assert not (tmp_path / "elsewhere").exists()
