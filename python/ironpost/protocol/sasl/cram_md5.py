"""CRAM-MD5: a challenge and its keyed digest (RFC 2195 §2). Offered only where the configuration names it.

It needs secrets that the server can read, proves nothing of the server, and rests on MD5: SCRAM does better. It has no
authorization identity.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol.sasl.mechanism import (
    SERVER_FIRST,
    Challenge,
    Granted,
    Malformed,
    Mechanism,
    Question,
    Refused,
    Response,
    prepared,
    text,
)

if TYPE_CHECKING:
    from ironpost.protocol.sasl.mechanism import Circumstances, ClientSide, Credentials, ServerSide


class CramMd5(Mechanism):
    name = "CRAM-MD5"
    needs = "shared_secret"
    initial: ClassVar = False
    chance: ClassVar = True

    def server(self, circumstances: Circumstances) -> ServerSide:
        challenge = f"<{circumstances.nonce}@{circumstances.hostname}>".encode()
        response = text((yield Challenge(challenge)))
        name, space, digest = response.rpartition(" ")
        if not space:
            raise Malformed("CRAM-MD5 is a name, a space and a digest")
        login = prepared(name)
        secret = yield Question("shared_secret", login, (login,))
        # The digest is computed for unknown names too, so that they take as long (SECURITY R53).
        right = hmac.compare_digest(_digest(secret or "", challenge), digest.encode())
        if secret is None or not right:
            raise Refused("unknown name or wrong digest")
        return Granted(login, login)

    def usable(self, credentials: Credentials) -> bool:
        return bool(credentials.login) and credentials.password is not None and not credentials.authzid

    def client(self, credentials: Credentials, circumstances: Circumstances) -> ClientSide:  # noqa: ARG002
        challenge = yield SERVER_FIRST
        digest = _digest(credentials.password or "", challenge)
        yield Response(credentials.login.encode() + b" " + digest, final=True)


def _digest(secret: str, challenge: bytes) -> bytes:
    """The keyed digest in lower-case hexadecimal digits."""
    return hmac.new(secret.encode(), challenge, "md5").hexdigest().encode()
