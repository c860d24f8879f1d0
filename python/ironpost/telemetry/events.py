"""Log events: one named event per record.

Promises: a record's text is one JSON object in ASCII on one line, whatever a peer sent (SECURITY R44). The `LogRecord`
also has the values as `event` and `fields`, for handlers that need them unformatted. A record below the logger's level
costs one comparison.
Limitations: unless the program has set a record factory (`logging.setLogRecordFactory`), the attributes of a record for
source line, thread and task do not describe the caller: they have the values from the import of this module.
"""

from __future__ import annotations

import json
import logging
from os import getpid
from time import time
from typing import Final

Value = str | int | float | bool | None | list[str]

_DUMP: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=str).encode


class _Line:
    """The text of a record, formatted only if a handler needs it."""

    __slots__ = ("_event", "_fields")

    def __init__(self, event: str, fields: dict[str, Value]) -> None:
        self._event = event
        self._fields = fields

    def __str__(self) -> str:
        return _DUMP({"event": self._event, **self._fields})


class EventRecord(logging.LogRecord):
    """The record of one event. A plain `LogRecord` takes several times as long: it looks up thread and process."""

    def __init__(self, logger: str, level: int, event: str, fields: dict[str, Value]) -> None:
        """The event's name and values, for the logger of this name."""
        now = time()
        self.__dict__.update(_COMMON)
        self.name = logger
        self.levelno = level
        self.levelname = logging.getLevelName(level)
        self.args = (_Line(event, fields),)
        self.event = event
        self.fields = fields
        self.relativeCreated += (now - self.created) * 1000
        self.created = now
        self.msecs = int(now % 1 * 1000)
        self.process = getpid()


_COMMON: Final = vars(logging.LogRecord("", 0, __file__, 0, "%s", None, None))
"""Attributes that records of events share."""


def record(logger: logging.Logger, event: str, level: int = logging.INFO, **fields: Value) -> None:
    """Log one event with its values."""
    if logger.isEnabledFor(level):
        if logging.getLogRecordFactory() is logging.LogRecord:
            logger.handle(EventRecord(logger.name, level, event, fields))
        else:
            extra = {"event": event, "fields": fields}
            line = (_Line(event, fields),)
            logger.handle(logger.makeRecord(logger.name, level, __file__, 0, "%s", line, None, extra=extra))
