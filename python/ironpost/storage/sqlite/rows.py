"""Rows to values and back, and everything that only reads the SQLite store.

Promises: what `sqlite` wrote comes back equal (times to the microsecond); `Reader` never writes and needs no lock, so
the command line reads beside a running server. Except for counts, no query reads more of the queue than it returns:
every statement has an index (`tests/storage/test_query_plans.py`). A message that cannot be read affects no other: it
is returned with a `fault` and what could be read of it (SECURITY R25). Errors of SQLite are raised as `OSError`.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import sqlite3
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar
from zlib import crc32

from ironpost import wire
from ironpost.model import Address, Envelope, Recipient
from ironpost.model.body import BodyDamaged
from ironpost.model.memory import MemoryBody
from ironpost.queue.codec import LOCAL_ORIGIN, NO_PARAMETERS, decode_origin, decode_parameters
from ironpost.queue.store import (
    AGES,
    UNFINISHED,
    Event,
    Messages,
    QueuedMessage,
    QueuedRecipient,
    RecipientState,
    Tally,
)
from ironpost.storage.bodies import BodyLocation
from ironpost.storage.bodies.reading import StoredBody
from ironpost.storage.sqlite.faults import concerns_all, store_faults
from ironpost.storage.sqlite.schema import connect_readonly
from ironpost.storage.sqlite.selecting import selected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from ironpost.model import Body
    from ironpost.queue.selection import Selection

T = TypeVar("T")

Numbered: TypeAlias = "list[tuple[int, QueuedMessage]]"
"""Messages, each with its `seq`."""
StoredKey: TypeAlias = "tuple[Any, Any, Any]"
"""Domain, tenant and priority of a queue, as they are in the database."""

STATES = (
    RecipientState.QUEUED,
    RecipientState.DELIVERED,
    RecipientState.FAILED,
    RecipientState.DROPPED,
    RecipientState.HELD,
)
"""The state in a row is an index into this tuple."""
CODES = {state: code for code, state in enumerate(STATES)}

MESSAGE_COLUMNS = "seq, id, accepted, reverse_path, parameters, origin, size, file, released, segment, start, checksum"
RECIPIENT_COLUMNS = (
    "number, address, parameters, state, attempts, due, changed, last, remote, original, warned, priority, deadline"
)

_VARIABLES = 500
"""Maximum number of values in one statement."""

_END = 253_402_300_799_000_000
"""The last second of the year 9999, in microseconds since 1970: later times are invalid."""

_FAULT_LENGTH = 500
"""Maximum length of the reason why a message cannot be read, in characters."""

OLD_WINDOW: Final = 100
"""Messages that one search for old ones examines; it takes a few milliseconds even if it finds none."""
OLD_FOUND: Final = 10
"""Messages that one search for old ones finds. Reading them takes a few milliseconds if they have ten recipients."""

_IN_QUEUE = """SELECT message, number, due FROM recipient WHERE state = 0 AND domain = ? AND tenant = ? AND priority = ?
    ORDER BY due"""
_FIRST_QUEUE = """SELECT domain, tenant, priority FROM recipient WHERE state = 0
    ORDER BY domain, tenant, priority LIMIT 1"""
_NEXT_PRIORITY = """SELECT domain, tenant, priority FROM recipient WHERE state = 0
    AND domain = ? AND tenant = ? AND priority > ? ORDER BY priority LIMIT 1"""
_NEXT_TENANT = """SELECT domain, tenant, priority FROM recipient WHERE state = 0 AND domain = ? AND tenant > ?
    ORDER BY tenant, priority LIMIT 1"""
_NEXT_DOMAIN = """SELECT domain, tenant, priority FROM recipient WHERE state = 0 AND domain > ?
    ORDER BY domain, tenant, priority LIMIT 1"""
_OLD = f"""SELECT released, seq, EXISTS (SELECT 1 FROM recipient WHERE message = seq AND state = 0 AND warned <= ?4)
    FROM message WHERE released <= ?1 AND released >= ?2 AND (released > ?2 OR seq > ?3)
    ORDER BY released, seq LIMIT {OLD_WINDOW}"""  # noqa: S608 - a constant
_LATE = "SELECT message, number FROM recipient WHERE state = 0 AND deadline <= ? ORDER BY deadline"
_NEXT_DEADLINE = "SELECT deadline FROM recipient WHERE state = 0 AND deadline > ? ORDER BY deadline LIMIT 1"
_WAITING = """SELECT r.message, m.id FROM recipient AS r JOIN message AS m ON m.seq = r.message
    WHERE r.state = 0 AND r.domain = ?1 AND r.message > ?3 AND (m.released <= ?2 OR m.released <= m.accepted)
    ORDER BY r.message LIMIT 32"""
_ONE_MESSAGE = f"SELECT {MESSAGE_COLUMNS} FROM message WHERE seq = ?"  # noqa: S608 - columns are constants
_ONE_RECIPIENTS = f"SELECT {RECIPIENT_COLUMNS} FROM recipient WHERE message = ? ORDER BY number"  # noqa: S608 - columns are constants


TRACE = """SELECT at, kind, message, number, coalesce(address, ''), coalesce(attempts, 0), coalesce(reply, ''),
    coalesce(remote, ''), coalesce(message_id, '') FROM event WHERE message IN (
        SELECT message FROM event WHERE message = ? OR message_id = ? OR lower(address) = lower(?)
        GROUP BY message ORDER BY max(seq) DESC LIMIT ?)
    ORDER BY seq"""
_BUCKET = "CASE " + " ".join(f"WHEN m.accepted >= ? THEN {n}" for n in range(len(AGES))) + f" ELSE {len(AGES)} END"
_SHAPE_QUEUED = f"""SELECT r.domain, {_BUCKET} AS bucket, count(*) FROM recipient AS r
    JOIN message AS m ON m.seq = r.message WHERE r.state = 0 GROUP BY r.domain, bucket"""  # noqa: S608 - constants
_SHAPE_HELD = _SHAPE_QUEUED.replace("r.state = 0", "r.state = 4")


def micros(seconds: float) -> int:
    """Convert seconds to whole microseconds."""
    return round(seconds * 1e6)


class Place(NamedTuple):
    """A place in the order of the messages by `not_before`."""

    released: int
    """`not_before` in microseconds."""
    seq: int = (1 << 63) - 1
    """The last message of that time before the place; by default all of them are."""


class RowBody:
    """A small body, which is read from the database on demand."""

    __slots__ = ("_checksum", "_connection", "_directory", "_seq", "_size")

    def __init__(
        self, connection: sqlite3.Connection, directory: Path, seq: int, size: int, checksum: int | None
    ) -> None:
        self._connection = connection
        self._directory = directory
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
            BodyDamaged: it differs from what was written.
            FileNotFoundError: the message was removed meanwhile.
            OSError: the database cannot be read.
        """
        async for piece in MemoryBody(self._whole()).pieces():
            yield piece

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
        with store_faults(self._directory):
            rows: list[tuple[Any]] = self._connection.execute(query, values).fetchall()
        if not rows:
            raise FileNotFoundError("the message was removed from the queue")
        content = rows[0][0]
        if not isinstance(content, bytes):
            raise OSError(errno.EIO, "the message's content is not a blob", str(self._directory))
        return content


