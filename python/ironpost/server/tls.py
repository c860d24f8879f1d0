"""What protects a server's connections: certificates, chosen by the name that the client asks for.

    tls = TlsContext.load([("mx.pem", "mx.key"), ("other.pem", None)])
    async with Server(handler, tls=tls) as server: ...
    server.tls = TlsContext.load(...)      reload: new handshakes get the new one, sessions go on

Promises: TLS 1.2 at least, no compression, no renegotiation, no ALPN; the first certificate is for clients that ask for
no name or for an unknown one; an exact name wins over a wildcard. A client's certificate is asked for only if
`client_ca` says who vouches for it; it may stay away, but one that is shown and does not verify ends the handshake.
Session tickets save known clients part of the handshake; their keys live as long as the context: a reload ends them.
Refuses: files that are not there, a key that does not belong to its certificate or needs a passphrase, with `TlsError`,
which names the file. A certificate that has expired is used, with a warning: no mail is lost for it (RFC 7435 §3).

Standards: RFC 3207 §4, RFC 8446 (by the `ssl` module), RFC 5929 §4 and RFC 9266 §2 (channel bindings), RFC 8996 §4.
"""

from __future__ import annotations

import logging
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from ironpost.protocol.transaction import Tls
from ironpost.server.certificate import CertificateFacts, escaped, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LOG = logging.getLogger("ironpost.server")

Minimum: TypeAlias = Literal["TLSv1.2", "TLSv1.3"]

TICKETS: Final = 1
"""Session tickets that a TLS 1.3 handshake gives: a mail client comes back one connection at a time."""
END_POINT: Final = "tls-server-end-point"
EXPORTER: Final = "tls-exporter"
UNIQUE: Final = "tls-unique"

_VERSIONS: Final = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
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
    """A certificate cannot be used. The text says which file, what is wrong, and what to do."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path


class Certificate(NamedTuple):
    """One certificate with its key."""

    path: Path
    facts: CertificateFacts
    context: ssl.SSLContext


class ServerSide(ssl.SSLObject):
    """A connection's TLS, which remembers the name that the client asked for."""

    server_name = ""


