"""What the workers of one server tell each other, by topic. The supervisor passes it on to all the others.

Promises: nobody waits for anybody: telling is one write, hearing one call. What a worker tells before it is ready, or
what comes while one is down, is heard by those who are there.
Refuses: nothing; a topic that nobody listens to is passed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class News:
    """One worker's side."""

    def __init__(self, send: Callable[[Mapping[str, Any]], None]) -> None:
        """`send` takes a note for the supervisor."""
        self._send = send
        self._hearers: dict[str, Callable[[Any], None]] = {}

    def tell(self, topic: str, value: Any) -> None:
        """Tells all other workers; `value` as JSON can hold it."""
        self._send({topic: value})

    def on(self, topic: str, hear: Callable[[Any], None]) -> None:
        """From now on `hear` gets what others tell about a topic."""
        self._hearers[topic] = hear

    def heard(self, note: Mapping[str, Any]) -> None:
        """A note came."""
        for topic, value in note.items():
            hear = self._hearers.get(topic)
            if hear is not None:
                hear(value)
