"""The database of the SQLite store: its schema, migrations, settings and connections.

Promises: `connect` yields a database of exactly `VERSION` or raises; an older one is migrated forward inside one
transaction; files are created 0600 (SECURITY R47). Operators query views (docs/storage.md); the tables may change with
any version.
Refuses: a database that a newer ironpost wrote, and an SQLite library older than `OLDEST_SQLITE`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from typing import TYPE_CHECKING, Any

from ironpost.model import NULL, Envelope
from ironpost.queue.codec import decode_origin, decode_parameters
from ironpost.queue.store import StoreUnusable, deadline_of
from ironpost.storage.sqlite.opening import open_database

if TYPE_CHECKING:
    from pathlib import Path

DATABASE = "queue.sqlite3"
"""The file below the data directory."""

OLDEST_SQLITE = (3, 33, 0)
"""Version of SQLite that introduced UPDATE FROM."""

PAGE = 4096
"""Size of a page of the database in octets."""

WAL_OCTETS = 16 * 1024 * 1024
"""Size in octets to which the log file is truncated after it grew larger (under load, or because of a reader)."""

CACHE_OCTETS = 16 * 1024 * 1024
"""Size of the writing connection's page cache in octets."""

_FOR_NEW = (f"page_size={PAGE}", "auto_vacuum=INCREMENTAL")
"""Settings of a new database. The second lets free pages be returned to the file system; on an existing database it
would write to the log."""

BUSY_SECONDS = 0.25
"""Seconds that a statement of the server waits, on the event loop, for another program that has locked the database."""

# Times are whole microseconds since 1970. State: 0 queued, 1 delivered, 2 failed, 3 dropped; from version 2 on 4 held.
_FIRST = """
CREATE TABLE message (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    accepted INTEGER NOT NULL,
    reverse_path TEXT NOT NULL,
    parameters TEXT,
    origin TEXT,
    size INTEGER NOT NULL,
    file TEXT,
    body BLOB NOT NULL
);
CREATE TABLE recipient (
    message INTEGER NOT NULL,
    number INTEGER NOT NULL,
    address TEXT NOT NULL,
    parameters TEXT,
    state INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    due INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    last TEXT NOT NULL,
    remote TEXT NOT NULL,
    PRIMARY KEY (message, number)
) WITHOUT ROWID;
CREATE INDEX recipient_due ON recipient (due) WHERE state = 0;
CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    number INTEGER,
    address TEXT,
    attempts INTEGER,
    reply TEXT,
    remote TEXT
);
CREATE VIEW queue AS
    SELECT m.id AS message, m.reverse_path AS reverse_path, r.number AS number, r.address AS recipient,
           CASE r.state WHEN 0 THEN 'queued' WHEN 1 THEN 'delivered' WHEN 2 THEN 'failed' ELSE 'dropped' END AS state,
           r.attempts AS attempts, m.accepted / 1e6 AS accepted, r.due / 1e6 AS due, r.changed / 1e6 AS changed,
           m.size AS size, r.last AS last, r.remote AS remote
    FROM message AS m JOIN recipient AS r ON r.message = m.seq;
CREATE VIEW attempts AS
    SELECT seq, at / 1e6 AS at, message, number, address AS recipient, kind AS outcome, attempts, reply, remote
    FROM event WHERE kind IN ('delivered', 'deferred', 'failed');
CREATE VIEW events AS
    SELECT seq, at / 1e6 AS at, kind, message, number, address, attempts, reply, remote FROM event;
"""

