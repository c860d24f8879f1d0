"""Rows to values and back, and everything that only reads the SQLite store.

Promises: what `sqlite` wrote comes back equal (times to the microsecond); `Reader` never writes and needs no lock, so
the command line reads beside a running server.
"""

from __future__ import annotations

import errno
import json
from functools import lru_cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from zlib import crc32

from ironpost.model import Address, Envelope, Origin, Recipient
from ironpost.model.body import PIECE, BodyDamaged
from ironpost.protocol.extensions import typed_parameters
from ironpost.queue.store import Messages, QueuedMessage, QueuedRecipient, State
from ironpost.storage.bodies import Place
from ironpost.storage.bodies.reading import StoredBody
from ironpost.storage.sqlite_schema import connect_readonly

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from ironpost.model import Body
    from ironpost.protocol.extensions import Parameters

T = TypeVar("T")

STATES = (State.QUEUED, State.DELIVERED, State.FAILED, State.DROPPED, State.HELD)
"""A row's state is the position in this tuple."""
CODES = {state: code for code, state in enumerate(STATES)}

MESSAGE_COLUMNS = "seq, id, accepted, reverse_path, parameters, origin, size, file, released, segment, start, checksum"
RECIPIENT_COLUMNS = "number, address, parameters, state, attempts, due, changed, last, remote"

_VARIABLES = 500
"""Values in one statement's list."""


def micros(seconds: float) -> int:
    """Seconds as whole microseconds."""
    return round(seconds * 1e6)


def parameters_text(parameters: Parameters) -> str:
    """A column's value: as they stand in a command. Empty for none, which is stored as NULL (binding None costs more
    than all the rest).

    Raises:
        ValueError: a keyword or a value holds a space.
    """
    if not parameters:
        return ""
    text = " ".join([key if value is None else f"{key}={value}" for key, value in parameters.items()])
    if text.count(" ") != len(parameters) - 1:
        raise ValueError("the message cannot be stored: a parameter holds a space")
    return text


@lru_cache(maxsize=1024)  # as for origins
def _parameters(text: str) -> Parameters:
    wire: dict[str, str | None] = {}
    for item in text.split(" "):
        keyword, equals, value = item.partition("=")
        wire[keyword] = value if equals else None
    return MappingProxyType(typed_parameters(wire))


@lru_cache(maxsize=1024)  # a client sends many messages
def origin_text(origin: Origin) -> str:
    """A column's value; empty for a message made here."""
    return json.dumps(origin) if origin != _HERE else ""


_HERE = Origin()
_NONE: Parameters = MappingProxyType({})


class Tally(NamedTuple):
    """How much there is in a queue."""

    messages: int
    recipients: Mapping[State, int]
    """Of these messages, by their state."""


class RowBody:
    """A small body that stays in the database until somebody reads it."""

    __slots__ = ("_checksum", "_connection", "_seq", "_size")

    def __init__(self, connection: sqlite3.Connection, seq: int, size: int, checksum: int | None) -> None:
        self._connection = connection
        self._seq = seq
        self._size = size
        self._checksum = checksum

    @property
    def size(self) -> int:
        """Octets."""
        return self._size

    async def pieces(self) -> AsyncIterator[bytes]:
        """The content in pieces of at most `PIECE` octets.

        Raises:
            BodyDamaged: it is not what was written.
            FileNotFoundError: the message was removed meanwhile.
        """
        content = self._whole()
        for start in range(0, len(content), PIECE):
            yield content[start : start + PIECE]

    async def head(self, limit: int) -> bytes:
        """At most `limit` octets from the start; verified if that is all of it."""
        if limit >= self._size:
            return self._whole()
        return self._read("SELECT substr(body, 1, ?) FROM message WHERE seq = ?", (limit, self._seq))

    def _whole(self) -> bytes:
        content = self._read("SELECT body FROM message WHERE seq = ?", (self._seq,))
        if self._checksum is not None and crc32(content) != self._checksum:
            raise BodyDamaged(errno.EIO, f"the body in row {self._seq} has another checksum")
        return content

    def _read(self, query: str, values: tuple[int, ...]) -> bytes:
        rows: list[tuple[bytes]] = self._connection.execute(query, values).fetchall()
        if not rows:
            raise FileNotFoundError("the message was removed from the queue")
        return rows[0][0]


