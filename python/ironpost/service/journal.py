"""The journal: one record, one line.

Promises: a record's text is one JSON object in ASCII on one line, whatever a peer put into its values (SECURITY R44);
the same values stand in the `LogRecord` as `event` and `fields`, for handlers that want them whole. A record that
nobody listens to costs one comparison.
"""

from __future__ import annotations

import json
import logging
from typing import Final

Value = str | int | float | bool | None | list[str]

_DUMP: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=str).encode


class _Line:
    """Rendered only if a handler asks for it."""

    __slots__ = ("_event", "_fields")

    def __init__(self, event: str, fields: dict[str, Value]) -> None:
        self._event = event
        self._fields = fields

    def __str__(self) -> str:
        return _DUMP({"event": self._event, **self._fields})


def record(logger: logging.Logger, event: str, level: int = logging.INFO, **fields: Value) -> None:
    """Writes one record of an event with its values."""
    if logger.isEnabledFor(level):
        # Not logger.log: it walks the stack for a line number that nobody prints.
        line = (_Line(event, fields),)
        extra = {"event": event, "fields": fields}
        logger.handle(logger.makeRecord(logger.name, level, __file__, 0, "%s", line, None, extra=extra))