class TlsContext:
    """The certificates of a listener. Immutable, shared by all its connections; see `load`."""

    def __init__(self, certificates: Sequence[Certificate]) -> None:
        self.certificates = tuple(certificates)
        """The first is the default."""
        self._exact: dict[str, Certificate] = {}
        self._wild: dict[str, Certificate] = {}
        self._binding = {id(each.context): each.facts.end_point for each in certificates}
        for each in certificates:
            for name in each.facts.names:
                if name.startswith("*."):
                    self._wild.setdefault(name[2:], each)
                else:
                    self._exact.setdefault(name, each)
        default = self.certificates[0].context
        default.sslobject_class = ServerSide
        default.sni_callback = self._named  # type: ignore[assignment] # typeshed knows only SSLSocket there

    @classmethod
    def load(
        cls,
        certificates: Iterable[tuple[str | Path, str | Path | None]],
        *,
        minimum: Minimum = "TLSv1.2",
        client_ca: str | Path | None = None,
        tickets: int = TICKETS,
    ) -> TlsContext:
        """Reads certificates from disk.

        Args:
            certificates: for each a file with the certificate and its chain in PEM, and the file of its private key,
                None if that stands in the first one too.
            minimum: the oldest version that is spoken (RFC 8996 §4 leaves 1.2 and later).
            client_ca: PEM file of the authorities whose certificates clients may show, for AUTH EXTERNAL.
            tickets: session tickets a handshake; 0 for none.

        Raises:
            TlsError: a file is missing, unreadable, no certificate, or the key does not belong to it.
            ValueError: no certificate, or an unknown `minimum`.
        """
        if minimum not in _VERSIONS:
            raise ValueError(f'the oldest TLS version is "TLSv1.2" or "TLSv1.3", not {minimum!r}')
        ca = None if client_ca is None else Path(client_ca)
        loaded = [
            _certificate(Path(chain), Path(key or chain), _VERSIONS[minimum], ca, tickets)
            for chain, key in certificates
        ]
        if not loaded:
            raise ValueError("TLS needs a certificate")
        for each in loaded:
            if each.facts.not_after <= time.time():
                LOG.warning("certificate %s expired on %s: renew it", each.path, _date(each.facts.not_after))
        return cls(loaded)

    @property
    def expires(self) -> float:
        """When the first of the certificates expires, in seconds since 1970-01-01 UTC."""
        return min(each.facts.not_after for each in self.certificates)

    def new(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ServerSide:
        """The server's side of a connection."""
        made = self.certificates[0].context.wrap_bio(incoming, outgoing, server_side=True)
        assert isinstance(made, ServerSide)
        return made

    def facts(self, connection: ServerSide) -> Tls:
        """What a session may know, once the handshake is done."""
        cipher = connection.cipher()
        subject, names = _client(connection.getpeercert() or {})
        bindings = {}
        if end_point := self._binding[id(connection.context)]:
            bindings[END_POINT] = end_point
        if connection.version() == "TLSv1.2" and (unique := connection.get_channel_binding(UNIQUE)):
            bindings[UNIQUE] = unique  # RFC 5802 §6.1 makes it a must; TLS 1.3 has none (RFC 9266 §1)
        if EXPORTER in ssl.CHANNEL_BINDING_TYPES:  # no released Python has it yet (RFC 9266 §2)
            exported = connection.get_channel_binding(EXPORTER)
            if exported:
                bindings[EXPORTER] = exported
        return Tls(
            version=connection.version() or "",
            cipher=cipher[0] if cipher else "",
            server_name=connection.server_name,
            subject=subject,
            names=names,
            bindings=bindings,
        )

    def pick(self, name: str) -> Certificate:
        """For a name: exact, else a wildcard for its leftmost label (RFC 6125 §6.4.3), else the first."""
        name = name.lower()
        return self._exact.get(name) or self._wild.get(name.partition(".")[2]) or self.certificates[0]

    def _named(self, connection: ServerSide, name: str | None, context: ssl.SSLContext) -> None:
        """OpenSSL read the client's hello."""
        if name is None:
            return
        connection.server_name = name
        picked = self.pick(name).context
        if picked is not context:
            connection.context = picked


def _certificate(chain: Path, key: Path, minimum: ssl.TLSVersion, client_ca: Path | None, tickets: int) -> Certificate:
    text = _text(chain)
    if (key != chain and "ENCRYPTED" in _text(key)) or "ENCRYPTED PRIVATE KEY" in text:
        raise TlsError(
            key, "the private key is encrypted, and nobody is there to type its passphrase: store it decrypted"
        )
    begin, end = text.find(_BEGIN), text.find(_END)
    if begin < 0 or end < begin:
        raise TlsError(chain, "there is no certificate in PEM form in this file")
    try:
        facts = read(ssl.PEM_cert_to_DER_cert(text[begin : end + len(_END)]))
    except ValueError as error:
        raise TlsError(chain, f"the certificate cannot be read: {error}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = minimum
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = tickets
    if not tickets:
        context.options |= ssl.OP_NO_TICKET
    try:
        context.load_cert_chain(chain, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(key, f"this private key does not belong to the certificate in {chain}") from error
        raise TlsError(
            key, f"the private key cannot be used ({error.reason or error}); it must be in PEM form"
        ) from error
    if client_ca is not None:
        _text(client_ca)
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError as error:
            raise TlsError(client_ca, f"the authorities for clients cannot be read: {error.reason or error}") from error
        context.verify_mode = ssl.CERT_OPTIONAL
    return Certificate(chain, facts, context)


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", errors="replace")
    except OSError as error:
        raise TlsError(path, error.strerror or str(error)) from error


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _client(certificate: Any) -> tuple[str, tuple[str, ...]]:
    """Subject and names of a verified client certificate, as `ssl` decodes it."""
    if not certificate:
        return "", ()
    relative = [
        "+".join(f"{_SHORT.get(kind, kind)}={escaped(value)}" for kind, value in attributes)
        for attributes in reversed(certificate.get("subject", ()))  # the last is written first (RFC 4514 §2.1)
    ]
    names = tuple(value for kind, value in certificate.get("subjectAltName", ()) if kind in {"email", "DNS"})
    return ",".join(relative), names
