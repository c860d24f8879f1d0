"""One connection to a server under test, which sends octets unchanged and parses replies strictly.

Promises: `send` writes the octets unchanged, one write for each piece. `reply` returns one reply at a time, parsed by
`wire.ReplyReader`: input that does not match the grammar of RFC 5321 §4.2 raises `MalformedReply` and is not guessed
at. Every wait is bounded by the timeout. The dialogue is kept as readable lines, with every octet outside printable
ASCII escaped, and its length is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from typing import TYPE_CHECKING, Final

from ironpost import wire

if TYPE_CHECKING:
    from typing import Self

PIECE_PAUSE: Final = 0.01
"""Seconds between two pieces, so that they reach the server in two reads."""
SHOWN: Final = 160
"""Octets of one dialogue line that are kept."""
LINES: Final = 400
"""Lines of a dialogue that are kept."""


class MalformedReply(Exception):
    """The server sent a malformed reply. The text says what is wrong with it."""


class Silence(Exception):
    """The server sent nothing within the timeout."""


class TlsFailed(Exception):
    """The TLS handshake failed. The text says why."""


class UntrustedCertificate(Exception):
    """The server's certificate is not trusted on this machine. This is not counted against the server."""

    def __init__(self) -> None:
        super().__init__("the server's certificate is not trusted: use --insecure to skip verification")


def printable(octets: bytes) -> str:
    """Return octets as one line of printable ASCII, truncated if long."""
    text = "".join(chr(o) if 32 <= o < 127 and o != 92 else _ESCAPES.get(o, f"\\x{o:02x}") for o in octets[:SHOWN])
    return text if len(octets) <= SHOWN else f"{text}... ({len(octets)} octets)"


_ESCAPES = {0: "\\0", 9: "\\t", 10: "\\n", 13: "\\r", 92: "\\\\"}


class _Buffer(asyncio.Protocol):
    """Buffers the octets from the server."""

    def __init__(self) -> None:
        self.octets = bytearray()
        self.ended = False
        self.closed = asyncio.Event()
        self.changed = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        self.octets += data
        self.changed.set()

    def eof_received(self) -> None:
        self.ended = True
        self.changed.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.ended = True
        self.closed.set()
        self.changed.set()
        self.writable.set()


