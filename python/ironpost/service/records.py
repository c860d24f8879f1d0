"""Log records as lines: JSON for programs, `key=value` for eyes.

Promises: in both forms one record is one line (SECURITY R44): control characters, line ends and everything outside
ASCII are escaped; an exception's traceback is a field of its record. The values of a journal record (`fields`) become
fields of the line. In text a value stands as it is where that cannot be misread, else as a JSON value; what is None is
left out. What Python would print about errors that nobody can catch can be a record, too.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_DUMP: Final = json.JSONEncoder(ensure_ascii=True, default=str).encode


_PLAIN: Final = re.compile(r"[A-Za-z0-9@._:/+<>!*~-]+")


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


def write_to(stream: TextIO, level: str, form: Literal["json", "text"] = "json", worker: int | None = None) -> None:
    """Sends the records of this package, from `level` up, to a stream; nobody else's handlers see them.

    With `worker` each says which of several processes wrote it.
    """
    logger = logging.getLogger("ironpost")
    handler = logging.StreamHandler(stream)
    if worker is not None:
        handler.addFilter(partial(_marked, worker))
    logger.handlers[:] = [handler]
    logger.propagate = False
    change(level, form)


def _marked(worker: int, record: logging.LogRecord) -> bool:
    record.worker = worker
    return True


def take_uncaught() -> None:
    """Errors that nobody can catch become records of this package; Python writes several lines about each.

    A client can cause them: `ssl` has no other way to tell of a server name in a handshake that is no ASCII.
    """

    def record(error: UnraisableHookArgs) -> None:
        logging.getLogger("ironpost").info("%s ignored: %s", error.exc_type.__name__, error.exc_value)

    sys.unraisablehook = record


def change(level: str, form: Literal["json", "text"]) -> None:
    """Changes what is written, and how; both as in the configuration."""
    logger = logging.getLogger("ironpost")
    logger.setLevel(level.upper())
    for handler in logger.handlers:
        handler.setFormatter(FORMATS[form]())
