"""Log output: records as JSON or as text lines, written by a thread.

Promises: in both formats each record is one line (SECURITY R44): control characters, line ends and everything outside
ASCII are escaped; a traceback is a field of its record. The values of an event (`fields`) become fields of the line. In
text format a value is quoted as JSON only where it could be misread; None is left out. Logging never waits for the
reader: a thread writes the lines from a queue that is bounded in bytes, those of `PAUSE` together. Lines that do not
fit, or cannot be written, are dropped and counted; a record reports the number once there is room.
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
import time
from datetime import UTC, datetime
from functools import lru_cache, partial
from io import UnsupportedOperation
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

QUEUED: Final = 4 << 20
"""Maximum size of queued lines in octets; further lines are dropped."""
PIECE: Final = 1 << 16
"""Approximate size of one write in octets."""
TEXT: Final = 1024
"""Maximum length of a text in a record, in characters; longer texts are cut."""
PAUSE: Final = 0.01
"""Seconds between two writes, unless `PIECE` octets wait: waking the thread for each line costs more than the line."""
FLUSH: Final = 2.0
"""Seconds for which the end of a program waits for the last lines to be written."""

_DUMP: Final = json.JSONEncoder(ensure_ascii=True, default=str).encode


_PLAIN: Final = re.compile(r"[A-Za-z0-9@._:/+<>!*~-]+")


def _cut(value: Any) -> Any:
    """Shorten texts to `TEXT`, except tracebacks: a client must not determine the length of a line."""
    if isinstance(value, str):
        return value if len(value) <= TEXT else f"{value[:TEXT]}... ({len(value)} characters)"
    if isinstance(value, dict):
        return {name: each if name == "traceback" else _cut(each) for name, each in value.items()}
    return [_cut(each) for each in value] if isinstance(value, list) else value


@lru_cache(1)
def _second(seconds: int) -> str:
    """Format whole seconds since 1970 in UTC (ISO 8601)."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


