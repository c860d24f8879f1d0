"""The channel between the supervisor and one of its workers: requests, answers and notifications, in both directions.

Promises: messages arrive whole and in order. A request is answered, refused with a reason (`RequestRefused`), or fails:
at its deadline (`RequestTimedOut`), or when the other process ends (`ChannelClosed`). A request that is read after its
deadline is not executed, so a process that was suspended does not execute old requests when it resumes; one that was
begun in time may finish later. Sending never blocks the event loop.
The peer is trusted: both ends run this program, over a socket pair that no other process has.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING, Any, Final, cast

from ironpost.processes.requests import RequestRefused, RequestTimedOut

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from ironpost.processes.requests import RequestHandler

ANSWER_SECONDS: Final = 10.0
"""Default timeout of a request."""
GRACE_SECONDS: Final = 1.0
"""Seconds that an answer sent before the deadline may take to arrive."""

log = logging.getLogger("ironpost.link")


class ChannelClosed(ConnectionError):
    """The other process ended before it answered."""


class Channel(asyncio.Protocol):
    """One end of the channel."""

    def __init__(
        self,
        handlers: Mapping[str, RequestHandler],
        on_notification: Callable[[Mapping[str, Any]], None],
        on_close: Callable[[], None],
    ) -> None:
        """Create an end that is not connected; `open` connects it.

        Args:
            handlers: answer requests, by the name in their `do`.
            on_notification: receives notifications.
            on_close: called once when the other end has been closed.
        """
        self._handlers = handlers
        self._on_notification = on_notification
        self._on_close = on_close
        self._transport: asyncio.Transport | None = None
        self.received = 0
        """Number of messages received; while it grows, the other process's event loop runs."""
        self._incomplete = b""
        self._serial = 0
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._answering: set[asyncio.Task[None]] = set()

    async def open(self, sock: socket.socket) -> None:
        """Start on one socket of the pair, and take ownership of it."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=sock)

    def close(self) -> None:
        """Close the channel once everything sent so far has been written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the channel at once; unsent data is lost."""
        if self._transport is not None:
            self._transport.abort()

    def ping(self) -> None:
        """Make the other process send a message (`received`), if its event loop runs."""
        self._send({"ping": True})

    def notify(self, notification: Mapping[str, Any]) -> None:
        """Send a notification, which has no answer. It is lost if the other process has ended."""
        self._send({"note": notification})

    async def ask(self, request: Mapping[str, Any], seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """Send a request and return its answer. Its `until` is the deadline, as `time.monotonic` of this machine.

        Raises:
            RequestTimedOut: there is no answer within `seconds`.
            RequestRefused: it was refused; the text says why.
            ChannelClosed: the other process ended before it answered.
        """
        if self._transport is None or self._transport.is_closing():
            raise ChannelClosed("the process is gone")
        self._serial += 1
        serial = self._serial
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending[serial] = future
        self._send({"ask": serial, "request": {**request, "until": time.monotonic() + seconds}})
        try:
            async with asyncio.timeout(seconds + GRACE_SECONDS):
                return await future
        except TimeoutError:
            raise RequestTimedOut(f"no answer within {seconds:g} s") from None
        finally:
            self._pending.pop(serial, None)

    def _send(self, line: Mapping[str, Any]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(json.dumps(line).encode() + b"\n")

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The channel is open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class does not inherit from it

    def data_received(self, data: bytes) -> None:
        """Split the input into lines, one message each."""
        *lines, self._incomplete = (self._incomplete + data).split(b"\n") if self._incomplete else data.split(b"\n")
        for line in lines:
            self.received += 1
            try:
                self._line(json.loads(line))
            except Exception:
                # Invalid input closes this channel and affects no other process (SECURITY R24).
                log.exception("invalid message from the process at the other end; channel closed")
                if self._transport is not None:
                    self._transport.abort()
                return

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end was closed: pending requests fail, and requests being answered are cancelled."""
        del exc
        for pending in self._pending.values():
            if not pending.done():
                pending.set_exception(ChannelClosed("the process ended before it answered"))
        for task in self._answering:
            task.cancel()
        self._on_close()

    def _line(self, line: Mapping[str, Any]) -> None:
        if "note" in line:
            self._on_notification(line["note"])
        elif "ping" in line:
            self._send({"pong": True})
        elif "pong" in line:
            pass  # `received` was incremented
        elif "ask" in line:
            if time.monotonic() > line["request"]["until"]:
                log.warning("a request arrived after its deadline and is ignored: %s", line["request"]["do"])
                return
            task = asyncio.get_running_loop().create_task(
                self._answer(line["ask"], line["request"]["do"], line["request"])
            )
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        else:
            pending = self._pending.get(line["to"])
            if pending is not None and not pending.done():
                if "refused" in line:
                    pending.set_exception(RequestRefused(line["refused"]))
                else:
                    pending.set_result(line["answer"])

    async def _answer(self, serial: int, name: str, request: Mapping[str, Any]) -> None:
        try:
            command = self._handlers.get(name)
            if command is None:
                raise RequestRefused(f"unknown command; the commands are {', '.join(sorted(self._handlers))}")
            self._send({"to": serial, "answer": await command(request)})
        except RequestRefused as error:
            self._send({"to": serial, "refused": str(error)})
        except Exception:
            log.exception("command failed", extra={"command": name})
            self._send({"to": serial, "refused": f"{name} failed; the server's log says why"})