class Reader:
    """Queries of one shard. `open_readonly` creates a reader for processes other than the server."""

    def __init__(self, connection: sqlite3.Connection, directory: Path) -> None:
        self._connection = connection
        self._directory = directory

    @classmethod
    def open_readonly(cls, directory: Path) -> Self:
        """Open a shard for reading, beside a running server or without one.

        Raises:
            FileNotFoundError: there is no queue in this directory.
            SchemaError: another version of ironpost wrote it.
            OSError: the database cannot be read.
        """
        with store_faults(directory):
            return cls(connect_readonly(directory), directory)

    @property
    def directory(self) -> Path:
        """Directory of the shard."""
        return self._directory

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    async def list(self, limit: int = 1000) -> Messages:
        """As `QueueReader.list`."""
        with store_faults(self._directory):
            rows = self._connection.execute("SELECT seq FROM message ORDER BY seq LIMIT ?", (limit,)).fetchall()
            return [message for _, message in self._read([seq for (seq,) in rows])]

    async def select(self, selection: Selection, now: int, limit: int) -> Messages:
        """As `QueueReader.select`; `now` in microseconds."""
        numbers: dict[int, set[int]] = {}
        for state in UNFINISHED:
            found: dict[int, set[int]] = {}
            async for part in selected(self._connection, self._directory, selection, now, (state,)):
                for seq, number in part:
                    found.setdefault(seq, set()).add(number)
                if len(found) >= limit and selection.ids is None:  # the rest is younger
                    break
            for seq, some in found.items():
                numbers.setdefault(seq, set()).update(some)
        return [
            message._replace(recipients=tuple(each for each in message.recipients if each.number in numbers[seq]))
            for seq, message in self.by_seq(sorted(numbers)[:limit])
        ]

    async def shape(self, now: int) -> Mapping[str, Sequence[int]]:
        """As `QueueReader.shape`; `now` in microseconds."""
        found: dict[str, list[int]] = {}
        limits = [now - micros(age) for age in AGES]
        with store_faults(self._directory), contextlib.closing(self._connection.cursor()) as cursor:
            for query in (_SHAPE_QUEUED, _SHAPE_HELD):
                for domain, bucket, count in cursor.execute(query, limits):
                    found.setdefault(_shown(domain), [0] * (len(AGES) + 1))[bucket] += count
        return found

    async def trace(self, what: str, limit: int) -> Sequence[Event]:
        """As `StandaloneReader.trace`."""
        message_id = what if what.startswith("<") else f"<{what}>"
        with store_faults(self._directory):
            rows = self._connection.execute(TRACE, (what, message_id, what, limit)).fetchall()
        return [
            Event(_tried(_seconds, at, 0.0), kind, message, number, address, attempts, reply, remote, identifier)
            for at, kind, message, number, address, attempts, reply, remote, identifier in rows
        ]

    async def tally(self) -> Tally:
        """As `QueueReader.tally`."""
        with store_faults(self._directory):
            ask = self._connection.execute
            (messages,) = ask("SELECT count(*) FROM message").fetchone()
            (queued,) = ask("SELECT count(*) FROM recipient WHERE state = 0").fetchone()
            (held,) = ask("SELECT count(*) FROM recipient WHERE state = 4").fetchone()
            return Tally(messages, {RecipientState.QUEUED: queued, RecipientState.HELD: held})

    async def get(self, message: str) -> QueuedMessage | None:
        """As `QueueReader.get`."""
        with store_faults(self._directory):
            rows = self._connection.execute("SELECT seq FROM message WHERE id = ?", (message,)).fetchall()
            found = self._read([seq for (seq,) in rows])
            return found[0][1] if found else None

    async def find(self, messages: Sequence[str]) -> Sequence[str]:
        """As `QueueReader.find`."""
        with store_faults(self._directory):
            ask = self._connection.execute
            return [each for each in messages if ask("SELECT 1 FROM message WHERE id = ?", (each,)).fetchall()]

    def seqs_after(self, seq: int, limit: int) -> Sequence[int]:
        """Return the next messages by `seq`."""
        query = "SELECT seq FROM message WHERE seq > ? ORDER BY seq LIMIT ?"
        return [found for (found,) in self._connection.execute(query, (seq, limit)).fetchall()]

    def faults(self) -> Sequence[str]:
        """Return the faults that SQLite finds in the database."""
        found = [str(row[0]) for row in self._connection.execute("PRAGMA quick_check(20)").fetchall()]
        return [] if found == ["ok"] else found

    def unlisted(self, *patterns: str) -> Sequence[str]:
        """Return files of these patterns that the database does not list."""
        # Files first: one that is created after this is listed already.
        here = [
            path.relative_to(self._directory).as_posix() for each in patterns for path in self._directory.glob(each)
        ]
        query = "SELECT 1 FROM body_file WHERE name = ?"
        missing = (name for name in here if not self._connection.execute(query, (name,)).fetchall())
        # A file that was removed between the two queries no longer exists.
        return sorted(name for name in missing if (self._directory / name).exists())

    def queue_after(self, queue: StoredKey | None) -> StoredKey | None:
        """Return the next queue with recipients; the first for None."""
        with store_faults(self._directory):
            ask = self._connection.execute
            if queue is None:
                found: list[StoredKey] = ask(_FIRST_QUEUE).fetchall()
            else:
                found = (
                    ask(_NEXT_PRIORITY, queue).fetchall()
                    or ask(_NEXT_TENANT, queue[:2]).fetchall()
                    or ask(_NEXT_DOMAIN, queue[:1]).fetchall()
                )
            return found[0] if found else None

    def due(
        self, queue: StoredKey, now: int, claimed: Callable[[int, int], bool], limit: int
    ) -> tuple[Mapping[int, Sequence[int]], int | None]:
        """Messages (`seq`) with their unclaimed recipients (`number`) in a queue that are due at `now`, earliest first.

        With them comes the due time (microseconds) of the first unclaimed recipient of any other message. A recipient
        whose due time is not a time counts as due, so that it is noticed.
        """
        found: dict[int, list[int]] = {}
        with store_faults(self._directory), contextlib.closing(self._connection.cursor()) as cursor:
            cursor.arraysize = 20
            cursor.execute(_IN_QUEUE, queue)  # SQLite sorts text and blobs after every number
            while rows := cursor.fetchmany():
                for seq, number, due in rows:
                    if claimed(seq, number):
                        continue
                    due_at = due if isinstance(due, int) and due <= _END else 0
                    if seq in found and due_at <= now:
                        found[seq].append(number)
                    elif due_at > now or len(found) == limit:
                        return found, due_at
                    else:
                        found[seq] = [number]
        return found, None

    def late(
        self, now: int, claimed: Callable[[int, int], bool], limit: int
    ) -> tuple[Mapping[int, Sequence[int]], int | None]:
        """Messages (`seq`) with their unclaimed recipients (`number`) whose deadline has passed, the earliest first.

        With them comes the next deadline. All times are in microseconds since 1970.
        """
        found: dict[int, list[int]] = {}
        with store_faults(self._directory), contextlib.closing(self._connection.cursor()) as cursor:
            for seq, number in cursor.execute(_LATE, (now,)):
                if not claimed(seq, number):
                    if seq not in found and len(found) == limit:
                        break
                    found.setdefault(seq, []).append(number)
            following: list[tuple[int]] = cursor.execute(_NEXT_DEADLINE, (now,)).fetchall()
        return found, following[0][0] if following else None

    def old(
        self, before: int, after: Place, usable: Callable[[int], bool], *, unwarned: bool
    ) -> tuple[Sequence[int], Place | None]:
        """Examine the next messages that could be delivered since `before`, oldest first.

        Returns:
            A few (their `seq`) that are usable and have recipients that are queued and, if `unwarned`, whose warning is
            not settled; and the place of the last that was examined, None if there are no more.
        """
        found: list[int] = []
        place = None
        with store_faults(self._directory):
            rows = self._connection.execute(_OLD, (before, *after, int(not unwarned))).fetchall()
            for released, seq, concerned in rows:
                place = Place(released, seq)
                if concerned and usable(seq):
                    found.append(seq)
                    if len(found) == OLD_FOUND:
                        return found, place
        return found, place if len(rows) == OLD_WINDOW else None

    def waiting(self, domains: Sequence[str], now: int, limit: int) -> Sequence[str]:
        """As `Store.waiting`; `now` in microseconds. It reads little more than it returns."""
        found: dict[str, None] = {}
        with store_faults(self._directory):
            for _, identifier in heapq.merge(*[self._waiting_at(domain, now) for domain in dict.fromkeys(domains)]):
                if len(found) >= limit:
                    break
                found[identifier] = None
        return tuple(found)

    def _waiting_at(self, domain: str, now: int) -> Iterator[tuple[int, str]]:
        """The messages for one domain, oldest first, a few at a time."""
        seq = -1
        while rows := self._connection.execute(_WAITING, (domain, now, seq)).fetchall():
            yield from rows
            seq = rows[-1][0]

    def by_seq(self, seqs: Sequence[int]) -> Numbered:
        """Messages by `seq`, in that order, without those that are gone.

        A message that cannot be read has a `fault` and what could be read of it.
        """
        with store_faults(self._directory):
            return self._read(seqs)

    def _read(self, seqs: Sequence[int]) -> Numbered:
        found: Numbered = []
        for part in _parts(seqs):
            try:
                found += self._read_part(part)
            except sqlite3.Error as error:
                if concerns_all(error):
                    raise
                if len(part) == 1:
                    found.append((part[0], self._unreadable(part[0], error)))
                else:
                    for seq in part:
                        found += self._read((seq,))
        return found

    def _read_part(self, seqs: Sequence[int]) -> Iterable[tuple[int, QueuedMessage]]:
        marks = ",".join("?" * len(seqs))
        query = f"SELECT {MESSAGE_COLUMNS} FROM message WHERE seq IN ({marks})"  # noqa: S608 - constants and marks
        rows = {row[0]: row for row in self._connection.execute(query, seqs).fetchall()}
        recipients: dict[int, list[tuple[Any, ...]]] = {}
        query = f"SELECT message, {RECIPIENT_COLUMNS} FROM recipient WHERE message IN ({marks}) ORDER BY 1, 2"  # noqa: S608 - constants and marks
        for row in self._connection.execute(query, seqs).fetchall():
            recipients.setdefault(row[0], []).append(row[1:])
        return [(seq, self._message(rows[seq], recipients.get(seq, ()))) for seq in seqs if seq in rows]

    def _message(self, row: tuple[Any, ...], recipients: Sequence[tuple[Any, ...]]) -> QueuedMessage:
        seq, identifier, accepted, reverse_path, parameters, origin, size, file, not_before, *place = row
        try:
            if not recipients:
                raise ValueError("it has no recipients")
            queued = tuple(map(_recipient, recipients))
            envelope = Envelope(
                Address.parse(reverse_path),
                tuple(each.recipient for each in queued),
                decode_parameters(parameters) if parameters else NO_PARAMETERS,
                decode_origin(origin) if origin else LOCAL_ORIGIN,
            )
            body = self._body(seq, size, file, *place)
            message = QueuedMessage(_text(identifier), envelope, _seconds(accepted), body, queued, _seconds(not_before))
        except sqlite3.Error:
            raise
        except Exception as error:  # noqa: BLE001 - any parser error affects this message only
            return self._unreadable(seq, error)
        return message

    def _body(
        self, seq: int, size: int, file: str | None, segment: int | None, start: int | None, checksum: int | None
    ) -> Body:
        for value in (size, segment, start, checksum):
            if value is not None and (type(value) is not int or value < 0):
                raise ValueError(f"its size or place is {value!r}")
        if file is None and segment is None:
            return RowBody(self._connection, self._directory, seq, size, checksum)
        found = self._connection.execute("SELECT body FROM message WHERE seq = ?", (seq,)).fetchall()
        prefix = found[0][0] if found else b""
        place = BodyLocation(size - len(prefix), checksum, segment or 0, start or 0, _text(file or ""))
        return StoredBody(self._directory, prefix, place, partial(place_of, self._connection, seq))

    # -- messages that cannot be read

    def _unreadable(self, seq: int, error: Exception) -> QueuedMessage:
        """Return what can be read of a message if its row or a recipient's row cannot be read."""
        with self._any_text():
            message = self._rows_of(_ONE_MESSAGE, seq)
            recipients = tuple(map(_salvaged, self._rows_of(_ONE_RECIPIENTS, seq)))
            if not message:
                rows = self._rows_of("SELECT id FROM message WHERE seq = ?", seq)
                message = [(seq, rows[0][0] if rows else "", 0, "", None, None, 0, None, 0)]
        _, identifier, accepted, reverse_path, parameters, origin, size, _, not_before = message[0][:9]
        envelope = Envelope(
            _tried(Address.parse, reverse_path, _nominal(reverse_path)),
            tuple(queued.recipient for queued in recipients),
            _tried(decode_parameters, parameters, NO_PARAMETERS) if parameters else NO_PARAMETERS,
            _tried(decode_origin, origin, LOCAL_ORIGIN) if origin else LOCAL_ORIGIN,
        )
        # The content of a message with a fault is never read; its size is displayed.
        body = RowBody(self._connection, self._directory, seq, size if type(size) is int and size >= 0 else 0, None)
        fault = f"unreadable: {type(error).__name__}: {error}"[:_FAULT_LENGTH]
        return QueuedMessage(
            _shown(identifier), envelope, _tried(_seconds, accepted, 0.0), body, recipients,
            _tried(_seconds, not_before, 0.0), fault,
        )  # fmt: skip

    def _rows_of(self, query: str, seq: int) -> Sequence[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, (seq,)).fetchall()
        except sqlite3.Error as error:
            if concerns_all(error):
                raise
            return []

    @contextlib.contextmanager
    def _any_text(self) -> Iterator[None]:
        """Decode text; invalid UTF-8 is shown with escapes."""
        before = self._connection.text_factory
        self._connection.text_factory = lambda octets: octets.decode("utf-8", "backslashreplace")
        try:
            yield
        finally:
            self._connection.text_factory = before