class _Lines(logging.Formatter):
    """Base of both formats."""

    def parts(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return time (UTC, ISO 8601), level and logger, then the event's fields or the record's message."""
        line: dict[str, Any] = {
            "time": f"{_second(int(record.created))}.{int(record.created % 1 * 1000):03}+00:00",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        event = getattr(record, "event", None)
        if event is None:
            line["message"] = record.getMessage()
        else:
            line["event"] = event
            line.update(getattr(record, "fields", {}))
        if (worker := getattr(record, "worker", None)) is not None:
            line["worker"] = worker
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return line


class JsonLines(_Lines):
    """Formats a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its line end."""
        parts = self.parts(record)
        line = _DUMP(parts)
        return line if len(line) <= TEXT else _DUMP(_cut(parts))


class TextLines(_Lines):
    """Formats a record as text and `key=value` pairs."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its line end: time, level, event or message, then the fields."""
        parts = _cut(self.parts(record))
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
    """A file descriptor that a separate thread writes to. `put` never blocks."""

    def __init__(self, descriptor: int, queued: int = QUEUED) -> None:
        """Start the thread.

        Args:
            descriptor: duplicated; its flags are not changed, because other programs may share it.
            queued: maximum size of queued lines in octets.
        """
        self._descriptor = os.dup(descriptor)
        self._queued = queued
        self._lines: SimpleQueue[bytes | threading.Event | None] = SimpleQueue()
        """Queued lines. An event is set when everything before it has been written; None ends the thread."""
        # The first of each pair is written by `put`, whose calls must not overlap, the second by the thread.
        self._taken = self._settled = 0
        self._refused = self._failed = 0
        self._thread = threading.Thread(target=self._run, name="ironpost-log", daemon=True)
        self._thread.start()

    def put(self, line: bytes, *, counted: bool = True) -> bool:
        """Queue a line including its line end; return False if it is dropped. Calls must not overlap.

        Args:
            line: the line.
            counted: whether `lost` counts the line if it is dropped.
        """
        if self._taken - self._settled + len(line) > self._queued:
            self._refused += counted
            return False
        self._taken += len(line)
        self._lines.put(line)
        return True

    @property
    def lost(self) -> int:
        """Number of lines dropped so far."""
        return self._refused + self._failed

    def flush(self, seconds: float = FLUSH) -> None:
        """Wait until everything queued so far is written, at most `seconds`."""
        if self._thread.is_alive():
            written = threading.Event()
            self._lines.put(written)
            written.wait(seconds)

    def close(self, seconds: float = FLUSH) -> None:
        """Write everything that is queued, waiting at most `seconds`, and end the thread. No line may follow."""
        self._lines.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        last = False
        while not last:
            line = self._lines.get()
            piece: list[bytes] = []
            waiting: list[threading.Event] = []
            size = 0
            while line is not None:
                if isinstance(line, threading.Event):
                    waiting.append(line)
                else:
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
            for each in waiting:
                each.set()
            if size < PIECE and not last:
                time.sleep(PAUSE)  # meanwhile a line only joins the queue
        os.close(self._descriptor)

    def _write(self, octets: bytes) -> bool:
        while octets:
            try:
                octets = octets[os.write(self._descriptor, octets) :]
            except BlockingIOError:  # another program that shares the descriptor made it non-blocking
                select.select([], [self._descriptor], [])
            except OSError:
                return False  # the reader is gone, or the disk is full; the next line may succeed
        return True


class _QueuedLines(logging.Handler):
    """Formats records when they are made, since their values may change, and queues them on a `Descriptor`."""

    def __init__(self, out: Descriptor) -> None:
        super().__init__()
        self.out = out
        self._reported = 0
        """Number of lost lines that have been reported."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.out.lost > self._reported:
                self._report_lost()
            self.out.put(self.format(record).encode("ascii", "backslashreplace") + b"\n")
        except Exception:  # noqa: BLE001 - a record that cannot be rendered affects no other
            self.out.put(b'{"level":"error","logger":"ironpost","message":"a record could not be rendered"}\n')

    def flush(self) -> None:
        """Wait for queued lines, for a bounded time: `logging.shutdown` calls this before a process exits."""
        self.out.flush()

    def _report_lost(self) -> None:
        lost = self.out.lost
        fields = {"lines": lost - self._reported}
        record = logging.makeLogRecord(
            {"name": "ironpost.log", "levelno": logging.WARNING, "levelname": "WARNING"}
            | {"event": "log-lines-dropped", "fields": fields}
        )
        self.filter(record)  # adds the worker number
        if self.out.put(self.format(record).encode("ascii", "backslashreplace") + b"\n", counted=False):
            self._reported = lost


def write_to(
    stream: TextIO | None, level: str, form: Literal["json", "text"] = "json", worker: int | None = None
) -> None:
    """Write the records of this package, from `level` up, to a stream; other loggers do not get them.

    Args:
        stream: if it has a descriptor, a thread writes to that, bypassing the stream's buffer. None, Python's value for
            a stream that was closed when the program started, discards all records.
        level: the lowest level that is written.
        form: the format of a line.
        worker: the number of this worker, added to each record; None in a single process.
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
    configure(level, form)


def print_lines(text: str) -> None:
    """Print lines on standard output without waiting for the reader."""
    try:
        out = Descriptor(-1 if sys.stdout is None else sys.stdout.fileno())
    except UnsupportedOperation:
        print(text)
    except OSError:
        pass  # it is closed
    else:
        out.put(f"{text}\n".encode(errors="backslashreplace"))
        atexit.register(out.close)


def print_error(text: str) -> None:
    """Print the error that ends a program on standard error; wait for the reader at most `FLUSH` seconds."""
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
    """Return the number of lines dropped since the start."""
    return sum(
        handler.out.lost for handler in logging.getLogger("ironpost").handlers if isinstance(handler, _QueuedLines)
    )


def flush() -> None:
    """Write queued lines, waiting at most `FLUSH` seconds, then discard further records. For the end of a program."""
    logger = logging.getLogger("ironpost")
    for handler in logger.handlers:
        if isinstance(handler, _QueuedLines):
            atexit.unregister(handler.out.close)
            handler.out.close()
    logger.handlers[:] = [logging.NullHandler()]


def open_standard_streams() -> None:
    """Open /dev/null for each standard stream that is closed.

    Otherwise the next file or socket that is opened gets its number, and receives what is printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, so this one
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)


def _marked(worker: int, record: logging.LogRecord) -> bool:
    record.worker = worker
    return True


def log_uncaught() -> None:
    """Log errors that cannot be caught, and warnings of other packages, as records of this package.

    A client can cause such errors: `ssl` has no other way to report a non-ASCII server name in a handshake. By default
    Python writes both to standard error and waits for the reader.
    """
    for handler in logging.getLogger("ironpost").handlers:
        if isinstance(handler, _QueuedLines):
            logging.lastResort = handler

    def record(error: UnraisableHookArgs) -> None:
        logging.getLogger("ironpost").info("%s ignored: %s", error.exc_type.__name__, error.exc_value)

    sys.unraisablehook = record


def configure(level: str, form: Literal["json", "text"]) -> None:
    """Set level and format, with values as in the configuration."""
    logger = logging.getLogger("ironpost")
    logger.setLevel(level.upper())
    for handler in logger.handlers:
        handler.setFormatter(FORMATS[form]())
