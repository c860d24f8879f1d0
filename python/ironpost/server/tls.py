"""The certificates of a server, selected by the server name that the client requests (SNI).

    tls = TlsContext.load([("mx.pem", "mx.key"), ("other.pem", None)])
    async with Server(handler, tls=tls) as server: ...
    server.tls = TlsContext.load(...)      reload: for new handshakes; open sessions continue

Promises: TLS 1.2 or later, without compression, renegotiation and ALPN. The first certificate is the default, for
clients that request no name or an unknown one; an exact name is preferred to a wildcard. Certificates for the same name
with different kinds of keys (EC and RSA) are offered together, and each client gets one that it supports; of two with
the same kind, the first is used. The channel binding `tls-server-end-point` is provided only if it is certain which
certificate was sent: under TLS 1.2 the cipher suite tells, under TLS 1.3 nothing does. A client certificate is
requested only if `client_ca` is set; clients may send none, but an invalid one fails the handshake. Session tickets
shorten the handshakes of returning clients; their keys are replaced with the context, so a reload invalidates them.

Refuses: missing files, a key that does not match its certificate or needs a passphrase, and a certificate that would
never be used because earlier ones cover all its names, with `TlsError`, which names the file. An expired certificate is
used, with a warning, because refusing to start would lose mail (RFC 7435 §3); so is a key that other users may read or
change.

Standards: RFC 3207 §4, RFC 8446 (by the `ssl` module), RFC 5929 §4 and RFC 9266 §2 (channel bindings), RFC 8996 §4.
"""

from __future__ import annotations

import logging
import ssl
import stat
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from ironpost.model.certificate import CertificateFacts, escaped, key_kind, read
from ironpost.model.text import error_text
from ironpost.protocol.server.transaction import TlsInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

LOG = logging.getLogger("ironpost.server")

Minimum: TypeAlias = Literal["TLSv1.2", "TLSv1.3"]

TICKETS: Final = 1
"""Session tickets sent after a TLS 1.3 handshake: mail clients resume with one connection at a time."""
END_POINT: Final = "tls-server-end-point"
EXPORTER: Final = "tls-exporter"
UNIQUE: Final = "tls-unique"

_VERSIONS: Final = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_ENCRYPTED: Final = ("-----BEGIN ENCRYPTED PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED")
_SHORT: Final = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
"""Attribute types with a short name in RFC 4514 §3."""


