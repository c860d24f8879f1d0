"""TLS of client connections: contexts, the handshake, and verification of the peer.

Promises: AUTHENTICATED is never reported for a handshake in which `ssl` did not verify what the verifier relies on
(`context_for`, `suits`). After a failed handshake the transport is closed.
Refuses: TLS below 1.2 (RFC 8996 §4, §5).
Standards: RFC 3207 §4, RFC 8314 §3 (implicit TLS), RFC 5929 (channel bindings).
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, cast

from ironpost.client.unread import ReadBeforeLoss
from ironpost.model.certificate import read
from ironpost.model.text import error_text
from ironpost.model.tls import BY_AUTHORITIES, UNAUTHENTICATED, TlsFailure

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence

    from ironpost.model.tls import Verifier


# -- contexts and verification ----------------------------------------------------------------------------------------

_EARLIER: Final[ContextVar[ssl.SSLSession | None]] = ContextVar("earlier", default=None)
"""The TLS session that a new connection offers to resume."""


@contextmanager
def resuming(session: ssl.SSLSession | None) -> Iterator[None]:
    """Offer a TLS session on the connection that is opened within; its context must be one of this module.

    Event loops create the `ssl.SSLObject`, in a callback: in the context of the task that starts TLS (asyncio), or of
    the one that created the transport (uvloop). So the whole opening must be within.
    """
    token = _EARLIER.set(session)
    try:
        yield
    finally:
        _EARLIER.reset(token)


class ClientSide(ssl.SSLObject):
    """The TLS of one connection, which resumes an earlier session if there is one (RFC 8446 §2.2)."""

    _started = False

    def do_handshake(self) -> None:
        """See `ssl.SSLObject`; called again whenever the peer has sent something."""
        if not self._started:
            self._started = True
            if (earlier := _EARLIER.get()) is not None:
                self.session = earlier
        super().do_handshake()


def verifying(authorities: str | None = None, *, common_name: bool = True) -> ssl.SSLContext:
    """A context that verifies the peer's certificate and name (SECURITY R13).

    Args:
        authorities: a PEM file of trusted authorities; the system's if None.
        common_name: accept the name in the subject of a certificate that has no alternative names.

    Raises:
        OSError: the file cannot be read, or contains no certificates.
    """
    context = ssl.create_default_context(cafile=authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = common_name
    context.sslobject_class = ClientSide
    return context


def encrypting() -> ssl.SSLContext:
    """A context that accepts any certificate: for verifiers that do not use authorities."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslobject_class = ClientSide
    return context


def context_for(verifier: Verifier) -> ssl.SSLContext:
    """A new context with which `verifier` can be used; the system's authorities are trusted."""
    return verifying() if verifier.uses_authorities else encrypting()


def verifier_for(context: ssl.SSLContext) -> Verifier:
    """The verifier that reports what `context` verifies."""
    return BY_AUTHORITIES if suits(context, BY_AUTHORITIES) else UNAUTHENTICATED


def suits(context: ssl.SSLContext, verifier: Verifier) -> bool:
    """Whether the context verifies what the verifier relies on."""
    return not verifier.uses_authorities or (context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname)


def channel_bindings(connection: ssl.SSLObject, chain: Sequence[bytes]) -> dict[str, bytes]:
    """The channel bindings of a connection; `chain` as from `peer_chain`."""
    try:
        end_point = read(chain[0]).end_point if chain else b""
    except ValueError:  # OpenSSL accepts certificates that `read` does not: there is no channel binding then
        end_point = b""
    bindings = {"tls-server-end-point": end_point} if end_point else {}
    if connection.version() == "TLSv1.2" and (unique := connection.get_channel_binding("tls-unique")):
        bindings["tls-unique"] = unique
    return bindings


def peer_chain(connection: ssl.SSLObject) -> tuple[bytes, ...]:
    """The certificates that the peer sent, in DER, leaf first; only the leaf if `ssl` does not provide the others.

    After a resumed handshake `ssl` provides at most the leaf.
    """
    if hasattr(connection, "get_unverified_chain"):  # Python 3.13
        return tuple(connection.get_unverified_chain())
    chain = _private_chain(connection)
    if chain:
        return chain
    leaf = connection.getpeercert(binary_form=True)
    return (leaf,) if leaf else ()


def _private_chain(connection: ssl.SSLObject) -> tuple[bytes, ...]:
    """The chain by way of the object that `ssl.SSLObject` wraps: the only way before Python 3.13."""
    inner: Any = getattr(connection, "_sslobj", None)
    if not hasattr(inner, "get_unverified_chain"):
        return ()
    return tuple(each.public_bytes(_DER) for each in inner.get_unverified_chain() or ())