class ProbeConnection:
    """A connection to the server under test; see the module."""

    def __init__(self, transport: asyncio.Transport, buffer: _Buffer, timeout: float) -> None:
        self.timeout = timeout
        self.dialogue: list[str] = []
        self.octets = bytearray()
        """Everything received so far, unparsed."""
        self.secure = False
        self._transport = transport
        self._buffer = buffer
        self._reader = wire.ReplyReader()
        self._replies: deque[wire.Reply] = deque()
        self._broken = ""

    @classmethod
    async def open(
        cls, host: str, port: int, patience: float, tls: ssl.SSLContext | None = None, name: str = ""
    ) -> Self:
        """Connect; with `tls`, complete the handshake as well.

        Raises:
            OSError: the connection cannot be opened.
            TlsFailed: the handshake failed.
            UntrustedCertificate: the server's certificate was not accepted.
        """
        loop = asyncio.get_running_loop()
        buffer = _Buffer()
        handshake = patience if tls else None
        try:
            async with asyncio.timeout(patience):
                transport, _ = await loop.create_connection(
                    lambda: buffer, host, port, ssl=tls, server_hostname=name if tls else None,
                    ssl_handshake_timeout=handshake,
                )  # fmt: skip
        except ssl.SSLCertVerificationError:
            raise UntrustedCertificate from None
        except ssl.SSLError as error:
            raise TlsFailed(error.reason or str(error)) from None
        except UnicodeError:  # of the codec for host names
            raise OSError("not a valid host name") from None
        except ConnectionError as error:
            if tls is not None and not isinstance(error, ConnectionRefusedError):
                raise TlsFailed(str(error)) from None
            raise
        connection = cls(transport, buffer, patience)
        connection.secure = tls is not None
        return connection

    async def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """Start TLS on the open connection.

        Raises:
            TlsFailed: the handshake failed.
            UntrustedCertificate: the server's certificate was not accepted.
        """
        loop = asyncio.get_running_loop()
        self._note("C: <TLS handshake>")
        try:
            transport = await loop.start_tls(
                self._transport, self._buffer, context, server_hostname=name, ssl_handshake_timeout=self.timeout
            )
        except ssl.SSLCertVerificationError:
            raise UntrustedCertificate from None
        except (OSError, ssl.SSLError) as error:
            self._buffer.ended = True
            reason = error.reason if isinstance(error, ssl.SSLError) else str(error)
            self._note(f"   <no TLS: {reason}>")
            raise TlsFailed(str(reason)) from None
        assert transport is not None
        self._transport = transport
        self.secure = True
        self._note("   <TLS established>")

    async def end_tls(self) -> None:
        """End TLS with close_notify (RFC 8446 §6.1) and continue unencrypted on the same connection.

        Raises:
            OSError: the connection is gone.
        """
        self._note("C: <end of TLS>")
        kept = self._transport.get_extra_info("socket").dup()  # asyncio closes its own with TLS
        self._transport.close()
        try:
            await asyncio.wait_for(self._buffer.closed.wait(), self.timeout)
        except TimeoutError:  # the server sent no close_notify
            self._transport.abort()
        self._buffer = _Buffer()
        self._transport, _ = await asyncio.get_running_loop().create_connection(lambda: self._buffer, sock=kept)
        self.secure = False

    async def send(self, *pieces: bytes) -> None:
        """Write the pieces, with a short pause between them."""
        for index, piece in enumerate(pieces):
            if index:
                await asyncio.sleep(PIECE_PAUSE)
            for line in piece.splitlines(keepends=True) if len(piece) < 4 * SHOWN else [piece]:
                whole = line.endswith(b"\r\n")
                self._note("C: " + (printable(line[:-2]) if whole else printable(line) + " <no CRLF>"))
            if not self._transport.is_closing():
                self._transport.write(piece)
                try:
                    await asyncio.wait_for(self._buffer.writable.wait(), self.timeout)
                except TimeoutError:
                    self._note("   <the server does not read>")
                    return

    def end(self) -> None:
        """Close the sending direction and keep reading. Under TLS the connection is closed."""
        self._note("C: <eof>")
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    async def reply(self) -> wire.Reply | None:
        """Return the next reply, or None if the server closed the connection.

        Raises:
            Silence: the server sent nothing within the timeout.
            MalformedReply: the server sent something that is not a valid reply.
        """
        deadline = asyncio.get_running_loop().time() + self.timeout
        while not self._replies:
            self._parse()
            if self._replies:
                break
            if self._broken:
                raise MalformedReply(self._broken)
            if self._buffer.ended:
                self._note("S: <closed>")
                return None
            self._buffer.changed.clear()
            remaining = deadline - asyncio.get_running_loop().time()
            try:
                await asyncio.wait_for(self._buffer.changed.wait(), remaining)
            except TimeoutError:
                self._note(f"   <nothing received for {self.timeout:g} s>")
                raise Silence from None
        return self._replies.popleft()

    def _parse(self) -> None:
        if not self._buffer.octets:
            return
        octets = bytes(self._buffer.octets)
        self._buffer.octets.clear()
        self.octets += octets
        for line in octets.splitlines():
            self._note(f"S: {printable(line)}")
        for event in self._reader.feed(octets):
            if isinstance(event, wire.Reply):
                self._replies.append(event)
            else:
                self._broken = wire.FAULTS[event.id]

    async def read(self) -> bytes:
        """Return the next octets unparsed, for a server that may send something other than SMTP; empty if the server
        closed the connection or sent nothing within the timeout."""
        self._buffer.changed.clear()
        if not self._buffer.octets and not self._buffer.ended:
            try:
                await asyncio.wait_for(self._buffer.changed.wait(), self.timeout)
            except TimeoutError:
                self._note(f"   <nothing received for {self.timeout:g} s>")
        octets = bytes(self._buffer.octets)
        self._buffer.octets.clear()
        if octets:
            self._note(f"S: {printable(octets)}")
        return octets

    async def close(self) -> None:
        """Abort the connection, in any state."""
        self._transport.abort()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._buffer.closed.wait(), self.timeout)

    def _note(self, line: str) -> None:
        if len(self.dialogue) < LINES:
            self.dialogue.append(line)
