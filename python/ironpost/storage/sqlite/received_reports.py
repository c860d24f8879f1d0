"""Stores the reports about DMARC that others sent: one SQLite database in the data directory.

Promises: what `add` or `add_failure` has returned is durable. A report is stored once, however often its sender sends
it. What an authenticated sender reports is neither suppressed nor displaced by what others send in its name. Reports
are kept for `KEPT` seconds after their arrival; beyond `MAX_REPORTS` of either kind, or `MAX_ROWS`, those without
authentication are removed first, then the oldest of the senders with the most; domains with the same last two labels
count as one sender. Every error of SQLite is raised as an `OSError`. Threads and processes that write at the same time
wait for each other. The file is 0600 (SECURITY R47).
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.mail_auth.names import last_labels
from ironpost.storage.ownership import open_private
from ironpost.storage.sqlite.faults import code_of
from ironpost.storage.sqlite.opening import open_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ironpost.reports.dmarc.failure_reading import ReceivedFailure
    from ironpost.reports.dmarc.report import Report

REPORTS_FILE: Final = "dmarc-reports.sqlite3"
"""The file in the data directory."""
VERSION: Final = 3
"""The schema (PRAGMA user_version). In version 1 reports had no sender; version 2 was never used."""
KEPT: Final = 90 * 86_400.0
"""Seconds for which a report is kept."""
MAX_REPORTS: Final = 20_000
"""Aggregate reports; and failure reports."""
MAX_ROWS: Final = 500_000
"""Rows of all aggregate reports."""
MAX_LISTED: Final = 1000
"""Sources of one domain, and failures, that are listed."""
NAME: Final = 253
"""Characters of a name that are stored."""
IDENTIFIER: Final = 500
"""Characters of an organization, an id or an address that are stored."""

_SCHEMA: Final = (
    """CREATE TABLE report (
        seq INTEGER PRIMARY KEY,
        authenticated INTEGER NOT NULL,
        report_sender TEXT NOT NULL,
        organization TEXT NOT NULL,
        id TEXT NOT NULL,
        domain TEXT NOT NULL,
        start INTEGER NOT NULL,
        end INTEGER NOT NULL,
        received REAL NOT NULL,
        rows INTEGER NOT NULL,
        UNIQUE (authenticated, report_sender, organization, id, domain, start)
    )""",
    "CREATE INDEX report_domain ON report (domain, received)",
    """CREATE TABLE source (
        report INTEGER NOT NULL REFERENCES report ON DELETE CASCADE,
        ip TEXT NOT NULL,
        author TEXT NOT NULL,
        dkim TEXT NOT NULL,
        spf TEXT NOT NULL,
        disposition TEXT NOT NULL,
        passed INTEGER NOT NULL,
        messages INTEGER NOT NULL
    )""",
    "CREATE INDEX source_report ON source (report)",
    """CREATE TABLE failure (
        seq INTEGER PRIMARY KEY,
        authenticated INTEGER NOT NULL,
        report_sender TEXT NOT NULL,
        organization TEXT NOT NULL,
        id TEXT NOT NULL,
        domain TEXT NOT NULL,
        received REAL NOT NULL,
        kind TEXT NOT NULL,
        ip TEXT NOT NULL,
        sender TEXT NOT NULL,
        incidents INTEGER NOT NULL,
        UNIQUE (authenticated, report_sender, organization, id, domain)
    )""",
    f"PRAGMA user_version={VERSION}",
)
_UPGRADE: Final = (
    "DROP INDEX report_domain",
    "DROP INDEX source_report",
    "ALTER TABLE report RENAME TO old_report",
    "ALTER TABLE source RENAME TO old_source",
    *_SCHEMA,
    "INSERT INTO report SELECT seq, 0, '', organization, id, domain, start, end, received, rows FROM old_report",
    "INSERT INTO source SELECT * FROM old_source",
    "DROP TABLE old_source",
    "DROP TABLE old_report",
)
_CHANGES: Final = {0: _SCHEMA, 1: _UPGRADE, VERSION: ()}
"""What makes a file of each version usable."""
# `share` counts the rows of a sender's reports, each with one more for itself, from its newest report on: the sender
# with the most loses first.
_EXCESS: Final = """DELETE FROM report WHERE received < ? OR seq IN (
    SELECT seq FROM (
        SELECT seq, SUM(rows) OVER kept AS total, COUNT(*) OVER kept AS place FROM (
            SELECT seq, authenticated, rows, SUM(rows + 1) OVER (
                PARTITION BY authenticated, last_labels(report_sender) ORDER BY seq DESC
            ) AS share FROM report
        ) WINDOW kept AS (ORDER BY authenticated DESC, share, seq DESC)
    ) WHERE total > ? OR place > ?
)"""
_EXCESS_FAILURES: Final = """DELETE FROM failure WHERE received < ? OR seq IN (
    SELECT seq FROM (
        SELECT seq, authenticated, COUNT(*) OVER (
            PARTITION BY authenticated, last_labels(report_sender) ORDER BY seq DESC
        ) AS share FROM failure
    ) ORDER BY authenticated DESC, share, seq DESC LIMIT -1 OFFSET ?
)"""
_DOMAINS: Final = """SELECT domain, COUNT(DISTINCT seq), COUNT(DISTINCT seq) FILTER (WHERE authenticated),
    COUNT(DISTINCT organization), MIN(start), MAX(end),
    COALESCE(SUM(messages) FILTER (WHERE passed), 0), COALESCE(SUM(messages) FILTER (WHERE NOT passed), 0)
    FROM report LEFT JOIN source ON source.report = report.seq
    WHERE received >= :since AND (:domain IS NULL OR domain = :domain) GROUP BY domain ORDER BY domain"""
_SOURCES: Final = """SELECT ip, author, dkim, spf, disposition, passed, SUM(messages),
    COALESCE(SUM(messages) FILTER (WHERE authenticated), 0), COUNT(DISTINCT organization)
    FROM report JOIN source ON source.report = report.seq
    WHERE received >= :since AND domain = :domain
    GROUP BY ip, author, dkim, spf, disposition, passed ORDER BY passed, SUM(messages) DESC, ip LIMIT :limit"""
_FAILURES: Final = """SELECT domain, received, authenticated, organization, kind, ip, sender, incidents FROM failure
    WHERE received >= :since
    AND (:domain IS NULL OR domain = :domain OR substr(domain, -length(:domain) - 1) = '.' || :domain)
    ORDER BY seq DESC LIMIT :limit"""


class ReportSender(NamedTuple):
    """Who sent the message with a report."""

    domain: str
    authenticated: bool
    """Whether DMARC or a signature confirmed the domain; else it is that of the reverse-path, which may be forged."""


class ReportedDomain(NamedTuple):
    """The sums of all reports about a domain."""

    domain: str
    reports: int
    authenticated: int
    """Those of authenticated senders."""
    organizations: int
    """How many sent them."""
    start: int
    """The first second of the earliest period, since 1970."""
    end: int
    """The last second of the latest period."""
    passed: int
    """Messages that passed DMARC."""
    failed: int


class ReportedSource(NamedTuple):
    """The messages of a domain that came from one address with the same results."""

    ip: str
    author: str
    """The domain in From."""
    dkim: str
    """`pass` or `fail`: whether an aligned signature was valid."""
    spf: str
    disposition: str
    passed: bool
    messages: int
    authenticated: int
    """Those that authenticated senders report."""
    organizations: int
    """How many report it."""


class ReportedFailure(NamedTuple):
    """One failure report."""

    domain: str
    """The domain in From."""
    received: float
    """When the report arrived, in seconds since 1970."""
    authenticated: bool
    """Whether its sender is authenticated."""
    organization: str
    """The domain of its author."""
    kind: str
    """The value of Auth-Failure: `dmarc`, for instance."""
    ip: str
    """The client that the message came from."""
    sender: str
    """The reverse-path of the message."""
    incidents: int
    """The number of messages that the report stands for."""


class ReportedDomains(NamedTuple):
    """What others report."""

    domains: list[ReportedDomain]
    """By name."""
    sources: list[ReportedSource]
    """Of the one domain that was asked for: what failed first, then by number; at most `MAX_LISTED`."""
    failures: list[ReportedFailure]
    """Of the domain that was asked for and those below it, or of all: the latest first, at most `MAX_LISTED`."""


def add(data: Path, report: Report, sender: ReportSender, now: float) -> bool:
    """Store an aggregate report in a data directory; return False if it was there. Blocks.

    Args:
        data: the data directory.
        report: the report.
        sender: who sent it.
        now: seconds since 1970.

    Raises:
        OSError: the file cannot be written.
    """
    with _transaction(data / REPORTS_FILE) as connection:
        keys = (report.organization[:IDENTIFIER], report.id[:IDENTIFIER], report.policy.domain[:NAME].lower())
        values = (*_values(sender), *keys, report.start, report.end, now, len(report.rows))
        inserted = connection.execute(
            "INSERT OR IGNORE INTO report"
            " (authenticated, report_sender, organization, id, domain, start, end, received, rows)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        if not inserted.rowcount:
            return False
        number = inserted.lastrowid
        sources = [
            (number, row.ip, row.author[:NAME].lower(), row.dkim[:NAME], row.spf[:NAME], row.disposition[:NAME],
             row.passed, count)
            for row, count in report.rows
        ]  # fmt: skip
        connection.executemany("INSERT INTO source VALUES (?, ?, ?, ?, ?, ?, ?, ?)", sources)
        connection.execute(_EXCESS, (now - KEPT, MAX_ROWS, MAX_REPORTS))
    return True


def add_failure(data: Path, failure: ReceivedFailure, sender: ReportSender, now: float) -> bool:
    """Store a failure report. See `add`."""
    with _transaction(data / REPORTS_FILE) as connection:
        values = (
            *_values(sender), failure.organization[:NAME], failure.id[:IDENTIFIER], failure.domain[:NAME], now,
            failure.kind[:NAME], failure.ip, failure.sender[:IDENTIFIER], failure.incidents,
        )  # fmt: skip
        inserted = connection.execute(
            "INSERT OR IGNORE INTO failure"
            " (authenticated, report_sender, organization, id, domain, received, kind, ip, sender, incidents)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        connection.execute(_EXCESS_FAILURES, (now - KEPT, MAX_REPORTS))
    return bool(inserted.rowcount)


def _values(sender: ReportSender) -> tuple[bool, str]:
    return sender.authenticated, sender.domain[:NAME]


def reported(data: Path, since: float, domain: str | None) -> ReportedDomains:
    """Sum up the reports that arrived since a time, about one domain or all. Blocks.

    Raises:
        FileNotFoundError: no report has arrived yet.
        OSError: the file cannot be read.
    """
    path = data / REPORTS_FILE
    none = FileNotFoundError(errno.ENOENT, "no report has arrived yet", str(path))
    if not path.exists():
        raise none
    asked = {"since": since, "domain": domain, "limit": MAX_LISTED}
    with _faults(path), closing(open_database(path, "ro")) as connection:
        version = _version(connection, path)
        if not version:
            raise none
        if version < VERSION:
            raise OSError(errno.EINVAL, f"it has schema {version}: the next report that arrives converts it", str(path))
        domains = [ReportedDomain(*row) for row in connection.execute(_DOMAINS, asked)]
        sources: list[ReportedSource] = []
        if domain is not None:
            rows = [ReportedSource(*row) for row in connection.execute(_SOURCES, asked)]
            sources = [each._replace(passed=bool(each.passed)) for each in rows]
        failed = [ReportedFailure(*row) for row in connection.execute(_FAILURES, asked)]
        failures = [each._replace(authenticated=bool(each.authenticated)) for each in failed]
    return ReportedDomains(domains, sources, failures)


@contextmanager
def _transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction that is durable when the block has ended, in a file that is created if it does not exist."""
    with _turn(path.parent), _faults(path), closing(_created(path)) as connection:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.create_function("last_labels", 1, last_labels, deterministic=True)
        connection.execute("BEGIN IMMEDIATE")
        for statement in _CHANGES[_version(connection, path)]:
            connection.execute(statement)
        yield connection
        connection.execute("COMMIT")


@contextmanager
def _turn(data: Path) -> Iterator[None]:
    """Wait for other writers. SQLite does not wait when several connections to a new file begin to use a log, and
    closing a file ends the locks of other threads of the process."""
    folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _created(path: Path) -> sqlite3.Connection:
    os.close(open_private(path, os.O_RDWR | os.O_CREAT))
    return open_database(path, "rw")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """The schema of a file that is usable; 0 if nothing was ever stored in it."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in _CHANGES:
        raise OSError(errno.EINVAL, f"it has schema {version}, this program uses {VERSION}", str(path))
    return version


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    """Convert errors of SQLite into OSErrors: ENOSPC if the disk is full, else EIO."""
    try:
        yield
    except sqlite3.Error as error:
        full = code_of(error) == sqlite3.SQLITE_FULL
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(path)) from error
