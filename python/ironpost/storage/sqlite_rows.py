"""Rows to values and back, and everything that only reads the SQLite store.

Promises: what `sqlite` wrote comes back equal (times to the microsecond); `Reader` never writes and needs no lock, so
the command line reads beside a running server. No question reads more of the queue than it returns, counts apart: every
statement has an index (`tests/storage/test_query_plans.py`). A message that cannot be read costs no other: it comes
back with a `fault` and what could be read of it (SECURITY R25). An error of SQLite leaves as an `OSError`.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import json
import sqlite3
from functools import lru_cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar
from zlib import crc32

from ironpost import wire
from ironpost.model import Address, Envelope, Origin, Recipient
from ironpost.model.body import PIECE, BodyDamaged
from ironpost.protocol.extensions import typed_parameters
from ironpost.queue.store import Messages, QueuedMessage, QueuedRecipient, State
from ironpost.storage.bodies import Place
from ironpost.storage.bodies.reading import MemoryBody, StoredBody
from ironpost.storage.sqlite_faults import concerns_all, store_faults
from ironpost.storage.sqlite_schema import connect_readonly

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from ironpost.model import Body
    from ironpost.protocol.extensions import Parameters

T = TypeVar("T")

Numbered: TypeAlias = "list[tuple[int, QueuedMessage]]"
"""Messages, each with its `seq`."""

STATES = (State.QUEUED, State.DELIVERED, State.FAILED, State.DROPPED, State.HELD)
"""A row's state is the position in this tuple."""
CODES = {state: code for code, state in enumerate(STATES)}

MESSAGE_COLUMNS = "seq, id, accepted, reverse_path, parameters, origin, size, file, released, segment, start, checksum"
RECIPIENT_COLUMNS = "number, address, parameters, state, attempts, due, changed, last, remote"

_VARIABLES = 500
"""Values in one statement's list."""

_END = 253_402_300_799_000_000
"""The last second of the year 9999 in microseconds since 1970: later times are faults."""

_FAULT_LENGTH = 500
"""Characters in the reason for which a message cannot be read."""

_DUE = "SELECT message, number, due FROM recipient WHERE state = 0 AND due <= ? ORDER BY due"
_NEVER_DUE = "SELECT message, number, due FROM recipient WHERE state = 0 AND due > ? ORDER BY due"
_WAITING = """SELECT r.message, m.id FROM recipient AS r JOIN message AS m ON m.seq = r.message
    WHERE r.state = 0 AND r.domain = ?1 AND r.message > ?3 AND (m.released <= ?2 OR m.released <= m.accepted)
    ORDER BY r.message LIMIT 32"""
_ONE_MESSAGE = f"SELECT {MESSAGE_COLUMNS} FROM message WHERE seq = ?"  # noqa: S608 - columns are constants
_ONE_RECIPIENTS = f"SELECT {RECIPIENT_COLUMNS} FROM recipient WHERE message = ? ORDER BY number"  # noqa: S608 - columns are constants


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


def _origin(text: str) -> Origin:
    origin = Origin(*json.loads(text))
    if not all(isinstance(each, str) for each in origin):
        raise TypeError("its origin holds something other than text")
    return origin


_HERE = Origin()
_NONE: Parameters = MappingProxyType({})


class Tally(NamedTuple):
    """How much there is in a queue."""

    messages: int
    recipients: Mapping[State, int]
    """Of these messages, those that are not finished, by their state."""


class RowBody:
    """A small body that stays in the database until somebody reads it."""

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
            BodyDamaged: it is not what was written.
            FileNotFoundError: the message was removed meanwhile.
            OSError: the database cannot be read.
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
        with store_faults(self._directory):
            rows: list[tuple[Any]] = self._connection.execute(query, values).fetchall()
        if not rows:
            raise FileNotFoundError("the message was removed from the queue")
        content = rows[0][0]
        if not isinstance(content, bytes):
            raise OSError(errno.EIO, "the message's content is not a blob", str(self._directory))
        return content