NO_MESSAGE = QueuedMessage(
    "", Envelope(Address.parse(""), ()), 0.0, MemoryBody(b""), fault="unreadable: recipients without a message"
)
"""Represents a message that has recipients but no row."""


def place_of(connection: sqlite3.Connection, seq: int) -> BodyLocation | None:
    """Return the location of a body outside its row; None if it is in the row, or the message is gone."""
    query = "SELECT size - length(body), checksum, segment, start, file FROM message WHERE seq = ?"
    for length, checksum, segment, start, file in connection.execute(query, (seq,)).fetchall():
        if segment is not None or file is not None:
            return BodyLocation(length, checksum, segment or 0, start or 0, file or "")
    return None


def _recipient(row: tuple[Any, ...]) -> QueuedRecipient:
    number, address, parameters, state, attempts, due, changed, last, remote, original, warned, priority, deadline = row
    recipient = Recipient(
        Address.parse(address),
        decode_parameters(parameters) if parameters else NO_PARAMETERS,
        Address.parse(original) if original else None,
    )
    if not recipient.address.local_part:
        raise ValueError("a recipient has no address")
    if type(number) is not int or type(attempts) is not int or type(priority) is not int:
        raise ValueError(f"recipient {number!r} has attempts {attempts!r} and priority {priority!r}")
    return QueuedRecipient(
        number,
        recipient,
        _state(state),
        attempts,
        _seconds(due),
        _text(last),
        _text(remote),
        _seconds(changed),
        bool(warned),
        None if deadline is None else _seconds(deadline),
    )