class Reader:
    """Questions to the queue. `open_readonly` makes one for another process than the server."""

    def __init__(self, connection: sqlite3.Connection, directory: Path) -> None:
        self._connection = connection
        self._directory = directory
        connection.create_function("in_lower_case", 1, str.lower, deterministic=True)

    @classmethod
    def open_readonly(cls, directory: Path) -> Self:
        """Beside a running server, or without one.

        Raises:
            FileNotFoundError: there is no queue in this directory.
            SchemaError: another version of ironpost wrote it.
        """
        return cls(connect_readonly(directory), directory)

    def close(self) -> None:
        """Lets go of the database."""
        self._connection.close()

    async def list(self, limit: int = 1000) -> Messages:
        """As `Store.list`."""
        rows = self._connection.execute(f"SELECT {MESSAGE_COLUMNS} FROM message ORDER BY seq LIMIT ?", (limit,))  # noqa: S608 - columns are constants
        return self.messages(rows.fetchall())

    def tally(self) -> Tally:
        """How much waits here."""
        rows = self._connection.execute("SELECT state, count(*) FROM recipient GROUP BY state").fetchall()
        (messages,) = self._connection.execute("SELECT count(*) FROM message").fetchone()
        return Tally(messages, {STATES[code]: count for code, count in rows})

    async def get(self, message: str) -> QueuedMessage | None:
        """As `Store.get`."""
        rows = self._connection.execute(f"SELECT {MESSAGE_COLUMNS} FROM message WHERE id = ?", (message,))  # noqa: S608 - columns are constants
        found = self.messages(rows.fetchall())
        return found[0] if found else None

    def seqs_after(self, seq: int, limit: int) -> Sequence[int]:
        """The next messages by `seq`."""
        query = "SELECT seq FROM message WHERE seq > ? ORDER BY seq LIMIT ?"
        return [found for (found,) in self._connection.execute(query, (seq, limit)).fetchall()]

    def faults(self) -> Sequence[str]:
        """What SQLite finds wrong with the database."""
        found = [str(row[0]) for row in self._connection.execute("PRAGMA quick_check(20)").fetchall()]
        return [] if found == ["ok"] else found

    def unlisted(self, *patterns: str) -> Sequence[str]:
        """Files of these patterns that the database does not answer for."""
        # Files first: one that is created after this is listed already.
        here = [
            path.relative_to(self._directory).as_posix() for each in patterns for path in self._directory.glob(each)
        ]
        query = "SELECT 1 FROM body_file WHERE name = ?"
        missing = (name for name in here if not self._connection.execute(query, (name,)).fetchall())
        # One that was removed and forgotten between the two questions is not there any more.
        return sorted(name for name in missing if (self._directory / name).exists())

    def due(self, now: int | None, claimed: Callable[[int, int], bool], limit: int) -> tuple[Sequence[int], int | None]:
        """Messages (their `seq`) with unclaimed recipients due at `now` (microseconds; None: ever), earliest first.

        With them comes the due time of the first such recipient.
        """
        found: dict[int, None] = {}
        first: int | None = None
        cursor = self._connection.cursor()
        cursor.arraysize = 100
        cursor.execute(
            "SELECT message, number, due FROM recipient WHERE state = 0 AND due <= ? ORDER BY due",
            (now if now is not None else 1 << 62,),
        )
        while len(found) < limit and (rows := cursor.fetchmany()):
            for seq, number, due in rows:
                if claimed(seq, number):
                    continue
                if first is None:
                    first = due
                found[seq] = None
                if len(found) == limit:
                    break
        cursor.close()  # an open cursor would hold the log
        return list(found), first

    def waiting(self, domains: Sequence[str], now: int, limit: int) -> Sequence[str]:
        """As `Store.waiting`; `now` in microseconds. It reads the whole queue: addresses have no index."""
        found: dict[str, None] = {}
        for part in _parts(domains):
            # A domain holds no wildcard of LIKE that could name more than itself, and `take` looks again.
            # What it holds outside ASCII, LIKE compares by the octet: such a domain is sought in lower case, as it is.
            tests = " OR ".join(
                ["r.address LIKE ?" if domain.isascii() else "in_lower_case(r.address) LIKE ?" for domain in part]
            )
            query = (
                "SELECT m.id FROM message AS m WHERE m.released <= ? AND EXISTS (SELECT 1 FROM recipient AS r"  # noqa: S608 - constants and marks
                f" WHERE r.message = m.seq AND r.state = 0 AND ({tests})) ORDER BY m.seq LIMIT ?"
            )
            values = (now, *(f"%@{domain}" for domain in part), limit)
            found.update(dict.fromkeys(row[0] for row in self._connection.execute(query, values).fetchall()))
        return tuple(found)[:limit]

    def by_seq(self, seqs: Sequence[int]) -> Messages:
        """Messages in the order of `seqs`; those that are gone are left out."""
        rows: dict[int, tuple[Any, ...]] = {}
        for part in _parts(seqs):
            marks = ",".join("?" * len(part))
            query = f"SELECT {MESSAGE_COLUMNS} FROM message WHERE seq IN ({marks})"  # noqa: S608 - constants and marks
            rows.update((row[0], row) for row in self._connection.execute(query, part).fetchall())
        return self.messages([rows[seq] for seq in seqs if seq in rows])

    def messages(self, rows: Sequence[tuple[Any, ...]]) -> Messages:
        """Values of message rows (`MESSAGE_COLUMNS`), each with all its recipients."""
        recipients: dict[int, list[QueuedRecipient]] = {}
        for part in _parts([row[0] for row in rows]):
            marks = ",".join("?" * len(part))
            query = f"SELECT message, {RECIPIENT_COLUMNS} FROM recipient WHERE message IN ({marks}) ORDER BY 1, 2"  # noqa: S608 - constants and marks
            for row in self._connection.execute(query, part).fetchall():
                recipients.setdefault(row[0], []).append(_recipient(row[1:]))
        return [self._message(row, tuple(recipients.get(row[0], ()))) for row in rows]

    def _message(self, row: tuple[Any, ...], recipients: tuple[QueuedRecipient, ...]) -> QueuedMessage:
        seq, identifier, accepted, reverse_path, parameters, origin, size, file, released = row[:9]
        segment, start, checksum = row[9:]
        envelope = Envelope(
            Address.parse(reverse_path),
            tuple(queued.recipient for queued in recipients),
            _parameters(parameters) if parameters else _NONE,
            Origin(*json.loads(origin)) if origin else _HERE,
        )
        body: Body = RowBody(self._connection, seq, size, checksum)
        if file is not None or segment is not None:
            found = self._connection.execute("SELECT body FROM message WHERE seq = ?", (seq,)).fetchall()
            prefix = found[0][0] if found else b""
            place = Place(size - len(prefix), checksum, segment or 0, start or 0, file or "")
            body = StoredBody(self._directory, prefix, place, partial(place_of, self._connection, seq))
        return QueuedMessage(identifier, envelope, accepted / 1e6, body, recipients, released / 1e6)


def place_of(connection: sqlite3.Connection, seq: int) -> Place | None:
    """Where the body of a message lies outside its row; None if it lies there, or the message is gone."""
    query = "SELECT size - length(body), checksum, segment, start, file FROM message WHERE seq = ?"
    for length, checksum, segment, start, file in connection.execute(query, (seq,)).fetchall():
        if segment is not None or file is not None:
            return Place(length, checksum, segment or 0, start or 0, file or "")
    return None


def _recipient(row: tuple[Any, ...]) -> QueuedRecipient:
    number, address, parameters, state, attempts, due, changed, last, remote = row
    recipient = Recipient(Address.parse(address), _parameters(parameters) if parameters else _NONE)
    return QueuedRecipient(number, recipient, STATES[state], attempts, due / 1e6, last, remote, changed / 1e6)


def _parts(values: Sequence[T]) -> Iterable[Sequence[T]]:
    return (values[start : start + _VARIABLES] for start in range(0, len(values), _VARIABLES))
