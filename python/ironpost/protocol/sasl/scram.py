"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS: each side proves that it knows the password, and neither sends it.

Promises: the server stores no password (RFC 5802 §3) and shows a name that it does not know a salt and a count like any
other, the same ones each time (SECURITY R53). PLUS binds to the TLS channel: by `tls-server-end-point`, by `tls-unique`
of TLS 1.2, and by `tls-exporter` (RFC 9266) where the TLS library has it. A client that can bind and believes that the
server cannot (`y`) is refused when the server can: somebody took PLUS out of the list (RFC 5802 §6). The client refuses
a server that does not prove itself, fewer than 4,096 iterations, and so many that its event loop would stand.

It is written here, on `hashlib` and `hmac`, because it has to work without any other package, with an authenticator
that awaits, and with `tls-exporter`; the tests compare it with the package scramp.

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
    Challenge,
    Malformed,
    Mechanism,
    Question,
    Refused,
    Response,
    Untrusted,
    acting,
    prepared,
    text,
)
from ironpost.protocol.sasl.names import PASSWORD, prepare

if TYPE_CHECKING:
    from ironpost.protocol.sasl.mechanism import Circumstances, ClientSide, Credentials, ServerSide

LEAST_ITERATIONS: Final = 4096
"""RFC 7677 §4."""
MOST_ITERATIONS: Final = 1_000_000
"""What a client computes for a server: about a second."""
ITERATIONS: Final = 65_536
"""Of the credentials that we make."""
COMMON_BINDINGS: Final = ("tls-exporter", "tls-unique")
"""What every server has that binds at all: of TLS 1.3 (RFC 9266 §3), and of TLS 1.2 (RFC 5802 §6.1)."""
BINDINGS: Final = (*COMMON_BINDINGS, "tls-server-end-point")
"""The channel bindings that a client uses, the better one first."""

# RFC 5802 §7. Extensions at the end are signed and ignored; `m=` before the name must be refused (§5.1), and is.
_FIRST: Final = re.compile(r"((?:n|(y)|p=([A-Za-z0-9.-]+)),(?:a=([^,]+))?,)(n=([^,]+),r=([!-+\--~]+)(?:,.*)?)", re.S)
_FINAL: Final = re.compile(r"(c=([A-Za-z0-9+/=]+),r=([!-+\--~]+)(?:,.*)?),p=([A-Za-z0-9+/=]+)", re.S)
_SERVER_FIRST: Final = re.compile(r"r=([!-+\--~]+),s=([A-Za-z0-9+/=]+),i=([1-9][0-9]{0,9})(?:,.*)?", re.S)
_NAME: Final = re.compile(r"(?:[^=,]|=2C|=3D)*")


