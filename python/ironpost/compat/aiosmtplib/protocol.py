"""The connection: commands out, replies in.

Promises: each reply belongs to the oldest command that has none; what arrives while no command waits is discarded.
Replies are bounded (SECURITY R18), and what came before the TLS handshake is forgotten (SECURITY R9).
Refuses: commands with control characters, with ValueError.

Standards: RFC 5321 §4.2 (replies), §4.5.2 (content); RFC 3207 §4.2 (STARTTLS).
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

from ironpost import wire

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
    from collections.abc import AsyncIterator, Callable

__all__ = ("SMTPProtocol",)

MAX_LINE_LENGTH = 8192
"""Maximum octets of a line of a reply."""
MAX_RESPONSE_LENGTH = 4 * MAX_LINE_LENGTH
"""Maximum octets of a reply, and of those that wait to be read."""
CONTROLS: Final = re.compile(rb"[\x00-\x1f\x7f]")
PIECE: Final = 256 * 1024
"""Octets that are given to the transport at a time."""


def encode_content(message: bytes) -> bytes:
    """Return content as DATA sends it: with CRLF, doubled dots and the final dot."""
    encoder = wire.DataEncoder("normalise")
    return encoder.feed(message) + encoder.finish()


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


class SMTPProtocol(FlowControlMixin):
    """One connection to a server."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        connection_lost_callback: Callable[[SMTPProtocol], None] | None = None,
    ) -> None:
        super().__init__(loop)
        self.transport: asyncio.Transport | None = None
        self._over_ssl = False
        self._buffer = bytearray()
        self._expected = 0
        """Replies that are still to arrive."""
        self._response_waiter: asyncio.Future[SMTPResponse] | None = None
        """The oldest reply that was not read."""
        self._responses: deque[SMTPResponse] = deque()
        """The replies after it."""
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
        self.transport = None
        self._command_lock = None
        if self._connection_lost_callback is not None:
            self._connection_lost_callback(self)

    def eof_received(self) -> bool:
        """Fail the command that waits for its reply, and close the connection."""
        self._fail(SMTPServerDisconnected("Unexpected EOF received"))
        return False

    def data_received(self, data: bytes) -> None:
        """Read replies."""
        if self._expected == 0 or self._response_waiter is None:
            return
        self._buffer += data
        try:
            while self._expected and (response := self._next_response()) is not None:
                self._expected -= 1
                if self._response_waiter.done():
                    self._responses.append(response)
                else:
                    self._response_waiter.set_result(response)
            if len(self._buffer) > MAX_RESPONSE_LENGTH:
                raise SMTPResponseException(SMTPStatus.invalid_response.value, "Response too long")
        except SMTPResponseException as error:
            self._expected = 0
            self._fail(error)
            if self.transport is not None:
                self.transport.close()  # later replies could not be matched to commands
        if self._expected == 0:
            self._buffer.clear()

    def _next_response(self) -> SMTPResponse | None:
        """Take a complete reply from the buffer, if there is one."""
        lines: list[bytes] = []
        start = 0
        while (end := self._buffer.find(b"\n", start) + 1) != 0:
            line = bytes(self._buffer[start:end])
            if end > MAX_RESPONSE_LENGTH or len(line) > MAX_LINE_LENGTH:
                raise SMTPResponseException(SMTPStatus.invalid_response.value, "Response too long")
            if not line[:3].isdigit():
                text = f"Malformed SMTP response line: {line.decode('utf-8', 'ignore')}"
                raise SMTPResponseException(SMTPStatus.invalid_response.value, text)
            lines.append(line[4:].strip(b" \t\r\n"))
            start = end
            if line[3:4] != b"-":
                del self._buffer[:end]
                return SMTPResponse(int(line[:3]), b"\n".join(lines).decode("utf-8", "surrogateescape"))
        return None

    def _fail(self, error: Exception) -> None:
        """Raise an error where a reply is waited for."""
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

    async def execute_data_command(self, message: bytes, timeout: float | None = None) -> SMTPResponse:  # noqa: ASYNC109
        """Send DATA and the content; return the reply.

        Raises:
            SMTPDataError: the server refused the content.
            SMTPServerDisconnected, SMTPReadTimeoutError, SMTPResponseException: see `read_response`.
        """
        async with self.command_lock():
            self._expected = 1
            self.write(b"DATA\r\n")
            response = await self.read_response(timeout)
            if response.code == SMTPStatus.start_input:
                response = await self.send_content(pieces(encode_content(message)), timeout)
                if response.code == SMTPStatus.completed:
                    return response
        raise SMTPDataError(*response)

    async def send_content(self, pieces: AsyncIterator[bytes | memoryview], timeout: float | None) -> SMTPResponse:  # noqa: ASYNC109
        """Send encoded content, each piece once the transport has room; return the reply.

        Raises:
            SMTPServerDisconnected, SMTPReadTimeoutError, SMTPResponseException: see `read_response`.
        """
        self._expected = 1
        try:
            async for piece in pieces:
                self.write(piece)
                if self._paused:
                    async with asyncio.timeout(timeout):
                        await self._drain_helper()
        except TimeoutError as error:
            raise SMTPReadTimeoutError("Timed out while sending the content") from error
        except ConnectionError as error:
            raise SMTPServerDisconnected("Connection lost") from error
        except asyncio.CancelledError:
            if self.transport is not None:
                self.transport.abort()  # a later command would become part of the content
            raise
        return await self.read_response(timeout)

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


def command_line(*args: bytes) -> bytes:
    """Return the line of a command.

    Raises:
        ValueError: it contains a control character.
    """
    line = b" ".join(args)
    if CONTROLS.search(line):
        raise ValueError("Command arg contains a prohibited control character")
    return line + b"\r\n"


async def pieces(octets: bytes) -> AsyncIterator[memoryview]:
    """Octets in pieces."""
    view = memoryview(octets)
    for start in range(0, len(octets), PIECE):
        yield view[start : start + PIECE]
