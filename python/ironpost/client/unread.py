"""Reads the last reply of a peer from the socket after a write has failed.

A server that refuses in the middle of content replies and closes. If our next write fails with a reset before asyncio
has read the reply, asyncio stops reading: the reply stays in the socket, under TLS as ciphertext.

Promises: at most `UNREAD_OCTETS` are read; if there are none, the connection is lost as it would be otherwise.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final, cast

UNREAD_OCTETS: Final = 65536
"""Octets that are read from a connection after it has failed."""


def unread(transport: asyncio.BaseTransport) -> bytes:
    """The octets that the peer sent and asyncio did not read.

    For use in `connection_lost`: the transport closes its socket after that.
    """
    lost = transport.get_extra_info("socket")
    if lost is None:
        return b""
    try:
        with socket.socket(fileno=os.dup(lost.fileno())) as copy:
            copy.setblocking(False)
            return copy.recv(UNREAD_OCTETS)
    except OSError:  # nothing to read, or the socket is closed
        return b""


class ReadBeforeLoss(asyncio.BufferedProtocol):
    """Wraps asyncio's TLS protocol: when the connection is lost, unread octets are passed on before the loss."""

    __slots__ = ("_tls", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._tls = cast("asyncio.BufferedProtocol", transport.get_protocol())

    def get_buffer(self, sizehint: int) -> memoryview:
        """See `asyncio.BufferedProtocol`; so for all other methods."""
        return memoryview(self._tls.get_buffer(sizehint))

    def buffer_updated(self, nbytes: int) -> None:
        self._tls.buffer_updated(nbytes)

    def eof_received(self) -> bool | None:
        return self._tls.eof_received()

    def pause_writing(self) -> None:
        self._tls.pause_writing()

    def resume_writing(self) -> None:
        self._tls.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        octets = unread(self._transport) if exc is not None else b""
        while octets:
            buffer = self.get_buffer(len(octets))
            size = min(len(buffer), len(octets))
            buffer[:size] = octets[:size]
            self._tls.buffer_updated(size)
            octets = octets[size:]
        self._tls.connection_lost(exc)