class ScramCredential(NamedTuple):
    """What a server stores of a password (RFC 5802 §3). It cannot log in with it."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes
    name: str = ""
    """What the account is called, if not as the client wrote it."""


def credential(password: str, salt: bytes, iterations: int = ITERATIONS) -> ScramCredential:
    """What is to be stored for a password. It takes as long as the iterations say.

    Raises:
        PrepareError: the password holds what RFC 4013 prohibits.
    """
    salted = _salted(prepare(password, PASSWORD), salt, iterations)
    return ScramCredential(salt, iterations, _sha256(_hmac(salted, b"Client Key")), _hmac(salted, b"Server Key"))


class Scram(Mechanism):
    name = "SCRAM-SHA-256"
    needs = "scram"
    chance: ClassVar = True

    def server(self, circumstances: Circumstances) -> ServerSide:
        first = _FIRST.fullmatch(text((yield Challenge())))
        if first is None:
            raise Malformed("this is no client-first-message")
        header, doubts, binding, authzid, bare = first[1], first[2], first[3], first[4] or "", first[5]
        data = self._binding(circumstances, doubts=bool(doubts), binding=binding)
        login = prepared(decoded_name(first[6]))
        known = yield Question("scram", login, (login,))
        entry = known or _decoy(login, circumstances.secret, circumstances.iterations or ITERATIONS)
        nonce = first[7] + circumstances.nonce
        asked = f"r={nonce},s={_base64(entry.salt)},i={entry.iterations}"
        final = _FINAL.fullmatch(text((yield Challenge(asked.encode()))))
        if final is None:
            raise Malformed("this is no client-final-message")
        signed = f"{bare},{asked},{final[1]}".encode()
        proof, bound = _octets(final[4]), _octets(final[2])
        proven = _proves(proof, entry.stored_key, signed)
        if known is None or not proven:
            raise Refused("unknown name or wrong password")
        if final[3] != nonce:
            raise Refused("the nonce is not ours")
        if not hmac.compare_digest(bound, header.encode() + data):
            raise Refused("the channel is another")
        actor = prepared(decoded_name(authzid))
        granted = yield from acting(entry.name or login, "" if actor == login else actor)  # as in PLAIN
        rest = yield Challenge(b"v=" + b64encode(_hmac(entry.server_key, signed)))
        if rest:
            raise Malformed("something follows the end of the exchange")
        return granted

    def _binding(self, circumstances: Circumstances, *, doubts: bool, binding: str | None) -> bytes:
        """The data that the client must have bound to, empty without binding; or `Refused` (RFC 5802 §6)."""
        if binding is not None:
            raise Refused("a channel binding without PLUS")
        if doubts and circumstances.offers_binding:
            raise Refused("the client does not know that we bind to the channel: the list was changed on its way")
        return b""

    def usable(self, credentials: Credentials) -> bool:
        return bool(credentials.login) and credentials.password is not None

    def client(self, credentials: Credentials, circumstances: Circumstances) -> ClientSide:
        flag, data = self._bind(circumstances)
        authzid = f"a={encoded_name(prepare(credentials.authzid))}" if credentials.authzid else ""
        header = f"{flag},{authzid},"
        bare = f"n={encoded_name(prepare(credentials.login))},r={circumstances.nonce}"
        challenge = yield Response(f"{header}{bare}".encode())
        asked = _read(challenge)
        first = _SERVER_FIRST.fullmatch(asked)
        if first is None:
            raise Untrusted("the server's first message is none of SCRAM")
        nonce, iterations = first[1], int(first[3])
        if not nonce.startswith(circumstances.nonce) or nonce == circumstances.nonce:
            raise Untrusted("the server's nonce does not continue ours")
        if not LEAST_ITERATIONS <= iterations <= MOST_ITERATIONS:
            raise Untrusted(f"the server asks for {iterations} iterations")
        password = prepare(credentials.password or "", PASSWORD)
        salted = _salted(password, _trusted_octets(first[2]), iterations)
        final = f"c={_base64(header.encode() + data)},r={nonce}"
        signed = f"{bare},{asked},{final}".encode()
        client_key = _hmac(salted, b"Client Key")
        proof = _xor(client_key, _hmac(_sha256(client_key), signed))
        challenge = yield Response(f"{final},p={_base64(proof)}".encode())
        answer = _read(challenge)
        signature = _hmac(_hmac(salted, b"Server Key"), signed)
        if not hmac.compare_digest(answer.encode(), b"v=" + b64encode(signature)):
            raise Untrusted("the server does not prove that it knows the password")
        yield Response(b"", final=True)

    def _bind(self, circumstances: Circumstances) -> tuple[str, bytes]:
        """The client's flag: it can bind, and believes that the server cannot; or it cannot (RFC 5802 §7)."""
        return "y" if circumstances.bindings and not circumstances.offers_binding else "n", b""


class ScramPlus(Scram):
    name = "SCRAM-SHA-256-PLUS"
    binds: ClassVar = True

    def _binding(self, circumstances: Circumstances, *, doubts: bool, binding: str | None) -> bytes:  # noqa: ARG002
        if binding is None:
            raise Refused("PLUS without a channel binding")
        data = circumstances.bindings.get(binding)
        if not data:
            raise Refused(f"no channel binding of type {binding}")
        return data

    def _bind(self, circumstances: Circumstances) -> tuple[str, bytes]:
        for kind in BINDINGS:
            if data := circumstances.bindings.get(kind):
                return f"p={kind}", data
        raise Untrusted("this connection has no channel binding")


def decoded_name(name: str) -> str:
    """A saslname's meaning, or `Malformed`."""
    if _NAME.fullmatch(name) is None:
        raise Malformed("in a name, = stands for itself as =3D and for a comma as =2C")
    return name.replace("=2C", ",").replace("=3D", "=")


def encoded_name(name: str) -> str:
    """A name as a saslname."""
    return name.replace("=", "=3D").replace(",", "=2C")


def _decoy(login: str, secret: bytes, iterations: int) -> ScramCredential:
    """What a name that nobody has is shown: always the same, and like the others (RFC 5802 §9, SECURITY R53)."""
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
        raise Malformed("an attribute is not base64") from None


def _trusted_octets(base64: str) -> bytes:
    try:
        return _octets(base64)
    except Malformed as fault:
        raise Untrusted(f"in the server's message: {fault}") from None


def _read(challenge: bytes) -> str:
    try:
        message = challenge.decode()
    except UnicodeDecodeError:
        raise Untrusted("the server's message is not UTF-8") from None
    if message.startswith("e="):
        raise Untrusted(f"the server refuses: {message[2:82]!a}")
    return message
