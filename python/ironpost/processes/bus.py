"""Notifications and requests between the workers of a server. The supervisor forwards them.

Promises: publishing writes once to a socket buffer, and delivering calls each receiver once; neither waits. A request
returns the answers that arrive within `OTHERS_SECONDS`: workers that are restarting or do not respond are missing. A
notification on a topic without a receiver is ignored.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from ironpost.processes.requests import RequestRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

OTHERS_SECONDS: Final = 15.0
"""Timeout of a request in seconds. Longer than the supervisor waits for the workers, which it asks concurrently (10
s)."""


class WorkerBus:
    """The bus of one worker."""

    def __init__(
        self,
        send: Callable[[Mapping[str, Any]], None],
        ask: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]],
    ) -> None:
        """`send` and `ask` send a notification and a request to the supervisor; `ask` times out by itself."""
        self._send = send
        self._ask = ask
        self._receivers: dict[str, Callable[[Any], None]] = {}

    def publish(self, topic: str, value: Any) -> None:
        """Send a notification to all other workers. `value` is a JSON value."""
        self._send({topic: value})

    async def request(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Send a request to all other workers; return the answers that arrive in time.

        Raises:
            OSError: the supervisor is gone, refuses, or does not answer.
        """
        try:
            answers: list[dict[str, Any]] = (await self._ask({"do": "others", "request": request}))["answers"]
        except RequestRefused as error:
            raise OSError(errno.EIO, f"the other workers cannot be reached: {error}") from error
        return answers

    def subscribe(self, topic: str, receive: Callable[[Any], None]) -> None:
        """Register the receiver of a topic's notifications."""
        self._receivers[topic] = receive

    def deliver(self, notification: Mapping[str, Any]) -> None:
        """Pass a notification to the receivers of its topics."""
        for topic, value in notification.items():
            receive = self._receivers.get(topic)
            if receive is not None:
                receive(value)
