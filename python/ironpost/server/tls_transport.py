"""TLS between a transport and a connection: a transport to the one, a protocol to the other.

Promises: no task, no timer and no thread; the handshake is driven by what comes in. What one read holds is handed on as
one piece of clear text, and what is written goes out as one piece of cipher text. The end that the peer signs
(close_notify) is an end of input, the end that it does not sign is a broken connection (SECURITY R6); behind either,
nothing is read, neither as cipher text nor as clear text. Whatever is wrong with the peer's octets ends this connection
only.
Costs: OpenSSL's own memory for the connection; clear text passes through one buffer that all connections of a server
share.

Standards: RFC 3207 §4; RFC 8446 §6.1 (close_notify).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

if TYPE_CHECKING:
    from ironpost.protocol.transaction import Tls
    from ironpost.server.tls import TlsContext

RECORD: Final = 16_384
"""Octets of clear text in one record at most (RFC 8446 §5.1)."""
BUFFER: Final = 16 * RECORD
"""Octets of the buffer into which records are decrypted: as much as a loop reads at once."""


PIECE: Final = 16384
"""Octets of cipher text that OpenSSL gets at one time."""


class Owner(Protocol):
    """Whose connection it is."""

    def secured(self, transport: TlsTransport, tls: Tls, *, early: bool) -> None:
        """The handshake is done; `early`: what came with its end is more than the handshake."""
        ...

    def handshake_failed(self, reason: str) -> None:
        """It failed; the transport closes."""
        ...

    def data_received(self, data: bytes) -> None:
        """Clear text."""
        ...

    def eof_received(self) -> bool | None:
        """The client said close_notify. True: the transport stays open for what is still to be written."""
        ...

    def connection_lost(self, exc: Exception | None) -> None:
        """However it ended."""
        ...

    def pause_writing(self) -> None:
        """The client does not read."""
        ...

    def resume_writing(self) -> None:
        """It reads again."""
        ...


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """The cipher side of one connection."""

    __slots__ = (
        "_buffer",
        "_context",
        "_deaf",
        "_incoming",
        "_outgoing",
        "_owner",
        "_ready",
        "_said_end",
        "_tls",
        "_wire",
    )

    def __init__(self, owner: Owner, wire: asyncio.Transport, context: TlsContext, buffer: memoryview) -> None:
        """Takes `wire` over; nothing may have been read from it that is not to be cipher text."""
        self._owner = owner
        self._wire = wire
        self._context = context
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.new(self._incoming, self._outgoing)
        self._buffer = buffer
        self._ready = False
        """The handshake is done."""
        self._deaf = False
        """Nothing that comes is read any more."""
        self._said_end = False
        """Our close_notify is out."""
        wire.set_protocol(self)

    # -----------------------------------------------------------------------------------------------------------------
    # The wire's side

    def data_received(self, data: bytes) -> None:
        """Cipher text."""
        if self._deaf:
            return
        rest = memoryview(data)
        while not self._ready:
            if not rest:
                return
            rest = self._take_in(rest)
            facts = self._shake_hands()
            if self._deaf:
                return
            if facts is not None:
                self._owner.secured(self, facts, early=self._incoming.pending > 0 or len(rest) > 0)
        if (self._incoming.pending or rest) and not self._deaf:
            self._read(rest)

    def _take_in(self, rest: memoryview) -> memoryview:
        """Hands the first part to OpenSSL, whose buffer never gets smaller again; what is left."""
        self._incoming.write(rest[:PIECE])
        return rest[PIECE:]

    def eof_received(self) -> bool:
        """The wire ended. Without close_notify somebody may have cut it, so nothing that was begun counts (R6)."""
        if self._deaf:
            return self._ready and not self._said_end  # behind close_notify the owner may still have something to say
        self._deaf = True
        if not self._ready:
            self._owner.handshake_failed("the client closed the connection")
        self._wire.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The wire is gone."""
        self._deaf = True
        owner = self._owner
        del self._owner  # each would keep the other for the garbage collector; nothing more is told to it
        owner.connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read."""
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        """It reads again."""
        self._owner.resume_writing()

    def _shake_hands(self) -> Tls | None:
        """What is known when the handshake is done; None while it is not."""
        facts = None
        try:
            self._tls.do_handshake()
            facts = self._context.facts(self._tls)
            self._ready = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLError, OSError, ValueError) as error:  # ValueError: a name that cannot be read
            self._send()  # the alert that says why
            self._deaf = True
            self._owner.handshake_failed(_reason(error))
            self._wire.close()
            return None
        self._send()
        return facts

    def _read(self, rest: memoryview) -> None:
        tls, incoming, buffer = self._tls, self._incoming, self._buffer
        size, ended = 0, False
        while True:
            try:
                octets = cast("int", tls.read(RECORD, buffer[size:]))  # type: ignore[arg-type,unused-ignore]
            except ssl.SSLWantReadError:
                if not rest:
                    break
                rest = self._take_in(rest)
                continue
            except (ssl.SSLError, OSError):  # a record that was changed, an alert: nobody vouches for what follows
                self._deaf = True
                break
            if not octets:
                ended = True
                break
            size += octets
            if size > BUFFER - RECORD:
                self._owner.data_received(bytes(buffer[:size]))
                size = 0
            if not incoming.pending and not tls.pending():
                if not rest:
                    break
                rest = self._take_in(rest)
        if self._outgoing.pending:  # an answer of OpenSSL's own
            self._send()
        if size:
            self._owner.data_received(bytes(buffer[:size]))
        if ended and not self._deaf:
            self._deaf = True
            if not self._owner.eof_received():
                self.close()
        elif self._deaf and not self._said_end:
            self._wire.abort()

    def _send(self) -> None:
        octets = self._outgoing.read()
        if octets and not self._wire.is_closing():
            self._wire.write(octets)

    # -----------------------------------------------------------------------------------------------------------------
    # The connection's side

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypts and sends."""
        tls = self._tls
        try:
            sent = tls.write(data)
            if sent < len(data):
                rest = memoryview(data)
                while sent < len(data):
                    sent += tls.write(rest[sent:])
        except ssl.SSLError:
            self._deaf = True
            self._wire.abort()
            return
        self._wire.write(self._outgoing.read())

    def close(self) -> None:
        """Says close_notify, then closes."""
        self._say_end()
        self._deaf = True
        self._wire.close()

    def abort(self) -> None:
        """Closes at once."""
        self._deaf = True
        self._wire.abort()

    def write_eof(self) -> None:
        """Says close_notify; what the client still sends is dropped."""
        self._say_end()
        self._deaf = True
        self._wire.write_eof()

    def can_write_eof(self) -> bool:
        """It can."""
        return self._wire.can_write_eof()

    def _say_end(self) -> None:
        if not self._ready or self._said_end or self._wire.is_closing():
            return
        self._said_end = True
        with contextlib.suppress(ssl.SSLError, OSError):  # it would wait for the client's; we do not
            self._tls.unwrap()
        self._send()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Another owner, from now on."""
        self._owner = cast("Owner", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Whose connection it is."""
        return cast("asyncio.BaseProtocol", self._owner)

    def is_closing(self) -> bool:
        """Whether it is closed or being closed."""
        return self._wire.is_closing()

    def pause_reading(self) -> None:
        """No more is read."""
        self._wire.pause_reading()

    def resume_reading(self) -> None:
        """It is read again."""
        self._wire.resume_reading()

    def is_reading(self) -> bool:
        """Whether it is read."""
        return self._wire.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Of the wire: in octets of cipher text."""
        self._wire.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Octets of cipher text that the client has not taken."""
        return self._wire.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`ssl_object`, `cipher` and `peercert`; everything else is the wire's."""
        if name == "ssl_object":
            return self._tls
        if name == "cipher":
            return self._tls.cipher()
        if name == "peercert":
            return self._tls.getpeercert()
        return self._wire.get_extra_info(name, default)


def _reason(error: Exception) -> str:
    """OpenSSL's word for what went wrong."""
    return str(getattr(error, "reason", None) or error or type(error).__name__).replace("_", " ").lower()