def _salvaged(row: tuple[Any, ...]) -> QueuedRecipient:
    """Return what can be read of a recipient's row; an unknown state counts as held."""
    number, address, parameters, state, attempts, due, changed, last, remote, original, warned, _, _ = row
    recipient = Recipient(
        _tried(Address.parse, address, _nominal(address)),
        _tried(decode_parameters, parameters, NO_PARAMETERS) if parameters else NO_PARAMETERS,
        _tried(Address.parse, original, None) if original else None,
    )
    return QueuedRecipient(
        number if type(number) is int else 0, recipient, _tried(_state, state, RecipientState.HELD),
        attempts if type(attempts) is int else 0, _tried(_seconds, due, 0.0), _shown(last), _shown(remote),
        _tried(_seconds, changed, 0.0), bool(warned),
    )  # fmt: skip


def _tried(read: Callable[[Any], T], value: Any, otherwise: T) -> T:
    try:
        return read(value)
    except Exception:  # noqa: BLE001 - the message is unreadable already; this is for display
        return otherwise


def _nominal(value: Any) -> Address:
    """Return an address for display only: messages with a fault are not attempted."""
    return Address.of(wire.Mailbox(_shown(value), ""))


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return "" if value is None else str(value)


def _state(code: Any) -> RecipientState:
    if type(code) is not int or not 0 <= code < len(STATES):
        raise ValueError(f"unknown state {code!r}")
    return STATES[code]


def _seconds(microseconds: Any) -> float:
    if type(microseconds) is not int or not 0 <= microseconds <= _END:
        raise ValueError(f"{microseconds!r} is not a time")
    return microseconds / 1e6


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _parts(values: Sequence[T]) -> Iterable[Sequence[T]]:
    return (values[start : start + _VARIABLES] for start in range(0, len(values), _VARIABLES))
