"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS: each side proves that it knows the password, and neither sends it.

Promises: the server stores no password (RFC 5802 §3). For an unknown name it sends a plausible salt and iteration
count, the same ones each time (SECURITY R53). PLUS binds to the TLS channel: by `tls-server-end-point`, by `tls-unique`
of TLS 1.2, and by `tls-exporter` (RFC 9266) if the TLS library supports it.
Refuses: a client that supports channel binding but was not offered it (`y`) although the server supports it, because an
attacker has removed PLUS from the list (RFC 5802 §6). The client refuses a server that does not prove its identity,
fewer than 4,096 iterations, and more than `MAX_ITERATIONS`, which would block its event loop.

It is implemented with `hashlib` and `hmac` because it must work without other packages, with asynchronous
authenticators, and with `tls-exporter`; the tests compare it with the package scramp.

Standards: RFC 5802 §3, §5, §6, §7; RFC 7677; RFC 9266.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from ironpost.protocol.sasl.mechanism import (
    AuthenticatorCall,
    Challenge,
    CredentialsRejected,
    MalformedResponse,
    Mechanism,
    Response,
    UntrustedServer,
    acting,
    prepared,
    text,
)
from ironpost.protocol.sasl.names import PASSWORD, prepare

if TYPE_CHECKING:
    from ironpost.protocol.sasl.mechanism import ChannelContext, ClientSide, Credentials, ServerSide

MIN_ITERATIONS: Final = 4096
"""The minimum of iterations that a client accepts (RFC 7677 §4)."""
MAX_ITERATIONS: Final = 1_000_000
"""The maximum of iterations that a client accepts: about a second of computing."""
ITERATIONS: Final = 65_536
"""The number of iterations of new credentials."""
COMMON_BINDINGS: Final = ("tls-exporter", "tls-unique")
"""The channel bindings that servers must support: for TLS 1.3 (RFC 9266 §3) and TLS 1.2 (RFC 5802 §6.1)."""
BINDINGS: Final = (*COMMON_BINDINGS, "tls-server-end-point")
"""The channel bindings that a client uses, in order of preference."""

# RFC 5802 §7. Extensions at the end are signed and ignored; `m=` before the name must be refused (§5.1), and is.
_FIRST: Final = re.compile(r"((?:n|(y)|p=([A-Za-z0-9.-]+)),(?:a=([^,]+))?,)(n=([^,]+),r=([!-+\--~]+)(?:,.*)?)", re.S)
_FINAL: Final = re.compile(r"(c=([A-Za-z0-9+/=]+),r=([!-+\--~]+)(?:,.*)?),p=([A-Za-z0-9+/=]+)", re.S)
_SERVER_FIRST: Final = re.compile(r"r=([!-+\--~]+),s=([A-Za-z0-9+/=]+),i=([1-9][0-9]{0,9})(?:,.*)?", re.S)
_NAME: Final = re.compile(r"(?:[^=,]|=2C|=3D)*")


class ScramCredential(NamedTuple):
    """The form in which a server stores a password (RFC 5802 §3); it cannot be used to log in."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes
    name: str = ""
    """The account's name, if it differs from the one sent by the client."""


def credential(password: str, salt: bytes, iterations: int = ITERATIONS) -> ScramCredential:
    """Derive the stored form of a password; the time is proportional to `iterations`.

    Raises:
        PrepareError: the password contains a character that RFC 4013 prohibits.
    """
    salted = _salted(prepare(password, PASSWORD), salt, iterations)
    return ScramCredential(salt, iterations, _sha256(_hmac(salted, b"Client Key")), _hmac(salted, b"Server Key"))