class TlsError(ValueError):
    """A certificate, key or authority cannot be used. The text names the file and the problem."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path


class Certificate(NamedTuple):
    """One certificate with its key."""

    path: Path
    """The file with the certificate and its chain."""
    key: Path
    """The file with the private key."""
    facts: CertificateFacts


class Identity(NamedTuple):
    """The certificates for one server name, and the context that offers them."""

    context: ssl.SSLContext
    certificates: tuple[Certificate, ...]
    """At most one for each kind of key."""


class ServerSide(ssl.SSLObject):
    """The TLS of one connection, with the server name that the client requested."""

    server_name = ""
    """Empty if the client requested none."""


class TlsContext:
    """The certificates of a listener. Immutable, shared by all its connections; see `load`."""

    def __init__(
        self, certificates: Sequence[Certificate], make_context: Callable[[Sequence[Certificate]], ssl.SSLContext]
    ) -> None:
        """
        Args:
            certificates: at least one; the first is the default.
            make_context: creates the context that offers a group of certificates.
        """
        self.certificates = tuple(certificates)
        """The first is the default."""
        by_name = _by_name(self.certificates)
        default = by_name[next(iter(certificates[0].facts.names), "")]
        groups = dict.fromkeys([default, *by_name.values()])
        found = {group: Identity(make_context(group), group) for group in groups}
        self._default = found[default]
        self._identities = {name: found[group] for name, group in by_name.items()}
        self._sendable = {id(each.context): each.certificates for each in found.values()}
        """The certificates of each context, by its `id`."""
        self._default.context.sslobject_class = ServerSide
        self._default.context.sni_callback = self._server_name_received  # type: ignore[assignment] # typeshed knows only SSLSocket

    @classmethod
    def load(
        cls,
        certificates: Iterable[tuple[str | Path, str | Path | None]],
        *,
        minimum: Minimum = "TLSv1.2",
        client_ca: str | Path | None = None,
        tickets: int = TICKETS,
    ) -> TlsContext:
        """Read certificates from disk.

        Args:
            certificates: for each certificate, a PEM file with it and its chain, and the file of its private key; None
                if the first file contains the key too.
            minimum: the oldest TLS version to accept (RFC 8996 §4 leaves 1.2 and later).
            client_ca: PEM file of the authorities that sign client certificates, for AUTH EXTERNAL; None not to request
                client certificates.
            tickets: number of session tickets after a TLS 1.3 handshake; 0 for none with any version.

        Raises:
            TlsError: a file cannot be read, contains no certificate, or has a key that does not match; or a certificate
                would never be used.
            ValueError: `certificates` is empty, or `minimum` is unknown.
        """
        if minimum not in _VERSIONS:
            raise ValueError(f'the minimum TLS version must be "TLSv1.2" or "TLSv1.3", not {minimum!r}')
        ca = None if client_ca is None else Path(client_ca)
        pairs = [(Path(chain), Path(key or chain)) for chain, key in certificates]
        if not pairs:
            raise ValueError("TLS needs at least one certificate")

        def make_context(group: Sequence[Certificate]) -> ssl.SSLContext:
            return _context(group, _VERSIONS[minimum], ca, tickets)

        context = cls([read_certificate(chain, key) for chain, key in pairs], make_context)
        for each in context.certificates:
            if each.facts.not_after <= time.time():
                LOG.warning(expiry_text(each))
            if (mode := exposed(each.key)) is not None:
                LOG.warning("other users may read or change the key %s (%04o): run chmod 600", each.key, mode)
        return context

    @property
    def expires(self) -> float:
        """The time at which the first of the certificates expires, in seconds since 1970-01-01 UTC."""
        return min(each.facts.not_after for each in self.certificates)

    def changes(self, before: TlsContext | None) -> list[str]:
        """Describe for an operator, after a reload, the certificates that are new and those that have expired.

        Args:
            before: the previous context; None if there was none, so that all certificates are new.
        """
        known = set() if before is None else {each.facts for each in before.certificates}
        now, found = time.time(), []
        for each in self.certificates:
            if each.facts.not_after <= now:
                found.append(expiry_text(each))
            elif each.facts not in known:
                found.append(f"new certificate {each.path}, valid until {date(each.facts.not_after)}")
        return found

    def new(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ServerSide:
        """Create the TLS state of a new connection, as server, over two buffers of ciphertext."""
        created = self._default.context.wrap_bio(incoming, outgoing, server_side=True)
        assert isinstance(created, ServerSide)
        return created

    def facts(self, connection: ServerSide) -> TlsInfo:
        """Return the TLS parameters of a connection whose handshake is done."""
        cipher = connection.cipher()
        subject, names = _client(connection.getpeercert() or {})
        bindings = {}
        if end_point := self._end_point(connection, cipher[0] if cipher else ""):
            bindings[END_POINT] = end_point
        if connection.version() == "TLSv1.2" and (unique := connection.get_channel_binding(UNIQUE)):
            bindings[UNIQUE] = unique  # RFC 5802 §6.1 requires it; TLS 1.3 does not define it (RFC 9266 §1)
        if EXPORTER in ssl.CHANNEL_BINDING_TYPES:  # no released Python supports it yet (RFC 9266 §2)
            exported = connection.get_channel_binding(EXPORTER)
            if exported:
                bindings[EXPORTER] = exported
        return TlsInfo(
            version=connection.version() or "",
            cipher=cipher[0] if cipher else "",
            server_name=connection.server_name,
            subject=subject,
            names=names,
            bindings=bindings,
        )

    def pick(self, name: str) -> Identity:
        """Select the certificates for a server name: an exact match, else a wildcard for the leftmost label (RFC 6125
        §6.4.3), else the default."""
        name = name.lower()
        return self._identities.get(name) or self._identities.get(f"*.{name.partition('.')[2]}") or self._default

    def _end_point(self, connection: ServerSide, cipher: str) -> bytes:
        """Return the binding to the certificate that was sent; empty if that is uncertain, as `ssl` does not tell."""
        sendable = self._sendable[id(connection.context)]
        if connection.version() == "TLSv1.2":  # its cipher suites name the kind of key; ECDSA includes Ed25519
            rsa = "ECDSA" not in cipher
            sendable = tuple(each for each in sendable if each.facts.kind.startswith("RSA") == rsa)
        return sendable[0].facts.end_point if len(sendable) == 1 else b""

    def _server_name_received(self, connection: ServerSide, name: str | None, context: ssl.SSLContext) -> None:
        """Select the certificates; called by OpenSSL when it has read the ClientHello."""
        if name is None:
            return
        connection.server_name = name
        picked = self.pick(name).context
        if picked is not context:
            connection.context = picked


def expiry_text(certificate: Certificate) -> str:
    """Describe an expired certificate for the operator."""
    return f"certificate {certificate.path} expired on {date(certificate.facts.not_after)}: renew it"


def exposed(key: Path) -> int | None:
    """Return the permissions of a secret file if they are too open, else None.

    They are too open if all users may read or write the file, or its group may write it. A file whose permissions
    cannot be read counts as not exposed.
    """
    try:
        mode = stat.S_IMODE(key.stat().st_mode)
    except OSError:
        return None
    return mode if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP) else None


def read_certificate(chain: Path, key: Path) -> Certificate:
    """Read the first certificate of a file, and compare the kind of its key.

    Raises:
        TlsError: a file cannot be read, or is not what it should be.
    """
    text, secret = _text(chain), _text(key)
    if any(mark in secret for mark in _ENCRYPTED):
        raise TlsError(
            key, "the private key is encrypted, and its passphrase cannot be entered at start: store it unencrypted"
        )
    begin, end = text.find(_BEGIN), text.find(_END)
    if begin < 0 or end < begin:
        raise TlsError(chain, "no PEM certificate found in this file")
    try:
        facts = read(ssl.PEM_cert_to_DER_cert(text[begin : end + len(_END)]))
    except ValueError as error:
        raise TlsError(chain, f"the certificate cannot be read: {error}") from error
    kind = key_kind(secret)
    if kind and facts.kind and kind != facts.kind:
        raise TlsError(
            key, f"this {kind} key does not match the {facts.kind} certificate in {chain}"
        )  # fmt: skip
    return Certificate(chain, key, facts)


def _context(
    certificates: Sequence[Certificate], minimum: ssl.TLSVersion, client_ca: Path | None, tickets: int
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = minimum
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = tickets
    if not tickets:
        context.options |= ssl.OP_NO_TICKET
    for each in certificates:
        _load(context, each)
    if client_ca is not None:
        trust(context, client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def present(context: ssl.SSLContext, chain: Path, key: Path) -> None:
    """Present a certificate to peers.

    Args:
        context: of a server or a client.
        chain: PEM file with the certificate and those that lead to the root.
        key: PEM file with its private key, without a passphrase.

    Raises:
        TlsError: a file cannot be read, or the key does not match the certificate.
    """
    _load(context, read_certificate(chain, key))


def trust(context: ssl.SSLContext, authorities: Path) -> None:
    """Verify peers' certificates by the authorities in a PEM file.

    Raises:
        TlsError: the file cannot be read, or contains no certificates.
    """
    _text(authorities)
    try:
        context.load_verify_locations(authorities)
    except ssl.SSLError as error:
        raise TlsError(authorities, f"the authorities cannot be read: {error.reason or error}") from error


def _load(context: ssl.SSLContext, certificate: Certificate) -> None:
    path, key, _ = certificate
    try:
        context.load_cert_chain(path, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(key, f"this private key does not match the certificate in {path}") from error
        raise TlsError(
            key, f"the private key cannot be used ({error.reason or error}); it must be in PEM form"
        ) from error


def _by_name(certificates: Sequence[Certificate]) -> dict[str, tuple[Certificate, ...]]:
    """Group the certificates by name, one for each kind of key; the empty name stands for those without names.

    Raises:
        TlsError: a certificate would never be used.
    """
    found: dict[str, dict[str, Certificate]] = {}
    for each in certificates:
        names = each.facts.names or ("",)
        earlier = [found.setdefault(name, {}).setdefault(each.facts.kind, each) for name in names]
        if each not in earlier:
            shared = ", ".join(each.facts.names) or "no name"
            raise TlsError(
                each.path,
                f"this certificate would never be used: like {earlier[0].path}, it is for {shared} and has a key of "
                f"kind {each.facts.kind or 'unknown'}: remove one of the two",
            )
    return {name: tuple(kinds.values()) for name, kinds in found.items()}


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", errors="replace")
    except OSError as error:
        raise TlsError(path, error_text(error)) from error


def date(seconds: float) -> str:
    """Format a time, in seconds since 1970-01-01 UTC, for an operator."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _client(certificate: Any) -> tuple[str, tuple[str, ...]]:
    """Return subject and names of a verified client certificate in the form that `ssl` decodes."""
    if not certificate:
        return "", ()
    relative = [
        "+".join(f"{_SHORT.get(kind, kind)}={escaped(value)}" for kind, value in attributes)
        for attributes in reversed(certificate.get("subject", ()))  # the last is written first (RFC 4514 §2.1)
    ]
    names = tuple(value for kind, value in certificate.get("subjectAltName", ()) if kind in {"email", "DNS"})
    return ",".join(relative), names
