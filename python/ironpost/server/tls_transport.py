"""TLS over an asyncio transport: it is the transport of the connection above, and the protocol of the transport below.

Promises: no task, timer or thread; the handshake is driven by input. The plaintext of one read is passed on as one
piece, and one `write` of plaintext becomes one `write` of ciphertext. A close_notify ends the input; if the connection
ends without it, it is aborted (SECURITY R6). After either, nothing more is decrypted. Invalid records end only this
connection. Limitations: each connection costs OpenSSL's memory; plaintext passes through one buffer, which all
connections of a host share.

Standards: RFC 3207 §4; RFC 8446 §6.1 (close_notify).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

if TYPE_CHECKING:
    from ironpost.protocol.server.transaction import TlsInfo
    from ironpost.server.tls import TlsContext

RECORD: Final = 16_384
"""Maximum octets of plaintext in one record (RFC 8446 §5.1)."""
BUFFER: Final = 16 * RECORD
"""Octets of the buffer into which records are decrypted: as much as an event loop reads at once."""

PIECE: Final = 16384
"""Octets of ciphertext given to OpenSSL at a time, because its input buffer never shrinks."""


class TlsOwner(Protocol):
    """The connection above a TLS transport: an `asyncio.Protocol` with two more methods for the handshake."""

    def handshake_done(self, transport: TlsTransport, tls: TlsInfo, *, early: bool) -> None:
        """Handle the end of the handshake.

        Args:
            transport: the TLS transport.
            tls: the negotiated parameters.
            early: application data arrived together with the end of the handshake.
        """
        ...

    def handshake_failed(self, reason: str) -> None:
        """Handle a failed handshake; the transport closes, and `connection_lost` follows."""
        ...

    def data_received(self, data: bytes) -> None:
        """Handle plaintext; after `write_eof`, ciphertext, which may only be counted."""
        ...

    def eof_received(self) -> bool | None:
        """Handle the client's close_notify. Return True to keep the transport open for further output."""
        ...

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of the connection."""
        ...

    def pause_writing(self) -> None:
        """Handle a full write buffer."""
        ...

    def resume_writing(self) -> None:
        """Handle a write buffer that has room again."""
        ...


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol, asyncio.Protocol):
    """The server side of TLS on one connection."""

    __slots__ = (
        "_buffer",
        "_context",
        "_established",
        "_incoming",
        "_input_ended",
        "_lower",
        "_notified",
        "_outgoing",
        "_owner",
        "_tls",
    )

    def __init__(self, owner: TlsOwner, lower: asyncio.Transport, context: TlsContext, buffer: memoryview) -> None:
        """Become the protocol of `lower` and wait for the client's handshake.

        Args:
            owner: the connection above.
            lower: the transport of the ciphertext; no ciphertext may have been read from it.
            context: the certificates.
            buffer: `BUFFER` writable octets, which other connections may use between two callbacks.
        """
        self._owner = owner
        self._lower = lower
        self._context = context
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.new(self._incoming, self._outgoing)
        self._buffer = buffer
        self._established = False
        """The handshake is done."""
        self._input_ended = False
        """No more input is decrypted."""
        self._notified = False
        """Our close_notify was sent."""
        lower.set_protocol(self)

    # -----------------------------------------------------------------------------------------------------------------
    # asyncio.Protocol of the transport below

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where the transport below reads to; see `ServerConnection.get_buffer`."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Handle ciphertext that is in the buffer: a copy, because records are decrypted into the buffer."""
        self.data_received(self._buffer[:nbytes].tobytes())

    def data_received(self, data: bytes) -> None:
        """Handle ciphertext."""
        if self._input_ended:
            if self._notified:
                self._owner.data_received(data)  # the owner counts and discards it
            return
        rest = memoryview(data)
        while not self._established:
            if not rest:
                return
            rest = self._feed(rest)
            facts = self._handshake()
            if self._input_ended:
                return
            if facts is not None:
                self._owner.handshake_done(self, facts, early=self._incoming.pending > 0 or len(rest) > 0)
        if (self._incoming.pending or rest) and not self._input_ended:
            self._read(rest)

    def _feed(self, rest: memoryview) -> memoryview:
        """Give OpenSSL the first `PIECE` octets; return the rest."""
        self._incoming.write(rest[:PIECE])
        return rest[PIECE:]

    def eof_received(self) -> bool:
        """Handle the end of the ciphertext. Without close_notify an attacker may have caused it (SECURITY R6)."""
        if self._input_ended:
            return self._established and not self._notified  # after close_notify the owner may still write
        self._input_ended = True
        if not self._established:
            self._owner.handshake_failed("the client closed the connection")
        self._lower.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner that the transport below is closed."""
        self._input_ended = True
        owner = self._owner
        del self._owner  # break the reference cycle; the owner gets no further calls
        owner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell the owner that the write buffer is full."""
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        """Tell the owner that the write buffer has room again."""
        self._owner.resume_writing()

    def _handshake(self) -> TlsInfo | None:
        """Continue the handshake. Return the TLS parameters if it is done now, else None."""
        facts = None
        try:
            self._tls.do_handshake()
            facts = self._context.facts(self._tls)
            self._established = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLError, OSError, ValueError) as error:  # ValueError: a name that cannot be parsed
            self._write_ciphertext()  # the alert
            self._input_ended = True
            self._owner.handshake_failed(_reason(error))
            self._lower.close()
            return None
        self._write_ciphertext()
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
                rest = self._feed(rest)
                continue
            except (ssl.SSLError, OSError):  # a record that was modified, or an alert
                self._input_ended = True
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
                rest = self._feed(rest)
        if self._outgoing.pending:  # records that OpenSSL created itself, such as a key update
            self._write_ciphertext()
        if size:
            self._owner.data_received(bytes(buffer[:size]))
        if ended and not self._input_ended:
            self._input_ended = True
            if not self._owner.eof_received():
                self.close()
        elif self._input_ended and not self._notified:
            self._lower.abort()

    def _write_ciphertext(self) -> None:
        octets = self._outgoing.read()
        if octets and not self._lower.is_closing():
            self._lower.write(octets)

    # -----------------------------------------------------------------------------------------------------------------
    # asyncio.Transport for the connection above

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and write plaintext."""
        tls = self._tls
        try:
            sent = tls.write(data)
            if sent < len(data):
                rest = memoryview(data)
                while sent < len(data):
                    sent += tls.write(rest[sent:])
        except ssl.SSLError:
            self._input_ended = True
            self._lower.abort()
            return
        self._lower.write(self._outgoing.read())

    def close(self) -> None:
        """Send close_notify, then close."""
        self._notify()
        self._input_ended = True
        self._lower.close()

    def abort(self) -> None:
        """Close at once, without close_notify."""
        self._input_ended = True
        self._lower.abort()

    def write_eof(self) -> None:
        """Send close_notify and close the write side; further input is discarded."""
        self._notify()
        self._input_ended = True
        self._lower.write_eof()

    def can_write_eof(self) -> bool:
        """Whether the write side can be closed alone."""
        return self._lower.can_write_eof()

    def _notify(self) -> None:
        if not self._established or self._notified or self._lower.is_closing():
            return
        self._notified = True
        with contextlib.suppress(ssl.SSLError, OSError):  # `unwrap` also expects the client's close_notify
            self._tls.unwrap()
        self._write_ciphertext()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Replace the connection above."""
        self._owner = cast("TlsOwner", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the connection above."""
        return cast("asyncio.BaseProtocol", self._owner)

    def is_closing(self) -> bool:
        """Whether the transport is closed or closing."""
        return self._lower.is_closing()

    def pause_reading(self) -> None:
        """Stop reading."""
        self._lower.pause_reading()

    def resume_reading(self) -> None:
        """Resume reading."""
        self._lower.resume_reading()

    def is_reading(self) -> bool:
        """Whether reading is not paused."""
        return self._lower.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the limits of the write buffer, in octets of ciphertext."""
        self._lower.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Return the octets of ciphertext in the write buffer."""
        return self._lower.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return `ssl_object`, `cipher` or `peercert` of TLS; other names are looked up in the transport below."""
        if name == "ssl_object":
            return self._tls
        if name == "cipher":
            return self._tls.cipher()
        if name == "peercert":
            return self._tls.getpeercert()
        return self._lower.get_extra_info(name, default)


def _reason(error: Exception) -> str:
    """Return the reason that OpenSSL gives, as text for the log."""
    return str(getattr(error, "reason", None) or error or type(error).__name__).replace("_", " ").lower()