class Reader:
    """Questions to the queue. `open_readonly` makes one for another process than the server."""

    def __init__(self, connection: sqlite3.Connection, directory: Path) -> None:
        self._connection = connection
        self._directory = directory

    @classmethod
    def open_readonly(cls, directory: Path) -> Self:
        """Beside a running server, or without one.

        Raises:
            FileNotFoundError: there is no queue in this directory.
            SchemaError: another version of ironpost wrote it.
            OSError: the database cannot be read.
        """
        with store_faults(directory):
            return cls(connect_readonly(directory), directory)

    def close(self) -> None:
        """Lets go of the database."""
        self._connection.close()

    async def list(self, limit: int = 1000) -> Messages:
        """As `Store.list`."""
        with store_faults(self._directory):
            rows = self._connection.execute("SELECT seq FROM message ORDER BY seq LIMIT ?", (limit,)).fetchall()
            return [message for _, message in self._read([seq for (seq,) in rows])]

    def tally(self) -> Tally:
        """How much waits here."""
        with store_faults(self._directory):
            ask = self._connection.execute
            (messages,) = ask("SELECT count(*) FROM message").fetchone()
            (queued,) = ask("SELECT count(*) FROM recipient WHERE state = 0").fetchone()
            (held,) = ask("SELECT count(*) FROM recipient WHERE state = 4").fetchone()
            return Tally(messages, {State.QUEUED: queued, State.HELD: held})

    async def get(self, message: str) -> QueuedMessage | None:
        """As `Store.get`."""
        with store_faults(self._directory):
            rows = self._connection.execute("SELECT seq FROM message WHERE id = ?", (message,)).fetchall()
            found = self._read([seq for (seq,) in rows])
            return found[0][1] if found else None

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

        With them comes the due time of the first such recipient. A recipient whose due time is not a time counts as
        due, so that somebody notices.
        """
        found: dict[int, None] = {}
        first: int | None = None
        with store_faults(self._directory), contextlib.closing(self._connection.cursor()) as cursor:
            cursor.arraysize = 100
            # SQLite sorts text and blobs after every number.
            for query, value in ((_DUE, _END if now is None else now), (_NEVER_DUE, _END)):
                cursor.execute(query, (value,))
                while len(found) < limit and (rows := cursor.fetchmany()):
                    for seq, number, due in rows:
                        if claimed(seq, number):
                            continue
                        if first is None:
                            first = due if isinstance(due, int) and due <= _END else 0
                        found[seq] = None
                        if len(found) == limit:
                            break
        return list(found), first

    def waiting(self, domains: Sequence[str], now: int, limit: int) -> Sequence[str]:
        """As `Store.waiting`; `now` in microseconds. It reads what it returns, and a little more of each domain."""
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
        """Messages by their `seq`, in that order; those that are gone are left out.

        One that cannot be read has a `fault`, and what could be read of it.
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
        seq, identifier, accepted, reverse_path, parameters, origin, size, file, released, *place = row
        try:
            if not recipients:
                raise ValueError("it has no recipients")
            queued = tuple(map(_recipient, recipients))
            envelope = Envelope(
                Address.parse(reverse_path),
                tuple(each.recipient for each in queued),
                _parameters(parameters) if parameters else _NONE,
                _origin(origin) if origin else _HERE,
            )
            body = self._body(seq, size, file, *place)
            message = QueuedMessage(_text(identifier), envelope, _seconds(accepted), body, queued, _seconds(released))
        except sqlite3.Error:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a parser makes of it, it costs this message alone
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
        place = Place(size - len(prefix), checksum, segment or 0, start or 0, _text(file or ""))
        return StoredBody(self._directory, prefix, place, partial(place_of, self._connection, seq))

    # -- what cannot be read

    def _unreadable(self, seq: int, error: Exception) -> QueuedMessage:
        """What can be read of a message whose row, or one of whose recipients' rows, cannot."""
        with self._any_text():
            message = self._rows_of(_ONE_MESSAGE, seq)
            recipients = tuple(map(_salvaged, self._rows_of(_ONE_RECIPIENTS, seq)))
            if not message:
                rows = self._rows_of("SELECT id FROM message WHERE seq = ?", seq)
                message = [(seq, rows[0][0] if rows else "", 0, "", None, None, 0, None, 0)]
        _, identifier, accepted, reverse_path, parameters, origin, size, _, released = message[0][:9]
        envelope = Envelope(
            _tried(Address.parse, reverse_path, _nominal(reverse_path)),
            tuple(queued.recipient for queued in recipients),
            _tried(_parameters, parameters, _NONE) if parameters else _NONE,
            _tried(_origin, origin, _HERE) if origin else _HERE,
        )
        # Nobody reads the content of a message with a fault; its size is shown.
        body = RowBody(self._connection, self._directory, seq, size if type(size) is int and size >= 0 else 0, None)
        fault = f"unreadable: {type(error).__name__}: {error}"[:_FAULT_LENGTH]
        return QueuedMessage(
            _shown(identifier), envelope, _tried(_seconds, accepted, 0.0), body, recipients,
            _tried(_seconds, released, 0.0), fault,
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
        """Text that is not UTF-8 is shown with escapes instead of being refused."""
        before = self._connection.text_factory
        self._connection.text_factory = lambda octets: octets.decode("utf-8", "backslashreplace")
        try:
            yield
        finally:
            self._connection.text_factory = before


NO_MESSAGE = QueuedMessage(
    "", Envelope(Address.parse(""), ()), 0.0, MemoryBody(b""), fault="unreadable: recipients without a message"
)
"""Stands for a message whose recipients are there and whose own row is gone."""


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
    if not recipient.address.local_part:
        raise ValueError("a recipient has no address")
    if type(number) is not int or type(attempts) is not int:
        raise ValueError(f"recipient {number!r} has {attempts!r} attempts")
    return QueuedRecipient(
        number, recipient, _state(state), attempts, _seconds(due), _text(last), _text(remote), _seconds(changed)
    )


def _salvaged(row: tuple[Any, ...]) -> QueuedRecipient:
    """What can be read of a recipient's row; one in an unknown state counts as held."""
    number, address, parameters, state, attempts, due, changed, last, remote = row
    recipient = Recipient(
        _tried(Address.parse, address, _nominal(address)),
        _tried(_parameters, parameters, _NONE) if parameters else _NONE,
    )
    return QueuedRecipient(
        number if type(number) is int else 0, recipient, _tried(_state, state, State.HELD),
        attempts if type(attempts) is int else 0, _tried(_seconds, due, 0.0), _shown(last), _shown(remote),
        _tried(_seconds, changed, 0.0),
    )  # fmt: skip


def _tried(read: Callable[[Any], T], value: Any, otherwise: T) -> T:
    try:
        return read(value)
    except Exception:  # noqa: BLE001 - the message is unreadable already, and this is for people
        return otherwise


def _nominal(value: Any) -> Address:
    """An address to look at, never to send to: messages with a fault are not attempted."""
    return Address.of(wire.Mailbox(_shown(value), ""))


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return "" if value is None else str(value)


def _state(code: Any) -> State:
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
