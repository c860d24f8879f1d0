"""The connection: commands out, replies in.

Promises: each reply belongs to the oldest command that has none; what arrives while no command waits is discarded.
Replies are bounded (SECURITY R18), and what came before the TLS handshake is forgotten (SECURITY R9).
Refuses: commands with control characters, with ValueError.

Standards: RFC 5321 §4.2 (replies), §4.5.2 (content); RFC 3207 §4.2 (STARTTLS).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

from ironpost.compat.content import PIECE, Content, content_of, encoded_pieces

from .errors import (
    SMTPDataError,
    SMTPReadTimeoutError,
    SMTPResponseException,
    SMTPServerDisconnected,
    SMTPTimeoutError,
)
from .response import SMTPResponse
from .typing import SMTPStatus

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator

    from ironpost.compat.content import RawMessage

__all__ = ("SMTPProtocol",)

MAX_LINE_LENGTH = 8192
"""Maximum octets of a line of a reply."""
MAX_RESPONSE_LENGTH = 4 * MAX_LINE_LENGTH
"""Maximum octets of a reply, and of those that wait to be read."""
CLOSING: Final = SMTPStatus.domain_unavailable.value
"""The reply after which the server closes the connection (RFC 5321 §3.8)."""
CONTROLS: Final = bytes(range(0x20)) + b"\x7f"
BUFFER: Final = 8192
"""Octets that are read at a time: more than the replies to a window of commands usually have."""


class _Shared(threading.local):
    """What the connections of one thread share."""

    @cached_property
    def input(self) -> memoryview:
        """What is read from a socket, until it is copied at once."""
        return memoryview(bytearray(BUFFER))


_shared = _Shared()


class FlowControlMixin(asyncio.Protocol):
    """Waits while the transport has too much to send."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop or asyncio.get_event_loop()
        self._paused = False
        self._connection_lost = False
        self._drain_waiters: deque[asyncio.Future[None]] = deque()

    def pause_writing(self) -> None:
        """Hold back writers."""
        self._paused = True

    def resume_writing(self) -> None:
        """Release the writers."""
        self._paused = False
        self._release(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the writers, with the error."""
        self._connection_lost = True
        if self._paused:
            self._release(exc)

    def _release(self, error: Exception | None) -> None:
        for waiter in self._drain_waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

    async def _drain_helper(self) -> None:
        if self._connection_lost:
            raise ConnectionResetError("Connection lost")
        if self._paused:
            waiter = self._loop.create_future()
            self._drain_waiters.append(waiter)
            try:
                await waiter
            finally:
                self._drain_waiters.remove(waiter)


class Batch:
    """Commands that were sent together, and their replies."""

    def __init__(
        self, done: asyncio.Future[None], then: Callable[[list[SMTPResponse]], bytes | None], seconds: float | None
    ) -> None:
        """
        Args:
            done: done when there is nothing left to wait for.
            then: called with the replies to all commands; returns content that is to be sent at once.
            seconds: the time limit of the commands, and again of the content.
        """
        self.done = done
        self.then: Callable[[list[SMTPResponse]], bytes | None] | None = then
        self.seconds = seconds
        self.responses: list[SMTPResponse] = []

    def end(self, error: Exception | None = None) -> None:
        """Stop waiting."""
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


class SMTPProtocol(FlowControlMixin, asyncio.BufferedProtocol):
    """One connection to a server."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        connection_lost_callback: Callable[[SMTPProtocol], None] | None = None,
    ) -> None:
        super().__init__(loop)
        self.transport: asyncio.Transport | None = None
        self._over_ssl = False
        self._buffer = b""
        """The start of a reply."""
        self._whole_lines = 0
        """Octets of the lines in it that have ended; the last one has no LF yet."""
        self._expected = 0
        """Replies that are still to arrive."""
        self._response_waiter: asyncio.Future[SMTPResponse] | None = None
        """The oldest reply that was not read."""
        self._responses: deque[SMTPResponse] = deque()
        """The replies after it."""
        self._batch: Batch | None = None
        self._deadline: float | None = None
        """When the batch is overdue, by `loop.time()`."""
        self._timer: asyncio.TimerHandle | None = None
        """Checks whether the batch is overdue. Batches only move `_deadline`: a timer for each would cost more."""
        self._command_lock: asyncio.Lock | None = None
        self._closed_future = self._loop.create_future()
        self._quit_sent = False
        self._connection_lost_callback = connection_lost_callback

    def _get_close_waiter(self, stream: Any) -> asyncio.Future[None]:  # noqa: ARG002 - asyncio's signature
        return self._closed_future

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open."""
        return self.transport is not None and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Expect the greeting."""
        self.transport = cast("asyncio.Transport", transport)
        self._over_ssl = transport.get_extra_info("sslcontext") is not None
        self._response_waiter = self._loop.create_future()
        self._command_lock = asyncio.Lock()
        self._quit_sent = False
        self._expected = 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the command that waits for its reply; QUIT has succeeded."""
        super().connection_lost(exc)
        waiter = self._response_waiter
        if waiter is not None and not waiter.done() and self._quit_sent:
            waiter.set_result(SMTPResponse(SMTPStatus.closing.value, ""))
        error = SMTPServerDisconnected("Connection lost")
        error.__cause__ = exc
        self._fail(error)
        if self._timer is not None:
            self._timer.cancel()
        self.transport = None
        self._command_lock = None
        if self._connection_lost_callback is not None:
            self._connection_lost_callback(self)

    def eof_received(self) -> bool:
        """Fail the command that waits for its reply, and close the connection."""
        self._fail(SMTPServerDisconnected("Unexpected EOF received"))
        return False

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where the transport reads to; for `data_received` asyncio would allocate 256 KiB for each read."""
        return _shared.input

    def buffer_updated(self, nbytes: int) -> None:
        """Read replies from the buffer."""
        self.data_received(_shared.input[:nbytes].tobytes())

    def data_received(self, data: bytes) -> None:
        """Read replies."""
        if self._expected == 0 or self._response_waiter is None:
            return
        try:
            self._read(data)
        except SMTPResponseException as error:
            self._expected = 0
            self._buffer, self._whole_lines = b"", 0
            self._fail(error)
            if self.transport is not None:
                self.transport.close()  # later replies could not be matched to commands
            return
        if self._expected == 0:
            self._buffer = b""
        batch = self._batch
        if batch is not None and batch.responses and (self._expected == 0 or batch.responses[-1].code == CLOSING):
            self._go_on(batch)

    def _read(self, data: bytes) -> None:
        """Take the replies that are complete, and keep the rest."""
        octets = self._buffer + data
        start, end, searched = 0, self._whole_lines, len(self._buffer)
        while self._expected and (next_line := octets.find(b"\n", searched) + 1) != 0:
            line, end, searched = octets[end:next_line], next_line, next_line
            if end - start > MAX_RESPONSE_LENGTH or len(line) > MAX_LINE_LENGTH:
                raise SMTPResponseException(SMTPStatus.invalid_response.value, "Response too long")
            if line[3:4] != b"-" or not line[:3].isdigit():
                self._take(response_of(octets[start:end]))
                start = end
        self._buffer, self._whole_lines = octets[start:], end - start
        if len(self._buffer) > MAX_RESPONSE_LENGTH:
            raise SMTPResponseException(SMTPStatus.invalid_response.value, "Response too long")

    def _take(self, response: SMTPResponse) -> None:
        """Pass on the reply to the oldest command that has none."""
        self._expected -= 1
        waiter = self._response_waiter
        if self._batch is not None:
            self._batch.responses.append(response)
        elif waiter is None or waiter.done():
            self._responses.append(response)
        else:
            waiter.set_result(response)

    def _go_on(self, batch: Batch) -> None:
        """Send the content at once if the replies to the commands before it allow that; else end the batch."""
        then, batch.then = batch.then, None
        content = None if then is None else then(batch.responses)
        if content is None:
            batch.end()
            return
        try:
            self.send(content)
        except SMTPServerDisconnected as error:
            batch.end(error)
        else:
            self._limit(batch.seconds)

    def _limit(self, seconds: float | None) -> None:
        """Set the time at which the batch is overdue."""
        self._deadline = None if seconds is None else self._loop.time() + seconds
        if self._deadline is None or (self._timer is not None and self._timer.when() <= self._deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._check_deadline)

    def _check_deadline(self) -> None:
        """End the batch if it is overdue."""
        self._timer = None
        if self._batch is None or self._deadline is None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)
        else:
            self._batch.end(SMTPReadTimeoutError("Timed out waiting for server response"))

    def _fail(self, error: Exception) -> None:
        """Raise an error where a reply is waited for."""
        if self._batch is not None:
            self._batch.end(error)
        waiter = self._response_waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)
            waiter.exception()  # nobody may be waiting, which asyncio would report

    async def read_response(self, timeout: float | None = None) -> SMTPResponse:  # noqa: ASYNC109 - aiosmtplib's
        """Return the oldest reply that was not read, within that many seconds.

        Raises:
            SMTPServerDisconnected, SMTPReadTimeoutError, SMTPResponseException: there is none that can be read.
        """
        waiter = self._response_waiter
        if waiter is None:
            raise SMTPServerDisconnected("Connection lost")
        if not waiter.done():
            self._expected = self._expected or 1
        try:
            if waiter.done():
                return waiter.result()
            async with asyncio.timeout(timeout):
                return await waiter
        except TimeoutError as error:
            self._expected = 0
            raise SMTPReadTimeoutError("Timed out waiting for server response") from error
        finally:
            self._response_waiter = self._following(waiter)

    def _following(self, waiter: asyncio.Future[SMTPResponse]) -> asyncio.Future[SMTPResponse] | None:
        """What the reply after this one is waited for with."""
        if self._responses:
            following = self._loop.create_future()
            following.set_result(self._responses.popleft())
            return following
        if self.transport is None:
            return None
        if self._expected and waiter.cancelled():
            self.transport.close()  # a later command would get the reply to this one
        return self._loop.create_future()

    def write(self, data: bytes | memoryview) -> None:
        """Send octets.

        Raises:
            SMTPServerDisconnected: there is no connection.
        """
        if self.transport is None or self.transport.is_closing():
            raise SMTPServerDisconnected("Connection lost")
        try:
            self.transport.write(data)
        except (AttributeError, NotImplementedError):
            raise RuntimeError(f"Transport {self.transport!r} does not support writing.") from None

    def command_lock(self) -> asyncio.Lock:
        """Return what keeps the commands of others away.

        Raises:
            SMTPServerDisconnected: there is no connection.
        """
        if self._command_lock is None:
            raise SMTPServerDisconnected("Server not connected")
        return self._command_lock

    def send(self, octets: bytes, responses: int = 1) -> None:
        """Send commands that have that many replies, or content that ends with its reply."""
        self._expected += responses
        self.write(octets)

    async def exchange(
        self,
        commands: list[bytes],
        then: Callable[[list[SMTPResponse]], bytes | None],
        timeout: float | None,  # noqa: ASYNC109
    ) -> list[SMTPResponse]:
        """Send commands together; return their replies, of which 421 is the last.

        Content that `then` returns for them is sent at once, without an iteration of the event loop; its reply is one
        more.

        Raises:
            SMTPServerDisconnected, SMTPReadTimeoutError, SMTPResponseException: see `read_response`.
        """
        self._batch = batch = Batch(self._loop.create_future(), then, timeout)
        self._expected = 0
        try:
            self.send(b"".join(commands), len(commands))
            self._limit(timeout)
            await batch.done
        finally:
            self._batch = None
            if self._expected and self.transport is not None:
                self.transport.close()  # a later command would get a reply to these
                self._expected = 0
        return batch.responses

    async def execute_command(self, *args: bytes, timeout: float | None = None) -> SMTPResponse:  # noqa: ASYNC109
        """Send a command and return its reply.

        Raises:
            ValueError: the command contains a control character.
            SMTPServerDisconnected, SMTPReadTimeoutError, SMTPResponseException: see `read_response`.
        """
        command = command_line(*args)
        async with self.command_lock():
            self._expected = 1
            self.write(command)
            self._quit_sent = self._quit_sent or command == b"QUIT\r\n"
            return await self.read_response(timeout)

    async def execute_data_command(
        self,
        message: Content | RawMessage,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> SMTPResponse:
        """Send DATA and the content; return the reply.

        Raises:
            SMTPDataError: the server refused the content.
            SMTPServerDisconnected, SMTPReadTimeoutError, SMTPResponseException: see `read_response`.
        """
        content = content_of(message)
        async with self.command_lock():
            self._expected = 1
            self.write(b"DATA\r\n")
            response = await self.read_response(timeout)
            if response.code == SMTPStatus.start_input:
                response = await self.send_content(content, timeout)
                if response.code == SMTPStatus.completed:
                    return response
        raise SMTPDataError(*response)

    async def send_content(
        self,
        content: Content | Iterable[bytes],
        timeout: float | None,  # noqa: ASYNC109
    ) -> SMTPResponse:
        """Send content, each piece once the transport has room; return the reply.

        A file or an iterable is read in a thread. If that fails, or is cancelled, the connection is closed.

        Raises:
            SMTPServerDisconnected, SMTPReadTimeoutError, SMTPResponseException: see `read_response`.
        """
        self._expected = 1
        try:
            if isinstance(content, Content):
                for part in pieces(content):
                    await self._send_piece(part, timeout)
            else:
                encoded = encoded_pieces(content)
                while (piece := await asyncio.to_thread(next, encoded, None)) is not None:
                    await self._send_piece(piece, timeout)
        except BaseException:
            if self.transport is not None:
                self.transport.abort()  # a later command would become part of the content
            raise
        return await self.read_response(timeout)

    async def _send_piece(self, piece: bytes | memoryview, timeout: float | None) -> None:  # noqa: ASYNC109
        self.write(piece)
        if not self._paused:
            return
        try:
            async with asyncio.timeout(timeout):
                await self._drain_helper()
        except TimeoutError as error:
            raise SMTPReadTimeoutError("Timed out while sending the content") from error
        except ConnectionError as error:
            raise SMTPServerDisconnected("Connection lost") from error

    async def start_tls(
        self,
        tls_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> SMTPResponse:
        """Send STARTTLS and encrypt the connection; return the reply.

        Raises:
            SMTPResponseException: the server refused it.
            SMTPServerDisconnected, SMTPTimeoutError: the connection was lost, or the server took too long.
        """
        if self._over_ssl:
            raise RuntimeError("Already using TLS.")
        async with self.command_lock():
            self._expected = 1
            self.write(b"STARTTLS\r\n")
            response = await self.read_response(timeout)
            if response.code != SMTPStatus.ready:
                raise SMTPResponseException(*response)
            if self.transport is None or self.transport.is_closing():
                raise SMTPServerDisconnected("Connection lost")
            try:
                self.transport = await self._loop.start_tls(
                    self.transport,
                    self,
                    tls_context,
                    server_hostname=server_hostname,
                    ssl_handshake_timeout=timeout,
                )
            except TimeoutError as error:
                raise SMTPTimeoutError("Timed out while upgrading transport") from error
            except ConnectionAbortedError as error:  # what asyncio makes of a time limit
                raise SMTPTimeoutError("Connection aborted while upgrading transport") from error
            except ConnectionError as error:
                raise SMTPServerDisconnected("Connection reset while upgrading transport") from error
            self._over_ssl = True
            return response


@lru_cache(maxsize=32)
def response_of(octets: bytes) -> SMTPResponse:
    """Return a reply from its lines; those to MAIL, RCPT and DATA are usually the same for every message.

    Raises:
        SMTPResponseException: a line does not begin with a code.
    """
    lines = octets.split(b"\n")[:-1]
    for line in lines:
        if not line[:3].isdigit():
            fault = f"Malformed SMTP response line: {line.decode('utf-8', 'ignore')}\n"
            raise SMTPResponseException(SMTPStatus.invalid_response.value, fault)
    text = b"\n".join(line[4:].strip(b" \t\r\n") for line in lines)
    return SMTPResponse(int(lines[-1][:3]), text.decode("utf-8", "surrogateescape"))


def command_line(*args: bytes) -> bytes:
    """Return the line of a command.

    Raises:
        ValueError: it contains a control character.
    """
    line = b" ".join(args)
    if line.translate(None, CONTROLS) != line:
        raise ValueError("Command arg contains a prohibited control character")
    return line + b"\r\n"


def pieces(content: Content) -> Iterator[bytes | memoryview]:
    """Content in pieces."""
    lines = memoryview(content.lines)
    for start in range(0, len(lines), PIECE):
        yield lines[start : start + PIECE]
    yield content.end
