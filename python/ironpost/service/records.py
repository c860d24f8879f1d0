"""Log records as lines: JSON for programs, `key=value` for eyes.

Promises: in both forms one record is one line (SECURITY R44): control characters, line ends and everything outside
ASCII are escaped; an exception's traceback is a field of its record. The values of a journal record (`fields`) become
fields of the line. In text a value stands as it is where that cannot be misread, else as a JSON value; what is None is
left out. What Python would print about errors that nobody can catch can be a record, too.

Whoever logs never waits for whoever reads: a thread writes the lines, from a queue that is bounded in octets. What does
not fit into it, or cannot be written, is dropped and counted, and a record says how much that was once there is room.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import select
import sys
import threading
from datetime import UTC, datetime
from functools import partial
from io import UnsupportedOperation
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

QUEUED: Final = 4 << 20
"""Octets of lines that wait to be written before more are dropped."""
PIECE: Final = 1 << 16
"""Octets (about) that are written at one time."""
TEXT: Final = 1024
"""Characters of a text in a record; the rest is cut off."""
FLUSH: Final = 2.0
"""Seconds that the end of a program waits for its last lines to be written."""

_DUMP: Final = json.JSONEncoder(ensure_ascii=True, default=str).encode


_PLAIN: Final = re.compile(r"[A-Za-z0-9@._:/+<>!*~-]+")


def _cut(value: Any) -> Any:
    """The value, with texts no longer than `TEXT`: a client must not choose how long a line is."""
    if isinstance(value, str):
        return value if len(value) <= TEXT else f"{value[:TEXT]}... ({len(value)} characters)"
    return [_cut(each) for each in value] if isinstance(value, list) else value


class _Lines(logging.Formatter):
    """What both forms have in common."""

    def parts(self, record: logging.LogRecord) -> dict[str, Any]:
        """Time (UTC, ISO 8601), level and logger, then the record's own fields or its message."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        event = getattr(record, "event", None)
        if event is None:
            line["message"] = _cut(record.getMessage())
        else:
            line["event"] = event
            line.update((name, _cut(value)) for name, value in getattr(record, "fields", {}).items())
        if (worker := getattr(record, "worker", None)) is not None:
            line["worker"] = worker
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return line


