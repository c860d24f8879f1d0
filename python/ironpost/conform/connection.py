"""One connection to a server under test: exactly these octets go out, and what comes back is read strictly.

Promises: `send` writes the octets as they are, in the pieces that were asked for. `reply` gives one reply at a time,
read by `wire.ReplyReader`: what is no reply by the grammar of RFC 5321 §4.2 is a `Malformed`, never a guess. Every
wait ends at the time-out. The dialogue is kept as lines that a person can read, with every octet outside printable
ASCII escaped, and is bounded.
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


class Malformed(Exception):
    """What came back is no reply; the text says what is wrong."""


class Silence(Exception):
    """Nothing came within the time-out."""


class TlsFailed(Exception):
    """There was no handshake; the text says why."""


class Untrusted(Exception):
    """The server's certificate is not trusted here: a matter of the run, not of the server's conduct."""

    def __init__(self) -> None:
        super().__init__("its certificate is not trusted here: --insecure does not verify it")


def printable(octets: bytes) -> str:
    """Octets as a person can read them: one line, cut if long."""
    text = "".join(chr(o) if 32 <= o < 127 and o != 92 else _ESCAPES.get(o, f"\\x{o:02x}") for o in octets[:SHOWN])
    return text if len(octets) <= SHOWN else f"{text}... ({len(octets)} octets)"


_ESCAPES = {0: "\\0", 9: "\\t", 10: "\\n", 13: "\\r", 92: "\\\\"}


class _Ear(asyncio.Protocol):
    """Keeps what comes."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.ended = False
        self.gone = asyncio.Event()
        self.news = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self.news.set()

    def eof_received(self) -> None:
        self.ended = True
        self.news.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.ended = True
        self.gone.set()
        self.news.set()
        self.writable.set()


class Connection:
    """See the module."""

    def __init__(self, transport: asyncio.Transport, ear: _Ear, timeout: float) -> None:
        self.timeout = timeout
        self.dialogue: list[str] = []
        self.octets = bytearray()
        """Everything that was received, as it came."""
        self.secure = False
        self._transport = transport
        self._ear = ear
        self._reader = wire.ReplyReader()
        self._replies: deque[wire.Reply] = deque()
        self._broken = ""

    @classmethod
    async def open(
        cls, host: str, port: int, patience: float, tls: ssl.SSLContext | None = None, name: str = ""
    ) -> Self:
        """Connects; with `tls` the handshake comes first.

        Raises:
            OSError: nothing answers there.
            TlsFailed: no handshake.
            Untrusted: the certificate was refused by us.
        """
        loop = asyncio.get_running_loop()
        ear = _Ear()
        handshake = patience if tls else None
        try:
            async with asyncio.timeout(patience):
                transport, _ = await loop.create_connection(
                    lambda: ear, host, port, ssl=tls, server_hostname=name if tls else None,
                    ssl_handshake_timeout=handshake,
                )  # fmt: skip
        except ssl.SSLCertVerificationError:
            raise Untrusted from None
        except ssl.SSLError as error:
            raise TlsFailed(error.reason or str(error)) from None
        except UnicodeError:  # of the codec for host names
            raise OSError("this is no host name") from None
        except ConnectionError as error:
            if tls is not None and not isinstance(error, ConnectionRefusedError):
                raise TlsFailed(str(error)) from None
            raise
        connection = cls(transport, ear, patience)
        connection.secure = tls is not None
        return connection

    async def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """The handshake, now.

        Raises:
            TlsFailed: there was none.
            Untrusted: the certificate was refused by us.
        """
        loop = asyncio.get_running_loop()
        self._note("C: <TLS handshake>")
        try:
            transport = await loop.start_tls(
                self._transport, self._ear, context, server_hostname=name, ssl_handshake_timeout=self.timeout
            )
        except ssl.SSLCertVerificationError:
            raise Untrusted from None
        except (OSError, ssl.SSLError) as error:
            self._ear.ended = True
            reason = error.reason if isinstance(error, ssl.SSLError) else str(error)
            self._note(f"   <no TLS: {reason}>")
            raise TlsFailed(str(reason)) from None
        assert transport is not None
        self._transport = transport
        self.secure = True
        self._note("   <TLS established>")

    async def send(self, *pieces: bytes) -> None:
        """Writes these octets; between two pieces there is a short pause."""
        for index, piece in enumerate(pieces):
            if index:
                await asyncio.sleep(PIECE_PAUSE)
            for line in piece.splitlines(keepends=True) if len(piece) < 4 * SHOWN else [piece]:
                whole = line.endswith(b"\r\n")
                self._note("C: " + (printable(line[:-2]) if whole else printable(line) + " <no CRLF>"))
            if not self._transport.is_closing():
                self._transport.write(piece)
                try:
                    await asyncio.wait_for(self._ear.writable.wait(), self.timeout)
                except TimeoutError:
                    self._note("   <the server does not read>")
                    return

    def end(self) -> None:
        """Sends the end of our stream, and still listens; under TLS it closes."""
        self._note("C: <eof>")
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    async def reply(self) -> wire.Reply | None:
        """The next reply; None when the server closed the connection instead.

        Raises:
            Silence: nothing came in time.
            Malformed: what came is no reply.
        """
        deadline = asyncio.get_running_loop().time() + self.timeout
        while not self._replies:
            self._take()
            if self._replies:
                break
            if self._broken:
                raise Malformed(self._broken)
            if self._ear.ended:
                self._note("S: <closed>")
                return None
            self._ear.news.clear()
            remaining = deadline - asyncio.get_running_loop().time()
            try:
                await asyncio.wait_for(self._ear.news.wait(), remaining)
            except TimeoutError:
                self._note(f"   <nothing came for {self.timeout:g} s>")
                raise Silence from None
        return self._replies.popleft()

    def _take(self) -> None:
        if not self._ear.heard:
            return
        octets = bytes(self._ear.heard)
        self._ear.heard.clear()
        self.octets += octets
        for line in octets.splitlines():
            self._note(f"S: {printable(line)}")
        for event in self._reader.feed(octets):
            if isinstance(event, wire.Reply):
                self._replies.append(event)
            else:
                self._broken = wire.FAULTS[event.id]

    async def heard(self) -> bytes:
        """What comes next, unread; empty when the server closed the connection or says nothing. For a server that
        may answer with something else than SMTP."""
        self._ear.news.clear()
        if not self._ear.heard and not self._ear.ended:
            try:
                await asyncio.wait_for(self._ear.news.wait(), self.timeout)
            except TimeoutError:
                self._note(f"   <nothing came for {self.timeout:g} s>")
        octets = bytes(self._ear.heard)
        self._ear.heard.clear()
        if octets:
            self._note(f"S: {printable(octets)}")
        return octets

    async def close(self) -> None:
        """Ends the connection, whatever state it is in."""
        self._transport.abort()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ear.gone.wait(), self.timeout)

    def _note(self, line: str) -> None:
        if len(self.dialogue) < LINES:
            self.dialogue.append(line)