# Messages that are held, or released later than they were accepted; parameters in their wire form instead of JSON.
_SECOND = """
ALTER TABLE message ADD COLUMN released INTEGER NOT NULL DEFAULT 0;
UPDATE message SET released = accepted, parameters = wire_form(parameters);
UPDATE recipient SET parameters = wire_form(parameters) WHERE parameters IS NOT NULL;
DROP VIEW queue;
CREATE VIEW queue AS
    SELECT m.id AS message, m.reverse_path AS reverse_path, r.number AS number, r.address AS recipient,
           CASE r.state WHEN 0 THEN 'queued' WHEN 1 THEN 'delivered' WHEN 2 THEN 'failed' WHEN 4 THEN 'held'
                        ELSE 'dropped' END AS state,
           r.attempts AS attempts, m.accepted / 1e6 AS accepted, r.due / 1e6 AS due, r.changed / 1e6 AS changed,
           m.size AS size, r.last AS last, r.remote AS remote, m.released / 1e6 AS released,
           m.parameters AS mail_parameters, r.parameters AS parameters
    FROM message AS m JOIN recipient AS r ON r.message = m.seq;
"""

# Where a body lies: in the row, in a record of a segment (`segment`, `start`), or in a file of its own (`file`).
# `checksum` is the CRC-32 of the content without the prefix in `body`; NULL for a body stored before version 3.
# `body_file` lists every file that this database answers for: 0 in use, 1 retired (nothing in it is needed any more).
_THIRD = """
ALTER TABLE message ADD COLUMN segment INTEGER;
ALTER TABLE message ADD COLUMN start INTEGER;
ALTER TABLE message ADD COLUMN checksum INTEGER;
ALTER TABLE recipient ADD COLUMN domain TEXT NOT NULL DEFAULT '';
UPDATE recipient SET domain = domain_key(address);
CREATE TABLE body_file (
    name TEXT PRIMARY KEY,
    state INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
INSERT INTO body_file (name) SELECT DISTINCT file FROM message WHERE file IS NOT NULL;
CREATE INDEX message_segment ON message (segment, start) WHERE segment IS NOT NULL;
CREATE INDEX message_file ON message (file) WHERE file IS NOT NULL;
CREATE INDEX recipient_domain ON recipient (domain, message) WHERE state = 0;
CREATE INDEX recipient_held ON recipient (message) WHERE state = 4;
"""

# The forward-path of RCPT where an alias replaced it.
_FOURTH = """
ALTER TABLE recipient ADD COLUMN original TEXT;
"""

# Queues: domain and tenant. The earlier index was of due times over all of them. `state` makes the index cover claims.
_FIFTH = """
ALTER TABLE recipient ADD COLUMN tenant TEXT NOT NULL DEFAULT '';
UPDATE recipient SET tenant = tenant_of((SELECT origin FROM message WHERE seq = recipient.message));
DROP INDEX recipient_due;
CREATE INDEX recipient_queue ON recipient (domain, tenant, due, state) WHERE state = 0;
CREATE INDEX message_released ON message (released);
"""

# The Message-ID of accepted messages; domain and tenant in the view.
_SIXTH = """
ALTER TABLE event ADD COLUMN message_id TEXT;
DROP VIEW queue;
CREATE VIEW queue AS
    SELECT m.id AS message, m.reverse_path AS reverse_path, r.number AS number, r.address AS recipient,
           CASE r.state WHEN 0 THEN 'queued' WHEN 1 THEN 'delivered' WHEN 2 THEN 'failed' WHEN 4 THEN 'held'
                        ELSE 'dropped' END AS state,
           r.attempts AS attempts, m.accepted / 1e6 AS accepted, r.due / 1e6 AS due, r.changed / 1e6 AS changed,
           m.size AS size, r.last AS last, r.remote AS remote, m.released / 1e6 AS released,
           m.parameters AS mail_parameters, r.parameters AS parameters, r.domain AS domain, r.tenant AS tenant
    FROM message AS m JOIN recipient AS r ON r.message = m.seq;
DROP VIEW events;
CREATE VIEW events AS
    SELECT seq, at / 1e6 AS at, kind, message, number, address, attempts, reply, remote, message_id FROM event;
"""

