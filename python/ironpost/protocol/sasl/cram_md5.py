"""CRAM-MD5: a challenge and its keyed digest (RFC 2195 §2). Offered only if configured by name.

It needs secrets that the server can read, does not authenticate the server, and relies on MD5; SCRAM is better. It has
no authorization identity.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, ClassVar

from ironpost.protocol.sasl.mechanism import (
    SERVER_FIRST,
    Authenticated,
    AuthenticatorCall,
    Challenge,
    CredentialsRejected,
    MalformedResponse,
    Mechanism,
    Response,
    prepared,
    text,
)

if TYPE_CHECKING:
    from ironpost.protocol.sasl.mechanism import ChannelContext, ClientSide, Credentials, ServerSide


class CramMd5(Mechanism):
    name = "CRAM-MD5"
    needs = "shared_secret"
    initial: ClassVar = False
    needs_nonce: ClassVar = True

    def server(self, context: ChannelContext) -> ServerSide:
        challenge = f"<{context.nonce}@{context.hostname}>".encode()
        response = text((yield Challenge(challenge)))
        name, space, digest = response.rpartition(" ")
        if not space:
            raise MalformedResponse("expected a name, a space and a digest")
        login = prepared(name)
        secret = yield AuthenticatorCall("shared_secret", login, (login,))
        # The digest is computed for unknown names too, to take the same time (SECURITY R53).
        matches = hmac.compare_digest(_digest(secret or "", challenge), digest.encode())
        if secret is None or not matches:
            raise CredentialsRejected("unknown name or wrong digest")
        return Authenticated(login, login)

    def usable(self, credentials: Credentials) -> bool:
        return bool(credentials.login) and credentials.password is not None and not credentials.authzid

    def client(self, credentials: Credentials, context: ChannelContext) -> ClientSide:  # noqa: ARG002
        challenge = yield SERVER_FIRST
        digest = _digest(credentials.password or "", challenge)
        yield Response(credentials.login.encode() + b" " + digest, final=True)


def _digest(secret: str, challenge: bytes) -> bytes:
    return hmac.new(secret.encode(), challenge, "md5").hexdigest().encode()