class JsonLines(_Lines):
    """Formats a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        return _DUMP(self.parts(record))


class TextLines(_Lines):
    """Formats a record as words and `key=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end: time, level, what happened, then the fields."""
        parts = self.parts(record)
        words = [parts.pop("time"), parts.pop("level"), parts.pop("logger").removeprefix("ironpost.")]
        words.append(_text(parts.pop("event")) if "event" in parts else _text(parts.pop("message")))
        words += [f"{key}={_text(value)}" for key, value in parts.items() if value is not None]
        return " ".join(words)


def _text(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(each, str) and _PLAIN.fullmatch(each) for each in value):
        return ",".join(value)
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else _DUMP(value)


FORMATS: Final[dict[str, type[_Lines]]] = {"json": JsonLines, "text": TextLines}


class Descriptor:
    """A descriptor that a thread of its own writes to. `put` never blocks."""

    def __init__(self, descriptor: int, queued: int = QUEUED) -> None:
        """Starts the thread.

        Args:
            descriptor: is duplicated; nothing is changed about it, because other programs may share it.
            queued: octets that may wait to be written.
        """
        self._descriptor = os.dup(descriptor)
        self._queued = queued
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        # Each has one writer: `put`, whose callers take turns, and the thread.
        self._taken = self._settled = 0
        self._refused = self._failed = 0
        self._thread = threading.Thread(target=self._run, name="ironpost-log", daemon=True)
        self._thread.start()

    def put(self, line: bytes, *, counted: bool = True) -> bool:
        """Queues a line with its end; False if it had to be dropped, which is `counted`. Callers take turns."""
        if self._taken - self._settled + len(line) > self._queued:
            self._refused += counted
            return False
        self._taken += len(line)
        self._lines.put(line)
        return True

    @property
    def lost(self) -> int:
        """Lines that were dropped so far (a count)."""
        return self._refused + self._failed

    def close(self, seconds: float = FLUSH) -> None:
        """Waits until everything is written, though no longer than `seconds`. No line may follow."""
        self._lines.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        last = False
        while not last:
            line = self._lines.get()
            piece: list[bytes] = []
            size = 0
            while line is not None:
                piece.append(line)
                size += len(line)
                if size >= PIECE:
                    break
                try:
                    line = self._lines.get_nowait()
                except Empty:
                    break
            last = line is None
            if not self._write(b"".join(piece)):
                self._failed += len(piece)
            self._settled += size
        os.close(self._descriptor)

    def _write(self, octets: bytes) -> bool:
        while octets:
            try:
                octets = octets[os.write(self._descriptor, octets) :]
            except BlockingIOError:  # whoever shares the descriptor made it so
                select.select([], [self._descriptor], [])
            except OSError:
                return False  # nobody reads it any more, or the disk is full; the next line may be luckier
        return True


class _QueuedLines(logging.Handler):
    """Formats where the record is made, because its values may change, and leaves the writing to a `Descriptor`."""

    def __init__(self, out: Descriptor) -> None:
        super().__init__()
        self.out = out
        self._told = 0
        """Lines whose loss a record has told of."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.out.lost > self._told:
                self._tell_of_lost()
            self.out.put(self.format(record).encode("ascii", "backslashreplace") + b"\n")
        except Exception:  # noqa: BLE001 - a record that cannot be rendered costs nothing but itself
            self.out.put(b'{"level":"error","logger":"ironpost","message":"a record could not be rendered"}\n')

    def _tell_of_lost(self) -> None:
        lost = self.out.lost
        fields = {"lines": lost - self._told}
        record = logging.makeLogRecord(
            {"name": "ironpost.log", "levelno": logging.WARNING, "levelname": "WARNING"}
            | {"event": "log-lines-dropped", "fields": fields}
        )
        self.filter(record)  # which marks it
        if self.out.put(self.format(record).encode("ascii", "backslashreplace") + b"\n", counted=False):
            self._told = lost


def write_to(
    stream: TextIO | None, level: str, form: Literal["json", "text"] = "json", worker: int | None = None
) -> None:
    """Sends the records of this package, from `level` up, to a stream; nobody else's handlers see them.

    A stream with a descriptor is written to by a thread, past its buffer. None, which Python has for a stream that was
    closed when the program started, loses everything.
    With `worker` each says which of several processes wrote it.
    """
    logger = logging.getLogger("ironpost")
    handler: logging.Handler
    try:
        out = Descriptor(-1 if stream is None else stream.fileno(), QUEUED)
    except UnsupportedOperation:  # a text in memory
        handler = logging.StreamHandler(stream)
    except OSError:
        handler = logging.NullHandler()
    else:
        handler = _QueuedLines(out)
        atexit.register(out.close)
    if worker is not None:
        handler.addFilter(partial(_marked, worker))
    logger.handlers[:] = [handler]
    logger.propagate = False
    change(level, form)


def say(text: str) -> None:
    """Prints a few lines on standard output, and does not wait for whoever reads them."""
    try:
        out = Descriptor(-1 if sys.stdout is None else sys.stdout.fileno())
    except UnsupportedOperation:
        print(text)
    except OSError:
        pass  # it is closed
    else:
        out.put(f"{text}\n".encode(errors="backslashreplace"))
        atexit.register(out.close)


def complain(text: str) -> None:
    """Writes what ends a program to standard error, and waits no longer than `FLUSH` for whoever reads it."""
    try:
        out = Descriptor(-1 if sys.stderr is None else sys.stderr.fileno())
    except UnsupportedOperation:
        sys.stderr.write(text)
    except OSError:
        pass  # it is closed
    else:
        out.put(text.encode(errors="backslashreplace"))
        out.close()


def dropped() -> int:
    """Lines that were lost since the start (a count) because nobody read them or they could not be written."""
    return sum(
        handler.out.lost for handler in logging.getLogger("ironpost").handlers if isinstance(handler, _QueuedLines)
    )


def flush() -> None:
    """The end of a program: what was logged is written, if that takes no longer than `FLUSH`; nothing is after it."""
    logger = logging.getLogger("ironpost")
    for handler in logger.handlers:
        if isinstance(handler, _QueuedLines):
            atexit.unregister(handler.out.close)
            handler.out.close()
    logger.handlers[:] = [logging.NullHandler()]


def keep_descriptors() -> None:
    """Opens /dev/null in the place of each standard stream that is closed.

    Else the next file or socket that is opened gets its number, and what is printed goes into that.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)


def _marked(worker: int, record: logging.LogRecord) -> bool:
    record.worker = worker
    return True


def take_uncaught() -> None:
    """Errors that nobody can catch become records of this package; Python writes several lines about each.

    A client can cause them: `ssl` has no other way to tell of a server name in a handshake that is no ASCII. So become
    the warnings of other packages, asyncio's above all, which Python would write to standard error, and wait for it.
    """
    for handler in logging.getLogger("ironpost").handlers:
        if isinstance(handler, _QueuedLines):
            logging.lastResort = handler

    def record(error: UnraisableHookArgs) -> None:
        logging.getLogger("ironpost").info("%s ignored: %s", error.exc_type.__name__, error.exc_value)

    sys.unraisablehook = record


def change(level: str, form: Literal["json", "text"]) -> None:
    """Changes what is written, and how; both as in the configuration."""
    logger = logging.getLogger("ironpost")
    logger.setLevel(level.upper())
    for handler in logger.handlers:
        handler.setFormatter(FORMATS[form]())