# Whether the delay warning for a recipient is settled.
_SEVENTH = """
ALTER TABLE recipient ADD COLUMN warned INTEGER NOT NULL DEFAULT 0;
"""

# Queues: domain, tenant and priority.
_EIGHTH = """
ALTER TABLE recipient ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
UPDATE recipient SET priority = (SELECT priority_of(parameters) FROM message WHERE seq = recipient.message)
    WHERE message IN (SELECT seq FROM message WHERE parameters LIKE '%MT-PRIORITY=%');
DROP INDEX recipient_queue;
CREATE INDEX recipient_queue ON recipient (domain, tenant, priority, due, state) WHERE state = 0;
DROP VIEW queue;
CREATE VIEW queue AS
    SELECT m.id AS message, m.reverse_path AS reverse_path, r.number AS number, r.address AS recipient,
           CASE r.state WHEN 0 THEN 'queued' WHEN 1 THEN 'delivered' WHEN 2 THEN 'failed' WHEN 4 THEN 'held'
                        ELSE 'dropped' END AS state,
           r.attempts AS attempts, m.accepted / 1e6 AS accepted, r.due / 1e6 AS due, r.changed / 1e6 AS changed,
           m.size AS size, r.last AS last, r.remote AS remote, m.released / 1e6 AS released,
           m.parameters AS mail_parameters, r.parameters AS parameters, r.domain AS domain, r.tenant AS tenant,
           r.priority AS priority
    FROM message AS m JOIN recipient AS r ON r.message = m.seq;
"""

# Keys of submissions.
_NINTH = """
CREATE TABLE submission (
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    at INTEGER NOT NULL,
    message TEXT NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (tenant, key)
) WITHOUT ROWID;
CREATE INDEX submission_at ON submission (at);
"""

# Deadlines of recipients, until they have been acted on.
_TENTH = """
ALTER TABLE recipient ADD COLUMN deadline INTEGER;
UPDATE recipient SET deadline = (SELECT deadline_of(parameters, accepted) FROM message WHERE seq = recipient.message)
    WHERE message IN (SELECT seq FROM message WHERE parameters LIKE '%BY=%');
CREATE INDEX recipient_deadline ON recipient (deadline) WHERE state = 0 AND deadline IS NOT NULL;
"""

MIGRATIONS: tuple[str, ...] = (
    _FIRST, _SECOND, _THIRD, _FOURTH, _FIFTH, _SIXTH, _SEVENTH, _EIGHTH, _NINTH, _TENTH
)  # fmt: skip
"""Entry n migrates a database from version n to n + 1. Entries are never changed once released, only added."""

VERSION = len(MIGRATIONS)
"""The schema that this program reads and writes (PRAGMA user_version)."""


class SchemaError(StoreUnusable):
    """The database cannot be used by this program. The text says why and what to do."""


