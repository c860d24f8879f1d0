"""What the workers of one server tell and ask each other. The supervisor passes it on to all the others.

Promises: telling is one write, hearing one call, and nobody waits. A question is answered within `OTHERS_SECONDS` by
those who can: a worker that is being started again, or does not answer, is left out.
Refuses: nothing; a topic that nobody listens to is passed over.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from ironpost.service.control import ControlError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

OTHERS_SECONDS: Final = 15.0
"""How long the supervisor has to ask the others: longer than it waits for each of them (10 s, all at once)."""


class News:
    """One worker's side."""

    def __init__(
        self,
        send: Callable[[Mapping[str, Any]], None],
        ask: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]],
    ) -> None:
        """`send` takes a note for the supervisor, `ask` a question; it raises after `OTHERS_SECONDS`."""
        self._send = send
        self._ask = ask
        self._hearers: dict[str, Callable[[Any], None]] = {}

    def tell(self, topic: str, value: Any) -> None:
        """Tells all other workers; `value` as JSON can hold it."""
        self._send({topic: value})

    async def ask(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Asks all other workers; the answers of those that give one in time.

        Raises:
            OSError: the supervisor is gone, at fault, or does not answer.
        """
        try:
            answers: list[dict[str, Any]] = (await self._ask({"do": "others", "request": request}))["answers"]
        except ControlError as error:
            raise OSError(errno.EIO, f"the other workers cannot be asked: {error}") from error
        return answers

    def on(self, topic: str, hear: Callable[[Any], None]) -> None:
        """From now on `hear` gets what others tell about a topic."""
        self._hearers[topic] = hear

    def heard(self, note: Mapping[str, Any]) -> None:
        """A note came."""
        for topic, value in note.items():
            hear = self._hearers.get(topic)
            if hear is not None:
                hear(value)