class Scram(Mechanism):
    name = "SCRAM-SHA-256"
    needs = "scram"
    needs_nonce: ClassVar = True

    def server(self, context: ChannelContext) -> ServerSide:
        first = _FIRST.fullmatch(text((yield Challenge())))
        if first is None:
            raise MalformedResponse("invalid client-first-message")
        header, denies, binding, authzid, bare = first[1], first[2], first[3], first[4] or "", first[5]
        data = self._binding(context, denies=bool(denies), binding=binding)
        login = prepared(decoded_name(first[6]))
        known = yield AuthenticatorCall("scram", login, (login,))
        entry = known or _decoy(login, context.secret, context.iterations or ITERATIONS)
        nonce = first[7] + context.nonce
        sent = f"r={nonce},s={_base64(entry.salt)},i={entry.iterations}"
        final = _FINAL.fullmatch(text((yield Challenge(sent.encode()))))
        if final is None:
            raise MalformedResponse("invalid client-final-message")
        signed = f"{bare},{sent},{final[1]}".encode()
        proof, bound = _octets(final[4]), _octets(final[2])
        proven = _proves(proof, entry.stored_key, signed)
        if known is None or not proven:
            raise CredentialsRejected("unknown name or wrong password")
        if final[3] != nonce:
            raise CredentialsRejected("wrong nonce")
        if not hmac.compare_digest(bound, header.encode() + data):
            raise CredentialsRejected("wrong channel binding data")
        actor = prepared(decoded_name(authzid))
        granted = yield from acting(entry.name or login, "" if actor == login else actor)  # as in PLAIN
        rest = yield Challenge(b"v=" + b64encode(_hmac(entry.server_key, signed)))
        if rest:
            raise MalformedResponse("unexpected data after the end of the exchange")
        return granted

    def _binding(self, context: ChannelContext, *, denies: bool, binding: str | None) -> bytes:
        """Return the expected binding data, empty without binding, or raise `CredentialsRejected` (RFC 5802 §6)."""
        if binding is not None:
            raise CredentialsRejected("channel binding without PLUS")
        if denies and context.offers_binding:
            raise CredentialsRejected("downgrade attempt: the client was not offered channel binding")
        return b""

    def usable(self, credentials: Credentials) -> bool:
        return bool(credentials.login) and credentials.password is not None

    def client(self, credentials: Credentials, context: ChannelContext) -> ClientSide:
        flag, data = self._bind(context)
        authzid = f"a={encoded_name(prepare(credentials.authzid))}" if credentials.authzid else ""
        header = f"{flag},{authzid},"
        bare = f"n={encoded_name(prepare(credentials.login))},r={context.nonce}"
        challenge = yield Response(f"{header}{bare}".encode())
        sent = _read(challenge)
        first = _SERVER_FIRST.fullmatch(sent)
        if first is None:
            raise UntrustedServer("the server sent an invalid first message")
        nonce, iterations = first[1], int(first[3])
        if not nonce.startswith(context.nonce) or nonce == context.nonce:
            raise UntrustedServer("the server's nonce does not extend the client's")
        if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            raise UntrustedServer(
                f"the server requires {iterations} iterations, allowed are {MIN_ITERATIONS} to {MAX_ITERATIONS}"
            )
        password = prepare(credentials.password or "", PASSWORD)
        salted = _salted(password, _trusted_octets(first[2]), iterations)
        final = f"c={_base64(header.encode() + data)},r={nonce}"
        signed = f"{bare},{sent},{final}".encode()
        client_key = _hmac(salted, b"Client Key")
        proof = _xor(client_key, _hmac(_sha256(client_key), signed))
        challenge = yield Response(f"{final},p={_base64(proof)}".encode())
        server_final = _read(challenge)
        signature = _hmac(_hmac(salted, b"Server Key"), signed)
        if not hmac.compare_digest(server_final.encode(), b"v=" + b64encode(signature)):
            raise UntrustedServer("the server did not prove that it knows the password")
        yield Response(b"", final=True)

    def _bind(self, context: ChannelContext) -> tuple[str, bytes]:
        """Return the client's gs2-cbind-flag and channel binding data (RFC 5802 §7)."""
        return "y" if context.bindings and not context.offers_binding else "n", b""


class ScramPlus(Scram):
    name = "SCRAM-SHA-256-PLUS"
    binds: ClassVar = True

    def _binding(self, context: ChannelContext, *, denies: bool, binding: str | None) -> bytes:  # noqa: ARG002
        if binding is None:
            raise CredentialsRejected("PLUS without channel binding")
        data = context.bindings.get(binding)
        if not data:
            raise CredentialsRejected(f"no channel binding of type {binding}")
        return data

    def _bind(self, context: ChannelContext) -> tuple[str, bytes]:
        for kind in BINDINGS:
            if data := context.bindings.get(kind):
                return f"p={kind}", data
        raise UntrustedServer("this connection has no channel binding")


def decoded_name(name: str) -> str:
    """Decode a saslname, or raise `MalformedResponse`."""
    if _NAME.fullmatch(name) is None:
        raise MalformedResponse("invalid escape in a name, expected =3D or =2C")
    return name.replace("=2C", ",").replace("=3D", "=")


def encoded_name(name: str) -> str:
    """Encode a name as a saslname."""
    return name.replace("=", "=3D").replace(",", "=2C")


def _decoy(login: str, secret: bytes, iterations: int) -> ScramCredential:
    """Return the credential shown for an unknown name, always the same one (RFC 5802 §9, SECURITY R53)."""
    seed = _hmac(secret, login.casefold().encode())  # as the users file compares names
    return ScramCredential(seed[:16], iterations, _sha256(seed), seed)


def _proves(proof: bytes, stored_key: bytes, signed: bytes) -> bool:
    signature = _hmac(stored_key, signed)
    if len(proof) != len(signature):
        return False
    return hmac.compare_digest(_sha256(_xor(proof, signature)), stored_key)


def _salted(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _sha256(octets: bytes) -> bytes:
    return hashlib.sha256(octets).digest()


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _base64(octets: bytes) -> str:
    return b64encode(octets).decode()


def _octets(base64: str) -> bytes:
    try:
        return b64decode(base64, validate=True)
    except binascii.Error:
        raise MalformedResponse("invalid base64 in an attribute") from None


def _trusted_octets(base64: str) -> bytes:
    try:
        return _octets(base64)
    except MalformedResponse as fault:
        raise UntrustedServer(f"invalid message from the server: {fault}") from None


def _read(challenge: bytes) -> str:
    try:
        message = challenge.decode()
    except UnicodeDecodeError:
        raise UntrustedServer("invalid message from the server: not UTF-8") from None
    if message.startswith("e="):
        raise UntrustedServer(f"the server reported an error: {message[2:82]!a}")
    return message