def connect(directory: Path) -> sqlite3.Connection:
    """Open the writing connection, in WAL mode, and migrate the schema to `VERSION`.

    COMMIT does not sync the log (PRAGMA synchronous=NORMAL: consistent after a crash, yet not durable): the caller
    syncs it before it acknowledges anything, as FULL would, but when and in which process it chooses.

    Raises:
        SchemaError: a newer ironpost wrote the database, or the SQLite library is too old.
        OSError: the file cannot be created.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise SchemaError(f"SQLite {sqlite3.sqlite_version} is too old; ironpost needs {oldest} or later.")
    path = directory / DATABASE
    with contextlib.suppress(FileExistsError):  # an existing file is not opened: closing it would drop SQLite's locks
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        _refuse_newer(connection, path)
        for pragma in (
            *(_FOR_NEW if not _version(connection) else ()),
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "checkpoint_fullfsync=1",  # macOS: fsync alone does not reach the disk
            "wal_autocheckpoint=0",  # the sync process copies the log, off the event loop
            f"journal_size_limit={WAL_OCTETS}",
            f"cache_size=-{CACHE_OCTETS // 1024}",
            "temp_store=MEMORY",
            "secure_delete=FAST",  # ON, which is Debian's default, writes zeros over each body that is removed
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def close_keeping_log(connection: sqlite3.Connection, directory: Path) -> None:
    """Close a connection from `connect` without changing the log.

    Closing the last connection copies the log into the database without verifying its checksums, which would be wrong
    for a log that could not be recovered. An open reader prevents that, and cannot copy the log itself.
    """
    beside = open_database(directory / DATABASE, "ro")
    try:
        with contextlib.suppress(sqlite3.Error):
            beside.execute("PRAGMA schema_version").fetchall()
        connection.close()
    finally:
        beside.close()


def connect_readonly(directory: Path) -> sqlite3.Connection:
    """Open a read-only connection, whether or not a server is running.

    Raises:
        FileNotFoundError: there is no queue in this directory.
        SchemaError: another version of ironpost wrote it.
    """
    path = directory / DATABASE
    if not path.exists():
        raise FileNotFoundError(f"There is no queue in {directory}: {DATABASE} does not exist.")
    connection = open_database(path, "ro")
    try:
        _refuse_newer(connection, path)
        found = _version(connection)
        if not found:
            raise FileNotFoundError(f"There is no queue in {directory} yet: {DATABASE} is empty.")
        if found < VERSION:
            raise SchemaError(f"{path} has schema {found}, this program reads {VERSION}: start the server once.")
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _refuse_newer(connection: sqlite3.Connection, path: Path) -> None:
    found = _version(connection)
    if found > VERSION:
        raise SchemaError(
            f"{path} has schema {found}, this program knows up to {VERSION}: a newer ironpost wrote it. Start that one."
        )


def _wire_form(parameters: str | None) -> str | None:
    """Convert parameters from version 1 (JSON) to version 2."""
    if not parameters:
        return None
    return " ".join(key if value is None else f"{key}={value}" for key, value in json.loads(parameters).items())


def domain_key(address: str) -> str:
    """Return the domain by which recipients are found: lower case, empty for an address without one."""
    return address.rpartition("@")[2].lower() if "@" in address else ""


def _tenant_of(origin: Any) -> str:
    """Return the tenant of a message that was stored before version 5: its login."""
    try:
        return decode_origin(origin).tenant if origin else ""
    except (ValueError, TypeError):
        return ""


def _priority_of(parameters: Any) -> int:
    """Return the priority of a message that was stored before version 8, from its parameters."""
    try:
        return Envelope(NULL, (), decode_parameters(parameters)).priority
    except (ValueError, TypeError, AttributeError):
        return 0


def _deadline_of(parameters: Any, accepted: int) -> int | None:
    """Return when a message that was stored before version 10 is late, from its parameters."""
    try:
        deadline = deadline_of(Envelope(NULL, (), decode_parameters(parameters)), accepted / 1e6)
    except (ValueError, TypeError, AttributeError):
        return None
    return None if deadline is None else round(deadline * 1e6)


def _migrate(connection: sqlite3.Connection) -> None:
    connection.create_function("deadline_of", 2, _deadline_of, deterministic=True)
    connection.create_function("priority_of", 1, _priority_of, deterministic=True)
    connection.create_function("tenant_of", 1, _tenant_of, deterministic=True)
    connection.create_function("wire_form", 1, _wire_form, deterministic=True)
    connection.create_function("domain_key", 1, domain_key, deterministic=True)
    for version in range(_version(connection), VERSION):
        # executescript would commit first, so the statements run one by one inside a transaction of their own.
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _statements(MIGRATIONS[version]):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise


def _statements(script: str) -> list[str]:
    found, rest = [], ""
    for piece in script.split(";"):
        rest += piece + ";"
        if sqlite3.complete_statement(rest):
            found.append(rest)
            rest = ""
    return [statement for statement in found if statement.strip(" \n;")]
