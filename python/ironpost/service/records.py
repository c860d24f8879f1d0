"""Log records as lines of JSON.

Promises: one record is one line (SECURITY R44): control characters, line ends and everything outside ASCII are escaped;
an exception's traceback is a field of its record. The values of a journal record (`fields`) become fields of the line.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final, TextIO

_DUMP: Final = json.JSONEncoder(ensure_ascii=True, default=str).encode


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
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
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _DUMP(line)


def write_to(stream: TextIO, level: str) -> None:
    """Sends the records of this package, from `level` up, to a stream; nobody else's handlers see them."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("ironpost")
    logger.handlers[:] = [handler]
    logger.propagate = False
    set_level(level)


def set_level(level: str) -> None:
    """Changes what is written; `level` as in the configuration."""
    logging.getLogger("ironpost").setLevel(level.upper())
