-- A database of schema version 2 with one message whose body is in a file. It repeats statements of schema.py on purpose:
-- the migrations there must not be able to change what an earlier ironpost wrote.
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
ALTER TABLE message ADD COLUMN released INTEGER NOT NULL DEFAULT 0;
DROP VIEW queue;
CREATE VIEW queue AS
    SELECT m.id AS message, m.reverse_path AS reverse_path, r.number AS number, r.address AS recipient,
           CASE r.state WHEN 0 THEN 'queued' WHEN 1 THEN 'delivered' WHEN 2 THEN 'failed' WHEN 4 THEN 'held'
                        ELSE 'dropped' END AS state,
           r.attempts AS attempts, m.accepted / 1e6 AS accepted, r.due / 1e6 AS due, r.changed / 1e6 AS changed,
           m.size AS size, r.last AS last, r.remote AS remote, m.released / 1e6 AS released,
           m.parameters AS mail_parameters, r.parameters AS parameters
    FROM message AS m JOIN recipient AS r ON r.message = m.seq;
INSERT INTO message VALUES (1, 'old', 1700000000000000, 'from@sender.example', NULL, NULL, 100017, 'bodies/ab/cdef', X'52656365697665643a2074726163650d0a',
    1700000000000000);
INSERT INTO recipient VALUES (1, 0, 'to@rcpt.example', NULL, 0, 0, 1700000000000000, 1700000000000000, '', '');
INSERT INTO event (at, kind, message, address, remote) VALUES (1700000000000000, 'accepted', 'old', 'from@sender.example', '');
PRAGMA user_version = 2;