_DER: Final = 2
"""`ENCODING_DER` of the module `_ssl`; the conversion of its default, PEM, takes 20 µs for each certificate."""


def provides_chain() -> bool:
    """Whether `peer_chain` returns more than the leaf with this Python, which DANE-TA(2) needs."""
    if hasattr(ssl.SSLObject, "get_unverified_chain"):
        return True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    probe = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="probe.invalid")
    return hasattr(getattr(probe, "_sslobj", None), "get_unverified_chain")


def failure_text(error: OSError) -> str:
    """The reason of a failed handshake, for logs and error messages."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate was not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "TLS failed").replace("_", " ").lower()
    return error_text(error)


def failure_type(error: OSError) -> TlsFailure:
    """The category of a failed handshake (RFC 8460 §4.3.1)."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _CERTIFICATE_FAILURES.get(error.verify_code, TlsFailure.CERTIFICATE_NOT_TRUSTED)
    return TlsFailure.VALIDATION_FAILURE


_CERTIFICATE_FAILURES: Final = {
    10: TlsFailure.CERTIFICATE_EXPIRED,  # X509_V_ERR_CERT_HAS_EXPIRED
    62: TlsFailure.CERTIFICATE_HOST_MISMATCH,  # X509_V_ERR_HOSTNAME_MISMATCH
    64: TlsFailure.CERTIFICATE_HOST_MISMATCH,  # X509_V_ERR_IP_ADDRESS_MISMATCH
}
"""Categories by OpenSSL's verification result; the others are CERTIFICATE_NOT_TRUSTED."""


# -- the handshake ----------------------------------------------------------------------------------------------------


async def start_tls(
    transport: asyncio.Transport,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    server_name: str,
    *,
    timeout: float,  # noqa: ASYNC109 - asyncio's parameter
) -> asyncio.Transport:
    """Start TLS on a transport (RFC 3207 §4); from then on `protocol` gets the decrypted octets.

    Args:
        transport: an open transport that has received nothing of the handshake yet.
        protocol: its `connection_made` is not called.
        context: verifies the peer.
        server_name: the name that the certificate must have, if `context` checks it; also sent to the server (SNI).
        timeout: seconds for the handshake.

    Raises:
        OSError: the handshake failed (ssl.SSLError is a subclass), or took too long; the transport is closed.
    """
    loop = asyncio.get_running_loop()
    try:
        secured = await loop.start_tls(
            transport, protocol, context, server_hostname=server_name, ssl_handshake_timeout=timeout
        )
    except ValueError as error:
        if isinstance(error, OSError):  # ssl.SSLCertVerificationError is both
            raise
        transport.abort()
        raise OSError(f"the host name cannot be used in TLS: {error}") from error
    if secured is None:
        raise ConnectionAbortedError("the connection was closed")
    transport.set_protocol(ReadBeforeLoss(transport))
    return secured


async def connect_tls(
    sock: socket.socket,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    server_name: str,
    *,
    timeout: float,  # noqa: ASYNC109
) -> None:
    """Start TLS on a connected socket (RFC 8314 §3), then call the protocol's `connection_made`.

    Raises:
        OSError: see `start_tls`.
    """
    buffer = _Buffer()
    transport, paused = await asyncio.get_running_loop().create_connection(_Paused, sock=sock)
    if paused.received:
        transport.abort()
        error = ssl.SSLError(ssl.SSL_ERROR_SSL, "wrong version number")
        error.reason = "WRONG_VERSION_NUMBER"  # OpenSSL's name for it
        raise error
    secured = await start_tls(transport, buffer, context, server_name, timeout=timeout)
    secured.set_protocol(protocol)
    protocol.connection_made(secured)
    if buffer.octets:
        protocol.data_received(bytes(buffer.octets))
    if buffer.ended and not protocol.eof_received():
        secured.close()
    if buffer.lost:
        protocol.connection_lost(buffer.lost[0])


class _Buffer(asyncio.Protocol):
    """Keeps events that arrive after the handshake, until the real protocol takes over."""

    def __init__(self) -> None:
        self.octets = bytearray()
        self.ended = False
        self.lost: list[Exception | None] = []

    def data_received(self, data: bytes) -> None:
        self.octets += data

    def eof_received(self) -> bool:
        self.ended = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class _Paused(asyncio.Protocol):
    """Does not read, so that the octets are left for the handshake."""

    received = False
    """Whether data was received nevertheless, because uvloop had begun to read. A TLS server never sends first."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).pause_reading()

    def data_received(self, data: bytes) -> None:
        del data
        self.received = True
